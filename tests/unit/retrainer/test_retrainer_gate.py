"""The gate refuses each kind of bad candidate, and says why with figures."""

import time
from functools import partial

import numpy as np
import pytest

from edgebus.artifacts import ArtifactError, Bundle, Update, derive_bundle
from edgebus.serving import EngineSettings
from edgebus.training.gate import Latency, decide, forgets_too_much, latency_of
from edgebus.training.job import run_job
from edgebus.training.settings import GateSettings
from edgebus.training.trainer import TrainingFailedError
from edgebus_detection.models import DetectionModel
from retrainer_jobs import GATE, TRAIN, domain, files, job, make_world
from retrainer_samples import DUSK, sample


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def run(spec):
    return run_job(spec, threads=1, report=lambda _: None)


LEAKS = {"leak_distance": 8}
GOOD = domain("new", 0.5, 0.9), domain("old", 0.9, 0.9)


def test_a_gain_that_may_be_chance_is_refused():
    chance = domain("new", 0.5, 0.55, gain_low=-0.01, gain_high=0.12)
    gate = decide([chance, GOOD[1]], GateSettings())
    (reason,) = gate.reasons
    assert "may be chance: 90% interval -0.010 to +0.120 on 50 inputs" in reason
    assert decide([chance, GOOD[1]], GateSettings(require_significant_gain=False)).passed
    assert gate.confidence == 0.9


@pytest.mark.parametrize("where", ["new", "old"])
def test_one_that_loses_a_class_is_refused_and_a_part_of_the_way_is_tried(where):
    classes = {"car": (0.9, 0.75, 20), "person": (0.8, 0.72, 400), "bicycle": (0.9, 0.0, 19)}
    domains = [
        domain(each.name, each.decision.before, each.decision.after, groups={"class": classes})
        if each.name == where
        else each
        for each in GOOD
    ]
    gate = decide(domains, GateSettings())
    (reason,) = gate.reasons
    assert reason == (
        f"{where} domain, class car (20 labels): 0.900 -> 0.750 (-0.150), "
        "a loss of at most 0.100 is allowed"
    )
    assert forgets_too_much(gate, GateSettings())
    assert decide(domains, GateSettings(group_tolerance=0.2)).passed


def test_one_that_loses_a_camera_is_refused_whatever_the_others_gain():
    cameras = {
        "lab/pi-01/collector/gate": (0.9, 0.7, 30),
        "lab/pi-02/collector/yard": (0.2, 1.0, 70),
    }
    new = domain("new", 0.5, 0.9, groups={"stream": cameras})
    gate = decide([new, GOOD[1]], GateSettings())
    assert gate.reasons == (
        "new domain, stream lab/pi-01/collector/gate (30 labels): 0.900 -> 0.700 (-0.200), "
        "a loss of at most 0.100 is allowed",
    )
    assert forgets_too_much(gate, GateSettings())
    assert decide([new, GOOD[1]], GateSettings(group_tolerance=0.3)).passed
    assert decide([new, GOOD[1]], GateSettings(group_min_labels=31)).passed


def test_each_camera_is_measured(world, tmp_path):
    outcome = run(job(world, tmp_path))
    new, old = outcome.gate.domains
    ((name, change),) = new.groups["stream"].items()
    assert (name, change.labels) == ("lab/pi-01/collector/front", new.labels)
    assert change.after == pytest.approx(new.decision.after, abs=0.02)
    assert {name: each.labels for name, each in old.groups["stream"].items()} == {"day": old.labels}


def test_one_whose_scores_mean_less_is_refused_where_that_is_asked_for():
    worse = domain("new", 0.5, 0.9, calibration=(0.05, 0.3))
    assert decide([worse, GOOD[1]], GateSettings()).passed
    gate = decide([worse, GOOD[1]], GateSettings(max_worsening={"calibration_error": 0.1}))
    assert "new domain: calibration_error 0.050 -> 0.300 (+0.250)" in gate.reasons[0]
    assert not forgets_too_much(gate, GateSettings(max_worsening={"calibration_error": 0.1}))


def test_a_slow_one_is_refused():
    gate = decide(GOOD, GateSettings(), latency=Latency(before=10.0, after=16.0))
    assert gate.reasons == (
        "latency: 10.0 -> 16.0 ms per input, 1.60 times the incumbent's; 1.5 is allowed",
    )
    assert (gate.latency_ms_before, gate.latency_ms_after) == (10.0, 16.0)
    assert decide(GOOD, GateSettings(), latency=Latency(before=0.1, after=0.5)).passed
    assert decide(GOOD, GateSettings(max_slowdown=None), latency=Latency(before=1, after=9)).passed


class Slow:
    """A candidate that computes everything many times."""

    def __init__(self, model):
        self._model = model
        self.times = 1

    def predict(self, image):
        for _ in range(self.times - 1):
            self._model.predict(image)
        return self._model.predict(image)

    def __getattr__(self, name):
        return getattr(self._model, name)


def test_latency_is_what_the_models_really_take(world):
    model = DetectionModel.load(Bundle.open(world / "base"), EngineSettings(threads=1))
    slow = Slow(model)
    slow.times = 8
    picture = np.zeros((48, 64, 3), np.uint8)
    found = latency_of(partial(model.predict, picture), partial(slow.predict, picture))
    assert 0 < 3 * found.before < found.after


def test_a_host_that_is_busy_for_a_while_makes_no_candidate_slow():
    calls = []

    def busy():
        calls.append(1)
        time.sleep(0.004 if len(calls) < 30 else 0.001)

    found = latency_of(partial(time.sleep, 0.001), busy)
    assert found.after < 1.5 * found.before + 1
    assert 30 <= len(calls) <= 62


def test_a_job_refuses_a_planted_slow_candidate(world, tmp_path, monkeypatch):
    real = DetectionModel.load

    def load(bundle, settings):
        model = Slow(real(bundle, settings))
        model.times = 60 if bundle.manifest.version == 7 else 1
        return model

    monkeypatch.setattr(DetectionModel, "load", load)
    outcome = run(job(world, tmp_path))
    assert outcome.outcome == "refused"
    assert outcome.reason.startswith("latency: ")
    assert outcome.gate.latency_ms_after > 1.5 * outcome.gate.latency_ms_before
    assert outcome.gate.domains[0].decision.after > 0.9


def test_a_job_refuses_one_that_learnt_from_wrong_labels(world, tmp_path):
    swap = {"person": "car", "car": "person"}
    wrong = []
    for index in range(24):
        good = sample(index, light=DUSK)
        boxes = [box.model_copy(update={"label": swap[box.label]}) for box in good.record.truth]
        wrong.append(sample(index, light=DUSK, boxes=tuple(boxes)))
    outcome = run(
        job(
            world,
            tmp_path,
            train=files(world, wrong),
            replay=None,
            replay_holdout=world / "day",
            gate=GATE.model_copy(update={"interpolate": ()}),
        )
    )
    assert outcome.outcome == "refused"
    assert "new domain: mAP50" in outcome.reason
    assert outcome.bundle is None


def test_a_job_refuses_one_that_forgets(world, tmp_path):
    # Trained at dusk alone, with a rate that leaves nothing as it was.
    outcome = run(
        job(
            world,
            tmp_path,
            replay=None,
            replay_holdout=world / "day",
            settings=TRAIN.model_copy(update={"learning_rate": 2.0}),
            gate=GATE.model_copy(update={"interpolate": ()}),
        )
    )
    assert outcome.outcome == "refused"
    assert "old domain: mAP50 1.000 -> " in outcome.reason
    assert "a loss of at most 0.020 is allowed" in outcome.reason


def test_a_job_refuses_a_leaky_split(world, tmp_path):
    dusk = [sample(index, light=DUSK) for index in range(12)]
    # The held-out pictures are the training pictures, under other names.
    again = files(world, [sample(index, light=DUSK) for index in range(12)])
    spec = job(world, tmp_path, train=files(world, dusk), new_holdout=again, options=LEAKS)
    outcome = run(spec)
    assert outcome.outcome == "refused"
    assert "leaky split: 12 of 12 training pictures (new) look like held-out ones" in outcome.reason
    assert "for example" in outcome.reason
    assert outcome.gate.reasons == (outcome.reason,)
    assert "training" not in outcome.seconds
    folders = run(job(world, tmp_path, replay_holdout=world / "day", options=LEAKS))
    assert folders.outcome == "refused"
    assert "training pictures (replay) look like held-out ones" in folders.reason
    assert "give another replay or replay_holdout folder" in folders.reason


def test_a_split_that_is_all_leak_trains_nothing_even_where_that_is_allowed(world, tmp_path):
    gate = GATE.model_copy(update={"max_leaking": 1.0})
    dusk = files(world, [sample(index, light=DUSK) for index in range(12)])
    outcome = run(job(world, tmp_path, train=dusk, new_holdout=dusk, gate=gate, options=LEAKS))
    assert (outcome.outcome, outcome.reason) == ("refused", "no new sample can be used")


def test_a_few_leaking_pictures_are_left_out(world, tmp_path):
    train = [sample(index, light=DUSK) for index in range(100, 130)]
    held = [sample(index, light=DUSK) for index in range(24, 36)]
    planted = [sample(index, light=DUSK * 0.99) for index in range(24, 28)]
    gate = GATE.model_copy(update={"max_leaking": 0.9})

    def outcome_of(samples, name):
        return run(
            job(
                world,
                tmp_path / name,
                train=files(world, samples),
                new_holdout=files(world, held),
                settings=TRAIN.model_copy(update={"steps": 2}),
                gate=gate,
                options=LEAKS,
            )
        )

    without, with_them = outcome_of(train, "a"), outcome_of([*train, *planted], "b")
    assert with_them.samples == without.samples
    assert with_them.gate.left_out == without.gate.left_out + 4


def test_training_that_gives_nan_is_a_failure_and_leaves_nothing(world, tmp_path):
    wild = TRAIN.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(TrainingFailedError, match=r"diverged at step 2.*lower the learning rate"):
        run(job(world, tmp_path, settings=wild))
    assert not list(tmp_path.glob("candidate*"))


def test_ten_thousand_near_identical_samples_are_refused(world, tmp_path):
    one = files(world, [sample(3, light=DUSK)])[0]
    many = tuple(one.model_copy(update={"id": f"s{number}"}) for number in range(10_000))
    held = files(world, [sample(3, light=DUSK * 0.99)] * 1)
    spec = job(
        world,
        tmp_path,
        train=many,
        new_holdout=tuple(held[0].model_copy(update={"id": f"h{n}"}) for n in range(40)),
        options=LEAKS,
    )
    outcome = run(spec)
    assert outcome.outcome == "refused"
    assert "leaky split: 10000 of 10000" in outcome.reason
    assert "show the same picture again and again" in outcome.reason


def test_a_candidate_with_nan_weights_never_becomes_a_bundle(world, tmp_path):
    base = Bundle.open(world / "base")
    poison = Update(replace={"conv.bias": base.tensors()["conv.bias"] * np.float32("nan")})
    with pytest.raises(ArtifactError):
        derive_bundle(base, poison, out=tmp_path / "poison")
