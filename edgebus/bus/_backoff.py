"""When to try again."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Exponential back-off with full jitter.

    Each delay is uniform between 0 and the current ceiling, which doubles up to a maximum, so
    that a fleet does not come back in step (Brooker, "Exponential Backoff and Jitter", 2015).

    Args:
        first: First ceiling, in seconds.
        maximum: Largest ceiling, in seconds.
        uniform: Draws from [0, 1).
    """

    def __init__(self, *, first: float, maximum: float, uniform: Callable[[], float]) -> None:
        self._first = first
        self._maximum = maximum
        self._uniform = uniform
        self._ceiling = first

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        delay = self._ceiling * self._uniform()
        self._ceiling = min(self._maximum, self._ceiling * 2)
        return delay

    def reset(self) -> None:
        """Start from the first ceiling again."""
        self._ceiling = self._first
