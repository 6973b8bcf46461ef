"""The gate refuses each kind of bad candidate, and says why with figures."""

import numpy as np
import pytest

from edgebus.artifacts import ArtifactError, Bundle, Update, derive_bundle
from edgebus.contracts import DomainReport
from edgebus.serving import EngineSettings
from edgebus_detection.models import DetectionModel
from edgebus_retrainer.gate import GateRules, Latency, decide, goes_too_far, milliseconds
from edgebus_retrainer.jobs import TrainingFailedError, run_job
from edgebus_retrainer.jobs import _candidates as candidates_module
from retrainer_jobs import GATE, TRAIN, files, job, make_world
from retrainer_samples import DUSK, sample


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def run(spec):
    return run_job(spec, threads=1, report=lambda _: None)


def domain(name, before, after, **fields):
    return DomainReport(
        name=name,
        images=50,
        boxes=100,
        map50_before=before,
        map50_after=after,
        map_before=before / 2,
        map_after=after / 2,
        **fields,
    )


GOOD = domain("new", 0.5, 0.9), domain("old", 0.9, 0.9)


def test_a_gain_that_may_be_chance_is_refused():
    chance = domain("new", 0.5, 0.55, gain_low=-0.01, gain_high=0.12)
    gate = decide([chance, GOOD[1]], GateRules())
    (reason,) = gate.reasons
    assert "may be chance: 90% interval -0.010 to +0.120 on 50 pictures" in reason
    assert decide([chance, GOOD[1]], GateRules(sure=False)).passed
    assert gate.confidence == 0.9


@pytest.mark.parametrize("where", ["new", "old"])
def test_one_that_loses_a_class_is_refused_and_a_part_of_the_way_is_tried(where):
    classes = {
        "per_class_before": {"car": 0.9, "person": 0.8, "bicycle": 0.9},
        "per_class_after": {"car": 0.75, "person": 0.72},
        "per_class_boxes": {"car": 20, "person": 400, "bicycle": 19},
    }
    domains = [
        domain(each.name, each.map50_before, each.map50_after, **classes)
        if each.name == where
        else each
        for each in GOOD
    ]
    gate = decide(domains, GateRules())
    (reason,) = gate.reasons
    assert reason == (
        f"{where} domain, class car (20 boxes): 0.900 -> 0.750 (-0.150), "
        "a loss of at most 0.100 is allowed"
    )
    assert goes_too_far(gate, GateRules())
    assert decide(domains, GateRules(class_tolerance=0.2)).passed


def test_one_that_loses_a_camera_is_refused_whatever_the_others_gain():
    cameras = {
        "per_stream_before": {"lab/pi-01/collector/gate": 0.9, "lab/pi-02/collector/yard": 0.2},
        "per_stream_after": {"lab/pi-01/collector/gate": 0.7, "lab/pi-02/collector/yard": 1.0},
        "per_stream_boxes": {"lab/pi-01/collector/gate": 30, "lab/pi-02/collector/yard": 70},
    }
    new = domain("new", 0.5, 0.9, **cameras)
    gate = decide([new, GOOD[1]], GateRules())
    assert gate.reasons == (
        "new domain, camera lab/pi-01/collector/gate (30 boxes): 0.900 -> 0.700 (-0.200), "
        "a loss of at most 0.100 is allowed",
    )
    assert goes_too_far(gate, GateRules())
    assert decide([new, GOOD[1]], GateRules(camera_tolerance=0.3)).passed
    assert decide([new, GOOD[1]], GateRules(class_boxes=31)).passed


def test_each_camera_is_measured(world, tmp_path):
    outcome = run(job(world, tmp_path))
    new, old = outcome.gate.domains
    assert list(new.per_stream_after) == ["lab/pi-01/collector/front"]
    assert new.per_stream_boxes == {"lab/pi-01/collector/front": new.boxes}
    assert new.per_stream_after["lab/pi-01/collector/front"] == pytest.approx(
        new.map50_after, abs=0.02
    )
    assert old.per_stream_boxes == {"day": old.boxes}


def test_one_whose_scores_mean_less_is_refused_where_that_is_asked_for():
    worse = domain("new", 0.5, 0.9, calibration_before=0.05, calibration_after=0.3)
    assert decide([worse, GOOD[1]], GateRules()).passed
    gate = decide([worse, GOOD[1]], GateRules(max_calibration_loss=0.1))
    assert "new domain: calibration error 0.050 -> 0.300 (+0.250)" in gate.reasons[0]
    assert not goes_too_far(gate, GateRules(max_calibration_loss=0.1))


def test_a_slow_one_is_refused():
    gate = decide(GOOD, GateRules(), latency=Latency(before=10.0, after=16.0))
    assert gate.reasons == (
        "latency: 10.0 -> 16.0 ms per picture, 1.60 times the incumbent's; 1.5 is allowed",
    )
    assert (gate.latency_ms_before, gate.latency_ms_after) == (10.0, 16.0)
    assert decide(GOOD, GateRules(), latency=Latency(before=0.1, after=0.5)).passed
    assert decide(GOOD, GateRules(max_slowdown=None), latency=Latency(before=1, after=9)).passed


class Slow:
    """A candidate that computes everything many times."""

    def __init__(self, model):
        self._model = model
        self.times = 1

    def detect(self, image, *, threshold=None):
        for _ in range(self.times - 1):
            self._model.detect(image, threshold=threshold)
        return self._model.detect(image, threshold=threshold)

    def __getattr__(self, name):
        return getattr(self._model, name)


def test_latency_is_what_the_models_really_take(world):
    model = DetectionModel.load(Bundle.open(world / "base"), EngineSettings(threads=1))
    slow = Slow(model)
    slow.times = 8
    before, after = milliseconds(model, slow, np.zeros((48, 64, 3), np.uint8))
    assert 0 < before < after
    assert after > 3 * before


def test_a_job_refuses_a_planted_slow_candidate(world, tmp_path, monkeypatch):
    real = candidates_module.DetectionModel.load

    def load(bundle, settings):
        model = Slow(real(bundle, settings))
        model.times = 60 if bundle.manifest.version == 7 else 1
        return model

    monkeypatch.setattr(candidates_module.DetectionModel, "load", load)
    outcome = run(job(world, tmp_path))
    assert outcome.outcome == "refused"
    assert outcome.reason.startswith("latency: ")
    assert outcome.gate.latency_ms_after > 1.5 * outcome.gate.latency_ms_before
    assert outcome.gate.domains[0].map50_after > 0.9


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
    gate = GATE.model_copy(update={"leak_distance": 8})
    dusk = [sample(index, light=DUSK) for index in range(12)]
    # The held-out pictures are the training pictures, under other names.
    again = files(world, [sample(index, light=DUSK) for index in range(12)])
    spec = job(world, tmp_path, train=files(world, dusk), new_holdout=again, gate=gate)
    outcome = run(spec)
    assert outcome.outcome == "refused"
    assert "leaky split: 12 of 12 training pictures (new) look like held-out ones" in outcome.reason
    assert "for example" in outcome.reason
    assert outcome.gate.reasons == (outcome.reason,)
    assert "training" not in outcome.seconds
    folders = run(job(world, tmp_path, replay_holdout=world / "day", gate=gate))
    assert folders.outcome == "refused"
    assert "training pictures (replay) look like held-out ones" in folders.reason
    assert "give another replay or replay_holdout folder" in folders.reason


def test_a_split_that_is_all_leak_trains_nothing_even_where_that_is_allowed(world, tmp_path):
    gate = GATE.model_copy(update={"leak_distance": 8, "max_leaking": 1.0})
    dusk = files(world, [sample(index, light=DUSK) for index in range(12)])
    outcome = run(job(world, tmp_path, train=dusk, new_holdout=dusk, gate=gate))
    assert (outcome.outcome, outcome.reason) == ("refused", "no new sample can be used")


def test_a_few_leaking_pictures_are_left_out(world, tmp_path):
    train = [sample(index, light=DUSK) for index in range(100, 130)]
    held = [sample(index, light=DUSK) for index in range(24, 36)]
    planted = [sample(index, light=DUSK * 0.99) for index in range(24, 28)]
    gate = GATE.model_copy(update={"leak_distance": 8, "max_leaking": 0.9})

    def outcome_of(samples, name):
        return run(
            job(
                world,
                tmp_path / name,
                train=files(world, samples),
                new_holdout=files(world, held),
                settings=TRAIN.model_copy(update={"steps": 2}),
                gate=gate,
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
        gate=GATE.model_copy(update={"leak_distance": 8}),
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
