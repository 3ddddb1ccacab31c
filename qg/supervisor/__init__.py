"""What ``qg work`` is made of: processes that work an application's jobs, and how they tell what they do."""

__all__: list[str] = []
