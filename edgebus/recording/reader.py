"""Reader of recordings, also of damaged ones."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import zstandard
from mcap.exceptions import EndOfFile, InvalidMagic, McapError
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk

from edgebus.contracts import Qos
from edgebus.recording._encoding import DRAWN, channel_facts, decode
from edgebus.recording.errors import RecordingUnreadableError

_MAX_RECORD = 256 * 1024 * 1024
# What the reader raises on bytes that make no sense; lz4 says RuntimeError.
_BROKEN = (
    McapError,
    struct.error,
    ValueError,
    RuntimeError,
    zstandard.ZstdError,
    # A damaged length inside a chunk.
    MemoryError,
    OverflowError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One message of a recording.

    Attributes:
        topic: Concrete topic.
        payload: Bytes as they were on the wire.
        qos: Quality of service it came with.
        retain: Whether the broker keeps the last value of this topic.
        retained: State from before: the broker had kept it when the recording began.
        content_type: MIME type.
        schema: Name of its schema; empty where it has none.
        logged: When it was received, nanoseconds since 1970.
        published: When it was sent, nanoseconds since 1970.
    """

    topic: str
    payload: bytes
    qos: Qos
    retain: bool
    retained: bool
    content_type: str
    schema: str
    logged: int
    published: int


class Recording:
    """An MCAP file, read from the front to the back, one chunk in memory at a time.

    A file that was cut off (a crash, a full disk) is read up to there, a damaged chunk is left
    out; `trouble` then says what is wrong.

    Args:
        path: The file.

    Raises:
        RecordingUnreadableError: It is not there, or no MCAP file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: str | None = None
        """What ended the last reading before its time, in words."""
        try:
            with path.open("rb") as file:
                start = file.read(8)
        except OSError as error:
            reason = error.strerror or str(error)
            raise RecordingUnreadableError(path, reason=reason) from error
        if start != b"\x89MCAP0\r\n":
            reason = "it is empty" if not start else f"it starts with {start!r}"
            raise RecordingUnreadableError(path, reason=reason)

    def __iter__(self) -> Iterator[Recorded]:
        """The messages in the order in which they were recorded."""
        self.trouble = None
        schemas: dict[int, str] = {}
        channels: dict[int, Channel] = {}
        count = lost = 0
        with self.path.open("rb") as file:
            pieces = _pieces(file)
            while True:
                try:
                    piece = next(pieces)
                except StopIteration:
                    break
                except _BROKEN as error:
                    self.trouble = f"{_explain(error)} near byte {file.tell()}"
                    break
                if isinstance(piece, Schema):
                    schemas[piece.id] = piece.name
                elif isinstance(piece, Channel):
                    channels[piece.id] = piece
                elif isinstance(piece, Message):
                    if _is_drawn(piece, channels):
                        continue
                    try:
                        made = _made(piece, channels, schemas)
                    except ValueError:
                        lost += 1
                    else:
                        count += 1
                        yield made
                else:
                    self.trouble = f"it is damaged near byte {file.tell()} ({piece})"
        if lost:
            self.trouble = f"{self.trouble or 'it is damaged'}; {lost} messages make no sense"
        if self.trouble:
            self.trouble += f"; {count} messages were read"


class _Bounded:
    """A file that never reads beyond its end, whatever length a damaged record claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = os.fstat(file.fileno()).st_size

    def read(self, length: int) -> bytes:
        """Exactly `length` bytes.

        Raises:
            EndOfFile: There are not as many.
        """
        if length > self._left:
            raise EndOfFile
        self._left -= length
        return self._file.read(length)


def _pieces(file: IO[bytes]) -> Iterator[object]:
    """Schemas, channels and messages one by one; a chunk that is damaged comes as its error.

    Raises:
        Exception: One of `_BROKEN`: nothing behind this can be found.
    """
    reader = StreamReader(
        cast("IO[bytes]", _Bounded(file)), emit_chunks=True, record_size_limit=_MAX_RECORD
    )
    for record in reader.records:
        if not isinstance(record, Chunk):
            if isinstance(record, (Schema, Channel, Message)):
                yield record
            continue
        # Each record says its length, so a damaged chunk can be left out.
        try:
            parts = breakup_chunk(record, validate_crc=True)
        except _BROKEN as error:
            yield error
        else:
            yield from parts


def _is_drawn(message: Message, channels: dict[int, Channel]) -> bool:
    """Whether it is an overlay, made for viewers: nobody has sent it."""
    channel = channels.get(message.channel_id)
    return channel is not None and DRAWN in channel.metadata


def _made(message: Message, channels: dict[int, Channel], schemas: dict[int, str]) -> Recorded:
    """A message with what its channel says.

    Raises:
        ValueError: Its channel is nowhere described, or its wrapper is broken.
    """
    channel = channels.get(message.channel_id)
    if channel is None:
        msg = f"channel {message.channel_id} is nowhere described"
        raise ValueError(msg)
    schema = schemas.get(channel.schema_id, "")
    encoding = channel.message_encoding
    return Recorded(
        topic=channel.topic,
        payload=decode(encoding=encoding, schema=schema, data=message.data),
        schema=schema,
        logged=message.log_time,
        published=message.publish_time,
        **channel_facts(channel.metadata, encoding=encoding, schema=schema),
    )


def _explain(error: Exception) -> str:
    if isinstance(error, (EndOfFile, struct.error)):
        return "it is cut off"
    if isinstance(error, InvalidMagic):
        return "its end is not that of an MCAP file"
    return f"it is damaged ({error})"
