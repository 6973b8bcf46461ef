"""Near-duplicates: pictures that look the same to a perceptual hash."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["NearDuplicates", "PictureUnreadableError", "difference_hash"]

Hash = npt.NDArray[np.uint64]

_SIDE = 16
_MAX_KEYS = 1024


class PictureUnreadableError(ValueError):
    """A JPEG has a good frame around picture data that cannot be decoded.

    Attributes:
        size: Bytes of the file.
    """

    def __init__(self, *, size: int) -> None:
        super().__init__(f"JPEG of {size} bytes cannot be decoded; the picture data is corrupt")
        self.size = size


def difference_hash(jpeg: bytes) -> Hash:
    """The difference hash (dHash) of a JPEG: 256 bits as four 64-bit words.

    Each bit says whether a cell of a 16 x 16 grid of mean brightness is darker than its right
    neighbour (N. Krawetz 2013, "Kind of like that"). 16 instead of the usual 8, because a fixed
    camera's background is always the same and only the small things matter.

    Raises:
        PictureUnreadableError: The picture cannot be decoded.
    """
    data = np.frombuffer(jpeg, dtype=np.uint8)
    grey: Any = cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_2) if data.size else None
    if grey is None:
        raise PictureUnreadableError(size=len(jpeg))
    cells = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = cells[:, 1:] > cells[:, :-1]
    return np.packbits(bits.reshape(-1)).view(np.uint64)


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
