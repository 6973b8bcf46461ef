"""The perceptual hash by which near-duplicates are known: in the collector and at the gate."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np

from edgebus.mining import Fingerprint
from edgebus_detection.vision.images import decode_grey

Hash: TypeAlias = Fingerprint
"""uint64 [4]: 256 bits."""

_SIDE = 16


def difference_hash(jpeg: bytes) -> Hash:
    """The difference hash (dHash) of a JPEG: 256 bits as four 64-bit words.

    Each bit says whether a cell of a 16 x 16 grid of mean brightness is darker than its right
    neighbour (N. Krawetz 2013, "Kind of like that"). 16 instead of the usual 8, because a fixed
    camera's background is always the same and only the small things matter.

    Args:
        jpeg: The file; any format that OpenCV reads will do.

    Raises:
        ImageError: The picture cannot be decoded.
    """
    grey = decode_grey(jpeg)
    cells = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = cells[:, 1:] > cells[:, :-1]
    return np.packbits(bits.reshape(-1)).view(np.uint64)
