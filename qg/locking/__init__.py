"""Rows under their advisory locks: taking them, what may be written to one, and how far an attempt has come.

Import from the modules; this package offers nothing by itself.
"""

from __future__ import annotations

__all__: list[str] = []
