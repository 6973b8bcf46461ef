"""Serving of blocks over the bus: the thin shell around `BlockSender`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from edgebus.artifacts.errors import BlobMissingError, BundleDigestError
from edgebus.artifacts.index import BLOCK_SIZE
from edgebus.artifacts.store import Store
from edgebus.bus import Bus, Event, MessageTooLargeError, OutboxFullError, PublishRefusedError
from edgebus.contracts import BlockRequest, BundleRef, Identity, RawBytes
from edgebus.contracts.topics import BLOCK, BLOCK_REQUEST
from edgebus.transfer._sender import Block, BlockSender, Pace, SenderStats

# 134 Mbit/s: more than most edges' links carry, and little enough that the commands that share
# connection, broker and processor with a model wait at most twice as long as without it
# (benchmarks/priorities.py).
_BYTES_PER_S = 16 * 2**20
_MOST_UNKNOWN = 64  # blobs that the log names; anybody may ask for any number


class ArtifactProvider:
    """Serves the blocks of whatever lies in a store, once for all who ask.

    Args:
        bus: The bus.
        identity: Who provides; requests name it.
        store: What is served.
        in_flight: Blocks on their way to the broker at a time. A few fill a fast link; more only
            make other messages wait behind them.
        bytes_per_s: Blocks leave no faster, for all who ask together; None: as fast as they can.
        settle: See `BlockSender`.
    """

    def __init__(
        self,
        bus: Bus,
        identity: Identity,
        store: Store,
        *,
        in_flight: int = 4,
        bytes_per_s: float | None = _BYTES_PER_S,
        settle: float = 0.25,
    ) -> None:
        self._bus = bus
        self._identity = identity
        self._store = store
        self._in_flight = in_flight
        self._pace: Pace | None = None
        if bytes_per_s is not None:
            self._pace = Pace(bytes_per_s=bytes_per_s, burst=in_flight * BLOCK_SIZE)
        self._sender = BlockSender(settle=settle)
        self._wake = asyncio.Event()
        self._verified: set[str] = set()
        self._unknown: set[str] = set()
        self._served: dict[str, int] = {}
        self._log = structlog.get_logger("edgebus.artifacts").bind(source=identity.source)

    @property
    def stats(self) -> SenderStats:
        """Counted since the start."""
        return self._sender.stats

    def served_bytes(self, digests: Iterable[str]) -> int:
        """Bytes of blocks sent of some blobs since the start."""
        return sum(self._served.get(digest, 0) for digest in digests)

    async def run(self) -> None:
        """Serve until cancelled."""
        subscription = await self._bus.subscribe(
            BLOCK_REQUEST.any(base=self._identity.base), self._on_request, name="block requests"
        )
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._in_flight):
                    group.create_task(self._send_blocks(), name=f"send blocks {number}")
        finally:
            await subscription.unsubscribe()

    async def _on_request(self, event: Event[BlockRequest]) -> None:
        request = event.payload
        if request.provider != self._identity.source:
            return
        size = await self._size(request.digest)
        if size is None:
            return
        now = asyncio.get_running_loop().time()
        if self._sender.want(
            request.digest, request.missing, size=size, now=now, who=request.source
        ):
            self._wake.set()

    async def _size(self, digest: str) -> int | None:
        """Bytes of a blob; None if it cannot be served. Its first request has it verified."""
        try:
            if digest not in self._verified:
                await asyncio.to_thread(self._store.get, digest)
                self._verified.add(digest)
            return self._store.size(digest)
        except (BlobMissingError, BundleDigestError) as error:
            if digest not in self._unknown and len(self._unknown) < _MOST_UNKNOWN:
                self._unknown.add(digest)
                self._log.warning("asked for a blob that cannot be served", error=str(error))
            return None

    async def _send_blocks(self) -> None:
        while True:
            # Blocks that wait in the outbox would only delay what matters after a reconnect.
            await self._bus.connection.up()
            block = self._sender.next()
            if block is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._send(block)

    async def _send(self, block: Block) -> None:
        address = BLOCK.at(self._identity, digest=block.digest, index=str(block.index))
        try:
            data = self._store.read(block.digest, offset=block.index * BLOCK_SIZE, count=BLOCK_SIZE)
            if self._pace is not None:
                now = asyncio.get_running_loop().time()
                await asyncio.sleep(self._pace.rest(len(data), now=now))
            await self._bus.publish(address, RawBytes(data), expires_in_s=60)
        except (
            BlobMissingError,
            OutboxFullError,
            MessageTooLargeError,
            PublishRefusedError,
        ) as error:
            self._sender.failed(block)
            self._log.warning("block not sent", block=str(address), error=str(error))
            return
        self._served[block.digest] = self._served.get(block.digest, 0) + len(data)
        self._sender.sent(block, size=len(data), now=asyncio.get_running_loop().time())


def reference(store: Store, digest: str, *, provider: Identity) -> BundleRef:
    """A complete bundle of a store as a reference that others can fetch.

    Raises:
        BlobMissingError: It is not in the store.
        BundleError: It must not serve.
    """
    bundle = store.open_bundle(digest)
    return BundleRef(
        model=bundle.ref,
        provider=provider.source,
        index_size=len(bundle.index_bytes),
        size=bundle.size,
        parent=bundle.manifest.parent,
    )
