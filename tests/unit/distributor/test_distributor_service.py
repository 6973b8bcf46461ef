"""The distributor on the in-memory broker, with edges and a retrainer made of the real parts."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from artifact_examples import small_update, tiny_bundle
from edgebus.artifacts import Bundle, Store, derive_bundle
from edgebus.bus import Bus, Event, MemoryBroker
from edgebus.contracts import (
    BundleRef,
    Candidate,
    GateReport,
    Identity,
    ModelListCommand,
    ModelRef,
    ModelStatus,
    PublishCommand,
    Release,
    RollbackCommand,
    RolloutStatus,
    topics,
)
from edgebus.service.testing import ServiceHarness
from edgebus.transfer import ArtifactFetcher, ArtifactProvider, Patience, reference
from edgebus_distributor import Distributor, DistributorSettings

QUICK = Patience(first=0.05, longest=0.2)
RETRAINER = Identity(site="lab", node="gpu-01", service="retrainer")


class Edge:
    """Does what a detector does with a release, without a model."""

    def __init__(self, bus: Bus, identity: Identity, store: Store) -> None:
        self.identity = identity
        self.received = 0
        self.sequence = 0
        self.serving: ModelRef | None = None
        self._bus = bus
        self._fetcher = ArtifactFetcher(bus, identity, store, patience=QUICK)

    async def follow(self) -> None:
        await self.say("idle")
        await self._bus.subscribe(topics.RELEASE.any(model="tiny", channel="stable"), self.released)

    async def released(self, event: Event[Release]) -> None:
        if event.payload.sequence <= self.sequence:
            return

        def progress(told) -> None:
            self.received += told.received_bytes

        bundle = await self._fetcher.fetch(event.payload.bundle, on_progress=progress)
        self.serving = bundle.ref
        self.sequence = event.payload.sequence
        await self.say("updated")

    async def say(self, state: str) -> None:
        status = ModelStatus(
            source=self.identity.source,
            model="tiny",
            serving=self.serving,
            state=state,
            sequence=self.sequence,
        )
        await self._bus.publish(topics.MODEL_STATUS.at(self.identity), status)


class Cloud:
    """A distributor, a retrainer and as many edges as a test wants, on one broker."""

    def __init__(self, tmp_path: Path, stack: AsyncExitStack) -> None:
        self.tmp_path = tmp_path
        self.broker = MemoryBroker()
        self.retrained = Store(tmp_path / "retrainer")
        self._stack = stack

    async def bus(self, identity: Identity) -> Bus:
        return await self._stack.enter_async_context(
            Bus(self.broker.transport(), identity=identity)
        )

    async def start(self, **settings) -> ServiceHarness:
        return await self._stack.enter_async_context(self.harness(**settings))

    def harness(self, **settings) -> ServiceHarness:
        return ServiceHarness(
            Distributor,
            DistributorSettings(**({"report_s": 0.02} | settings)),
            broker=self.broker,
            data_dir=self.tmp_path / "node",
            node="gpu-01",
        )

    async def edge(self, number: int) -> Edge:
        identity = Identity(site="lab", node=f"pi-{number:02}", service="detector")
        store = Store(self.tmp_path / f"edge-{number}")
        edge = Edge(await self.bus(identity), identity, store)
        await edge.follow()
        return edge

    async def retrainer(self) -> Bus:
        bus = await self.bus(RETRAINER)
        provider = ArtifactProvider(bus, RETRAINER, self.retrained, settle=0.02)
        self.serve(provider)
        return bus

    def serve(self, provider: ArtifactProvider) -> None:
        task = asyncio.create_task(provider.run())

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)

    def candidate(self, bundle: Bundle, *, passed: bool = True) -> Candidate:
        self.retrained.put_bundle(bundle)
        return Candidate(
            source=RETRAINER.source,
            bundle=reference(self.retrained, bundle.digest, provider=RETRAINER),
            job="job-7",
            gate=GateReport(passed=passed, reasons=() if passed else ("forgets 0.1",)),
        )


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with AsyncExitStack() as stack:
        yield Cloud(tmp_path, stack)


def family(tmp_path: Path, versions: int = 2) -> list[Bundle]:
    found = [tiny_bundle(tmp_path / "made", channels=700)]
    while len(found) < versions:
        number = len(found) + 1
        found.append(
            derive_bundle(
                found[-1],
                small_update(found[-1], seed=number),
                out=tmp_path / f"made-{number}",
                metrics={"map50_new": 0.6},
            )
        )
    return found


def converged(version: int, edges: int) -> Callable[[Event[RolloutStatus]], bool]:
    return lambda event: (
        event.payload.release.model.version == version
        and event.payload.converged == event.payload.total == edges
    )


async def publish_candidate(bus: Bus, candidate: Candidate) -> None:
    model = candidate.bundle.model.name
    await bus.publish(topics.CANDIDATE.at(RETRAINER, model=model), candidate)


@asynccontextmanager
async def person(cloud: Cloud, bundle: Bundle) -> AsyncIterator[BundleRef]:
    """Somebody with a bundle on a laptop, as `edgebus model publish`."""
    identity = Identity(site="lab", node="laptop", service="cli")
    store = Store(cloud.tmp_path / f"laptop-{bundle.digest[:6]}")
    store.put_bundle(bundle)
    async with Bus(cloud.broker.transport(), identity=identity) as bus:
        provider = ArtifactProvider(bus, identity, store, settle=0.02)
        task = asyncio.create_task(provider.run())
        yield reference(store, bundle.digest, provider=identity)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_candidate_reaches_every_edge_as_a_patch(cloud, tmp_path):
    first, second = family(tmp_path)
    harness = await cloud.start(publish=(first.path,))
    edges = [await cloud.edge(number) for number in (1, 2, 3)]
    await harness.expect(topics.ROLLOUT, where=converged(1, 3))
    received = [edge.received for edge in edges]

    retrainer = await cloud.retrainer()
    await publish_candidate(retrainer, cloud.candidate(second))
    event = await harness.expect(topics.ROLLOUT, where=converged(2, 3))

    assert event.payload.finished is not None
    assert event.payload.failed == 0
    # Three edges got it, the bytes went out once (and what a straggler asked for again).
    assert second.index.patch is not None
    update = second.index.patch.size + len(second.index_bytes)
    assert update < event.payload.served_bytes < 3 * update + 20_000
    assert event.payload.served_bytes < second.size / 4
    for edge, before in zip(edges, received, strict=True):
        assert edge.serving == second.ref
        assert edge.received - before < second.size / 4


async def test_an_edge_that_comes_later_converges_too(cloud, tmp_path):
    first, second, third = family(tmp_path, 3)
    harness = await cloud.start(publish=(first.path,))
    retrainer = await cloud.retrainer()
    await cloud.edge(1)
    await harness.expect(topics.ROLLOUT, where=converged(1, 1))
    for version, bundle in ((2, second), (3, third)):
        await publish_candidate(retrainer, cloud.candidate(bundle))
        await harness.expect(topics.ROLLOUT, where=converged(version, 1))
    late = await cloud.edge(2)
    await harness.expect(topics.ROLLOUT, where=converged(3, 2))
    assert late.serving == third.ref


@pytest.mark.parametrize("step", ["wanted", "half", "fetched", "released"])
async def test_it_goes_on_after_a_crash_at_any_step(cloud, tmp_path, step, monkeypatch):
    """The process dies; what it had written is all that the next one knows."""
    first, second = family(tmp_path)
    reached = asyncio.Event()

    class Killed(Exception):
        pass

    def dies(*_args: object, **_options: object) -> None:
        reached.set()
        raise Killed

    async with AsyncExitStack() as life:
        harness = await life.enter_async_context(cloud.harness(publish=(first.path,)))
        service = harness.service
        assert isinstance(service, Distributor)
        if step == "wanted":
            monkeypatch.setattr(service._arrivals._changed, "set", dies)
        elif step == "half":
            monkeypatch.setattr("edgebus.artifacts.store.PartialBlob.finish", dies)
        elif step == "fetched":
            monkeypatch.setattr(service.registry, "accept", dies)
        else:
            monkeypatch.setattr(service, "_announce", dies)
        retrainer = await cloud.retrainer()
        candidate = cloud.candidate(second)
        await publish_candidate(retrainer, candidate)
        await asyncio.wait_for(reached.wait(), 5)
        # Not a clean stop: nothing more is written, whatever the service would do on its way out.
        await service.bus.crash()
        harness._life.cancel()
        await asyncio.gather(harness._life, return_exceptions=True)
        harness._life = None
    monkeypatch.undo()

    harness = await cloud.start(publish=(first.path,))
    edge = await cloud.edge(1)
    await harness.expect(topics.ROLLOUT, where=converged(2, 1))
    assert edge.serving == second.ref
    entries = harness.service.registry.entries()
    assert [entry.bundle.model.version for entry in entries] == [2, 1]
    assert harness.service.registry.intakes() == []
    assert harness.service.registry.current("tiny", "stable").sequence == 2


async def test_a_restart_changes_nothing(cloud, tmp_path):
    first, _ = family(tmp_path)
    async with cloud.harness(publish=(first.path,)) as harness:
        edge = await cloud.edge(1)
        await harness.expect(topics.ROLLOUT, where=converged(1, 1))
        sequence = edge.sequence
    async with cloud.harness(publish=(first.path,)) as harness:
        event = await harness.expect(topics.ROLLOUT, where=converged(1, 1))
        assert event.payload.sequence == sequence == 1
        assert event.payload.finished is not None


async def test_a_candidate_that_does_not_fit_is_not_released(cloud, tmp_path):
    first, second = family(tmp_path)
    stranger = tiny_bundle(tmp_path / "x", version=2, seed=5)
    harness = await cloud.start(publish=(first.path,))
    retrainer = await cloud.retrainer()
    await publish_candidate(retrainer, cloud.candidate(stranger))
    await publish_candidate(retrainer, cloud.candidate(second, passed=False))
    await publish_candidate(retrainer, cloud.candidate(second))
    await harness.expect(
        topics.RELEASE, where=lambda event: event.payload.bundle.model == second.ref
    )
    assert harness.service.metrics.snapshot().counters["versions.refused"] == 2


@pytest.mark.parametrize("part", ["index", "weights"])
async def test_a_release_that_the_disk_has_damaged_is_told_and_taken_again(cloud, tmp_path, part):
    first, _ = family(tmp_path)
    async with cloud.harness(publish=(first.path,)):
        pass
    largest = max(first.index.blobs(), key=lambda entry: entry.size).digest
    digest = first.digest if part == "index" else largest
    blob = cloud.tmp_path / "node/distributor/store/blobs" / digest[:2] / digest
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + b"x")
    async with cloud.harness() as harness:
        state = await harness.wait_for_state("degraded")
        assert "tiny version 1 is released and damaged on this disk" in state.reason
        async with person(cloud, first) as ref:
            order = PublishCommand(source="lab/laptop/cli", bundle=ref)
            assert (await harness.request(topics.CMD_PUBLISH, order)).ok
        assert blob.read_bytes() == whole
    blob.write_bytes(whole[:-1] + b"x")
    async with cloud.harness(publish=(first.path,)) as harness:  # the folder has it
        await harness.wait_for_state("ready")
        assert blob.read_bytes() == whole


async def test_a_newer_candidate_overtakes_one_that_does_not_come_in(cloud, tmp_path):
    first, second = family(tmp_path)
    third = derive_bundle(first, small_update(first), out=tmp_path / "third", version=3)
    harness = await cloud.start(publish=(first.path,))
    retrainer = await cloud.bus(RETRAINER)  # it serves nothing yet
    await publish_candidate(retrainer, cloud.candidate(second))
    await harness.expect(topics.BLOCK_REQUEST)
    await publish_candidate(retrainer, cloud.candidate(third))
    cloud.serve(ArtifactProvider(retrainer, RETRAINER, cloud.retrained, settle=0.02))
    await harness.expect(
        topics.RELEASE, where=lambda event: event.payload.bundle.model == third.ref
    )
    assert [entry.bundle.model.version for entry in harness.service.registry.entries()] == [3, 1]


async def test_publish_list_and_roll_back(cloud, tmp_path):
    first, second = family(tmp_path)
    harness = await cloud.start()
    edge = await cloud.edge(1)
    for bundle in (first, second):
        async with person(cloud, bundle) as ref:
            command = PublishCommand(source="lab/laptop/cli", bundle=ref)
            reply = await harness.request(topics.CMD_PUBLISH, command)
            assert reply.ok, reply.detail
    await harness.expect(topics.ROLLOUT, where=converged(2, 1))

    listing = await harness.request(topics.CMD_MODELS, ModelListCommand(source="lab/laptop/cli"))
    assert [(e.bundle.model.version, e.channels) for e in listing.models] == [
        (2, ("stable",)),
        (1, ()),
    ]
    assert listing.models[0].metrics == {"map50_new": 0.6}

    received = edge.received
    back = RollbackCommand(source="lab/laptop/cli", model="tiny")
    reply = await harness.request(topics.CMD_ROLLBACK, back)
    assert reply.detail == "tiny version 1 is released to stable (#3)"
    await harness.expect(topics.ROLLOUT, where=converged(1, 1))
    assert edge.serving == first.ref
    assert edge.received == received  # it had it all

    for refused, words in (
        (back, "served nothing of tiny before"),
        (back.model_copy(update={"version": 9}), "no version 9"),
        (back.model_copy(update={"model": "huge"}), "nothing of huge"),
    ):
        fresh = RollbackCommand(
            source="lab/laptop/cli", model=refused.model, version=refused.version
        )
        reply = await harness.request(topics.CMD_ROLLBACK, fresh)
        assert not reply.ok
        assert words in reply.detail


async def test_a_laptop_that_vanished_in_mid_publish_holds_up_nobody(cloud, tmp_path):
    first, second = family(tmp_path)
    harness = await cloud.start()
    async with person(cloud, second) as ghost:
        pass
    address = topics.CMD_PUBLISH.at(harness.identity)
    await harness.publish(address, PublishCommand(source="lab/laptop/cli", bundle=ghost))
    async with person(cloud, first) as ref:
        orders = (PublishCommand(source=f"lab/{who}/cli", bundle=ref) for who in ("a", "b"))
        both = (harness.request(topics.CMD_PUBLISH, order) for order in orders)
        assert [reply.ok for reply in await asyncio.gather(*both)] == [True, True]
    listing = await harness.request(topics.CMD_MODELS, ModelListCommand(source="lab/laptop/cli"))
    assert [entry.bundle.model for entry in listing.models] == [first.ref]
    assert [intake.bundle.model for intake in harness.service.registry.intakes()] == [second.ref]


async def test_a_published_bundle_that_cannot_be_taken_is_answered(cloud, tmp_path):
    first, second = family(tmp_path)
    same_number = tiny_bundle(tmp_path / "x", version=1, seed=5)
    harness = await cloud.start(publish=(first.path,), fetch_timeout_s=0.3)

    async def refused(ref: BundleRef) -> str:
        command = PublishCommand(source="lab/laptop/cli", bundle=ref)
        reply = await harness.request(topics.CMD_PUBLISH, command)
        assert not reply.ok
        return reply.detail

    async with person(cloud, same_number) as ref:
        assert "give it the version 2" in await refused(ref)
        other_name = ref.model.model_copy(update={"name": "else"})
        assert "not else version 1" in await refused(ref.model_copy(update={"model": other_name}))
    async with person(cloud, second) as ref:
        pass
    assert "did not deliver in time" in await refused(ref)
    assert harness.service.registry.intakes() == []
    assert len(harness.service.registry.entries()) == 1


async def test_a_folder_that_cannot_be_published_is_told(cloud, tmp_path):
    harness = await cloud.start(publish=(tmp_path / "nowhere",))
    state = await harness.wait_for_state("degraded")
    assert "nowhere" in state.reason


async def test_a_lost_registry_overtakes_what_the_edges_have_seen(cloud, tmp_path):
    first, _ = family(tmp_path)
    edge = await cloud.edge(1)
    edge.sequence = 41
    await edge.say("updated")
    harness = await cloud.start(publish=(first.path,))
    await harness.expect(topics.ROLLOUT, where=converged(1, 1))
    assert edge.sequence == 42


async def test_old_versions_leave_the_disk(cloud, tmp_path):
    bundles = family(tmp_path, 5)
    harness = await cloud.start(publish=(bundles[0].path,), keep_versions=2)
    retrainer = await cloud.retrainer()
    for bundle in bundles[1:]:
        await publish_candidate(retrainer, cloud.candidate(bundle))
        await harness.expect(
            topics.RELEASE,
            where=lambda event, ref=bundle.ref: event.payload.bundle.model == ref,
        )
    harness.service._collect_garbage()
    assert set(harness.service.store.bundles()) == {bundles[3].digest, bundles[4].digest}
    gone = RollbackCommand(source="lab/laptop/cli", model="tiny", version=1)
    reply = await harness.request(topics.CMD_ROLLBACK, gone)
    assert "no longer on the disk" in reply.detail


async def test_a_new_broker_hears_it_all_again(cloud, tmp_path):
    first, _ = family(tmp_path)
    harness = await cloud.start(publish=(first.path,))
    await harness.expect(topics.RELEASE)
    cloud.broker.stop(forget=True)
    cloud.broker.start()
    await harness.expect(topics.RELEASE)
    await harness.expect(topics.ROLLOUT)
    assert isinstance(harness.service, Distributor)


async def test_a_device_of_the_site_decides_nothing_by_candidates(cloud, tmp_path):
    first, second = family(tmp_path)
    harness = await cloud.start(publish=(first.path,))
    await harness.expect(topics.RELEASE)
    evil = Identity(site="lab", node="pi-evil", service="retrainer")
    ref = cloud.candidate(second).bundle
    forged = Candidate(
        source=evil.source,
        bundle=ref.model_copy(update={"provider": evil.source}),
        job="job-7",
        gate=GateReport(passed=True),
    )
    await harness.publish(topics.CANDIDATE.at(evil, model="tiny"), forged)
    # In the owner's name from its own topic, and below the owner's topic in its own: dead letters.
    await harness.bus.publish(
        topics.CANDIDATE.at(evil, model="tiny"),
        forged.model_copy(update={"source": RETRAINER.source}),
    )
    retrainer = await cloud.retrainer()
    await publish_candidate(retrainer, cloud.candidate(second))
    released = await harness.expect(topics.RELEASE)
    assert RETRAINER.source in released.payload.reason
    assert harness.service.registry.intakes() == []


@pytest.mark.parametrize("sequence", [2**53 - 1, 10**12, 1_000_043])
async def test_no_status_makes_the_next_sequence_impossible(cloud, tmp_path, sequence):
    first, second = family(tmp_path)
    harness = await cloud.start(publish=(first.path,))
    edge = await cloud.edge(1)
    await harness.expect(topics.ROLLOUT, where=converged(1, 1))
    evil = Identity(site="lab", node="pi-evil", service="detector")
    status = ModelStatus(source=evil.source, model="tiny", state="idle", sequence=sequence)
    await harness.publish(topics.MODEL_STATUS.at(evil), status)
    retrainer = await cloud.retrainer()
    await publish_candidate(retrainer, cloud.candidate(second))
    await harness.expect(
        topics.RELEASE, where=lambda event: event.payload.bundle.model == second.ref
    )
    await harness.expect(
        topics.ROLLOUT,
        where=lambda event: (event.payload.sequence, event.payload.converged) == (2, 1),
    )
    assert edge.sequence == 2


async def test_words_of_edges_never_make_a_roll_out_too_large(cloud, tmp_path):
    first, _ = family(tmp_path)
    harness = await cloud.start(publish=(first.path,))
    await harness.expect(topics.ROLLOUT)
    evil = Identity(site="lab", node="pi-evil", service="detector")
    text = json.dumps("x" * 400_000)
    for n in range(3):
        status = ModelStatus(source=evil.source, model="tiny", state="failed", sequence=1)
        data = status.encode().replace(b'"state"', f'"error":{text},"state"'.encode())
        await harness.bus.publish_raw(f"{evil.prefix}/streams/c{n}/model", data, qos=1, retain=True)
    said = await harness.expect(topics.ROLLOUT, where=lambda event: event.payload.failed == 3)
    assert said.size < 5_000


async def test_a_broker_that_takes_small_packets_only_ends_no_distributor(cloud, tmp_path):
    first, _ = family(tmp_path)
    cloud.broker = MemoryBroker(max_packet_bytes=3_000)
    harness = await cloud.start(publish=(first.path,))
    for n in range(20):
        edge = Identity(site="lab", node=f"pi-{n}", service="detector")
        status = ModelStatus(
            source=edge.source, model="tiny", state="failed", sequence=1, error="e" * 300
        )
        await harness.publish(topics.MODEL_STATUS.at(edge), status)
    await until_logged(harness, "retained.too_large")
    reply = await harness.request(topics.CMD_MODELS, ModelListCommand(model="other"))
    assert reply.ok


async def until_logged(harness: ServiceHarness, counter: str) -> None:
    async with asyncio.timeout(10):
        while counter not in harness.service.metrics.snapshot().counters:
            await asyncio.sleep(0.01)


async def test_what_lies_in_the_registry_stops_no_start(cloud, tmp_path):
    """A sequence that no message can carry, and an intake that nobody can read."""
    first, _ = family(tmp_path)
    async with cloud.harness(publish=(first.path,)) as harness:
        await harness.expect(topics.RELEASE)
    path = tmp_path / "node" / "distributor" / "registry.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE release SET sequence = ?", (2**53,))
        database.execute(
            "INSERT INTO intake VALUES (?, 'stable', 'tiny', 9, '{\"provider\": \"me\"}', '', 1)",
            ("f" * 64,),
        )
    harness = await cloud.start()
    state = await harness.wait_for_state("degraded")
    assert "cannot announce tiny on stable" in state.reason
    assert harness.service.registry.intakes() == []


async def test_a_person_whose_clock_is_years_away_blocks_nobody(cloud, tmp_path):
    first, second = family(tmp_path)
    harness = await cloud.start(publish=(first.path,), fetch_timeout_s=0.2)
    async with person(cloud, second) as ref:
        pass
    for year in (1999, 2190):
        command = PublishCommand(bundle=ref, time=datetime(year, 1, 1, tzinfo=UTC))
        reply = await harness.request(topics.CMD_PUBLISH, command)
        assert "did not deliver in time" in reply.detail
    async with person(cloud, second) as ref:
        command = PublishCommand(bundle=ref, time=datetime(1999, 1, 1, tzinfo=UTC))
        assert (await harness.request(topics.CMD_PUBLISH, command)).ok


async def test_many_candidates_are_not_all_brought_in_at_a_time(cloud, tmp_path):
    first, _ = family(tmp_path)
    harness = await cloud.start(publish=(first.path,))
    for n in range(100):
        model = ModelRef(name=f"model-{n}", version=1, digest=f"{n:064x}")
        ref = BundleRef(model=model, provider=RETRAINER.source, index_size=16 * 2**20, size=2**40)
        candidate = Candidate(bundle=ref, job="j", gate=GateReport(passed=True))
        await harness.publish(topics.CANDIDATE.at(RETRAINER, model=model.name), candidate)
    async with asyncio.timeout(10):
        while not any(
            intake.bundle.model.name == "model-99" for intake in harness.service.registry.intakes()
        ):
            await asyncio.sleep(0.01)
    assert len(harness.service.registry.intakes()) == 16
