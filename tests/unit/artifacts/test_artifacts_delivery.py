"""Bundles over the in-memory broker, which has MQTT's semantics."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from artifact_examples import small_update, tiny_bundle
from edgebus.artifacts import (
    Bundle,
    BundleLimitError,
    DeliveryError,
    Limits,
    QuotaExceededError,
    Store,
    derive_bundle,
)
from edgebus.bus import Bus, MemoryBroker
from edgebus.contracts import (
    BlockRange,
    BlockRequest,
    BundleRef,
    Identity,
    ModelRef,
    RawBytes,
)
from edgebus.contracts.topics import BLOCK, BLOCK_REQUEST
from edgebus.transfer import ArtifactFetcher, ArtifactProvider, FetchProgress, Patience, reference

QUICK = Patience(first=0.05, longest=0.2)
CLOUD = Identity(site="lab", node="gpu-01", service="distributor")


def edge_identity(number: int = 1) -> Identity:
    return Identity(site="lab", node=f"pi-{number:02}", service="detector")


class Lab:
    """A broker, a provider and as many edges as a test wants."""

    def __init__(self, tmp_path: Path, stack: AsyncExitStack) -> None:
        self.tmp_path = tmp_path
        self.broker = MemoryBroker()
        self.cloud = Store(tmp_path / "cloud")
        self._stack = stack
        self.provider: ArtifactProvider | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.blocks: list[str] = []

    async def bus(self, identity: Identity) -> Bus:
        return await self._stack.enter_async_context(
            Bus(self.broker.transport(), identity=identity)
        )

    async def provide(self) -> asyncio.Task[None]:
        bus = await self.bus(CLOUD)
        self.provider = ArtifactProvider(bus, CLOUD, self.cloud, settle=0.02)
        task = asyncio.create_task(self.provider.run())
        self.tasks.append(task)
        return task

    async def watch_blocks(self) -> None:
        watcher = await self.bus(Identity(site="lab", node="x", service="watch"))

        async def seen(message) -> None:
            self.blocks.append("/".join(message.topic.split("/")[-2:]))

        await watcher.tap("edgebus/+/+/+/blocks/#", seen, qos=1)

    async def edge(self, number: int = 1, **options) -> ArtifactFetcher:
        store = options.pop("store", None) or Store(self.tmp_path / f"edge-{number}")
        identity = edge_identity(number)
        bus = options.pop("bus", None) or await self.bus(identity)
        return ArtifactFetcher(bus, identity, store, **({"patience": QUICK} | options))

    def publish(self, bundle: Bundle) -> BundleRef:
        self.cloud.put_bundle(bundle)
        return reference(self.cloud, bundle.digest, provider=CLOUD)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with AsyncExitStack() as stack:
        lab = Lab(tmp_path, stack)
        yield lab
        for task in lab.tasks:
            task.cancel()
        await asyncio.gather(*lab.tasks, return_exceptions=True)


def large(tmp_path: Path, **options) -> Bundle:
    """A bundle whose weights have 7 blocks."""
    return tiny_bundle(tmp_path / "made", channels=700, **options)


async def within(seconds: float, work: Awaitable[Bundle]) -> Bundle:
    return await asyncio.wait_for(work, seconds)


async def test_an_edge_without_anything_gets_everything(lab, tmp_path):
    bundle = large(tmp_path)
    await lab.provide()
    fetcher = await lab.edge()
    told: list[FetchProgress] = []
    got = await within(10, fetcher.fetch(lab.publish(bundle), on_progress=told.append))

    assert got.digest == bundle.digest
    assert got.weights.data == bundle.weights.data
    assert told[-1].fraction == 1.0
    assert told[-1].received_bytes == bundle.size + len(bundle.index_bytes)
    assert [p.fraction for p in told] == sorted(p.fraction for p in told)
    assert Store(tmp_path / "edge-1").open_bundle(bundle.digest).digest == bundle.digest


async def test_an_edge_with_the_base_gets_a_patch(lab, tmp_path):
    parent = large(tmp_path)
    child = derive_bundle(parent, small_update(parent), out=tmp_path / "child")
    await lab.provide()
    fetcher = await lab.edge()
    await within(10, fetcher.fetch(lab.publish(parent)))
    told: list[FetchProgress] = []
    got = await within(10, fetcher.fetch(lab.publish(child), on_progress=told.append))

    assert got.weights.data == child.weights.data
    assert told[-1].patched
    assert told[-1].received_bytes == (
        len(child.index_bytes)
        + len(child.files["manifest.json"])
        + len(child.files["weights.patch.safetensors"])
    )
    # Going back costs nothing: all of it is there.
    told.clear()
    await within(10, fetcher.fetch(lab.publish(parent), on_progress=told.append))
    assert told == []


async def test_a_patch_that_gives_other_weights_falls_back_to_the_full_ones(lab, tmp_path):
    parent = large(tmp_path)
    child = derive_bundle(parent, small_update(parent), out=tmp_path / "child")
    edge = Store(tmp_path / "edge-1")
    edge.put_bundle(parent)
    # The edge's base rots: the blob has the right name and wrong bytes.
    base = parent.index.file("weights.safetensors").digest
    rotten = edge.root / "blobs" / base[:2] / base
    data = bytearray(rotten.read_bytes())
    data[-1] ^= 1
    rotten.write_bytes(data)
    await lab.provide()
    fetcher = await lab.edge(store=edge)
    told: list[FetchProgress] = []
    got = await within(10, fetcher.fetch(lab.publish(child), on_progress=told.append))
    assert got.weights.data == child.weights.data
    assert not told[-1].patched


async def test_each_block_is_published_once_for_many_edges(lab, tmp_path):
    bundle = large(tmp_path)
    await lab.provide()
    await lab.watch_blocks()
    edges = [await lab.edge(number) for number in range(1, 7)]
    ref = lab.publish(bundle)
    got = await asyncio.wait_for(asyncio.gather(*(edge.fetch(ref) for edge in edges)), 20)
    assert {bundle.digest for bundle in got} == {bundle.digest}
    blocks = sum(len(entry.blocks) for entry in bundle.index.files) + 1
    assert len(set(lab.blocks)) == blocks
    # A straggler that subscribed after a block went asks for it again; six times would be 66.
    assert len(lab.blocks) <= 2 * blocks


async def test_a_provider_that_comes_later_is_waited_for(lab, tmp_path):
    bundle = large(tmp_path)
    fetcher = await lab.edge()
    fetch = asyncio.create_task(fetcher.fetch(lab.publish(bundle)))
    wants = await lab.bus(Identity(site="lab", node="x", service="watch"))
    async with wants.stream(BLOCK_REQUEST.any()) as events:
        asked = [await anext(events) for _ in range(3)]  # it asks again and again
    assert {event.payload.provider for event in asked} == {CLOUD.source}
    assert not fetch.done()
    await lab.provide()
    assert (await within(10, fetch)).digest == bundle.digest


@asynccontextmanager
async def false_provider(
    lab: Lab, bundle: Bundle, change: Callable[[str, int, bytes], bytes | None]
) -> AsyncIterator[None]:
    """Serves what `change` makes of each block."""
    bus = await lab.bus(CLOUD)

    async def wanted(event) -> None:
        request = event.payload
        for item in request.missing:
            for index in range(item.first, item.first + item.count):
                data = change(
                    request.digest,
                    index,
                    lab.cloud.read(request.digest, offset=index * 65536, count=65536),
                )
                if data is not None:
                    address = BLOCK.at(CLOUD, digest=request.digest, index=str(index))
                    await bus.publish(address, RawBytes(data))

    subscription = await bus.subscribe(BLOCK_REQUEST.any(), wanted)
    yield
    await subscription.unsubscribe()


async def test_damaged_blocks_are_asked_for_again(lab, tmp_path):
    bundle = large(tmp_path)
    damaged: set[tuple[str, int]] = set()

    def damage_once(digest: str, index: int, data: bytes) -> bytes:
        if (digest, index) in damaged:
            return data
        damaged.add((digest, index))
        return data[:-1] + bytes([data[-1] ^ 1])

    told: list[FetchProgress] = []
    async with false_provider(lab, bundle, damage_once):
        fetcher = await lab.edge()
        got = await within(10, fetcher.fetch(lab.publish(bundle), on_progress=told.append))
    assert got.digest == bundle.digest
    assert told[-1].corrupt == len(damaged)


async def test_a_restart_keeps_what_came(lab, tmp_path):
    bundle = large(tmp_path)
    weights = bundle.index.file("weights.safetensors")
    half = asyncio.Event()

    def only_half(digest: str, index: int, data: bytes) -> bytes | None:
        if digest == weights.digest and index >= 4:
            half.set()
            return None
        return data

    ref = lab.publish(bundle)
    async with false_provider(lab, bundle, only_half):
        bus = await lab.bus(edge_identity())
        fetcher = await lab.edge(bus=bus)
        fetch = asyncio.create_task(fetcher.fetch(ref))
        await asyncio.wait_for(half.wait(), 5)
        await asyncio.sleep(0)
        while Store(tmp_path / "edge-1").root.joinpath("partial", weights.digest).stat().st_size:
            partial = (tmp_path / "edge-1" / "partial" / weights.digest).read_bytes()
            if partial[3 * 65536 : 4 * 65536] == bundle.weights.data[3 * 65536 : 4 * 65536]:
                break
            await asyncio.sleep(0.01)
        await bus.crash()
        fetch.cancel()
        await asyncio.gather(fetch, return_exceptions=True)

    await lab.provide()
    fetcher = await lab.edge(store=Store(tmp_path / "edge-1"))
    told: list[FetchProgress] = []
    assert (await within(10, fetcher.fetch(ref, on_progress=told.append))).digest == bundle.digest
    assert told[-1].received_bytes <= weights.size - 4 * 65536 + bundle.size - weights.size


async def test_a_broker_that_goes_and_comes_back(lab, tmp_path):
    bundle = large(tmp_path)
    await lab.provide()
    fetcher = await lab.edge()
    came = asyncio.Event()
    fetch = asyncio.create_task(
        fetcher.fetch(lab.publish(bundle), on_progress=lambda _: came.set())
    )
    await asyncio.wait_for(came.wait(), 5)
    lab.broker.stop()
    await asyncio.sleep(0)
    assert not fetch.done()
    lab.broker.start()
    assert (await within(20, fetch)).digest == bundle.digest


async def test_what_cannot_be_right_is_refused(lab, tmp_path):
    bundle = tiny_bundle(tmp_path / "made")
    ref = lab.publish(bundle)
    await lab.provide()
    fetcher = await lab.edge()
    for wrong in ("nobody", "a/b", "a/b/c/d", "a/+/c", ""):
        with pytest.raises(DeliveryError, match="site/node/service"):
            await fetcher.fetch(ref.model_copy(update={"provider": wrong}))
    other = ref.model.model_copy(update={"version": 7})
    with pytest.raises(DeliveryError, match="tiny version 1, not tiny version 7"):
        await within(5, fetcher.fetch(ref.model_copy(update={"model": other})))


async def test_absurd_sizes_and_a_full_disk_end_a_delivery(lab, tmp_path):
    ref = lab.publish(large(tmp_path))
    await lab.provide()
    small = Store(tmp_path / "small", limits=Limits(weights=1000))
    with pytest.raises(BundleLimitError, match=r"weights\.safetensors"):
        await within(5, (await lab.edge(1, store=small)).fetch(ref))
    full = Store(tmp_path / "full", quota=100_000)
    with pytest.raises(QuotaExceededError):
        await within(5, (await lab.edge(2, store=full)).fetch(ref))


async def test_a_blob_that_rots_at_the_provider_is_not_served(lab, tmp_path):
    bundle = large(tmp_path)
    ref = lab.publish(bundle)
    weights = bundle.index.file("weights.safetensors").digest
    file = lab.cloud.root / "blobs" / weights[:2] / weights
    good = file.read_bytes()
    file.write_bytes(bytes(len(good)))
    await lab.provide()
    await lab.watch_blocks()
    fetcher = await lab.edge()
    fetch = asyncio.create_task(fetcher.fetch(ref))
    while lab.cloud.has(weights):
        await asyncio.sleep(0.01)
    assert not fetch.done()
    lab.cloud.put(good)
    assert (await within(10, fetch)).digest == bundle.digest
    assert lab.provider is not None
    assert lab.provider.served_bytes([weights]) == len(good)


async def test_a_relay_fetches_the_patch_to_serve_it_on(lab, tmp_path):
    parent = large(tmp_path)
    child = derive_bundle(parent, small_update(parent), out=tmp_path / "child")
    await lab.provide()
    plain, relay = await lab.edge(1), await lab.edge(2, patches_too=True)
    ref = lab.publish(child)
    await within(10, plain.fetch(ref))
    await within(10, relay.fetch(ref))
    assert child.index.patch is not None
    assert not Store(tmp_path / "edge-1").has(child.index.patch.digest)
    assert Store(tmp_path / "edge-2").has(child.index.patch.digest)


async def test_what_an_announcement_claims_takes_no_memory_before_it_comes(lab):
    fetcher = await lab.edge()
    tracemalloc.start()
    try:
        async with asyncio.TaskGroup() as group:
            fetches = []
            for n in range(100):
                model = ModelRef(name="huge", version=1, digest=f"{n:064x}")
                ref = BundleRef(
                    model=model, provider=CLOUD.source, index_size=16 * 2**20, size=2**40
                )
                fetches.append(group.create_task(fetcher.fetch(ref)))
            await asyncio.sleep(0.3)
            assert tracemalloc.get_traced_memory()[0] < 30 * 2**20
            for fetch in fetches:
                fetch.cancel()
    finally:
        tracemalloc.stop()


async def test_requests_for_what_nobody_has_are_forgotten(lab):
    await lab.provide()
    bus = await lab.bus(edge_identity(1))
    with capture_logs() as logs:
        for n in range(500):
            request = BlockRequest(
                provider=CLOUD.source,
                digest=f"{n:064x}",
                missing=(BlockRange(first=0, count=1),),
            )
            await bus.publish(BLOCK_REQUEST.at(bus.identity), request)
        async with asyncio.timeout(20):
            while sum("asked for a blob" in each["event"] for each in logs) < 64:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
    assert sum("asked for a blob" in each["event"] for each in logs) == 64
    assert len(lab.provider._unknown) == 64
