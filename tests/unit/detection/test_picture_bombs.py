"""Small files that would take a decoder gigabytes or minutes."""

from __future__ import annotations

import struct
import time
import zlib

import cv2
import numpy as np
import pytest

from edgebus.contracts import PayloadError, utc_now
from edgebus_detection.messages import Frame, FrameRecord
from edgebus_detection.vision import ImageError, decode_picture, encode_jpeg
from edgebus_detection.vision.images import decode_grey


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def scan_bomb(*, width: int, height: int, scans: int, record: bytes = b"{}") -> bytes:
    """A progressive JPEG whose every scan, of some 75 bytes, walks over the whole picture."""
    left, bits, count = -(-width // 8) * -(-height // 8), 0, 0
    while left > 0:  # runs of empty blocks
        run = min(32767, max(16384, left))
        bits, count, left = bits << 15 | run - 16384, count + 15, left - run
    pad = -count % 8
    data = (bits << pad | (1 << pad) - 1).to_bytes((count + pad) // 8, "big")
    data = data.replace(b"\xff", b"\xff\0")
    head = [
        b"\xff\xd8",
        _segment(0xFE, record),
        _segment(0xDB, b"\0" + bytes([1] * 64)),
        _segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])),
        _segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0"),
    ]
    first = _segment(0xDA, bytes([1, 1, 0, 1, 63, 0x00])) + data
    more = _segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10])) + data
    return b"".join([*head, first, *[more] * (scans - 1), b"\xff\xd9"])


def _record(width: int, height: int) -> bytes:
    record = FrameRecord(
        id="01890a5d-ac96-774b-bcce-b302099a8057",
        source="lab/pi/camera",
        camera="front",
        index=0,
        captured=utc_now(),
        width=width,
        height=height,
    )
    return record.encode()


@pytest.mark.parametrize(("side", "scans"), [(8192, 600), (8192, 20), (64, 5000), (2048, 300)])
def test_a_jpeg_of_many_scans_is_refused_at_once(side: int, scans: int) -> None:
    bomb = scan_bomb(width=side, height=side, scans=scans, record=_record(side, side))
    began = time.process_time()
    with pytest.raises(PayloadError, match=rf"{scans} scans of {side} x {side}"):
        Frame.decode(bomb)
    for decode in (decode_picture, decode_grey):
        with pytest.raises(ImageError, match=rf"{scans} scans"):
            decode(bomb)
    assert time.process_time() - began < 1


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def _webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize(
    "data",
    [
        _png(100_000, 100_000),
        _png(2**31 - 1, 1),
        _bmp(30_000, -30_000),
        _webp(b"VP8X", b"\0\0\0\0" + b"\xff\xff\xff" * 2),
        _webp(b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF)),
        _webp(b"VP8 ", bytes(6) + struct.pack("<HH", 16383, 16383)),
    ],
    ids=["png", "png-wide", "bmp", "webp-x", "webp-l", "webp"],
)
def test_a_picture_that_claims_too_many_pixels_is_refused_by_its_header(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"\d+ x \d+ pixels; at most"):
        decode_picture(data)


@pytest.mark.parametrize(
    "data",
    [b"GIF89a" + bytes(50), b"II*\0" + bytes(50), b"P6 9 9 255 ", b"\x89PNG\r\n\x1a\n", b"BM"],
)
def test_formats_whose_size_is_not_known_here_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode_picture(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_pictures_of_every_kind_are_decoded(suffix: str) -> None:
    picture = np.full((48, 65, 3), 90, np.uint8)
    _, data = cv2.imencode(suffix, picture)
    assert decode_picture(data.tobytes()).shape == picture.shape


def test_a_progressive_jpeg_as_encoders_write_it_is_decoded() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert data.tobytes().count(b"\xff\xda") > 3
    assert decode_picture(data.tobytes()).shape == picture.shape
    assert decode_picture(encode_jpeg(picture) + bytes(7)).shape == picture.shape
