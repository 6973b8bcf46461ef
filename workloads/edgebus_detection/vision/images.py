"""Decoding, hashing and encoding of pictures."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from edgebus.mining import Fingerprint, InputUnreadableError
from edgebus_detection.messages.jpeg import MAX_PIXELS, check_jpeg

Image: TypeAlias = npt.NDArray[np.uint8]
"""A picture: uint8 of shape [height, width, 3], channels blue, green, red."""

Grey: TypeAlias = npt.NDArray[np.uint8]
"""A grey picture: uint8 of shape [height, width]."""

Hash: TypeAlias = Fingerprint
"""uint64 [4]: 256 bits."""

_HASH_SIDE = 16
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"


class VisionError(ValueError):
    """A picture or a model's output cannot be used; the base of this package's errors."""


class ImageError(VisionError, InputUnreadableError):
    """Bytes or an array are no picture.

    Attributes:
        size: Bytes, or 0 where it is no byte string.
        reason: What is wrong.
    """

    def __init__(self, *, size: int, reason: str) -> None:
        super().__init__(f"picture of {size} bytes: {reason}")
        self.size = size
        self.reason = reason


def decode_picture(data: bytes) -> Image:
    """Decode a whole picture: JPEG, PNG, BMP or WebP.

    OpenCV fills the missing rest of a truncated JPEG with grey and reports nothing; here it is
    refused, because a detector would answer for a picture that nobody took.

    Returns:
        uint8 [height, width, 3], BGR.

    Raises:
        ImageError: Zero bytes, a truncated JPEG, no picture that OpenCV reads, or one that would
            take a decoder too much memory or time.
    """
    return cast("Image", _decode(data, cv2.IMREAD_COLOR))


def decode_grey(data: bytes) -> Grey:
    """A picture at half its size, grey: uint8 [height, width]; much faster than the whole.

    Raises:
        ImageError: As for `decode_picture`.
    """
    return cast("Grey", _decode(data, cv2.IMREAD_REDUCED_GRAYSCALE_2))


def difference_hash(jpeg: bytes) -> Hash:
    """The difference hash (dHash) of a JPEG: 256 bits as four 64-bit words.

    Each bit says whether a cell of a 16 x 16 grid of mean brightness is darker than its right
    neighbour (N. Krawetz 2013, "Kind of like that"). 16 instead of the usual 8, because a fixed
    camera's background is always the same and only the small things matter.

    Args:
        jpeg: The file; the other formats of `decode_picture` will do.

    Raises:
        ImageError: The picture cannot be decoded.
    """
    grey = decode_grey(jpeg)
    cells = cv2.resize(grey, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA).astype(
        np.int16
    )
    bits = cells[:, 1:] > cells[:, :-1]
    return np.packbits(bits.reshape(-1)).view(np.uint64)


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
    try:
        _check_header(data)
    except (ValueError, struct.error) as error:
        raise ImageError(size=len(data), reason=str(error)) from error
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error as error:
        raise ImageError(size=len(data), reason=f"OpenCV refuses it: {error.err}") from error
    if image is None:
        raise ImageError(size=len(data), reason="OpenCV cannot decode it; its data is broken")
    return image


def _check_header(data: bytes) -> None:
    """Refuse what would take a decoder much more memory or time than its bytes let expect.

    Raises:
        ValueError: It would, or is of no format whose header is known here.
        struct.error: The header is cut off.
    """
    if data.startswith(_SOI):
        # Some encoders pad with zeros behind the end-of-image marker.
        if not data.rstrip(b"\x00").endswith(_EOI):
            msg = "truncated: no end-of-image marker"
            raise ValueError(msg)
        check_jpeg(data)
        return
    width, height = _size(data)
    if width * height > MAX_PIXELS:
        msg = f"{width} x {height} pixels; at most {MAX_PIXELS} are accepted"
        raise ValueError(msg)


def _size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG, BMP or WebP, by its header."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return cast("tuple[int, int]", struct.unpack_from(">II", data, 16))
    if data.startswith(b"BM"):
        old = struct.unpack_from("<I", data, 14) == (12,)
        width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
        return abs(width), abs(height)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kind = data[12:16]
        if kind == b"VP8X":
            low = struct.unpack_from("<HBHB", data, 24)
            return 1 + low[0] + (low[1] << 16), 1 + low[2] + (low[3] << 16)
        if kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    msg = "it is no JPEG, PNG, BMP or WebP"
    raise ValueError(msg)


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
