"""From a job to the statement that stores it, and back. No connection in here.

Import from the modules; this package offers nothing by itself.
"""

from __future__ import annotations

__all__: list[str] = []
