"""Near-duplicates: inputs whose fingerprints are nearly the same."""

from __future__ import annotations

from collections import deque

import numpy as np
from cachetools import LRUCache

from edgebus.mining.example import Fingerprint

_MAX_KEYS = 1024


class NearDuplicates:
    """Fingerprints of the last samples of each key.

    Of more than 1024 keys (streams and splits), the one that was used longest ago is forgotten.

    Args:
        distance: Bits, at most, in which the fingerprints of near-duplicates differ; below 0
            nothing is one.
        memory: Samples of each key that are remembered.
    """

    def __init__(self, *, distance: int, memory: int) -> None:
        self._distance = distance
        self._memory = memory
        self._seen: LRUCache[str, deque[Fingerprint]] = LRUCache(_MAX_KEYS)

    def seen(self, key: str, value: Fingerprint | None) -> bool:
        """Whether something like it is remembered under this key; of None nothing is."""
        seen = self._seen.get(key)
        if not seen or value is None:
            return False
        differing = np.bitwise_count(np.stack(seen) ^ value).sum(axis=1, dtype=np.int64)
        return bool(differing.min() <= self._distance)

    def remember(self, key: str, value: Fingerprint | None) -> None:
        """Remember a sample that was taken."""
        if value is not None:
            self._seen.setdefault(key, deque(maxlen=self._memory)).append(value)
