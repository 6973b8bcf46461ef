"""Writer of recordings: messages of the bus into an MCAP file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from mcap.writer import CompressionType, Writer

from edgebus.bus import RawMessage
from edgebus.recording._encoding import (
    Channel,
    Encoded,
    encode,
    nanoseconds,
    overlay_of,
    schema_of,
)
from edgebus.recording._sink import Sink
from edgebus.recording.errors import RecordingExistsError, RecordingWriteError

CHUNK_BYTES = 512 * 1024
# MCAP numbers channels with 16 bits.
MAX_CHANNELS = 65_000


class RecordingWriter:
    """An MCAP file that is being written; no clock and no socket here.

    `add` only fills memory, at most one chunk ahead of what `spill` has put on disk: `spill` may
    run in a thread while nothing else is called.

    Args:
        path: The file.
        overwrite: Replace a file that is there.
        notes: Facts about the recording, kept in its metadata.

    Raises:
        RecordingExistsError: There is a file already.
        RecordingWriteError: The file cannot be made.
    """

    def __init__(
        self, path: Path, *, overwrite: bool = False, notes: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self.messages = 0
        self.left_out = 0
        """Messages on topics beyond what one file can number."""
        self._saved = 0
        self._channels: dict[Channel, int] = {}
        self._schemas: dict[str, int] = {}
        self._sequence: Counter[int] = Counter()
        try:
            self._sink = Sink(path, overwrite=overwrite)
        except FileExistsError as error:
            raise RecordingExistsError(path) from error
        except OSError as error:
            raise self._failed(error) from error
        self._writer = Writer(
            cast("IO[bytes]", self._sink),
            chunk_size=CHUNK_BYTES,
            compression=CompressionType.ZSTD,
        )
        self._writer.start(library="edgebus")
        if notes:
            self._writer.add_metadata("edgebus.recording", dict(notes))

    @property
    def channels(self) -> int:
        """Channels so far: one per topic and the circumstances its messages came in."""
        return sum(not channel.drawn for channel in self._channels)

    @property
    def size(self) -> int:
        """Bytes of the file, what waits in memory included."""
        return self._sink.tell()

    @property
    def pending(self) -> int:
        """Bytes that wait for `spill`."""
        return self._sink.pending

    def add(self, message: RawMessage) -> None:
        """Add a message; it is on disk after the next `spill` that follows a full chunk."""
        encoded = encode(message)
        received = nanoseconds(message.received)
        if not self._add(encoded, received=received):
            self.left_out += 1
            return
        self.messages += 1
        overlay = overlay_of(encoded)
        if overlay is not None:
            self._add(overlay, received=received)

    def seal(self) -> None:
        """End the chunk, so that the next `spill` puts everything so far on disk."""
        self._writer.flush()  # type: ignore[no-untyped-call]

    def spill(self) -> None:
        """Write what waits to disk.

        Raises:
            RecordingWriteError: The disk is full or gone.
        """
        messages = self.messages
        try:
            self._sink.spill()
        except OSError as error:
            if not self._saved and self.path.is_file():  # nothing in it that could be read
                with suppress(OSError):
                    self.path.unlink()
            raise self._failed(error) from error
        self._saved = messages

    def finish(self, notes: Mapping[str, str] | None = None) -> None:
        """Write the index and close the file.

        Args:
            notes: Facts known only now, kept in the file's metadata.

        Raises:
            RecordingWriteError: The disk is full; the messages before are readable without the
                index.
        """
        try:
            if notes:
                self._writer.flush()  # type: ignore[no-untyped-call]
                self._writer.add_metadata("edgebus.summary", dict(notes))
            self._writer.finish()  # type: ignore[no-untyped-call]
            self.spill()
        except BaseException:
            self._sink.close(sync=False)
            raise
        try:
            self._sink.close(sync=True)
        except OSError as error:
            raise self._failed(error) from error

    def abandon(self) -> None:
        """Close the file as it is, without an index; what was spilled stays readable."""
        self._sink.close(sync=False)

    def _add(self, encoded: Encoded, *, received: int) -> bool:
        """Add to a channel; False where the file has too many."""
        channel = self._channel(encoded.channel)
        if channel is None:
            return False
        self._sequence[channel] += 1
        self._writer.add_message(
            channel,
            log_time=received,
            publish_time=encoded.sent,
            sequence=self._sequence[channel] & 0xFFFFFFFF,
            data=encoded.data,
        )
        return True

    def _channel(self, channel: Channel) -> int | None:
        number = self._channels.get(channel)
        if number is None:
            if len(self._channels) >= MAX_CHANNELS:
                return None
            number = self._writer.register_channel(
                topic=channel.topic,
                message_encoding=channel.encoding,
                schema_id=self._schema(channel.schema),
                metadata=channel.metadata,
            )
            self._channels[channel] = number
        return number

    def _schema(self, name: str) -> int:
        """Number of a schema, written on its first use; 0: none."""
        if not name:
            return 0
        number = self._schemas.get(name)
        if number is None:
            encoding, data = schema_of(name)
            number = self._writer.register_schema(name=name, encoding=encoding, data=data)
            self._schemas[name] = number
        return number

    def _failed(self, error: OSError) -> RecordingWriteError:
        reason = error.strerror or os.strerror(error.errno or 0)
        return RecordingWriteError(self.path, reason=reason, messages=self._saved)
