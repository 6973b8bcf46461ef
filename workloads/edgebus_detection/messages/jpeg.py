"""JPEG payloads that carry their own record.

The record is JSON in a comment segment (COM, 0xFFFE; ITU-T T.81 §B.2.4.5) right behind the start
of the image, where `file`, `exiftool`, `identify -verbose` and `rdjpgcom` show it. So a frame
describes itself on any version of MQTT, in a recording and on disk.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple, Self, TypeVar, cast

from pydantic import Field

from edgebus.contracts.errors import PayloadError
from edgebus.contracts.payload import Message, RecordPayload, Wrapper

_SOI = b"\xff\xd8"
_EOI = b"\xff\xd9"
_COM = 0xFE
_SOS = 0xDA
_MAX_RECORD = 0xFFFF - 2  # a segment's length field counts itself
# Markers without a length: TEM, RST0-7, SOI, EOI.
_BARE = frozenset({0x01, *range(0xD0, 0xDA)})
# Start of frame: height and width of the picture (T.81 §B.2.2); C4, C8 and CC mean other things.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Far more than any encoder writes; each costs memory.
_MAX_MARKERS = 4096
MAX_PIXELS = 2**26
"""Pixels of the largest picture that is decoded: a header of twenty bytes can ask for gigabytes."""
# A progressive JPEG is decoded once over for each of its scans, which may have 75 bytes; encoders
# write about ten. Together with the pixels they bound a decoder's time to about a second.
_MAX_SCANS = 128
_MAX_WORK = 2**30

Side = Annotated[int, Field(ge=1, le=16384)]


class PictureRecord(Message):
    """What every picture's record says: its size in pixels, that of the JPEG around it."""

    width: Side
    height: Side


R = TypeVar("R", bound=PictureRecord)


@dataclass(frozen=True, slots=True)
class JpegPayload(RecordPayload[R]):
    """A JPEG file whose first comment segment is its record.

    Attributes:
        jpeg: The whole file, record included.
        record: The record, parsed.
    """

    content_type: ClassVar[str] = "image/jpeg"
    format_name: ClassVar[str] = "JPEG"
    format_doc: ClassVar[str] = (
        "A plain JPEG file. Its first comment segment (COM) holds a JSON record."
    )
    record_type: ClassVar[type[PictureRecord]]

    jpeg: bytes
    record: R

    @classmethod
    def build(cls, jpeg: bytes, record: R) -> Self:
        """Put a record into a JPEG, in place of any comment it had.

        Raises:
            PayloadError: `jpeg` is no complete JPEG or of another size than the record says, or
                the record is larger than a segment.
        """
        body = record.encode()
        if len(body) > _MAX_RECORD:
            reason = f"its record has {len(body)} bytes; a JPEG segment holds {_MAX_RECORD}"
            raise PayloadError(schema=cls.schema_id(), reason=reason)
        try:
            segments = _segments(jpeg)
            _check_size(jpeg, segments, record)
        except ValueError as error:
            raise PayloadError(schema=cls.schema_id(), reason=str(error)) from error
        segment = b"\xff\xfe" + struct.pack(">H", len(body) + 2) + body
        plain = _without_comments(jpeg, segments)
        return cls(jpeg=_SOI + segment + plain[2:], record=record)

    @classmethod
    def recorded_as(cls) -> Wrapper:
        """As foxglove.CompressedImage."""
        from edgebus_detection.messages.recorded import AsCompressedImage

        return AsCompressedImage()

    def with_record(self, record: R) -> Self:
        """The same picture around another record.

        Raises:
            PayloadError: The record is of another size, or larger than a segment.
        """
        return self.build(self.jpeg, record)

    def encode(self) -> bytes:
        """The whole file."""
        return self.jpeg

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the file's record; the picture itself is not decoded.

        Raises:
            PayloadError: It is empty, cut off, no JPEG, has no valid record or another size than
                that says.
        """
        try:
            segments = _segments(data)
        except ValueError as error:
            raise PayloadError(schema=cls.schema_id(), reason=str(error)) from error
        comment = next((part for part in segments if part.marker == _COM), None)
        if comment is None:
            raise PayloadError(
                schema=cls.schema_id(), reason="the JPEG has no comment segment with its record"
            )
        record = cls.record_type.decode(data[comment.start + 4 : comment.end])
        try:
            _check_size(data, segments, record)
        except ValueError as error:
            raise PayloadError(schema=cls.schema_id(), reason=str(error)) from error
        return cls(jpeg=data, record=cast("R", record))


class _Segment(NamedTuple):
    """One marker segment: the whole of it is ``data[start:end]``."""

    marker: int
    start: int
    end: int


def _segments(data: bytes) -> list[_Segment]:
    """Every segment before the scan.

    Raises:
        ValueError: The bytes are no complete JPEG.
    """
    if not data:
        msg = "zero bytes"
        raise ValueError(msg)
    if not data.startswith(_SOI):
        msg = f"starts with {data[:2].hex()}, a JPEG starts with ffd8"
        raise ValueError(msg)
    # Some encoders pad with zeros behind the end-of-image marker.
    if not data.rstrip(b"\x00").endswith(_EOI):
        msg = f"cut off: {len(data)} bytes without an end-of-image marker"
        raise ValueError(msg)
    found: list[_Segment] = []
    at = 2
    for _ in range(_MAX_MARKERS):
        if at + 4 > len(data):
            break
        if data[at] != 0xFF:
            msg = f"broken segment at byte {at}"
            raise ValueError(msg)
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _BARE:
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if length < 2 or end > len(data):
            msg = f"segment at byte {at} says {length} bytes; the file ends before"
            raise ValueError(msg)
        if marker == _SOS:
            return found
        found.append(_Segment(marker, at, end))
        at = end
    else:
        msg = f"more than {_MAX_MARKERS} markers before the picture"
        raise ValueError(msg)
    msg = "no picture data"
    raise ValueError(msg)


def check_jpeg(data: bytes) -> None:
    """Check that a JPEG is whole and takes a decoder no more memory and time than a picture does.

    Raises:
        ValueError: It does not.
    """
    _check_work(data, _segments(data))


def _check_work(data: bytes, segments: list[_Segment]) -> list[tuple[int, int]]:
    """Width and height in each frame header; there may be more than one in a broken file.

    Raises:
        ValueError: They, or the scans over them, are too many for anybody here.
    """
    frames = [part for part in segments if part.marker in _SOF]
    if not frames:
        msg = "no frame header with the picture's size"
        raise ValueError(msg)
    # In the data of a scan 0xFF is followed by 0 or by a restart marker, never by this.
    scans = data.count(b"\xff\xda", segments[-1].end)
    sizes: list[tuple[int, int]] = []
    for part in frames:
        if part.end - part.start < 9:
            msg = "its frame header is cut off"
            raise ValueError(msg)
        height, width = struct.unpack_from(">HH", data, part.start + 5)
        sizes.append((width, height))
        if width * height > MAX_PIXELS:
            msg = f"{width} x {height} pixels; at most {MAX_PIXELS} are accepted"
            raise ValueError(msg)
        if scans > _MAX_SCANS or scans * width * height > _MAX_WORK:
            msg = f"{scans} scans of {width} x {height} pixels; save it as a baseline JPEG"
            raise ValueError(msg)
    return sizes


def _check_size(data: bytes, segments: list[_Segment], record: PictureRecord) -> None:
    """Check that a decoder would make a picture of the size that the record says.

    Raises:
        ValueError: It would not, or the picture is too large for anybody here.
    """
    for width, height in _check_work(data, segments):
        if (width, height) != (record.width, record.height):
            msg = (
                f"the picture is {width} x {height}, its record says "
                f"{record.width} x {record.height}"
            )
            raise ValueError(msg)


def _without_comments(data: bytes, segments: list[_Segment]) -> bytes:
    """The same JPEG without its comment segments."""
    kept: list[bytes] = []
    at = 0
    for segment in segments:
        if segment.marker == _COM:
            kept.append(data[at : segment.start])
            at = segment.end
    kept.append(data[at:])
    return b"".join(kept)
