"""Fetching of bundles over the bus: block requests out, verified blocks into the store."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

import structlog

from edgebus.artifacts.bundle import Bundle
from edgebus.artifacts.errors import (
    BundleDigestError,
    BundleError,
    DeliveryError,
    PatchError,
    StoreError,
)
from edgebus.artifacts.index import BLOCK_SIZE, BundleIndex, FileEntry, sha256
from edgebus.artifacts.store import PartialBlob, Store
from edgebus.artifacts.update import apply_patch
from edgebus.bus import Bus, Event, OutboxFullError, RetryPolicy, Wait
from edgebus.contracts import BlockRequest, BundleRef, ContractError, Identity, RawBytes
from edgebus.contracts.topics import BLOCK, BLOCK_REQUEST
from edgebus.transfer._receiver import BlockReceiver, Patience

_SILENCES_TO_REPORT = 3
_DIGITS = 12


async def fetch_bundle(bus: Bus, ref: BundleRef, *, timeout_s: float) -> Bundle:
    """Fetch a bundle into memory, for a command that keeps no store.

    Raises:
        DeliveryError: Its provider does not deliver in time.
        BundleError: What was published must not serve.
    """
    with tempfile.TemporaryDirectory(prefix="edgebus-fetch-") as folder:
        fetcher = ArtifactFetcher(bus, bus.identity, Store(folder))
        try:
            async with asyncio.timeout(timeout_s):
                return await fetcher.fetch(ref)
        except TimeoutError:
            reason = (
                f"{ref.provider} did not deliver it within {timeout_s:g} s; it may have dropped "
                "this version (distributor.keep_versions)"
            )
            raise DeliveryError(digest=ref.model.digest, reason=reason) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """Progress of a delivery.

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


class ArtifactFetcher:
    """Fetches bundles into a store.

    What the store has is not fetched: files that versions share, blocks that came before a
    restart, and weights whose base is there come as a patch. A fetch goes on until it is done,
    however long the provider is away; cancel it when a newer release makes it pointless. What came
    stays on the disk.

    Args:
        bus: The bus.
        identity: Who asks.
        store: Where bundles go.
        window: Blocks asked for at a time, per file.
        patience: When to ask again.
        patches_too: Fetch the patch also where it is not needed, to serve it to others.
    """

    def __init__(
        self,
        bus: Bus,
        identity: Identity,
        store: Store,
        *,
        window: int = 16,
        patience: Patience | None = None,
        patches_too: bool = False,
    ) -> None:
        self._bus = bus
        self._identity = identity
        self._store = store
        self._window = window
        self._patience = patience
        self._patches_too = patches_too
        self._log = structlog.get_logger("edgebus.artifacts").bind(source=identity.source)

    async def fetch(
        self, ref: BundleRef, *, on_progress: Callable[[FetchProgress], None] | None = None
    ) -> Bundle:
        """Bring in a bundle, verify it as a whole and put it into the store.

        Args:
            ref: Which bundle, and who provides it.
            on_progress: Called whenever blocks came.

        Raises:
            DeliveryError: The reference is wrong: no such provider can be, or the bundle is
                another model than it names.
            BundleError: What was published must not serve; fetching again would not help.
            QuotaExceededError: The store is full.
            BusError: The bus does not allow it.
        """
        digest = ref.model.digest
        there = self._ready(digest)
        if there is not None:
            return _same(ref, there)
        provider = provider_identity(ref, base=self._identity.base)
        delivery = _Delivery(
            self._bus, self._identity, provider, window=self._window, report=on_progress
        )
        log = self._log.bind(model=ref.model.name, version=ref.model.version, digest=digest[:16])
        log.info("delivery begins", provider=ref.provider)
        delivery.expect(ref.index_size + ref.size)
        index = await self._index(delivery, digest, ref.index_size)
        for entry in index.blobs():
            self._store.limits.check(entry.path, entry.size)
        delivery.patched, wanted = self._plan(index)
        await self._blobs(delivery, wanted)
        if delivery.patched and not await asyncio.to_thread(self._rebuild, index):
            log.warning("patch did not give the published weights, fetching them in full")
            delivery.patched, wanted = self._plan(index, patches=False)
            await self._blobs(delivery, wanted)
        self._store.complete_bundle(digest)
        bundle = _same(ref, await asyncio.to_thread(self._store.open_bundle, digest))
        progress = delivery.progress
        log.info(
            "delivered",
            received_bytes=progress.received_bytes,
            of_bytes=index.size,
            patched=progress.patched,
            corrupt_blocks=progress.corrupt,
        )
        return bundle

    def _ready(self, digest: str) -> Bundle | None:
        """The bundle, if the store has all of it, undamaged."""
        if not self._store.has_bundle(digest):
            return None
        try:
            return self._store.open_bundle(digest)
        except (BundleDigestError, StoreError) as error:
            self._log.warning("stored bundle is damaged, fetching it again", error=str(error))
            return None

    async def _index(self, delivery: _Delivery, digest: str, size: int) -> BundleIndex:
        if not self._store.has(digest):
            sink = _MemorySink()
            # Only an index of one block can be checked block by block.
            blocks = (digest,) if size <= BLOCK_SIZE else None
            receiver = self._receiver(size=size, blocks=blocks, sink=sink)
            await delivery.collect({digest: receiver})
            while sha256(sink.data) != digest:
                receiver.restart()
                await delivery.collect({digest: receiver})
            self._store.put(sink.data)
        return self._store.index(digest)

    def _receiver(
        self, *, size: int, blocks: tuple[str, ...] | None, sink: _MemorySink | PartialBlob
    ) -> BlockReceiver:
        return BlockReceiver(
            size=size, blocks=blocks, sink=sink, window=self._window, patience=self._patience
        )

    def _plan(self, index: BundleIndex, *, patches: bool = True) -> tuple[bool, list[FileEntry]]:
        """Choose files to fetch; True if the weights are made from a patch."""
        missing = {item.digest: item for item in index.files if not self._store.has(item.digest)}
        patch = index.patch
        if patch is None:
            return False, list(missing.values())
        target = index.file(patch.target).digest
        usable = patches and target in missing and self._store.has(patch.base)
        if usable:
            del missing[target]
        if (usable or self._patches_too) and not self._store.has(patch.digest):
            missing[patch.digest] = patch
        return usable, list(missing.values())

    async def _blobs(self, delivery: _Delivery, wanted: Iterable[FileEntry]) -> None:
        with ExitStack() as stack:
            partials: dict[str, PartialBlob] = {}
            receivers: dict[str, BlockReceiver] = {}
            for entry in wanted:
                partial = self._store.partial(entry.digest, size=entry.size)
                partials[entry.digest] = stack.enter_context(partial)
                receiver = self._receiver(size=entry.size, blocks=entry.blocks, sink=partial)
                receivers[entry.digest] = receiver
                if not partial.fresh:
                    await asyncio.to_thread(receiver.prime, partial.read)
            delivery.expect(sum(receiver.missing_bytes for receiver in receivers.values()))
            await delivery.collect(receivers)
            for partial in partials.values():
                await asyncio.to_thread(partial.finish)

    def _rebuild(self, index: BundleIndex) -> bool:
        """Make the weights from base and patch; False if that does not give what was published."""
        patch = index.patch
        if patch is None:
            return False
        try:
            weights = apply_patch(self._store.get(patch.base), self._store.get(patch.digest))
        except (PatchError, BundleError, StoreError) as error:
            self._log.warning("patch cannot be applied", error=str(error))
            return False
        if sha256(weights) != index.file(patch.target).digest:
            return False
        self._store.put(weights)
        return True


class _Delivery:
    """One fetch: sends requests, hands blocks to their receivers, counts."""

    def __init__(
        self,
        bus: Bus,
        identity: Identity,
        provider: Identity,
        *,
        window: int,
        report: Callable[[FetchProgress], None] | None,
    ) -> None:
        self.patched = False
        self._bus = bus
        self._identity = identity
        self._provider = provider
        self._report = report
        self._window = window
        self._needed = self._received = self._corrupt = self._requests = 0
        self._silent = False
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
        """Count on this number of bytes from now on."""
        self._needed = self._received + size

    async def collect(self, receivers: Mapping[str, BlockReceiver]) -> None:
        """Get everything that the receivers miss."""
        inbox: asyncio.Queue[tuple[str, int, bytes]] = asyncio.Queue()

        async def arrived(event: Event[RawBytes]) -> None:
            index = event.names["index"]
            # A topic level may be thousands of digits long, more than int() takes.
            if index.isdecimal() and len(index) < _DIGITS:
                inbox.put_nowait((event.names["digest"], int(index), event.payload.data))

        at = self._provider
        where = {"base": at.base, "site": at.site, "node": at.node, "service": at.service}
        async with AsyncExitStack() as stack:
            for digest, receiver in receivers.items():
                if not receiver.done:
                    subscription = await self._bus.subscribe(
                        BLOCK.any(**where, digest=digest),
                        arrived,
                        policy=Wait(messages=4 * self._window),
                        retry=RetryPolicy(attempts=1),
                        deduplicate=False,
                        name=f"blocks of {digest[:16]}",
                    )
                    stack.push_async_callback(subscription.unsubscribe)
            await self._pump(receivers, inbox)

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
                await self._request(digest, receiver, now=clock())
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
            if self._report is not None:
                self._report(self.progress)

    async def _request(self, digest: str, receiver: BlockReceiver, *, now: float) -> None:
        wanted = receiver.next_request(now=now)
        if receiver.silences >= _SILENCES_TO_REPORT and not self._silent:
            self._silent = True
            self._log.warning(
                "provider is silent, asking on",
                provider=self._provider.source,
                digest=digest[:16],
                next_in_s=round(receiver.patience, 1),
            )
        if not wanted:
            return
        request = BlockRequest(provider=self._provider.source, digest=digest, missing=wanted)
        self._requests += 1
        try:
            # An old request is of no use: the next one names what is missing by then.
            await self._bus.publish(
                BLOCK_REQUEST.at(self._identity), request, expires_in_s=receiver.patience
            )
        except OutboxFullError as error:
            self._log.warning("request waits", error=str(error))

    def _take(self, receiver: BlockReceiver, number: int, data: bytes, *, now: float) -> None:
        taken = receiver.take(number, data, now=now)
        if taken == "new":
            self._received += len(data)
            self._silent = False
        elif taken == "corrupt":
            self._corrupt += 1


class _MemorySink:
    """Blocks in memory; what an announcement claims takes none before it comes."""

    def __init__(self) -> None:
        self._blocks: dict[int, bytes] = {}

    def write(self, offset: int, data: bytes) -> None:
        """Keep verified bytes."""
        self._blocks[offset] = bytes(data)

    @property
    def data(self) -> bytes:
        """All of them, once each is there."""
        return b"".join(data for _, data in sorted(self._blocks.items()))


def provider_identity(ref: BundleRef, *, base: str) -> Identity:
    """Identity of a bundle's provider.

    Raises:
        DeliveryError: `ref.provider` is not ``site/node/service``.
    """
    parts = ref.provider.split("/")
    try:
        site, node, service = parts
        return Identity(base=base, site=site, node=node, service=service)
    except (ValueError, ContractError) as error:
        raise DeliveryError(
            digest=ref.model.digest,
            reason=f"its provider {ref.provider!r} is not site/node/service: {error}",
        ) from error


def _same(ref: BundleRef, bundle: Bundle) -> Bundle:
    """The bundle, if it is the model that the reference names."""
    if bundle.ref != ref.model.model_copy(update={"engine": None}):
        found = f"{bundle.manifest.name} version {bundle.manifest.version}"
        wanted = f"{ref.model.name} version {ref.model.version}"
        raise DeliveryError(digest=ref.model.digest, reason=f"it is {found}, not {wanted}")
    return bundle
