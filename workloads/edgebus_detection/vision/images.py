"""JPEG bytes to BGR arrays and back."""

from __future__ import annotations

from typing import TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from edgebus_detection.vision.errors import ImageError

__all__ = ["Image", "decode_jpeg", "encode_jpeg"]

Image: TypeAlias = npt.NDArray[np.uint8]
"""A picture: uint8 of shape [height, width, 3], channels blue, green, red."""

_EOI = b"\xff\xd9"


def decode_jpeg(data: bytes) -> Image:
    """Decode a whole JPEG.

    OpenCV fills the missing rest of a truncated file with grey and says nothing; here it is
    refused, because a detector would answer for a picture that nobody took.

    Returns:
        uint8 [height, width, 3], BGR.

    Raises:
        ImageError: Zero bytes, truncated, or no JPEG that OpenCV reads.
    """
    if not data:
        raise ImageError(size=0, reason="zero bytes; the sender published an empty picture")
    if not data.startswith(b"\xff\xd8"):
        raise ImageError(size=len(data), reason=f"starts with {data[:2].hex()}, no JPEG (ffd8)")
    if not data.rstrip(b"\x00").endswith(_EOI):
        raise ImageError(size=len(data), reason="truncated: no end-of-image marker")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(size=len(data), reason=f"OpenCV refuses it: {error.err}") from error
    if image is None:
        raise ImageError(size=len(data), reason="OpenCV cannot decode it; its data is broken")
    return cast("Image", image)


def encode_jpeg(image: Image, *, quality: int = 85) -> bytes:
    """Encode a BGR picture.

    Args:
        image: uint8 [height, width, 3].
        quality: 1 (small) to 100 (fine).

    Raises:
        ImageError: The array is no such picture.
        ValueError: The quality is out of range.
    """
    check_image(image)
    if not 1 <= quality <= 100:
        msg = f"JPEG quality {quality} is outside 1..100"
        raise ValueError(msg)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(size=image.nbytes, reason=f"OpenCV cannot encode shape {image.shape}")
    return data.tobytes()


def check_image(image: Image) -> None:
    """Refuse anything but a non-empty uint8 [height, width, 3].

    Raises:
        ImageError: It is something else.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        reason = f"shape {image.shape}, {image.dtype}; expected [height, width, 3], uint8, BGR"
        raise ImageError(size=image.nbytes, reason=reason)
