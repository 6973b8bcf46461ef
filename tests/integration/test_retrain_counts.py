"""The thresholds of the first loop, over a real Mosquitto: three edges, 120 samples each, in turn.

There are exactly the jobs that were counted by hand. The training is replaced by a bundle that is
derived at once; store, triggers, journal and bus are the real ones.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebus.artifacts import Bundle, Update, derive_bundle
from edgebus.bus import Bus, BusSettings
from edgebus.contracts import (
    GateReport,
    Identity,
    ServiceState,
    StoreStatus,
    TrainingResult,
    split_of,
    topics,
)
from edgebus.service import NodeSettings
from edgebus.service.runtime import Runtime
from edgebus.training import job_runner
from edgebus.training.job_spec import JobOutcome, JobSpec
from edgebus_detection.messages import SAMPLES, Sample
from edgebus_detection.models.testing import tiny_bundle
from edgebus_retrainer import Retrainer, RetrainerSettings
from retrainer_samples import CAMERA, jpeg_of, sample

EDGES = ("pi-01", "pi-02", "pi-03")
# The store decides by the stream and the index what is held out.
TRAIN = [index for index in range(600) if split_of(CAMERA, index) == "train"]
HELD_OUT = next(index for index in range(600) if split_of(CAMERA, index) == "holdout")


class Training:
    """Stands in for the job's process: says yes at once, or, if held, when it is let go."""

    def __init__(self) -> None:
        self.held = False
        self.began, self.may_end = asyncio.Semaphore(0), asyncio.Semaphore(0)
        self.given: list[list[str]] = []

    async def __call__(self, spec: JobSpec, **_: Any) -> JobOutcome:
        self.given.append([file.id for file in spec.train])
        self.began.release()
        if self.held:
            await self.may_end.acquire()
        base = Bundle.open(spec.base)
        name = next(name for name in base.tensors() if name.endswith("bias"))
        change = base.tensors()[name] + np.float32(1e-4 * spec.version)
        bundle = derive_bundle(
            base,
            Update(replace={name: change}),
            version=spec.version,
            out=spec.folder / "candidate",
        )
        return JobOutcome(
            outcome="accepted",
            reason="not asked",
            bundle=bundle.path,
            gate=GateReport(passed=True),
            samples=len(spec.train),
        )


class Site:
    """A retrainer, and what it says."""

    def __init__(self, broker: Any, folder: Path, *, site: str, **trigger: Any) -> None:
        self.broker, self.folder, self.site = broker, folder, site
        self.settings = RetrainerSettings(
            bundle=tiny_bundle(folder / "base").path,
            new_domain="everything",
            trigger={"release_wait_s": 0, **trigger},
            gate={"min_items": 1, "require_old": False},
            # A look at the triggers in between would only hide that each sample counts.
            tick_s=600,
        )
        self.results: list[TrainingResult] = []
        self.status: StoreStatus | None = None
        self._ready = False
        self._news = asyncio.Condition()
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Site:
        identity = Identity(site=self.site, node="test", service="test")
        settings = BusSettings(ephemeral=True)
        self.bus = Bus(self.broker.transport(), identity=identity, settings=settings)
        await self.bus.__aenter__()
        for topic in (topics.TRAINING_RESULT, topics.STORE_STATUS, topics.SERVICE_STATE):
            await self.bus.subscribe(topic.any(site=self.site), self._hear, deduplicate=False)
        node = NodeSettings(site=self.site, node="gpu", data_dir=self.folder / "gpu")
        transport = self.broker.transport()
        runtime = Runtime(Retrainer, node=node, settings=self.settings, transport=transport)
        self.runtime = runtime
        self._life = asyncio.create_task(runtime.run(self._stop, look_first=False))
        await self.until(lambda: self._ready)
        # Something to measure on: without it no job would start by itself.
        await self.send(sample(HELD_OUT), edge="pi-01")
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._stop.set()
        await self._life
        await self.bus.__aexit__(*error)

    async def send(self, one: Any, *, edge: str) -> str:
        """Publish a sample of an edge, and wait until it is in the store."""
        source = Identity(site=self.site, node=edge, service="collector")
        record = one.record.model_copy(update={"source": source.source})
        jpeg, _ = jpeg_of(record.index)
        await self.bus.publish(SAMPLES.at(source), Sample.build(jpeg, record))
        return record.id

    async def until(self, fits: Any, *, timeout: float = 60) -> None:
        try:
            async with asyncio.timeout(timeout), self._news:
                while not fits():
                    await self._news.wait()
        except TimeoutError:
            said = [(r.trigger, r.why, r.samples) for r in self.results]
            raise AssertionError(f"jobs {said}, status {self.status}") from None

    async def stored(self, number: int) -> None:
        """Wait until so many samples to train on are in the store."""
        service = self.runtime.service
        assert isinstance(service, Retrainer)
        async with asyncio.timeout(60):
            while (await service.disk(service.samples.counts, "tiny")).train < number:
                await asyncio.sleep(0.02)

    async def _hear(self, event: Any) -> None:
        payload = event.payload
        async with self._news:
            if isinstance(payload, TrainingResult):
                self.results.append(payload)
            elif isinstance(payload, StoreStatus):
                self.status = payload
            elif isinstance(payload, ServiceState) and payload.source.endswith("/retrainer"):
                self._ready = self._ready or payload.state == "ready"
            self._news.notify_all()


@pytest.fixture
def training(monkeypatch):
    stand_in = Training()
    monkeypatch.setattr(job_runner, "run_process", stand_in)
    return stand_in


@pytest.mark.parametrize(
    ("name", "trigger", "jobs", "left"),
    [
        # 360 samples, every hundredth starts one.
        ("cloud", {"min_samples": 100}, [("count", 100)] * 3, 60),
        # In turn: the first edge's 50th is number 49 * 3 + 1 = 148; then the second edge is the
        # first in turn, and its 50th is number 148 again. 360 - 296 are left.
        ("edge", {"min_samples": None, "min_per_edge": 50}, [("edge", 148)] * 2, 64),
        ("edge-10", {"min_samples": None, "min_per_edge": 10}, [("edge", 28)] * 12, 24),
    ],
)
async def test_retrain_counts(mosquitto, tmp_path, training, name, trigger, jobs, left):
    async with Site(mosquitto, tmp_path, site=f"counts-{name}", **trigger) as site:
        sent: list[str] = []
        for number in range(360):
            sent.append(await site.send(sample(TRAIN[number]), edge=EDGES[number % 3]))
            if len(sent) == sum(count for _, count in jobs[: len(site.results) + 1]):
                due = len(site.results) + 1
                await site.until(lambda due=due: len(site.results) == due)
        await site.stored(360)
        assert [(result.trigger, result.samples) for result in site.results] == jobs
        # Each job was given what came since the last one, each sample once; the rest waits.
        given = [sample for job in training.given for sample in job]
        assert given == sent[: 360 - left]
        assert all("are enough" in result.why for result in site.results)
        if name == "edge":
            words = "50 untrained samples of pi-01; 50 of one edge are enough"
            assert site.results[0].why == words


async def test_without_a_threshold_what_comes_during_a_job_is_the_next_one(
    mosquitto, tmp_path, training
):
    async with Site(mosquitto, tmp_path, site="counts-none", min_samples=1) as site:
        training.held = True
        sent: list[str] = []
        # 36 rounds of 10: while a job runs, ten more come.
        for index in range(36):
            for number in range(10 * index, 10 * index + 10):
                sent.append(await site.send(sample(TRAIN[number]), edge=EDGES[number % 3]))
            await site.stored(len(sent))
            if index == 0:
                await training.began.acquire()
            training.may_end.release()
            done = index + 1
            await site.until(lambda done=done: len(site.results) == done)
            # The next one has been given what came meanwhile.
            await training.began.acquire()
        training.may_end.release()
        await site.until(lambda: len(site.results) == 37)
        # The first starts a job on its own; 9 of its round come meanwhile, then 10 of each.
        assert [result.samples for result in site.results] == [1, 9, *[10] * 35]
        assert {result.trigger for result in site.results} == {"count"}
        assert [sample for job in training.given for sample in job] == sent
