"""Running jobs: options, handlers, the loop of a worker, its batches, and the threads around it.

Import from the modules; this package offers nothing by itself.
"""

from __future__ import annotations

__all__: list[str] = []
