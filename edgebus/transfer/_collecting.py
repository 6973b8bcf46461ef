"""Collecting blocks from the bus: subscribes, asks, and hands each block to its receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from edgebus.bus import Bus, Event, OutboxFullError, RetryPolicy, Wait
from edgebus.contracts import BlockRequest, Identity, RawBytes
from edgebus.contracts.topics import ARTIFACT_BLOCK, ARTIFACT_WANTS
from edgebus.transfer._receiver import BlockReceiver, Patience, Sink

__all__ = ["BlockCollector", "FetchProgress", "MemorySink"]

_SILENCES_TO_TELL = 3
_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """How far a delivery is.

    Attributes:
        received_bytes: Bytes of blocks that came, index included.
        needed_bytes: Bytes that had to come; until the index is there, those of the whole bundle.
        patched: Whether the weights come as a patch.
        corrupt: Blocks that were damaged and asked for again.
        requests: Requests sent.
    """

    received_bytes: int
    needed_bytes: int
    patched: bool
    corrupt: int
    requests: int

    @property
    def fraction(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.received_bytes / self.needed_bytes) if self.needed_bytes else 1.0


class BlockCollector:
    """One fetch: sends requests, takes blocks, counts."""

    def __init__(
        self,
        bus: Bus,
        identity: Identity,
        provider: Identity,
        *,
        tell: Callable[[FetchProgress], None],
        window: int,
        patience: Patience | None,
    ) -> None:
        """Collect for one delivery."""
        self.patched = False
        self._bus = bus
        self._identity = identity
        self._provider = provider
        self._tell = tell
        self._window = window
        self._patience = patience
        self._needed = self._received = self._corrupt = self._requests = 0
        self._told = False
        self._log = structlog.get_logger("edgebus.artifacts").bind(source=identity.source)

    @property
    def progress(self) -> FetchProgress:
        """As of now."""
        return FetchProgress(
            received_bytes=self._received,
            needed_bytes=self._needed,
            patched=self.patched,
            corrupt=self._corrupt,
            requests=self._requests,
        )

    def expect(self, size: int) -> None:
        """So many bytes have to come from now on."""
        self._needed = self._received + size

    def receiver(self, *, size: int, blocks: tuple[str, ...] | None, sink: Sink) -> BlockReceiver:
        """A receiver with this delivery's window and patience."""
        return BlockReceiver(
            size=size, blocks=blocks, sink=sink, window=self._window, patience=self._patience
        )

    async def collect(self, receivers: Mapping[str, BlockReceiver]) -> None:
        """Get everything that the receivers miss."""
        inbox: asyncio.Queue[tuple[str, int, bytes]] = asyncio.Queue()

        async def arrived(event: Event[RawBytes]) -> None:
            index = event.names["index"]
            # A topic level may be thousands of digits long, more than int() takes.
            if index.isdecimal() and len(index) < _DIGITS:
                inbox.put_nowait((event.names["digest"], int(index), event.payload.data))

        subscriptions = []
        try:
            for digest, receiver in receivers.items():
                if not receiver.done:
                    subscription = await self._bus.subscribe(
                        ARTIFACT_BLOCK.any(
                            base=self._provider.base,
                            site=self._provider.site,
                            node=self._provider.node,
                            service=self._provider.service,
                            digest=digest,
                        ),
                        arrived,
                        policy=Wait(messages=4 * self._window),
                        retry=RetryPolicy(attempts=1),
                        deduplicate=False,
                        name=f"blocks of {digest[:16]}",
                    )
                    subscriptions.append(subscription)
            await self._pump(receivers, inbox)
        finally:
            for subscription in subscriptions:
                await subscription.unsubscribe()

    async def _pump(
        self,
        receivers: Mapping[str, BlockReceiver],
        inbox: asyncio.Queue[tuple[str, int, bytes]],
    ) -> None:
        clock = asyncio.get_running_loop().time
        while pending := {key: item for key, item in receivers.items() if not item.done}:
            # Requests that wait in the outbox would only be stale when they leave it.
            await self._bus.connection.up()
            for digest, receiver in pending.items():
                await self._ask(digest, receiver, now=clock())
            wait = min(item.deadline() for item in pending.values()) - clock()
            try:
                first = await asyncio.wait_for(inbox.get(), max(0.01, wait))
            except TimeoutError:
                continue
            arrived = [first]
            while not inbox.empty():
                arrived.append(inbox.get_nowait())
            for digest, number, data in arrived:
                self._take(receivers[digest], number, data, now=clock())
            self._tell(self.progress)

    async def _ask(self, digest: str, receiver: BlockReceiver, *, now: float) -> None:
        wanted = receiver.wants(now=now)
        if receiver.silences >= _SILENCES_TO_TELL and not self._told:
            self._told = True
            self._log.warning(
                "provider is silent, asking on",
                provider=self._provider.source,
                digest=digest[:16],
                next_in_s=round(receiver.patience, 1),
            )
        if not wanted:
            return
        request = BlockRequest(
            provider=self._provider.source,
            digest=digest,
            missing=wanted,
        )
        self._requests += 1
        try:
            # An old request is of no use: the next one says what is missing by then.
            await self._bus.publish(
                ARTIFACT_WANTS.at(self._identity), request, expires_in_s=receiver.patience
            )
        except OutboxFullError as error:
            self._log.warning("request waits", error=str(error))

    def _take(self, receiver: BlockReceiver, number: int, data: bytes, *, now: float) -> None:
        taken = receiver.take(number, data, now=now)
        if taken == "new":
            self._received += len(data)
            self._told = False
        elif taken == "corrupt":
            self._corrupt += 1


class MemorySink:
    """A sink in memory."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def write(self, offset: int, data: bytes) -> None:
        """Keep verified bytes."""
        self.data[offset : offset + len(data)] = data
