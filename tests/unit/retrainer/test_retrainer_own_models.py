"""A camera's own model: what its jobs start from, what they have to beat, and when they start."""

import asyncio

import numpy as np
import pytest
from pydantic import ValidationError

from edgebus.artifacts import Bundle, Store, Update, derive_bundle
from edgebus.contracts import GateReport, Release, shared_model, split_of, stream_model, topics
from edgebus.samples import open_database
from edgebus.service.testing import ServiceHarness
from edgebus.training import job as job_module
from edgebus.training import job_runner
from edgebus.training.finetune import FinetuneResult
from edgebus.training.job import run_job
from edgebus.training.job_spec import JobOutcome
from edgebus.training.journal import JobJournal
from edgebus.training.settings import StreamModelSettings
from edgebus.transfer import ArtifactProvider, reference
from edgebus_detection.messages import SAMPLES, Sample
from edgebus_retrainer import Retrainer, RetrainerSettings
from retrainer_jobs import files, job, make_world
from retrainer_samples import DUSK, jpeg_of, sample

OWN = "tiny@pi-01.front"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def nudge(bundle, folder, *, by=1e-3, **changes):
    """A bundle derived from another; by 100 it sees nothing any more."""
    name = next(name for name in bundle.tensors() if name.endswith("bias"))
    update = Update(replace={name: bundle.tensors()[name] - np.float32(by)})
    return derive_bundle(bundle, update, out=folder, **changes)


def learns(monkeypatch, *, by):
    """Replace the training by a change of the weights."""

    def learn(trainer, *_args, **_options):
        base = trainer.base
        name = next(name for name in base.tensors() if name.endswith("bias"))
        update = Update(replace={name: base.tensors()[name] - np.float32(by)})
        return FinetuneResult(update=update, steps=1, losses=(1.0,), trainable=1)

    monkeypatch.setattr(job_module, "learn", learn)


def own_job(world, folder, **changes):
    day = files(world, [sample(index) for index in range(36)])
    fields = {"model": OWN, "train": day[:24], "new_holdout": day[24:]}
    return job(world, folder, **(fields | changes))


def run(spec):
    return run_job(spec, threads=1, report=lambda event: None)


def test_it_has_to_beat_what_the_camera_has_and_not_the_shared_model(world, tmp_path, monkeypatch):
    base = Bundle.open(world / "base")
    learns(monkeypatch, by=1e-3)
    blind = nudge(base, tmp_path / "blind", by=100, name=OWN, version=3)
    outcome = run(own_job(world, tmp_path / "one", incumbent=blind.path))
    assert outcome.outcome == "accepted", outcome.reason
    made = Bundle.open(outcome.bundle)
    assert (made.manifest.name, made.manifest.version) == (OWN, 7)
    assert made.manifest.parent == base.digest
    new = outcome.gate.domains[0]
    assert (new.decision.before, new.decision.after) == (0, 1)
    # The same against the shared model is no gain.
    outcome = run(own_job(world, tmp_path / "two"))
    assert outcome.outcome == "refused"
    assert outcome.bundle is None


def test_where_the_candidate_is_worse_the_shared_model_may_be_better(world, tmp_path, monkeypatch):
    base = Bundle.open(world / "base")
    learns(monkeypatch, by=100)
    blind = nudge(base, tmp_path / "blind", by=90, name=OWN, version=3)
    outcome = run(own_job(world, tmp_path / "one", incumbent=blind.path))
    assert outcome.outcome == "accepted", outcome.reason
    assert "the shared model as it is" in outcome.reason
    made = Bundle.open(outcome.bundle)
    assert made.manifest.name == OWN
    assert made.weights.data == base.weights.data
    # What is as good as the shared model stays.
    same = nudge(base, tmp_path / "same", by=1e-4, name=OWN, version=3)
    outcome = run(own_job(world, tmp_path / "two", incumbent=same.path))
    assert outcome.outcome == "refused"


def test_names():
    assert stream_model("street", "pi-01.front") == "street@pi-01.front"
    assert shared_model("street@pi-01.front") == ("street", "pi-01.front")
    assert shared_model("street") == ("street", "")
    assert shared_model("street@") == ("street@", "")


def test_settings_that_cannot_be_are_refused_by_name(tmp_path):
    with pytest.raises(ValidationError, match="is a stream's own: name the shared one, 'street'"):
        RetrainerSettings(model="street@pi-01.front")
    with pytest.raises(ValidationError, match=r"stream_models\.min_samples"):
        RetrainerSettings(model="street", stream_models={"min_samples": 0})
    with pytest.raises(ValidationError, match=r"stream_models\.streams"):
        RetrainerSettings(model="street", stream_models={"streams": ["a/b"]})


def test_cameras_are_chosen_by_name_with_or_without_their_node():
    chosen = StreamModelSettings(streams=("front", "pi-02.gate"))
    assert chosen.takes("pi-01.front")
    assert chosen.takes("pi-02.front")
    assert chosen.takes("pi-02.gate")
    assert not chosen.takes("pi-01.gate")
    assert StreamModelSettings().takes("pi-01.gate")


class AtOnce:
    """Stands in for the job's process; says yes."""

    def __init__(self):
        self.specs = []

    async def __call__(self, spec, **_):
        self.specs.append(spec)
        base = Bundle.open(spec.base)
        bundle = nudge(
            base, spec.folder / "candidate", by=1e-5, name=spec.model, version=spec.version
        )
        return JobOutcome(
            outcome="accepted",
            reason="not asked",
            bundle=bundle.path,
            gate=GateReport(passed=True),
            samples=len(spec.train),
        )


@pytest.fixture
def jobs(monkeypatch):
    stand_in = AtOnce()
    monkeypatch.setattr(job_runner, "run_process", stand_in)
    return stand_in


def settings(world, **changes):
    fields = {
        "bundle": world / "base",
        "new_domain": "everything",
        "trigger": {"min_samples": None, "release_wait_s": 0},
        "stream_models": {"min_samples": 4},
        "gate": {"min_items": 1, "require_old": False},
        "tick_s": 0.05,
    }
    return RetrainerSettings(**(fields | changes))


async def send(h, index, *, camera="front", node="pi-01", split="train", **options):
    # Of the inputs of that camera that are trained on, or held out.
    index = [n for n in range(4000) if split_of(camera, n) == split][index]
    one = sample(index, light=DUSK, **options)
    source = h.node(node, "collector")
    record = one.record.model_copy(update={"source": source.source, "stream": camera})
    jpeg, _ = jpeg_of(index, light=DUSK)
    await h.publish(SAMPLES.at(source), Sample.build(jpeg, record))


async def test_each_camera_has_a_number_of_its_own(world, tmp_path, jobs):
    config = settings(
        world, stream_models={"min_samples": 4, "max_models": 2, "cooldown_samples": 2}
    )
    async with ServiceHarness(Retrainer, config, node="gpu", data_dir=tmp_path) as h:
        for camera in ("front", "side", "third"):
            await send(h, 900, camera=camera, split="holdout")
        for index in range(3):
            await send(h, index)
            await send(h, index, camera="side")

        def counted(event):
            words = "waits for untrained samples: 3 of 4"
            return event.payload.stream_models == {OWN: words, "tiny@pi-01.side": words}

        await h.expect(topics.STORE_STATUS, where=counted)
        assert h.received(topics.TRAINING_RESULT) == []
        await send(h, 3)
        result = (await h.expect(topics.TRAINING_RESULT)).payload
        assert (result.stream_model, result.trigger, result.samples) == (OWN, "count", 4)
        assert (result.model.name, result.candidate.name) == ("tiny", OWN)
        candidate = (await h.expect(topics.CANDIDATE)).payload
        assert candidate.bundle.model.name == OWN
        assert {file.id for file in jobs.specs[0].new_holdout} == {
            each.id for each in h.service.samples.holdout(OWN, limit=9)
        }
        await send(h, 3, camera="side")
        result = (await h.expect(topics.TRAINING_RESULT)).payload
        assert result.stream_model == "tiny@pi-01.side"
        # The third camera would be one too many.
        for index in range(4):
            await send(h, index, camera="third")
        full = {"front": 5, "side": 5, "third": 5}
        await h.expect(topics.STORE_STATUS, where=lambda e: e.payload.per_stream == full)
        assert "tiny@pi-01.third" not in h.service._models.models
        assert len(jobs.specs) == 2


async def test_a_new_shared_version_is_tried_once_and_a_restart_forgets_nothing(
    world, tmp_path, jobs
):
    base = Bundle.open(world / "base")
    own = nudge(base, tmp_path / "own", name=OWN, version=2)
    second = nudge(base, tmp_path / "second", by=2e-3, version=2)

    async def release(h, bundle, sequence):
        identity = h.node("cloud", "distributor")
        message = Release(
            source=identity.source,
            channel="stable",
            bundle=reference(store, bundle.digest, provider=identity),
            sequence=sequence,
        )
        address = topics.RELEASE.at(identity, model=bundle.ref.name, channel="stable")
        await h.publish(address, message)

    store = Store(tmp_path / "cloud")
    for bundle in (own, second):
        store.put_bundle(bundle)
    config = settings(world)
    async with ServiceHarness(Retrainer, config, node="gpu", data_dir=tmp_path / "data") as h:
        providing = ArtifactProvider(h.bus, h.node("cloud", "distributor"), store)
        serving = asyncio.create_task(providing.run())
        await send(h, 900, split="holdout")
        for index in range(4):
            await send(h, index)
        first = (await h.expect(topics.TRAINING_RESULT)).payload
        assert first.stream_model == OWN
        # Somebody has released another own version than the one that was offered.
        await release(h, own, 1)
        await release(h, second, 1)
        again = (await h.expect(topics.TRAINING_RESULT)).payload
        assert (again.stream_model, again.trigger) == (OWN, "rebase")
        assert again.why == f"tiny is v2 now; {OWN} is of an older"
        assert again.model.digest == second.digest
        # From all samples of the camera, against what it has.
        assert again.samples == 4
        assert Bundle.open(jobs.specs[-1].incumbent).digest == own.digest
        assert Bundle.open(jobs.specs[-1].base).digest == second.digest
        # One try per version: the next look does not start it again.
        await h.service.check_triggers()
        assert len(jobs.specs) == 2
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    journal = JobJournal(open_database(tmp_path / "data" / "retrainer" / "samples.db"))
    assert journal.highest_version(OWN) == again.candidate.version
    async with ServiceHarness(Retrainer, config, node="gpu", data_dir=tmp_path / "data") as h:
        offered = await h.expect(
            topics.CANDIDATE, where=lambda e: e.payload.bundle.model == again.candidate
        )
        assert offered.topic.endswith(f"/candidates/{OWN}")
        line = h.service._models.models[OWN]
        assert line.incumbent.bundle.digest == own.digest
        await h.service.check_triggers()
        assert len(jobs.specs) == 2
