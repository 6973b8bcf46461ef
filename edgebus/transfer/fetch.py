"""Bringing a bundle in over the bus: the thin shell around `BlockReceiver`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import structlog

from edgebus.artifacts.bundle import Bundle
from edgebus.artifacts.errors import (
    BundleDigestError,
    BundleError,
    DeliveryError,
    PatchError,
    StoreError,
)
from edgebus.artifacts.index import BLOCK_SIZE, BlobEntry, BundleIndex, FileEntry, sha256
from edgebus.artifacts.store import PartialBlob, Store
from edgebus.artifacts.update import apply_patch
from edgebus.bus import Bus
from edgebus.contracts import BundleRef, ContractError, Identity
from edgebus.transfer._collecting import BlockCollector, FetchProgress, MemorySink
from edgebus.transfer._receiver import BlockReceiver, Patience

__all__ = ["ArtifactFetcher", "FetchProgress", "provider_identity"]


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
                another model than it says.
            BundleError: What was published must not serve; fetching again would not help.
            QuotaExceededError: The store is full.
            BusError: The bus does not allow it.
        """
        digest = ref.model.digest
        there = self._ready(digest)
        if there is not None:
            return _same(ref, there)
        delivery = BlockCollector(
            self._bus,
            self._identity,
            provider_identity(ref, base=self._identity.base),
            tell=on_progress or (lambda _: None),
            window=self._window,
            patience=self._patience,
        )
        log = self._log.bind(model=ref.model.name, version=ref.model.version, digest=digest[:16])
        log.info("delivery begins", provider=ref.provider)
        delivery.expect(ref.index_size + ref.size)
        index = await self._index(delivery, digest, ref.index_size)
        for entry in index.blobs():
            self._store.limits.check(entry.path, entry.size)
        patch, wanted = self._plan(index)
        delivery.patched = patch
        await self._blobs(delivery, wanted)
        if patch and not await asyncio.to_thread(self._rebuild, index):
            log.warning("patch did not give the published weights, fetching them in full")
            delivery.patched = False
            _, wanted = self._plan(index, patches=False)
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

    async def _index(self, delivery: BlockCollector, digest: str, size: int) -> BundleIndex:
        if not self._store.has(digest):
            sink = MemorySink(size)
            one_block = size <= BLOCK_SIZE
            receiver = delivery.receiver(
                size=size, blocks=(digest,) if one_block else None, sink=sink
            )
            await delivery.collect({digest: receiver})
            while sha256(bytes(sink.data)) != digest:
                receiver.restart()
                await delivery.collect({digest: receiver})
            self._store.put(bytes(sink.data))
        return self._store.index(digest)

    def _plan(self, index: BundleIndex, *, patches: bool = True) -> tuple[bool, list[FileEntry]]:
        """What to fetch, and whether the weights are made from a patch."""
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

    async def _blobs(self, delivery: BlockCollector, wanted: Iterable[FileEntry]) -> None:
        with ExitStack() as stack:
            partials: dict[str, PartialBlob] = {}
            receivers: dict[str, BlockReceiver] = {}
            for entry in wanted:
                partial = self._store.partial(entry.digest, size=entry.size)
                partials[entry.digest] = stack.enter_context(partial)
                receivers[entry.digest] = await asyncio.to_thread(_resume, delivery, entry, partial)
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


def provider_identity(ref: BundleRef, *, base: str) -> Identity:
    """Who provides a bundle.

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


def _resume(delivery: BlockCollector, entry: BlobEntry, partial: PartialBlob) -> BlockReceiver:
    """A receiver that knows what an earlier process left."""
    receiver = delivery.receiver(size=entry.size, blocks=entry.blocks, sink=partial)
    if not partial.fresh:
        receiver.prime(partial.read)
    return receiver


def _same(ref: BundleRef, bundle: Bundle) -> Bundle:
    """The bundle, if it is the model that the reference says."""
    if bundle.ref != ref.model.model_copy(update={"engine": None}):
        found = f"{bundle.manifest.name} version {bundle.manifest.version}"
        wanted = f"{ref.model.name} version {ref.model.version}"
        raise DeliveryError(digest=ref.model.digest, reason=f"it is {found}, not {wanted}")
    return bundle
