from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from edgebus.artifacts import Bundle, DeliveryError, QuotaExceededError, Store
from edgebus.contracts import BundleRef, Identity, ModelRef, ModelStatus, Release
from edgebus.serving import (
    Authorities,
    EngineError,
    EngineSettings,
    HotSwap,
    OrtEngine,
    ReleaseFollower,
    ReleaseSettings,
    ServingState,
    StateFile,
)
from edgebus.transfer import FetchProgress
from edgebus_detection.models.testing import tiny_bundle, tiny_picture

IDENTITY = Identity(site="lab", node="pi-01", service="detector")
PROVIDER = "lab/cloud/distributor"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[int, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: tiny_bundle(folder / f"v{n}", version=n, gain=0.2 + n / 50) for n in (1, 2, 3)}


def release(bundle: Bundle, sequence: int, **changes) -> Release:
    ref = BundleRef(
        model=bundle.ref.model_copy(update=changes),
        provider=PROVIDER,
        index_size=len(bundle.index_bytes),
        size=bundle.size,
    )
    return Release(source=PROVIDER, channel="stable", bundle=ref, sequence=sequence)


class Edge:
    """A follower with everything around it but the network."""

    def __init__(self, folder: Path, bundles: dict[int, Bundle], **swap) -> None:
        self.store = Store(folder / "store")
        self.state = StateFile(folder / "current.json")
        self.swap = HotSwap(EngineSettings(threads=1), **swap)
        self.bundles = {bundle.digest: bundle for bundle in bundles.values()}
        self.said: list[ModelStatus] = []
        self.news = asyncio.Event()
        self.fetches: list[str] = []
        self.trouble: Callable[[BundleRef], None] = lambda bundle: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.follower = ReleaseFollower(
            ReleaseSettings(fetch_attempts=3, retry_s=0.001, probation_inputs=3),
            identity=IDENTITY,
            model="tiny",
            task="detection",
            authorities=Authorities(
                IDENTITY,
                path=folder / "authorities.json",
                allowed=None,
                setting="detector.releases_from",
                log=structlog.get_logger(),
            ),
            store=self.store,
            state=self.state,
            swap=self.swap,
            fetch=self._fetch,
            report=self._report,
            needed=set,
            log=structlog.get_logger(),
        )

    async def _fetch(self, bundle: BundleRef, /, *, on_progress) -> Bundle:
        self.fetches.append(bundle.model.digest)
        await self.gate.wait()
        self.trouble(bundle)
        on_progress(
            FetchProgress(
                received_bytes=500, needed_bytes=1000, patched=False, corrupt=0, requests=1
            )
        )
        found = self.bundles[bundle.model.digest]
        self.store.put_bundle(found)
        return self.store.open_bundle(found.digest)

    async def _report(self, status: ModelStatus) -> None:
        self.said.append(status)
        self.news.set()

    async def until(self, wanted: Callable[[ModelStatus], bool]) -> ModelStatus:
        async with asyncio.timeout(20):
            while True:
                self.news.clear()
                for status in self.said:
                    if wanted(status):
                        return status
                await self.news.wait()

    async def __aenter__(self) -> Edge:
        self.task = asyncio.create_task(self.follower.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def version(self) -> int | None:
        current = self.swap.current
        return current.ref.version if current is not None else None


async def test_the_first_release_begins_to_serve(tmp_path, bundles) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore()
        assert edge.said[-1].state == "idle"
        assert edge.said[-1].serving is None
        assert edge.said[-1].model == "tiny"
        assert edge.follower.offer(release(bundles[1], 1))
        done = await edge.until(lambda status: status.state == "updated")
        assert done.serving == edge.swap.current.ref
        assert done.sequence == 1
        assert done.swap_ms < 100
        assert done.error is None
        states = [status.state for status in edge.said]
        assert states == ["idle", "downloading", "downloaded", "verified", "updating", "updated"]
        assert edge.said[1].target.version == 1


async def test_the_newest_sequence_wins_also_with_an_older_version(tmp_path, bundles) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore()
        edge.follower.offer(release(bundles[2], 1))
        await edge.until(lambda status: status.sequence == 1)
        assert not edge.follower.offer(release(bundles[2], 1))
        edge.follower.offer(release(bundles[1], 2))
        await edge.until(lambda status: status.sequence == 2)
        assert edge.version == 1
        assert edge.said[-1].previous.version == 2
        assert not edge.follower.offer(release(bundles[3], 1))
        assert edge.version == 1


async def test_a_restart_serves_the_current_model_without_a_release(tmp_path, bundles) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore()
        for sequence in (1, 2):
            edge.follower.offer(release(bundles[sequence], sequence))
            await edge.until(lambda status, s=sequence: status.sequence == s)
    async with Edge(tmp_path, {}) as edge:
        await edge.follower.restore()
        assert edge.version == 2
        assert edge.said[-1].previous.version == 1
        # the retained release comes again: nothing is fetched, and the state is known again
        edge.follower.offer(release(bundles[2], 2))
        await edge.until(lambda status: status.state == "updated")
        assert edge.fetches == []


async def test_a_current_model_that_is_damaged_gives_way_to_the_one_before(
    tmp_path, bundles
) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore()
        for sequence in (1, 2):
            edge.follower.offer(release(bundles[sequence], sequence))
            await edge.until(lambda status, s=sequence: status.sequence == s)
    weights = bundles[2].index.file("weights.safetensors").digest
    blob = next((tmp_path / "store").rglob(weights))
    blob.chmod(0o600)
    blob.write_bytes(b"damaged")
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore()
        assert edge.version == 1
        assert "SHA-256" in edge.said[-1].error
        edge.follower.offer(release(bundles[2], 2))
        await edge.until(lambda status: status.state == "updated")
        assert edge.version == 2


async def test_the_initial_bundle_serves_until_a_release(tmp_path, bundles) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)
        assert edge.version == 1
        assert edge.said[-1].serving.version == 1
        edge.follower.offer(release(bundles[2], 1))
        await edge.until(lambda status: status.state == "updated")
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)
        assert edge.version == 2


@pytest.mark.parametrize("what", ["missing", "other"])
async def test_an_initial_bundle_that_cannot_serve_is_told(tmp_path, bundles, what) -> None:
    path = tmp_path / "none"
    if what == "other":
        path = tiny_bundle(tmp_path / "other", name="cats").path
    async with Edge(tmp_path / "edge", bundles) as edge:
        await edge.follower.restore(path)
        assert edge.version is None
        assert ("is missing" if what == "missing" else "'cats'") in edge.said[-1].error


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (DeliveryError(digest="a" * 64, reason="the index is a lie"), 1),
        (QuotaExceededError(needed=1, used=1, quota=1), 3),
        (OSError(28, "No space left on device"), 3),
    ],
    ids=["wrong for good", "store full", "disk full"],
)
async def test_a_release_that_fails_leaves_the_old_model(tmp_path, bundles, error, tries) -> None:
    def fail(bundle: BundleRef) -> None:
        raise error

    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)
        edge.trouble = fail
        edge.follower.offer(release(bundles[2], 5))
        failed = await edge.until(lambda status: status.state == "failed")
        assert str(error) in failed.error
        assert failed.serving.version == edge.version == 1
        assert failed.target.version == 2
        assert failed.sequence == 5
        assert len(edge.fetches) == tries
    # not tried again after a restart, until there is something newer
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)
        edge.follower.offer(release(bundles[2], 5))
        await edge.until(lambda status: status.state == "failed")
        assert edge.fetches == []
        edge.follower.offer(release(bundles[2], 6))
        done = await edge.until(lambda status: status.state == "updated")
        assert (done.serving.version, done.error) == (2, None)


async def test_trouble_that_passes_is_only_a_delay(tmp_path, bundles) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)

        def once(bundle: BundleRef) -> None:
            if len(edge.fetches) == 1:
                raise OSError(28, "No space left on device")

        edge.trouble = once
        edge.follower.offer(release(bundles[2], 1))
        await edge.until(lambda status: status.state == "updated")
        assert edge.version == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"name": "cats"}, "'cats'"), ({"version": 7}, "tiny v7")],
)
async def test_a_release_that_contradicts_its_bundle_is_refused(
    tmp_path, bundles, changes, reason
) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)
        edge.follower.offer(release(bundles[2], 1, **changes))
        failed = await edge.until(lambda status: status.state == "failed")
        assert reason in failed.error
        assert edge.version == 1


class Spoiled(OrtEngine):
    """An engine whose outputs are NaN after the given number of runs."""

    good_runs = 0

    def run(self, inputs):
        outputs = super().run(inputs)
        self.good_runs -= 1
        return (
            outputs
            if self.good_runs >= 0
            else {name: output * float("nan") for name, output in outputs.items()}
        )


def spoiled_second(good_runs: int):
    def make(source, settings):
        if source.manifest.version != 2:
            return OrtEngine(source, settings)
        engine = Spoiled(source, settings)
        engine.good_runs = good_runs
        return engine

    return make


async def test_a_model_that_gives_nan_never_serves(tmp_path, bundles) -> None:
    async with Edge(tmp_path, bundles, make_engine=spoiled_second(0)) as edge:
        await edge.follower.restore(bundles[1].path)
        edge.follower.offer(release(bundles[2], 1))
        failed = await edge.until(lambda status: status.state == "failed")
        assert "not finite" in failed.error
        assert edge.version == 1


async def test_a_model_that_fails_on_its_first_frames_is_taken_back(tmp_path, bundles) -> None:
    # three warm-up runs and the probe pass, then one frame, then NaN
    async with Edge(tmp_path, bundles, make_engine=spoiled_second(5)) as edge:
        await edge.follower.restore(bundles[1].path)
        edge.follower.offer(release(bundles[2], 4))
        await edge.until(lambda status: status.state == "updated")
        serving = edge.swap.current
        serving.model.detect(tiny_picture())
        edge.follower.answered(serving)
        with pytest.raises(EngineError) as caught:
            serving.model.detect(tiny_picture())
        assert await edge.follower.taken_back(serving, caught.value)
        assert edge.version == 1
        status = edge.said[-1]
        assert (status.state, status.sequence) == ("failed", 4)
        assert "taken back on its input 2" in status.error
        # a second frame that was under way on the bad model is answered by the good one
        assert await edge.follower.taken_back(serving, caught.value)
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore()
        assert edge.version == 1


async def test_a_trusted_model_is_not_taken_back_for_one_frame(tmp_path, bundles) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)
        edge.follower.offer(release(bundles[2], 4))
        await edge.until(lambda status: status.state == "updated")
        serving = edge.swap.current
        for _ in range(3):
            edge.follower.answered(serving)
        error = EngineError(engine="onnxruntime", reason="a bad day")
        assert not await edge.follower.taken_back(serving, error)
        assert edge.version == 2


async def test_a_newer_release_ends_the_fetch_of_an_older_one(tmp_path, bundles) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)
        edge.gate.clear()  # the provider is away
        edge.follower.offer(release(bundles[2], 1))
        await edge.until(lambda status: status.state == "downloading")
        edge.follower.offer(release(bundles[3], 2))
        await edge.until(lambda status: status.target is not None and status.target.version == 3)
        edge.gate.set()
        await edge.until(lambda status: status.state == "updated")
        assert edge.version == 3
        assert not any(s.serving and s.serving.version == 2 for s in edge.said)


async def test_a_bundle_that_kills_the_process_is_given_up(tmp_path, bundles) -> None:
    state = StateFile(tmp_path / "current.json")
    tmp_path.mkdir(exist_ok=True)
    state.write(ServingState(model="tiny", loading=3, loads=2))
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)
        edge.follower.offer(release(bundles[2], 3))
        failed = await edge.until(lambda status: status.state == "failed")
        assert "the process died 2 times while loading tiny v2" in failed.error
        assert edge.version == 1
        assert edge.fetches == []


async def test_old_versions_leave_the_store(tmp_path, bundles) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore(bundles[1].path)
        for sequence, version in enumerate((2, 3, 2), start=1):
            edge.follower.offer(release(bundles[version], sequence))
            await edge.until(lambda status, s=sequence: status.sequence == s)
        kept = {item.name for item in (tmp_path / "store" / "bundles").iterdir()}
        assert kept == {bundles[2].digest, bundles[3].digest}


def test_a_damaged_state_is_told_and_forgotten(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "current.json")
    assert file.read(model="tiny") == (ServingState(model="tiny"), "")
    ref = ModelRef(name="tiny", version=1, digest="a" * 64)
    file.write(ServingState(model="tiny", current=ref, sequence=4))
    assert file.read(model="tiny")[0].sequence == 4
    found, reason = file.read(model="cats")
    assert found.current is None
    assert "not cats" in reason
    (tmp_path / "current.json").write_text('{"model": 3')
    found, reason = file.read(model="tiny")
    assert found == ServingState(model="tiny")
    assert "damaged" in reason


async def test_a_strangers_release_changes_nothing(tmp_path, bundles) -> None:
    """Neither what serves, nor which releases of the owner are followed afterwards."""
    forged = {"source": "lab/pi-evil/distributor", "sequence": 2**53 - 1}
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore()
        edge.follower.offer(release(bundles[1], 1))
        await edge.until(lambda status: status.sequence == 1)
        assert not edge.follower.offer(release(bundles[3], 2).model_copy(update=forged))
        edge.follower.offer(release(bundles[2], 2))
        await edge.until(lambda status: status.sequence == 2)
        assert edge.version == 2
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore()
        assert not edge.follower.offer(release(bundles[3], 3).model_copy(update=forged))
        assert edge.version == 2


@pytest.mark.parametrize("sequence", [2**53 - 1, 10**9, 1_000_002])
async def test_a_sequence_out_of_reach_is_not_followed(tmp_path, bundles, sequence) -> None:
    async with Edge(tmp_path, bundles) as edge:
        await edge.follower.restore()
        edge.follower.offer(release(bundles[1], 1))
        await edge.until(lambda status: status.sequence == 1)
        assert not edge.follower.offer(release(bundles[3], sequence))
        assert edge.follower.offer(release(bundles[2], 1_000_001))
        await edge.until(lambda status: status.sequence == 1_000_001)
        assert edge.version == 2
