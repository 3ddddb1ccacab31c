"""What the web application and the worker both know: the payloads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GreetUser:
    """Say hello to a new user."""

    user_id: int


@dataclass(frozen=True)
class CountUsers:
    """Log how many users there are."""
