"""Deliveries over a real Mosquitto, with a distributor process that is killed on the way."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebus.artifacts import Bundle, Store, Update, derive_bundle
from edgebus.bus import Bus, BusSettings
from edgebus.contracts import (
    Candidate,
    GateReport,
    Identity,
    ModelRef,
    ModelStatus,
    Release,
    RolloutStatus,
    topics,
)
from edgebus.transfer import ArtifactFetcher, ArtifactProvider, FetchProgress, Patience, reference
from edgebus_detection.models import import_onnx

_RUN = """
import json, sys
from edgebus.service import NodeSettings, run_service
from edgebus_distributor import Distributor, DistributorSettings
node, settings = json.loads(sys.argv[1])
sys.exit(run_service(Distributor, NodeSettings(**node), DistributorSettings(**settings)))
"""
QUICK = Patience(first=0.3, longest=1.0)
MEGABYTES = 6


def large_bundle(folder: Path) -> Bundle:
    """A real graph whose weights take 6 MB: 92 blocks."""
    rng = np.random.default_rng(0)
    channels = MEGABYTES * 2**20 // 4 // (3 * 16 * 16) // 2

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "w", "b"], ["x"], strides=[16, 16]),
            helper.make_node("Conv", ["x", "head", "bias"], ["output"]),
        ],
        "large",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 7, 2, 2])],
        [
            weight("w", 2 * channels, 3, 16, 16),
            weight("b", 2 * channels),
            weight("head", 7, 2 * channels, 1, 1),
            weight("bias", 7),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "large.onnx")
    return import_onnx(
        folder / "large.onnx", name="large", out=folder / "v1", classes=("car", "person")
    )


def next_version(parent: Bundle, out: Path) -> Bundle:
    bias = parent.tensors()["bias"] + np.float32(0.5)
    return derive_bundle(parent, Update(replace={"bias": bias}), out=out)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return large_bundle(tmp_path_factory.mktemp("bundles") / "large")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def open_bus(stack: AsyncExitStack, broker, identity: Identity, **broker_options) -> Bus:
    settings = BusSettings(backoff_first_s=0.05, backoff_max_s=0.3, ephemeral=True)
    transport = broker.transport(**broker_options)
    return await stack.enter_async_context(Bus(transport, identity=identity, settings=settings))


def in_background(stack: AsyncExitStack, work) -> asyncio.Task:
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)
    return task


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_edges_get_it_once_for_all_and_then_only_the_patch(
    mosquitto, tmp_path, bundle, stack, version
):
    site = f"delivery-{version.replace('.', '')}"
    cloud = Identity(site=site, node="gpu-01", service="distributor")
    store = Store(tmp_path / "cloud")
    bus = await open_bus(stack, mosquitto, cloud, version=version)
    provider = ArtifactProvider(bus, cloud, store)
    in_background(stack, provider.run())
    edges = []
    for number in range(3):
        identity = Identity(site=site, node=f"pi-{number}", service="detector")
        edge_bus = await open_bus(stack, mosquitto, identity, version=version)
        edge_store = Store(tmp_path / f"edge-{number}")
        edges.append(ArtifactFetcher(edge_bus, identity, edge_store, patience=QUICK))

    async def deliver(which: Bundle) -> list[FetchProgress]:
        store.put_bundle(which)
        ref = reference(store, which.digest, provider=cloud)
        told: dict[int, FetchProgress] = {}
        got = await asyncio.wait_for(
            asyncio.gather(
                *(
                    edge.fetch(ref, on_progress=lambda p, number=number: told.update({number: p}))
                    for number, edge in enumerate(edges)
                )
            ),
            60,
        )
        assert {item.digest for item in got} == {which.digest}
        return list(told.values())

    await deliver(bundle)
    whole = bundle.size + len(bundle.index_bytes)
    first = provider.stats.sent_bytes
    assert whole <= first < 2 * whole  # three edges; a straggler may ask again

    child = next_version(bundle, tmp_path / "v2")
    told = await deliver(child)
    assert all(item.patched for item in told)
    assert provider.stats.sent_bytes - first < bundle.size / 20


async def test_a_broker_that_is_killed_in_the_middle(mosquitto_factory, tmp_path, bundle, stack):
    broker = mosquitto_factory()
    broker.start()
    cloud = Identity(site="lab", node="gpu-01", service="distributor")
    edge = Identity(site="lab", node="pi-01", service="detector")
    store = Store(tmp_path / "cloud")
    store.put_bundle(bundle)
    provider = ArtifactProvider(await open_bus(stack, broker, cloud), cloud, store)
    in_background(stack, provider.run())
    fetcher = ArtifactFetcher(
        await open_bus(stack, broker, edge), edge, Store(tmp_path / "edge"), window=2
    )
    half = asyncio.Event()
    fetch = in_background(
        stack,
        fetcher.fetch(
            reference(store, bundle.digest, provider=cloud),
            on_progress=lambda p: half.set() if p.fraction > 0.3 else None,
        ),
    )
    await asyncio.wait_for(half.wait(), 20)
    broker.kill()
    assert not fetch.done()
    broker.start()
    assert (await asyncio.wait_for(fetch, 30)).digest == bundle.digest


class Site:
    """The distributor as a process; the test is its retrainer, its edge and its observer."""

    def __init__(self, broker, folder: Path, stack: AsyncExitStack) -> None:
        self.broker, self.folder, self._stack = broker, folder, stack
        self.site = f"kill-{folder.name}"
        self.distributor = Identity(site=self.site, node="gpu-01", service="distributor")
        self.retrainer = Identity(site=self.site, node="gpu-02", service="retrainer")
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, **settings: object) -> None:
        node = {
            "site": self.site,
            "node": "gpu-01",
            "broker": {"url": self.broker.url},
            "data_dir": str(self.folder / "node"),
            "heartbeat_s": 1,
        }
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _RUN, json.dumps([node, settings])
        )
        self._stack.push_async_callback(self.kill)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()

    async def bus(self, identity: Identity) -> Bus:
        return await open_bus(self._stack, self.broker, identity)

    async def rollout(self, bus: Bus, version: int) -> RolloutStatus:
        async with bus.stream(topics.ROLLOUT.any(site=self.site)) as events:
            async for event in events:
                said: RolloutStatus = event.payload
                if said.release.model.version == version and said.total == said.converged == 1:
                    return said
        raise AssertionError


class Edge:
    def __init__(self, site: Site, bus: Bus, store: Store) -> None:
        self.identity = Identity(site=site.site, node="pi-01", service="detector")
        self.half = asyncio.Event()
        self.received = 0
        self._bus = bus
        self._fetcher = ArtifactFetcher(bus, self.identity, store, window=2, patience=QUICK)

    async def run(self) -> None:
        await self.say(None, 0)
        done = 0
        async with self._bus.stream(topics.RELEASE.any(site=self.identity.site)) as events:
            async for event in events:
                release: Release = event.payload
                if release.sequence > done:
                    await self._fetcher.fetch(release.bundle, on_progress=self.progress)
                    done = release.sequence
                    await self.say(release.bundle.model, done)

    def progress(self, progress: FetchProgress) -> None:
        self.received = progress.received_bytes
        if progress.fraction > 0.2:
            self.half.set()

    async def say(self, serving: ModelRef | None, sequence: int) -> None:
        status = ModelStatus(
            source=self.identity.source,
            model="large",
            serving=serving,
            state="updated" if serving else "idle",
            sequence=sequence,
        )
        await self._bus.publish(topics.MODEL_STATUS.at(self.identity), status)


async def test_a_distributor_that_is_killed_while_an_edge_fetches(
    mosquitto, tmp_path, bundle, stack
):
    site = Site(mosquitto, tmp_path, stack)
    bus = await site.bus(Identity(site=site.site, node="pi-01", service="detector"))
    edge = Edge(site, bus, Store(tmp_path / "edge"))
    in_background(stack, edge.run())
    await site.start(publish=[str(bundle.path)])
    await asyncio.wait_for(edge.half.wait(), 30)
    await site.kill()
    assert edge.received < bundle.size
    await site.start(publish=[str(bundle.path)])
    said = await asyncio.wait_for(site.rollout(bus, 1), 30)
    assert said.sequence == 1
    # What had come was not sent again.
    assert said.served_bytes < bundle.size * 0.9
    assert edge.received <= bundle.size + len(bundle.index_bytes)


async def test_a_distributor_that_is_killed_while_it_takes_a_candidate_in(
    mosquitto, tmp_path, bundle, stack
):
    site = Site(mosquitto, tmp_path, stack)
    trained = Store(tmp_path / "trained")
    trained.put_bundle(bundle)
    bus = await site.bus(site.retrainer)
    provider = ArtifactProvider(bus, site.retrainer, trained, in_flight=1)
    in_background(stack, provider.run())
    edge_bus = await site.bus(Identity(site=site.site, node="pi-01", service="detector"))
    edge = Edge(site, edge_bus, Store(tmp_path / "edge"))
    in_background(stack, edge.run())
    await site.start(candidates_from=[site.retrainer.source])
    blocks = asyncio.Semaphore(0)

    async def block(_message) -> None:
        blocks.release()

    filter_ = topics.BLOCK.any(site=site.site, node=site.retrainer.node)
    await bus.tap(filter_.name, block, qos=1)
    candidate = Candidate(
        source=site.retrainer.source,
        bundle=reference(trained, bundle.digest, provider=site.retrainer),
        job="job-7",
        gate=GateReport(passed=True),
    )
    await bus.publish(topics.CANDIDATE.at(site.retrainer, model="large"), candidate)
    for _ in range(30):  # a third of it has come
        await asyncio.wait_for(blocks.acquire(), 30)
    await site.kill()
    await site.start(candidates_from=[site.retrainer.source])
    said = await asyncio.wait_for(site.rollout(edge_bus, 1), 60)
    assert said.failed == 0
    # Resent is what was on its way when it died, not the whole.
    assert provider.stats.sent_bytes < bundle.size * 1.5
