"""The retrainer on the in-memory bus, with real jobs on the tiny model."""

import asyncio
import json
import os
import signal
import sqlite3
import struct

import numpy as np
import pytest
from structlog.testing import capture_logs

from edgebus.artifacts import Bundle, Store, Update, derive_bundle
from edgebus.contracts import (
    Drift,
    ModelRef,
    Release,
    RetrainCommand,
    operator,
    split_of,
    topics,
    utc_now,
)
from edgebus.contracts.topics import DRIFT
from edgebus.samples import LabelBook, SampleFiles, SampleStore, open_database
from edgebus.service import ServiceFailedError
from edgebus.service.testing import ServiceHarness
from edgebus.training.journal import JobJournal
from edgebus.transfer import ArtifactFetcher, ArtifactProvider, reference
from edgebus.workload import load_workload
from edgebus_detection.messages import SAMPLES, BoxLabels, SourcedBox
from edgebus_detection.models.testing import tiny_bundle
from edgebus_retrainer import Retrainer, RetrainerSettings
from retrainer_samples import DUSK, sample, square, write_day

ASK = RetrainCommand(source="lab/test/test")
TRAIN = [index for index in range(400) if split_of("front", index) == "train"]
HOLDOUT = [index for index in range(400) if split_of("front", index) == "holdout"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny_bundle(folder / "base")
    write_day(folder / "day", 80)
    return folder


def settings(world, **changes):
    fields = {
        "bundle": world / "base",
        "replay": world / "day",
        "train": {"steps": 120, "batch": 4, "learning_rate": 0.1, "threads": 1, "nice": 0},
        "gate": {"min_items": 4},
        "options": {"leak_distance": -1},
        "trigger": {"min_samples": 12},
        "tick_s": 0.05,
    }
    return RetrainerSettings(**(fields | changes))


def harness(config, **options):
    return ServiceHarness(Retrainer, config, node="gpu", **options)


async def send(h, *samples):
    for each in samples:
        await h.publish(SAMPLES.at(h.node("pi-01")), each)


class AsItIs:
    """Bytes that no encoder of ours would make."""

    content_type = "image/jpeg"

    def __init__(self, data):
        self._data = data

    def encode(self):
        return self._data


def at_dusk(indices, **options):
    return [sample(index, light=DUSK, **options) for index in indices]


async def status_with(h, **fields):
    def fits(event):
        return all(getattr(event.payload, name) == value for name, value in fields.items())

    return (await h.expect(topics.STORE_STATUS, where=fits)).payload


async def test_enough_samples_become_a_candidate(world, tmp_path):
    async with harness(settings(world), data_dir=tmp_path) as h:
        await send(h, *at_dusk(HOLDOUT[:8]), *at_dusk(TRAIN[:11]))
        status = await status_with(h, samples=19)
        assert (status.train, status.holdout, status.untrained, status.needed) == (11, 8, 11, 12)
        assert status.trigger == "waits for untrained samples: 11 of 12"
        await send(h, *at_dusk(TRAIN[11:12]))
        result = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert result.outcome == "accepted", result.reason
        assert (result.trigger, result.samples, result.replay) == ("count", 12, 60)
        assert result.candidate.version == 2
        phases = [event.payload.phase for event in h.received(topics.TRAINING_PROGRESS)]
        assert phases == sorted(
            phases, key=["preparing", "training", "evaluating", "publishing"].index
        )
        candidate = (await h.expect(topics.CANDIDATE)).payload
        assert candidate.bundle.model == result.candidate
        assert candidate.gate.passed
        fetched = await ArtifactFetcher(h.bus, h.bus.identity, Store(tmp_path / "edge")).fetch(
            candidate.bundle
        )
        assert fetched.manifest.trained_on.job == result.job
        card = (tmp_path / "retrainer" / "cards" / "tiny-v2" / "card.md").read_text()
        assert card.startswith("# tiny v2: accepted\n")
        await status_with(h, untrained=0, trigger="waits for the release of v2")


def drift(version=1, **fields):
    return Drift(
        source="test/pi-01/collector",
        stream="front",
        statistic="confidence",
        method="adwin",
        before=0.8,
        after=0.4,
        count=30,
        input="frame-1",
        index=1,
        since=utc_now(),
        model=ModelRef(name="tiny", version=version, digest="a" * 64),
        **fields,
    )


async def test_a_drift_starts_a_job_on_fewer_samples(world, tmp_path):
    config = settings(world, trigger={"min_samples": 100, "drift_samples": 12})
    async with harness(config, data_dir=tmp_path) as h:
        here = DRIFT.at(h.node("pi-01"), stream="front")
        await send(h, *at_dusk(HOLDOUT[:8]), *at_dusk(TRAIN[:11]))
        await status_with(h, untrained=11, needed=100)
        await h.publish(here, drift())
        await status_with(h, needed=12, trigger="waits for untrained samples: 11 of 12")
        await h.publish(here, drift(returned=True))
        await status_with(h, untrained=11, needed=100)
        await h.publish(here, drift())
        await send(h, *at_dusk(TRAIN[11:12]))
        result = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert (result.outcome, result.trigger) == ("accepted", "drift")


async def test_redelivered_and_broken_samples(world, tmp_path):
    async with harness(settings(world, trigger={"min_samples": None}), data_dir=tmp_path) as h:
        (one,) = at_dusk(TRAIN[:1])
        await send(h, one, one, one)
        await status_with(h, samples=1)
        (good,) = at_dusk(TRAIN[1:2])
        at = good.jpeg.index(b"\xff\xc0") + 5  # the frame header's height and width
        lying = good.jpeg[:at] + struct.pack(">HH", 96, 128) + good.jpeg[at + 4 :]
        await send(h, AsItIs(lying))
        letter = (await h.expect(topics.DEAD_LETTER)).payload
        assert letter.reason == "invalid"
        assert "128 x 96, its record says 64 x 48" in letter.error
        await send(h, *at_dusk(TRAIN[2:3]))
        await status_with(h, samples=2)


async def test_too_few_held_out_samples_hold_a_job_back_but_not_a_command(world, tmp_path):
    async with harness(settings(world), data_dir=tmp_path) as h:
        reply = await h.request(topics.CMD_RETRAIN, ASK)
        assert not reply.ok
        assert "no untrained sample of tiny" in reply.detail
        await send(h, *at_dusk(TRAIN[:12]))
        status = await status_with(h, untrained=12)
        assert status.trigger == "waits for held-out samples: 0 of 4"
        ask = RetrainCommand(source="lab/test/test")
        reply = await h.request(topics.CMD_RETRAIN, ask)
        assert reply.ok, reply.detail
        result = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert (result.outcome, result.trigger) == ("skipped", "command")
        assert "too few held-out items" in result.reason
        # What was too little to measure on is waited for, not more of what is to be learnt.
        await send(h, *at_dusk(HOLDOUT[:3], truth=False))
        status = await status_with(h, trigger="waits for held-out samples: 3 of 4")
        assert (status.untrained, status.needed) == (12, 12)


def by_hand():
    truth = square("car", 1, 1)
    claim = SourcedBox(box=truth, by=operator("ann"))
    return BoxLabels(labels=(claim,), by=operator("ann"), time=utc_now())


async def test_held_out_samples_that_turn_out_to_be_empty_are_not_counted_again(world, tmp_path):
    teacher = {"teacher": str(world / "base"), "source": "teacher", "reject": 0.2}
    options = {"labels": teacher, "leak_distance": -1}
    async with harness(settings(world, options=options), data_dir=tmp_path) as h:
        # The teacher sees nothing at dusk: what may have had boxes turns out to have none.
        await send(h, *at_dusk(HOLDOUT[:5], truth=False), *at_dusk(TRAIN[:12], truth=False))
        result = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert result.outcome == "skipped"
        words = "waits for held-out samples, new or labelled since the last job"
        status = await status_with(h, trigger=f"{words}: 0 of 4")
        assert status.needed == 12
        # What lies there already counts as soon as somebody says what is on it.
        engine = open_database(tmp_path / "retrainer" / "samples.db")
        kept = SampleStore(
            engine,
            SampleFiles(tmp_path / "retrainer" / "samples"),
            load_workload("detection"),
            max_samples=99,
            max_bytes=9**9,
        )
        held_out = kept.holdout("tiny", limit=9)
        labels = {each.id: by_hand() for each in held_out}
        LabelBook(engine).write(dict(list(labels.items())[:3]))
        await status_with(h, trigger=f"{words}: 3 of 4")
        LabelBook(engine).write(labels)
        await h.expect(topics.TRAINING_PROGRESS)
        again = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert again.trigger == "count"
        assert again.why == "12 untrained samples, of all edges; 12 are enough"


async def test_after_a_refusal_further_samples_are_waited_for(world, tmp_path):
    gate = {"min_items": 4, "min_gain": 1.0}
    train = {"steps": 2, "batch": 4, "threads": 1}
    async with harness(settings(world, gate=gate, train=train), data_dir=tmp_path) as h:
        await send(h, *at_dusk(HOLDOUT[:8]), *at_dusk(TRAIN[:12]))
        result = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert result.outcome == "refused"
        assert "a gain of at least 1.000 is needed" in result.reason
        await status_with(h, needed=32, trigger="waits for untrained samples: 12 of 32")


async def test_it_follows_releases_and_never_reuses_a_version(world, tmp_path):
    base = Bundle.open(world / "base")
    bias = base.tensors()["conv.bias"] + np.float32(0.01)
    other = derive_bundle(
        base, Update(replace={"conv.bias": bias}), version=7, out=tmp_path / "other"
    )
    shelf = Store(tmp_path / "shelf")
    shelf.put_bundle(other)
    config = settings(world, bundle=None, model="tiny")
    async with harness(config, data_dir=tmp_path / "data") as h:
        await status_with(h, trigger="waits for a first version of tiny")
        reply = await h.request(topics.CMD_RETRAIN, ASK)
        assert "release one first" in reply.detail
        provider = ArtifactProvider(h.bus, h.bus.identity, shelf)
        serving = asyncio.create_task(provider.run())
        release = Release(
            source=h.bus.identity.source,
            channel="stable",
            bundle=reference(shelf, other.digest, provider=h.bus.identity),
            sequence=3,
        )
        address = topics.RELEASE.at(h.node("gpu"), model="tiny", channel="stable")
        await h.publish(address, release)
        await status_with(h, trigger="waits for untrained samples: 0 of 12")
        await send(h, *at_dusk(HOLDOUT[:8]), *at_dusk(TRAIN[:12]))
        result = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert result.model.digest == other.digest
        assert result.candidate is not None, result.reason
        assert result.candidate.version == 8
        serving.cancel()
    async with harness(config, data_dir=tmp_path / "data") as h:
        # The incumbent is remembered, and what was offered is offered again.
        again = (await h.expect(topics.CANDIDATE)).payload
        assert again.bundle.model.version == 8
        await status_with(h, trigger="waits for the release of v8")


async def test_versions_that_nobody_trained_on_do_not_fill_the_disk(world, tmp_path):
    base = Bundle.open(world / "base")
    shelf = Store(tmp_path / "shelf")
    config = settings(world, bundle=None, model="tiny")
    async with harness(config, data_dir=tmp_path / "data") as h:
        serving = asyncio.create_task(ArtifactProvider(h.bus, h.bus.identity, shelf).run())
        address = topics.RELEASE.at(h.node("gpu"), model="tiny", channel="stable")
        for number in range(2, 7):
            bias = base.tensors()["conv.bias"] + np.float32(0.01 * number)
            change = Update(replace={"conv.bias": bias})
            bundle = derive_bundle(base, change, version=number, out=tmp_path / f"v{number}")
            shelf.put_bundle(bundle)
            release = Release(
                source=h.bus.identity.source,
                channel="stable",
                bundle=reference(shelf, bundle.digest, provider=h.bus.identity),
                sequence=number,
            )
            await h.publish(address, release)
            async with asyncio.timeout(30):
                while h.service.bundles.bundles() != (bundle.digest,):
                    await asyncio.sleep(0.02)
        serving.cancel()


def interrupt_a_job(folder):
    """The books as kill -9 leaves them in mid-training."""
    connection = sqlite3.connect(folder / "retrainer" / "samples.db")
    with connection:
        connection.execute("UPDATE sample SET job = NULL")
        connection.execute("UPDATE job SET outcome = NULL, result = NULL, finished = NULL")
    connection.close()


async def test_an_interrupted_job_is_taken_up_again(world, tmp_path):
    config = settings(world)
    async with harness(config, data_dir=tmp_path) as h:
        await send(h, *at_dusk(HOLDOUT[:8]), *at_dusk(TRAIN[:12]))
        first = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        weights = weights_of(h, first)
    interrupt_a_job(tmp_path)
    async with harness(config, data_dir=tmp_path) as h:
        # These come too late: the job goes on with what it began with.
        await send(h, *at_dusk(TRAIN[12:15]))
        second = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert second.job == first.job
        assert second.outcome == "accepted"
        assert second.candidate.version == first.candidate.version
        assert second.samples == first.samples == 12
        assert weights_of(h, second) == weights
        assert second.id != first.id


def weights_of(h, result):
    bundle = h.service.bundles.open_bundle(result.candidate.digest)
    return bundle.index.file("weights.safetensors").digest


async def test_a_job_that_keeps_crashing_fails_with_its_log(world, tmp_path):
    config = settings(world, train={"steps": 10**6, "batch": 4, "threads": 1, "max_attempts": 2})
    async with harness(config, data_dir=tmp_path) as h:
        await send(h, *at_dusk(HOLDOUT[:8]), *at_dusk(TRAIN[:12]))
        for _ in range(2):
            await h.expect(
                topics.TRAINING_PROGRESS, where=lambda e: e.payload.loss is not None, timeout=60
            )
            kill_worker(tmp_path)
            h.received(topics.TRAINING_PROGRESS).clear()
            h._seen.clear()
        result = (await h.expect(topics.TRAINING_RESULT, timeout=60)).payload
        assert result.outcome == "failed"
        assert "crashed 2 times" in result.reason
        await status_with(h, untrained=12, needed=32)


def kill_worker(folder):
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if b"edgebus.training.worker" in words and any(str(folder).encode() in w for w in words):
            os.kill(int(entry), signal.SIGKILL)
            return
    raise AssertionError("no worker runs")


async def test_old_results_are_cleared_from_the_bus(world, tmp_path):
    config = settings(world, trigger={"min_samples": None}, store={"results": 1})
    async with harness(config, data_dir=tmp_path) as h:
        await send(h, *at_dusk(TRAIN[:2]))
        await status_with(h, untrained=2)
        for _ in range(3):
            ask = RetrainCommand(source="lab/test/test")
            assert (await h.request(topics.CMD_RETRAIN, ask)).ok
            await h.expect(topics.TRAINING_RESULT, timeout=60)
        retained = [name for name in h.broker.retained if name.endswith("/result")]
        assert len(retained) == 1
    journal = JobJournal(open_database(tmp_path / "retrainer" / "samples.db"))
    assert len(journal.results("tiny", limit=9)) == 3


async def test_a_bundle_of_another_model_is_refused_at_the_start(world, tmp_path):
    with pytest.raises(ServiceFailedError, match=r"model 'tiny', retrainer\.model says 'street'"):
        async with harness(settings(world, model="street"), data_dir=tmp_path):
            pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replay": "nowhere"}, "nowhere: is not there"),
        ({"replay": "empty"}, "empty: holds no labels"),
        ({"replay": "odd"}, r"annotations\.json, annotation 0: .*has no area"),
        ({"replay": "kites"}, r"none of the model's classes \(person, car\)"),
        ({"replay_holdout": "nowhere"}, "nowhere: is not there"),
        (
            {"options": {"labels": {"teacher": "gone.onnx"}}},
            r"gone\.onnx: the teacher is not there",
        ),
        ({"options": {"labels": {"classes": ["cra"]}}}, "has no cra; did you mean 'car'"),
    ],
)
async def test_a_job_that_cannot_work_is_refused_at_the_start(
    world, tmp_path, monkeypatch, changes, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name, odd in (
        ("odd", ('"bbox": [', '"bbox": [9, 9, 0, 0], "was": [')),
        ("kites", ('"name": "', '"name": "kite')),
    ):
        write_day(tmp_path / name, 8)
        path = tmp_path / name / "annotations.json"
        path.write_text(path.read_text().replace(*odd))
    with pytest.raises(ServiceFailedError, match=words) as caught:
        async with harness(settings(world, **changes), data_dir=tmp_path / "data"):
            pass
    assert caught.value.exit_code == 2


async def test_a_relative_replay_folder_behind_a_link_works_and_too_few_pictures_are_told(
    world, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_day(tmp_path / "real", 8)
    (tmp_path / "day").symlink_to(tmp_path / "real")
    with capture_logs() as logs:
        async with harness(settings(world, replay="day"), data_dir=tmp_path / "data"):
            pass
    (found,) = [line["found"] for line in logs if line["event"] == "earlier data"]
    assert found == (
        "day: annotations.json (COCO): 8 of 8 pictures labelled, 16 boxes (8 person, 8 car)"
    )
    (lacking,) = [line["lacking"] for line in logs if line["event"] == "too little data"]
    assert "give replay 16 pictures or more, or replay_holdout 4" in lacking


def test_settings_that_contradict_each_other_are_refused(world):
    with pytest.raises(ValueError, match="needs to know its model"):
        RetrainerSettings()
    with pytest.raises(ValueError, match=r"reject 0\.5 is above"):
        settings(world, options={"labels": {"reject": 0.5}})
    with pytest.raises(ValueError, match="needs a teacher"):
        settings(world, options={"labels": {"source": "teacher"}})
    assert json.loads(settings(world).model_dump_json())["trigger"]["cooldown_samples"] == 20
    assert utc_now().tzinfo is not None
