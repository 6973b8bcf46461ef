"""So many at once, so many per second after that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Limiter"]


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since: float
    missed: int = 0


class Limiter:
    """A token bucket per key.

    Args:
        burst: What may be taken at once.
        rate: What comes back per second.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self, *, burst: int, rate: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key: str) -> tuple[bool, int]:
        """Take one.

        Returns:
            Whether there was one, and how many were missed since one was had, this one included.
        """
        now = self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.since) * self._rate)
        bucket.since = now
        if bucket.tokens < 1:
            bucket.missed += 1
            return False, bucket.missed
        bucket.tokens -= 1
        missed, bucket.missed = bucket.missed, 0
        return True, missed
