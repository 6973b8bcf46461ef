"""Decoding and encoding of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from edgebus_detection.vision.errors import ImageError

Image: TypeAlias = npt.NDArray[np.uint8]
"""A picture: uint8 of shape [height, width, 3], channels blue, green, red."""

Grey: TypeAlias = npt.NDArray[np.uint8]
"""A grey picture: uint8 of shape [height, width]."""

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"


def decode_picture(data: bytes) -> Image:
    """Decode a whole picture: JPEG, PNG or whatever else OpenCV reads.

    OpenCV fills the missing rest of a truncated JPEG with grey and reports nothing; here it is
    refused, because a detector would answer for a picture that nobody took.

    Returns:
        uint8 [height, width, 3], BGR.

    Raises:
        ImageError: Zero bytes, a truncated JPEG, or no picture that OpenCV reads.
    """
    return cast("Image", _decode(data, cv2.IMREAD_COLOR))


def decode_grey(data: bytes) -> Grey:
    """A picture at half its size, grey: uint8 [height, width]; much faster than the whole.

    Raises:
        ImageError: As for `decode_picture`.
    """
    return cast("Grey", _decode(data, cv2.IMREAD_REDUCED_GRAYSCALE_2))


def read_picture(path: Path) -> Image:
    """Read and decode a picture's file; see `decode_picture`.

    Raises:
        ImageError: It cannot be read, or not be decoded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(size=0, reason=f"{path} cannot be read: {error}") from error
    return decode_picture(data)


def _decode(data: bytes, how: int) -> Any:
    if not data:
        raise ImageError(size=0, reason="zero bytes; the sender published an empty picture")
    # Some encoders pad with zeros behind the end-of-image marker.
    if data.startswith(_SOI) and not data.rstrip(b"\x00").endswith(_EOI):
        raise ImageError(size=len(data), reason="truncated: no end-of-image marker")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error as error:
        raise ImageError(size=len(data), reason=f"OpenCV refuses it: {error.err}") from error
    if image is None:
        raise ImageError(size=len(data), reason="OpenCV cannot decode it; its data is broken")
    return image


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
