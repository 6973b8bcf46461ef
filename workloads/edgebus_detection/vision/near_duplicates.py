"""Near-duplicates: pictures that look the same to a perceptual hash."""

from __future__ import annotations

from collections import OrderedDict, deque

import numpy as np

from edgebus_detection.vision import Hash

__all__ = ["NearDuplicates"]

_MAX_KEYS = 1024


class NearDuplicates:
    """Remembers the last samples of each key and recognises what looks like one of them.

    Of more than 1024 keys (cameras and splits), the one that was used longest ago is forgotten.

    Args:
        distance: Hashes that differ in at most so many of 256 bits are near-duplicates;
            below 0 nothing is.
        memory: So many samples of each key are remembered.
    """

    def __init__(self, *, distance: int, memory: int) -> None:
        self._distance = distance
        self._memory = memory
        self._seen: OrderedDict[str, deque[Hash]] = OrderedDict()

    def seen(self, key: str, value: Hash) -> bool:
        """Whether something like it was remembered under this key."""
        seen = self._seen.get(key)
        if not seen:
            return False
        differing = np.bitwise_count(np.stack(seen) ^ value).sum(axis=1, dtype=np.int64)
        return bool(differing.min() <= self._distance)

    def remember(self, key: str, value: Hash) -> None:
        """Remember a sample that was taken."""
        self._seen.setdefault(key, deque(maxlen=self._memory)).append(value)
        self._seen.move_to_end(key)
        if len(self._seen) > _MAX_KEYS:
            self._seen.popitem(last=False)
