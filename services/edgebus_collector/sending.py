"""Delivery of samples from the spool to the broker."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebus.bus import Bus, MessageTooLargeError, PublishRefusedError
from edgebus.contracts import Address, Payload, PayloadError, record_of
from edgebus.service import MetricsRegistry
from edgebus_collector.spool import Spool, Spooled

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_REFUSED_REST_S = 30.0


class Sender:
    """Sender of spooled samples, which stay on disk until the broker has acknowledged them.

    Args:
        bus: Where they go.
        address: Their topic, this collector's own.
        spool: Where they wait; used by this sender alone.
        receiver: Set while somebody is there who takes samples.
        metrics: Counters of what was sent and lost.
        log: Log of samples that cannot be sent.
        trouble: Called with what is wrong, in words; empty: nothing is.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        address: Address[Any],
        spool: Spool,
        receiver: asyncio.Event,
        metrics: MetricsRegistry,
        log: FilteringBoundLogger,
        trouble: Callable[[str], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._address = address
        self._spool = spool
        self._receiver = receiver
        self._metrics = metrics
        self._log = log
        self._trouble = trouble
        # The spool is used from threads, one at a time.
        self._disk = asyncio.Lock()
        self._work = asyncio.Event()
        self._work.set()
        self._in_trouble = False

    async def put(self, sample: Any) -> list[str]:
        """Keep a sample; returns the ids that were dropped for it.

        Raises:
            SpoolFullError: It does not fit and nothing may be dropped for it.
            OSError: The disk is full or broken.
        """
        async with self._disk:
            dropped = await asyncio.to_thread(
                self._spool.put, record_of(sample).id, sample.encode()
            )
        self._work.set()
        return dropped

    async def run(self) -> None:
        """Bring spooled samples to the broker, oldest first, for ever."""
        while True:
            await self._work.wait()
            async with self._disk:
                item = self._spool.oldest()
                if item is None:
                    self._work.clear()
                    continue
                try:
                    sample = await asyncio.to_thread(_read, item.path, self._address.topic.payload)
                except OSError as error:
                    trouble = f"samples stay on disk: {error}"
                else:
                    trouble = ""
            if trouble:
                await self._report(trouble)
                await asyncio.sleep(_REFUSED_REST_S)
                continue
            if sample is None:
                self._metrics.counter("dropped.corrupt")
                self._log.warning("sample dropped", sample=item.id, error="corrupt in the spool")
            elif not await self._send(item, sample):
                continue
            await self._forget(item)

    async def _forget(self, item: Spooled) -> None:
        """Take one off the disk; where that fails, the next process sends it again."""
        try:
            async with self._disk:
                await asyncio.to_thread(self._spool.remove, item.id)
        except OSError as error:
            await self._report(f"samples that were sent stay on disk: {error}")
        else:
            await self._report("")

    async def _report(self, trouble: str) -> None:
        """Report a trouble of sending, and its end; not the end of anybody else's."""
        if trouble or self._in_trouble:
            self._in_trouble = bool(trouble)
            await self._trouble(trouble)

    async def _send(self, item: Spooled, sample: Any) -> bool:
        """Send one; whether it need not be kept any longer."""
        await self._receiver.wait()
        await self._bus.connected()
        session = self._bus.connection.session
        try:
            await self._bus.publish(self._address, sample)
        except MessageTooLargeError as error:
            self._metrics.counter("dropped.too_large")
            self._log.warning("sample dropped", sample=item.id, error=str(error))
            return True
        except PublishRefusedError as error:
            await self._report(f"samples stay on disk: {error}")
            await asyncio.sleep(_REFUSED_REST_S)
            return False
        if not await self._acknowledged(session):
            # It only reached the outbox, which does not survive this process. It is sent once
            # more; the retrainer knows it by its id.
            return False
        self._metrics.counter("sent")
        self._metrics.counter("sent.bytes", item.size)
        return True

    async def _acknowledged(self, session: int) -> bool:
        """Whether what was just published is with the broker, and not only in the outbox."""
        # When a connection breaks, publishers are released before the loss is announced.
        await asyncio.sleep(0)
        connection = self._bus.connection
        return connection.connected and connection.session == session


def _read(path: Path, kind: type[Payload]) -> Payload | None:
    """A spooled sample; None where the disk has lost it.

    Raises:
        OSError: It cannot be read now, for want of rights, memory or file descriptors.
    """
    try:
        return kind.decode(path.read_bytes())
    except (FileNotFoundError, PayloadError):
        return None
    except OSError as error:
        if error.errno == errno.EIO:  # a bad sector; others wait behind it
            return None
        raise
