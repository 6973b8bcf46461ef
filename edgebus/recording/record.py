"""Recording of a bus into a file, until stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgebus.bus import Bus, RawMessage, TopicTrie, Wait
from edgebus.recording.errors import RecordingError
from edgebus.recording.writer import RecordingWriter

_SEAL_S = 2.0
"""Seconds of a recording that a crash of this process can lose."""

_SPILL_BYTES = 64 * 1024
_QUEUE = Wait(messages=8192, bytes=64 * 1024 * 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReport:
    """Result of a recording.

    Attributes:
        messages: Messages in the file.
        channels: Channels in the file.
        size: Bytes of the file.
        seconds: How long it took.
        dropped: QoS 0 messages that came faster than the disk took them.
        left_out: Messages on topics beyond what one file can number.
        reconnects: How often the connection was lost; what was said meanwhile is missing.
    """

    messages: int
    channels: int
    size: int
    seconds: float
    dropped: int
    left_out: int
    reconnects: int


async def record(
    bus: Bus,
    writer: RecordingWriter,
    *,
    filters: Sequence[str],
    stop: asyncio.Event,
    exclude: Sequence[str] = (),
    seconds: float | None = None,
) -> RecordReport:
    """Record until `stop` is set or the time is over; the file is closed in any case.

    Args:
        bus: Where from.
        writer: Where to; it is finished, or abandoned where the disk fails.
        filters: Topic filters.
        stop: Ends the recording.
        exclude: Topic filters of what is left out.
        seconds: How long at most.

    Raises:
        RecordingWriteError: The disk does not take it.
        SubscribeRefusedError: A filter is none, or the broker does not allow it.
        BusError: The bus has failed.
    """
    unwanted: TopicTrie[bool] = TopicTrie()
    for item in exclude:
        unwanted.add(item, True)
    session = _Session(writer, unwanted)
    begun = time.monotonic()
    connects = bus.connection.connects
    try:
        subscription = await bus.tap(list(filters), session.take, policy=_QUEUE, qos=1)
        await _until_over(bus, session, stop=stop, seconds=seconds)
        await subscription.unsubscribe()
    except BaseException as error:
        await session.close(failed=isinstance(error, RecordingError), dropped=0)
        raise
    dropped = subscription.stats.dropped
    await session.close(failed=session.failure.done(), dropped=dropped)
    session.check()
    return RecordReport(
        messages=writer.messages,
        channels=writer.channels,
        size=writer.size,
        seconds=time.monotonic() - begun,
        dropped=dropped,
        left_out=writer.left_out,
        reconnects=bus.connection.connects - max(connects, 1),
    )


class _Session:
    """The way from the subscription to the disk."""

    def __init__(self, writer: RecordingWriter, unwanted: TopicTrie[bool]) -> None:
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writer = writer
        self._unwanted = unwanted
        # The disk is written in a thread while nothing is added.
        self._lock = asyncio.Lock()

    async def take(self, message: RawMessage) -> None:
        """Add a message; the disk's failure ends the recording, it is not the message's fault."""
        if self.failure.done() or self._unwanted.match(message.topic):
            return
        try:
            async with self._lock:
                self._writer.add(message)
                if self._writer.pending >= _SPILL_BYTES:
                    await asyncio.to_thread(self._writer.spill)
        except RecordingError as error:
            self._fail(error)

    async def seal(self) -> None:
        """Put what there is on disk every now and then, for ever."""
        while True:
            await asyncio.sleep(_SEAL_S)
            try:
                async with self._lock:
                    self._writer.seal()
                    if self._writer.pending:
                        await asyncio.to_thread(self._writer.spill)
            except RecordingError as error:
                self._fail(error)
                return

    async def close(self, *, failed: bool, dropped: int) -> None:
        """Finish the file, or leave it without an index where the disk has failed."""
        async with self._lock:
            if failed:
                self._writer.abandon()
            else:
                await asyncio.to_thread(self._writer.finish, {"dropped": str(dropped)})

    def check(self) -> None:
        """Raise what made the disk fail."""
        if self.failure.done():
            self.failure.result()

    def _fail(self, error: RecordingError) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)


async def _until_over(
    bus: Bus, session: _Session, *, stop: asyncio.Event, seconds: float | None
) -> None:
    """Wait for the first of: the end that was asked for, the disk's failure, the bus's failure."""
    tasks: list[asyncio.Future[Any]] = [
        asyncio.create_task(stop.wait(), name="recording: stop"),
        asyncio.create_task(session.seal(), name="recording: seal"),
        asyncio.create_task(bus.watch(), name="recording: bus"),
    ]
    try:
        await asyncio.wait(
            [*tasks, session.failure], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for task in tasks:
            if task.done():
                task.result()  # raises what ended it
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
