from datetime import timedelta

import numpy as np
import pytest
from pydantic import ValidationError

from collector_examples import NOW, box, detections, frame, picture
from edgebus.contracts import ModelRef
from edgebus.mining import Statistic
from edgebus_collector.drift import (
    ChangeMonitor,
    DriftSettings,
    DriftWatch,
    check_parameter,
    make_detector,
    split_at,
)
from edgebus_detection import Detection

PICTURE = picture()
NEXT = ModelRef(name="street", version=2, digest="b" * 64)


def stream(rng, frames, *, mean, deviation=0.1, likeness=0.0):
    """Confidences of a camera: an AR(1) process, as neighbouring frames are alike."""
    news = rng.normal(0, 1, frames)
    values = np.empty(frames)
    values[0] = news[0]
    for at in range(1, frames):
        values[at] = likeness * values[at - 1] + np.sqrt(1 - likeness**2) * news[at]
    return np.clip(mean + deviation * values, 0, 1)


def monitor(name="adwin", **changes):
    options = {"calibration": 200, "max_block": 10} | changes
    return ChangeMonitor(lambda: make_detector(name), **options)


def changes_of(watcher, values):
    """Frame number and change, one frame a second."""
    found = []
    for at, value in enumerate(values):
        change = watcher.update(float(value), at=NOW + timedelta(seconds=at))
        if change is not None:
            found.append((at, change))
    return found


@pytest.mark.parametrize("likeness", [0.0, 0.5])
def test_adwin_raises_no_false_alarm_in_a_hundred_thousand_frames(likeness):
    rng = np.random.default_rng(3)
    assert changes_of(monitor(), stream(rng, 100_000, mean=0.6, likeness=likeness)) == []


@pytest.mark.parametrize("name", ["adwin", "page-hinkley", "kswin"])
def test_a_sudden_change_is_noticed_within_fifty_frames(name):
    rng = np.random.default_rng(5)
    for _ in range(5):
        values = [*stream(rng, 1500, mean=0.6), *stream(rng, 300, mean=0.35)]
        [(at, change)] = changes_of(monitor(name), values)
        assert 1500 <= at <= 1550
        assert change.before == pytest.approx(0.6, abs=0.02)
        assert change.after == pytest.approx(0.35, abs=0.1)
        assert not change.returned
        # It is also known when it began, not only when it was noticed.
        assert abs((change.since - NOW).total_seconds() - 1500) <= 3
        assert at + 1 - 1500 - 3 <= change.count <= at + 1 - 1500 + 3


def test_neighbours_that_are_alike_are_averaged():
    rng = np.random.default_rng(7)
    watcher = monitor()
    values = [
        *stream(rng, 1000, mean=0.6, likeness=0.8),
        *stream(rng, 500, mean=0.2, likeness=0.8),
    ]
    found = changes_of(watcher, values)
    assert 4 <= watcher.block <= 10
    assert found[0][0] in range(1000, 1150)
    assert (found[0][1].since - NOW).total_seconds() == pytest.approx(1000, abs=20)


def test_what_comes_back_is_said_once_and_the_state_follows():
    rng = np.random.default_rng(11)
    watcher = monitor()
    parts = [(800, 0.6), (400, 0.3), (400, 0.6)]
    found = changes_of(watcher, np.concatenate([stream(rng, n, mean=m) for n, m in parts]))
    assert [(change.returned, at // 100) for at, change in found] == [(False, 8), (True, 12)]
    assert watcher.since is None
    assert watcher.mean == pytest.approx(0.6, abs=0.03)


def test_a_slow_decline_is_said_again_when_it_has_gone_twice_as_far():
    rng = np.random.default_rng(13)
    decline = stream(rng, 3000, mean=0.0, deviation=0.05) + np.linspace(0.8, 0.2, 3000)
    start = stream(rng, 500, mean=0.8, deviation=0.05)
    found = changes_of(monitor(), [*start, *decline])
    assert 2 <= len(found) <= 6
    assert all(not change.returned for _, change in found)
    afters = [change.after for _, change in found]
    assert afters == sorted(afters, reverse=True)


def test_what_is_sure_but_small_is_no_drift():
    rng = np.random.default_rng(29)
    parts = [stream(rng, n, mean=m, deviation=0.05) for n, m in ((1000, 0.7), (1000, 0.73))]
    assert changes_of(monitor(), np.concatenate(parts)) == []
    [(_, change)] = changes_of(monitor(least=0.02), np.concatenate(parts))
    assert change.after == pytest.approx(0.73, abs=0.02)


def test_a_small_change_does_not_hide_the_large_one_behind_it():
    rng = np.random.default_rng(31)
    parts = [
        stream(rng, n, mean=m, deviation=0.05) for n, m in ((800, 0.7), (20, 0.66), (400, 0.3))
    ]
    found = changes_of(monitor(), np.concatenate(parts))
    assert found
    assert all(800 <= at < 870 for at, _ in found)
    assert found[-1][1].after < 0.45


def test_small_steps_that_add_up_are_a_drift():
    rng = np.random.default_rng(37)
    steps = [stream(rng, 800, mean=0.7 - 0.03 * k, deviation=0.05) for k in range(4)]
    found = changes_of(monitor(), np.concatenate(steps))
    assert [change.returned for _, change in found] == [False]


def street(rng, frames, *, period=800, swing=0.15):
    """People come and go: the mean moves to and fro over minutes."""
    turn = 2 * np.pi * np.arange(frames) / period
    return stream(rng, frames, mean=0.5, deviation=0.03) + swing * np.sin(turn)


@pytest.mark.parametrize("period", [300, 800, 1400])
def test_what_comes_and_goes_is_told_in_its_first_rounds_and_then_known(period):
    rng = np.random.default_rng(41)
    found = changes_of(monitor(max_block=5), street(rng, 40_000, period=period))
    assert len(found) <= 5
    assert all(at < 2 * period + 200 for at, _ in found)


def test_a_drift_is_told_each_time_that_it_comes_back():
    rng = np.random.default_rng(43)
    dark = stream(rng, 1500, mean=0.1, deviation=0.03)
    values = np.concatenate([street(rng, 4000), dark, street(rng, 4000), dark])
    found = [(at, c.returned) for at, c in changes_of(monitor(max_block=5), values)]
    told = [at for at, returned in found if not returned]
    assert any(4000 <= at < 4060 for at in told)
    assert any(9500 <= at < 9600 for at in told)
    assert any(5500 <= at < 5700 for at, returned in found if returned)


@pytest.mark.parametrize("day", [60, 120, 180])
def test_what_changes_while_normal_is_learnt_is_no_part_of_it(day):
    rng = np.random.default_rng(47)
    parts = [stream(rng, n, mean=m, deviation=0.05) for n, m in ((day, 0.7), (400, 0.2))]
    [(_, change)] = changes_of(monitor(), np.concatenate(parts))
    assert change.before == pytest.approx(0.7, abs=0.05)
    assert change.after == pytest.approx(0.2, abs=0.05)
    assert abs((change.since - NOW).total_seconds() - day) <= 10


def test_a_constant_is_no_drift_and_neither_divides_by_zero():
    watcher = monitor(calibration=30)
    assert changes_of(watcher, [0.5] * 2000) == []
    assert watcher.calibrated


def test_the_split_is_where_the_mean_changes():
    assert split_at([0, 0, 0, 0, 1, 1, 1]) == 4
    assert split_at([1, 1, 0, 0]) == 2


def watch(**changes):
    options = {"calibration": 50, "max_block": 1}
    return DriftWatch(DriftSettings(**(options | changes)), Detection.statistics)


def answers(rng, frames, *, mean, start=0, camera="front", model=None, novelty=None):
    scores = stream(rng, frames, mean=mean, deviation=0.05)
    for at, score in enumerate(scores, start=start):
        said = detections(frame(at, camera, jpeg=PICTURE), box(score=float(score)))
        changes = {"novelty": novelty}
        if model is not None:
            changes["model"] = model
        yield said.model_copy(update=changes)


def test_the_watch_tells_cameras_apart_and_names_everything():
    rng = np.random.default_rng(17)
    cameras = watch()
    told = []
    for mean, start in ((0.7, 0), (0.3, 200)):
        for said in answers(rng, 200, mean=mean, start=start):
            told += cameras.update(said)
        for said in answers(rng, 200, mean=0.7, start=start, camera="back"):
            assert cameras.update(said) == []
    [drift] = told
    assert (drift.stream, drift.statistic, drift.method) == ("front", "confidence", "adwin")
    assert 200 <= drift.index < 250
    assert drift.before > 0.6
    assert drift.after < 0.4
    assert cameras.streams == {"front": 1, "back": 0}
    assert cameras.state("front").drifted == ("confidence",)
    assert cameras.state("front").since == drift.since
    assert cameras.state("back").drifted == ()
    assert cameras.state("side") is None


def test_another_model_is_another_normal():
    rng = np.random.default_rng(19)
    cameras = watch()
    for said in answers(rng, 300, mean=0.7):
        cameras.update(said)
    told = [
        drift for said in answers(rng, 300, mean=0.3, model=NEXT) for drift in cameras.update(said)
    ]
    assert told == []
    assert cameras.state("front").means["confidence"] == pytest.approx(0.3, abs=0.03)


def test_novelty_that_jumps_is_a_drift_even_where_confidence_does_not_notice():
    rng = np.random.default_rng(23)
    cameras = watch()
    for said in answers(rng, 100, mean=0.7):
        near = said.model_copy(update={"novelty": float(rng.uniform(0.4, 0.9))})
        assert cameras.update(near) == []
    told = []
    for said in answers(rng, 50, mean=0.7):
        far = said.model_copy(update={"novelty": float(rng.uniform(4, 6))})
        told += cameras.update(far)
    [drift] = told
    assert drift.statistic == "novelty"
    assert 0.4 < drift.before < 0.9
    assert 4 < drift.after < 6


def test_frames_without_boxes_count_only_where_they_shall():
    nothing = detections(frame(0, jpeg=PICTURE))
    for names, means in (((), {}), (("confidence",), {"confidence": 0.0})):
        cameras = watch(zero_if_absent=names)
        cameras.update(nothing)
        assert cameras.state("front").means == means


def test_cameras_that_are_only_names_are_forgotten():
    cameras = watch()
    for number in range(400):
        said = detections(frame(0, f"c{number}", jpeg=PICTURE), box(score=0.5))
        cameras.update(said)
    assert cameras.state("c0") is None
    assert cameras.state("c399") is not None


@pytest.mark.parametrize(("name", "parameter"), [("adwin", 1.5), ("kswin", 0.0)])
def test_a_parameter_that_makes_no_sense_is_refused(name, parameter):
    with pytest.raises(ValueError, match=f"{name} has to be between 0 and 1"):
        check_parameter(name, parameter)
    with pytest.raises(ValidationError, match="parameter"):
        DriftSettings(method=name, parameter=parameter)


def test_a_statistic_that_raises_or_is_no_number_leaves_the_others_watched():
    said = iter([KeyError("colour"), -2.0, float("nan"), None] + [0.5] * 36)

    def strange(prediction):
        value = next(said)
        if isinstance(value, Exception):
            raise value
        return value

    statistics = {
        "strange": Statistic(value=strange, min_change=0.1, logarithmic=True),
        "score": Statistic(value=lambda seen: 0.25, min_change=0.1),
    }
    watch = DriftWatch(DriftSettings(calibration=30), statistics)
    for index in range(40):
        said_now = detections(frame(index))
        assert watch.update(said_now) == []
    assert watch.failed == 3
    assert watch.state(said_now.stream).means == {
        "score": 0.25,
        "strange": pytest.approx(0.405, 0.01),
    }
