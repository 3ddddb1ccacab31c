"""Connections: where they come from, what one does, and which version of the table is there.

:class:`qg.database.database.Database` has it all together. Import from the modules; this package offers nothing
by itself.
"""

from __future__ import annotations

__all__: list[str] = []
