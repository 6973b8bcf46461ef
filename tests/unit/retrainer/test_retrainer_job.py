"""Jobs on the tiny model: it sees squares by day, and misses them at dusk until it is trained."""

import asyncio
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from edgebus.artifacts import Bundle
from edgebus.contracts import StoredSample
from edgebus.files import write_file
from edgebus.serving import EngineSettings
from edgebus.training.job import run_job
from edgebus.training.job_process import JobCrashedError, run_process
from edgebus.training.job_spec import Phase, StepDone
from edgebus.training.settings import GateSettings
from edgebus.workload import UntrainableError
from edgebus_detection.datasets.material import TeacherMissingError, UnknownClassError, prepare
from edgebus_detection.metrics import MapResult, Matches
from edgebus_detection.metrics.measuring import figures_of
from edgebus_detection.models import DetectionModel
from edgebus_detection.training import DetectionTraining, trainer
from edgebus_detection.vision import decode_picture
from retrainer_jobs import TRAIN, files, job, make_world
from retrainer_samples import DUSK, jpeg_of, sample


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def run(spec, events=None):
    return run_job(spec, threads=1, report=[].append if events is None else events.append)


def boxes_at_dusk(bundle):
    model = DetectionModel.load(bundle, EngineSettings(threads=1))
    picture = decode_picture(jpeg_of(5, light=DUSK)[0])
    return len(model.detect(picture, threshold=0.02)[0])


def test_a_job_brings_back_what_dusk_took(world, tmp_path):
    events = []
    outcome = run(job(world, tmp_path), events)
    assert outcome.outcome == "accepted", outcome.reason
    new, old = outcome.gate.domains
    assert (new.labelled_by, old.labelled_by) == ("truth", "day")
    assert new.decision.before < 0.2
    assert new.decision.after > 0.9
    assert old.decision.after >= old.decision.before - 0.02
    assert (outcome.samples, outcome.replay) == (24, 60)
    assert 0 < outcome.update_bytes < 4096
    assert list(outcome.seconds) == ["preparing", "training", "evaluating", "publishing"]
    bundle = Bundle.open(outcome.bundle)
    base = Bundle.open(world / "base")
    assert bundle.manifest.version == 7
    assert bundle.manifest.parent == base.digest
    assert bundle.manifest.trained_on.samples == 24
    assert bundle.manifest.trained_on.job == "job-1"
    assert bundle.manifest.trained_on.datasets == ("day",)
    assert bundle.manifest.metrics["mAP50_new"] == new.decision.after
    assert bundle.manifest.probe is not None
    assert boxes_at_dusk(base) == 0
    assert boxes_at_dusk(bundle) == 2
    phases = [event.phase for event in events if isinstance(event, Phase)]
    assert phases == ["preparing", "training", "training", "evaluating", "publishing"]
    steps = [event for event in events if isinstance(event, StepDone) and event.loss is not None]
    assert [step.step for step in steps] == list(range(1, 121))
    assert steps[-1].loss < steps[0].loss


def test_the_same_job_gives_the_same_weights(world, tmp_path):
    few = TRAIN.model_copy(update={"steps": 8})
    gate = GateSettings(min_items=4, tolerance=1.0)
    digests = set()
    for name in ("a", "b"):
        outcome = run(job(world, tmp_path / name, settings=few, gate=gate))
        bundle = Bundle.open(outcome.bundle)
        digests.add(bundle.index.file("weights.safetensors").digest)
    assert len(digests) == 1


def test_a_worse_candidate_is_refused_with_its_figures(world, tmp_path):
    wrong = [
        sample(index, light=1.0, boxes=())  # says that the squares by day are nothing
        for index in range(24)
    ]
    spec = job(
        world,
        tmp_path,
        train=files(world, wrong),
        replay=None,
        replay_holdout=world / "day",
        settings=TRAIN.model_copy(update={"replay_share": 0.0}),
    )
    outcome = run(spec)
    assert outcome.outcome == "refused"
    assert outcome.bundle is None
    assert "new domain: mAP50" in outcome.reason
    assert "old domain: mAP50" in outcome.reason
    assert not list(tmp_path.glob("draft*"))


def test_one_that_forgets_is_tried_half_way(world, tmp_path, monkeypatch):
    def found(map50):
        hits = np.arange(20) < round(20 * map50)
        matches = tuple(
            Matches(np.float32([1 - i / 40]), np.array([0]), hits[i : i + 1], np.array([0]))
            for i in range(20)
        )
        result = MapResult(map50=map50, map=map50 / 2, per_class={}, images=20, boxes=24)
        return figures_of(result, matches, boxes_of={}, streams=("a",) * 20)

    # new and old domain, for: the incumbent, the whole way, half of it, a quarter
    figures = [found(value) for value in (0.5, 0.9, 0.9, 0.6, 0.8, 0.8, 0.7, 0.89)]
    measured = iter(figures)
    monkeypatch.setattr(trainer, "measure", lambda *_, **__: next(measured))
    gate = GateSettings(min_items=4, interpolate=(0.5, 0.25, 0.1))
    outcome = run(job(world, tmp_path / "a", gate=gate))
    assert outcome.outcome == "accepted"
    assert "0.25 of the way from the old weights to the new" in outcome.reason
    assert next(measured, None) is None
    measured = iter([*figures[:4], *figures[4:6]])
    whole_way = GateSettings(min_items=4, interpolate=(0.5,))
    refused = run(job(world, tmp_path / "b", gate=whole_way))
    assert refused.outcome == "refused"
    assert "old domain: mAP50 0.900 -> 0.800" in refused.reason
    measured = iter([found(value) for value in (0.5, 0.9, 0.9, 0.9)])
    full = Bundle.open(run(job(world, tmp_path / "c", gate=gate)).bundle).tensors()
    quarter = Bundle.open(outcome.bundle).tensors()
    base = Bundle.open(world / "base").tensors()
    name = "conv.bias"
    assert quarter[name] == pytest.approx(base[name] + 0.25 * (full[name] - base[name]), abs=1e-5)


def test_too_few_held_out_pictures_are_said_before_training(world, tmp_path):
    events = []
    outcome = run(job(world, tmp_path, new_holdout=(), gate=GateSettings(min_items=4)), events)
    assert outcome.outcome == "skipped"
    assert "of the new domain: 0, 4 are needed" in outcome.reason
    assert not outcome.gate.passed
    assert [event.phase for event in events if isinstance(event, Phase)] == ["preparing"]
    without_old = run(job(world, tmp_path, replay=None))
    assert "give a replay folder" in without_old.reason


def test_classes_of_few_boxes_are_measured_in_neither_domain(world, tmp_path):
    # 20 of the folder's 80 pictures are held out, with a box of each class.
    for min_boxes, labelled, ignored in ((20, 40, 0), (21, 0, 40)):
        spec = job(world, tmp_path, options={"min_measured_boxes": min_boxes})
        manifest = Bundle.open(spec.base).manifest
        material = prepare(
            spec,
            DetectionTraining.model_validate(spec.options),
            manifest,
            teacher=None,
            enough=lambda new, old: True,
            on_picture=lambda done, total: None,
        )
        old = [picture.truth for picture in material.old_holdout]
        assert len(old) == 20
        assert sum(len(truth.labels) for truth in old) == labelled
        assert sum(len(truth.ignore) for truth in old) == ignored


def test_without_an_old_domain_it_passes_only_if_allowed(world, tmp_path):
    gate = GateSettings(min_items=4, require_old=False)
    outcome = run(job(world, tmp_path, replay=None, gate=gate))
    assert outcome.outcome == "accepted"
    assert [domain.name for domain in outcome.gate.domains] == ["new"]


def test_earlier_held_out_samples_are_an_old_domain(world, tmp_path):
    day = files(world, [sample(index) for index in range(200, 212)])
    earlier = files(world, [sample(index) for index in range(300, 306)])
    outcome = run(job(world, tmp_path, replay=None, old_holdout=day, replay_samples=earlier))
    assert outcome.gate.domains[1].items == 12
    assert outcome.replay == 6


def test_a_teacher_labels_what_has_no_truth(world, tmp_path):
    with pytest.raises(TeacherMissingError, match="36 samples have no ground truth"):
        run(job(world, tmp_path, truth=False))
    # A model that sees at dusk: the outcome of the first job.
    taught = run(job(world, tmp_path / "teacher")).bundle
    labels = {"teacher": str(taught), "reject": 0.01, "accept": 0.02}
    outcome = run(job(world, tmp_path / "pupil", truth=False, options={"labels": labels}))
    assert outcome.outcome == "accepted", outcome.reason
    assert outcome.gate.domains[0].decision.after > 0.9
    assert outcome.gate.domains[0].labelled_by == "teacher"


def test_a_class_that_the_model_does_not_have_is_named(world, tmp_path):
    with pytest.raises(UnknownClassError, match="no perso; did you mean 'person'"):
        run(job(world, tmp_path, options={"labels": {"classes": ["car", "perso"]}}))


def test_missing_and_corrupt_pictures_are_left_out_and_named(world, tmp_path):
    good = job(world, tmp_path)
    gone = StoredSample(id="gone", path=tmp_path / "gone.jpg")
    cut = StoredSample(id="cut", path=tmp_path / "cut.jpg")
    write_file(cut.path, good.train[0].path.read_bytes()[:500])
    few = TRAIN.model_copy(update={"steps": 2})
    spec = good.model_copy(update={"train": (gone, cut, *good.train), "settings": few})
    outcome = run(spec)
    assert outcome.samples == 24
    assert [text.split(":")[0] for text in outcome.unusable] == ["sample gone", "sample cut"]
    nothing = run(good.model_copy(update={"train": (gone, cut)}))
    assert nothing.outcome == "refused"
    assert nothing.reason == "no new sample can be used"


def test_a_head_without_a_loss_is_refused_by_name(world, tmp_path):
    base = Bundle.open(world / "base")
    manifest = base.manifest.model_copy(
        update={"trainable": False, "trainable_reason": "operator Loop (node 3) has no rule"}
    )
    from edgebus.artifacts import write_bundle

    write_bundle(
        tmp_path / "odd", manifest=manifest, graph=base.graph_bytes(), weights=base.weights.data
    )
    with pytest.raises(UntrainableError, match="'tiny' cannot be trained: operator Loop"):
        run(job(world, tmp_path, base=tmp_path / "odd"))


async def collect(spec):
    events = []

    async def keep(event):
        events.append(event)

    return await run_process(spec, on_event=keep), events


async def test_a_job_runs_in_a_process_of_its_own(world, tmp_path):
    outcome, events = await collect(job(world, tmp_path))
    assert outcome.outcome == "accepted"
    assert Bundle.open(outcome.bundle).manifest.version == 7
    assert sum(isinstance(event, StepDone) and event.loss is not None for event in events) == 120


async def test_bad_input_is_a_failure_with_its_reason(world, tmp_path):
    outcome, _ = await collect(job(world, tmp_path, replay=tmp_path / "nowhere"))
    assert outcome.outcome == "failed"
    assert "nowhere: is not there" in outcome.reason


async def test_a_killed_job_is_a_crash_and_a_cancelled_one_is_killed(world, tmp_path):
    long = TRAIN.model_copy(update={"steps": 10**6})
    started = asyncio.Event()
    pids = []

    async def on_event(event):
        if isinstance(event, StepDone) and event.loss is not None:
            children = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, check=True
            ).stdout.split()
            pids.extend(int(pid) for pid in children)
            started.set()

    spec = job(world, tmp_path, settings=long)
    task = asyncio.create_task(run_process(spec, on_event=on_event))
    await started.wait()
    worker = _worker(pids)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(JobCrashedError, match="killed by signal 9") as caught:
        await task
    assert caught.value.code == -9

    started.clear()
    pids.clear()
    task = asyncio.create_task(run_process(spec, on_event=on_event))
    await started.wait()
    worker = _worker(pids)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def _worker(pids):
    for pid in pids:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"edgebus.training.worker" in file.read():
                    return pid
        except OSError:
            continue
    raise AssertionError(f"no worker among {pids}")


def test_a_job_ends_with_its_parent(world, tmp_path):
    spec = job(world, tmp_path, settings=TRAIN.model_copy(update={"steps": 10**6}))
    path = tmp_path / "spec.json"
    path.write_text(spec.model_dump_json())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-m", "edgebus.training.worker", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    while b'"loss"' not in child.stdout.readline():
        assert child.poll() is None
    child.stdin.close()
    assert child.wait(timeout=30) == 3
    child.stdout.close()


def test_dusk_is_what_the_pictures_say():
    assert (
        np.mean(decode_picture(jpeg_of(0, light=DUSK)[0]))
        < np.mean(decode_picture(jpeg_of(0)[0])) / 2
    )
