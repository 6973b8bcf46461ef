"""So many bytes per second and no more; without sockets or clocks."""

from __future__ import annotations

__all__ = ["Pace"]


class Pace:
    """Says how long to rest before bytes may leave.

    Args:
        bytes_per_s: The rate.
        burst: Bytes that may leave at once after a rest.
    """

    def __init__(self, *, bytes_per_s: float, burst: int) -> None:
        self._rate = bytes_per_s
        self._ahead_s = burst / bytes_per_s
        self._free = float("-inf")

    def rest(self, size: int, *, now: float) -> float:
        """Take a place in the line for some bytes.

        Args:
            size: How many.
            now: Monotonic seconds.

        Returns:
            Seconds to rest before they leave.
        """
        # Whoever was silent for long may not make up for all of it at once.
        free = max(self._free, now - self._ahead_s)
        self._free = free + size / self._rate
        return max(0.0, free - now)
