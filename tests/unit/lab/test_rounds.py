"""Rounds from messages: in order, twice, late, without some, and by clocks that disagree."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import permutations
from random import Random

import pytest
from rich.console import Console

from edgebus.contracts import (
    BundleRef,
    Candidate,
    Collected,
    GateReport,
    Message,
    ModelRef,
    ModelStatus,
    Release,
    TrainingProgress,
    TrainingResult,
)
from edgebus.lab.round_report import clock_skew, round_summary
from edgebus.lab.rounds import CLOUD_STAGES, EDGE_STAGES, Round, Rounds
from edgebus_detection.lab.measure import build_summary
from edgebus_detection.lab.pictures import PictureKeeper
from edgebus_detection.lab.report import write_run
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.view import detection_table

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
OLD = ModelRef(name="street", version=1, digest="1" * 64)
NEW = ModelRef(name="street", version=2, digest="2" * 64)
BUNDLE = BundleRef(model=NEW, provider="demo/cloud/distributor", index_size=500, size=9_000)
EDGES = ("edge-1", "edge-2")
ALL = [name for name, _ in CLOUD_STAGES + EDGE_STAGES]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def progress(seconds: float, phase: str, *, began: float = 62.0) -> TrainingProgress:
    return TrainingProgress(
        time=at(seconds), source="demo/cloud/retrainer", job="job-1", model=OLD,
        phase=phase, step=0, steps=0, seconds=max(0.0, seconds - began),  # type: ignore[arg-type]
    )  # fmt: skip


def result(outcome: str = "accepted", **changes: object) -> TrainingResult:
    fields = {
        "time": at(90), "source": "demo/cloud/retrainer", "job": "job-1", "model": OLD,
        "candidate": NEW if outcome == "accepted" else None, "outcome": outcome,
        "reason": "", "trigger": "count", "samples": 60, "replay": 200, "started": at(61),
        "seconds": {
            "waiting": 0.99, "starting": 1.0, "preparing": 3.0, "training": 20.0,
            "evaluating": 4.0, "publishing": 0.5, "keeping": 0.49,
        },
        "collected": Collected(
            first_captured=at(30), last_captured=at(59), last_sent=at(59.5),
            last_source="demo/edge-2/collector", last_received=at(60),
        ),
    }  # fmt: skip
    return TrainingResult.model_validate(fields | changes)


def status(node: str, when: float, state: str, **changes: object) -> ModelStatus:
    fields = {
        "time": at(when), "source": f"demo/{node}/detector", "state": state,
        "serving": OLD, "target": NEW,
    }  # fmt: skip
    return ModelStatus.model_validate(fields | changes)


def updates(node: str, *, late: float = 0.0) -> list[ModelStatus]:
    measured = {"fetching": 1.0, "checking": 0.1, "loading": 0.4 + late}
    served = {"serving": NEW, "target": None, "seconds": measured}
    return [
        status(node, 92.1, "downloading"),
        status(node, 93.1, "downloaded"),
        status(node, 93.15, "verified"),
        status(node, 93.2, "updating"),
        status(node, 93.6 + late, "updated", **served),
    ]


def release(seconds: float = 92.0, **changes: object) -> Release:
    return Release(
        time=at(seconds), source="demo/cloud/distributor", channel="stable", bundle=BUNDLE,
        sequence=2, **changes,  # type: ignore[arg-type]
    )  # fmt: skip


def story() -> list[Message]:
    """One round: 30 s to 94 s; the second edge is the slower one."""
    return [
        *(status(node, 1, "idle", target=None) for node in EDGES),
        progress(62, "preparing"),
        progress(63, "preparing"),
        progress(65, "training"),
        progress(75, "training"),
        progress(85, "evaluating"),
        progress(87, "evaluating"),
        progress(89, "publishing"),
        result(),
        Candidate(
            time=at(90.5), source="demo/cloud/retrainer", bundle=BUNDLE, job="job-1",
            gate=GateReport(passed=True),
        ),
        release(intake_s=1.5),
        *updates("edge-1"),
        *updates("edge-2", late=0.4),
    ]  # fmt: skip


def tell(rounds: Rounds, messages: Iterable[Message]) -> Rounds:
    for message in messages:
        match message:
            case TrainingProgress():
                rounds.on_progress(message)
            case TrainingResult():
                rounds.on_result(message)
            case Candidate():
                rounds.on_candidate(message)
            case Release():
                rounds.on_release(message)
            case ModelStatus():
                rounds.on_model_status(message.source.split("/")[1], "detector", message)
    return rounds


def only(messages: Iterable[Message]) -> Round:
    (found,) = tell(Rounds(), messages).all()
    return found


def whole(found: Round) -> float:
    path = found.path()
    return (path[-1].ended - path[0].began).total_seconds()


def test_every_stage_is_there_and_they_add_up():
    found = only(story())
    assert [stage.name for stage in found.path()] == ALL
    assert found.missing == ()
    assert found.backwards == ()
    assert found.last_edge == "edge-2/detector"
    seconds = {stage.name: round(stage.seconds, 6) for stage in found.path()}
    assert seconds == {
        "collecting": 29, "choosing": 0.5, "uploading": 0.5, "waiting": 1, "starting": 1,
        "labelling": 3, "training": 20, "judging": 4, "writing": 1, "offering": 0.5,
        "releasing": 1.5, "announcing": 0.1, "fetching": 1, "checking": 0.1, "loading": 0.8,
    }  # fmt: skip
    assert found.seconds() == pytest.approx(64) == whole(found)
    assert found.seconds(without=frozenset({"training"})) == pytest.approx(44)
    assert sum(s.seconds for s in found.path("edge-1/detector")) == pytest.approx(63.6)


def test_what_services_measured_stands_beside_it_and_agrees():
    stages = {stage.name: stage for stage in only(story()).path()}
    measured = {
        name: stage.measured_s for name, stage in stages.items() if stage.measured_s is not None
    }
    assert measured.keys() == set(ALL) - {
        "collecting",
        "choosing",
        "uploading",
        "offering",
        "announcing",
    }
    for name, seconds in measured.items():
        assert seconds == pytest.approx(stages[name].seconds, abs=0.011), name


def test_the_same_comes_of_it_in_any_order_and_twice():
    expected = only(story())
    for seed in range(200):
        messages = [*story(), *story()]
        Random(seed).shuffle(messages)
        assert only(messages) == expected


def test_what_is_said_again_after_a_reconnect_changes_nothing():
    later = [
        release(120),
        status("edge-1", 130, "updated", serving=NEW, target=None, seconds={"loading": 9.0}),
        status("edge-1", 131, "idle", serving=NEW, target=None),
    ]
    assert only([*story(), *later]) == only(story())


@pytest.mark.parametrize("lost", range(len(story())))
def test_without_any_one_message_the_rest_still_adds_up(lost):
    messages = story()
    gone = messages.pop(lost)
    rounds = tell(Rounds(), messages).all()
    if isinstance(gone, TrainingResult):
        assert rounds == []
        return
    (found,) = rounds
    assert found.seconds() == pytest.approx(whole(found))
    names = [name for stage in found.path() for name in stage.name.split("+")]
    assert names == [name for name in ALL if name in names]
    if isinstance(gone, Candidate):
        assert "offering" in found.missing
        assert "offering+releasing" in [stage.name for stage in found.path()]


def test_an_edge_that_never_served_it_is_none_of_the_round():
    messages = [m for m in story() if m.source != "demo/edge-2/detector"]
    failed = [status("edge-2", 92.1, "downloading"), status("edge-2", 95, "failed", error="disk")]
    assert set(only([*messages, *failed]).edges) == {"edge-1/detector"}


def test_a_round_that_was_refused_ends_with_its_result():
    gone = {"publishing"}
    measured = {k: v for k, v in result().seconds.items() if k not in gone}
    found = only([*story()[:8], result("refused", seconds=measured)])
    assert found.version is None
    assert found.edges == {}
    assert found.missing == ()
    assert [stage.name for stage in found.path()][-2:] == ["training", "judging+writing"]
    assert found.seconds() == pytest.approx(60)


def test_a_job_that_crashed_counts_its_last_attempt():
    first = [progress(s, p, began=61.2) for s, p in ((61.5, "preparing"), (61.9, "training"))]
    second = story()
    for order in permutations(([first[0]], [first[1]], second)):
        stages = {s.name: s.seconds for s in only([m for part in order for m in part]).path()}
        assert stages["training"] == 20
        assert stages["labelling"] == 3


def test_a_message_that_took_long_to_write_is_of_the_same_attempt():
    # Between its two clocks a busy host may pause.
    slow = progress(62.8, "preparing", began=62.8)
    messages = [slow if isinstance(m, TrainingProgress) and m.time < at(63) else m for m in story()]
    stages = {stage.name: stage.seconds for stage in only(messages).path()}
    assert stages["starting"] == pytest.approx(1.8)
    assert stages["training"] == 20


def test_a_retrainer_that_says_nothing_of_its_samples():
    messages = [m for m in story() if not isinstance(m, TrainingResult)]
    found = only([*messages, result(collected=None, seconds={})])
    assert found.stages[0].name == "starting"
    assert found.seconds() == pytest.approx(33)


def test_clocks_that_disagree_show():
    behind = timedelta(seconds=5)
    messages = [
        m.model_copy(update={"time": m.time - behind}) if m.source.startswith("demo/edge-1") else m
        for m in story()
    ]
    found = only(messages)
    (stage,) = found.backwards
    assert (stage.name, stage.node) == ("announcing", "edge-1")
    assert stage.seconds == pytest.approx(-4.9)
    # The sum is right all the same for the edge whose clock is.
    assert found.seconds() == pytest.approx(64)

    rounds = Rounds()
    assert rounds.lag_s("edge-1") is None
    for delay in (0.2, 0.004, 0.1):
        rounds.on_clock("demo/edge-1/detector", at(10) - behind, at(10 + delay))
    assert rounds.lag_s("edge-1") == pytest.approx(5.004)


def test_rounds_of_an_earlier_run_are_left_out():
    rounds = tell(Rounds(), story())
    assert rounds.all(since=at(91)) == []
    assert len(rounds.all(since=at(0))) == 1


def test_a_run_leaves_them_behind(tmp_path, capsys):
    state = DetectionState()
    tell(state.rounds, story())
    state.rounds.on_clock("demo/edge-1/detector", at(10), at(10.002))
    summary = build_summary(
        state, name="demo", started=at(0), finished=at(100), closed=True, outcome="done"
    )
    files = write_run(state, summary, PictureKeeper(), tmp_path)
    assert {"rounds.csv", "rounds.png"} <= {file.name for file in files}
    with (tmp_path / "rounds.csv").open() as file:
        rows = list(csv.DictReader(file))
    stages = [row for row in rows if row["stage"] != "total"]
    assert len(stages) == len(CLOUD_STAGES) + 2 * len(EDGE_STAGES)
    totals = {row["edge"]: float(row["seconds"]) for row in rows if row["stage"] == "total"}
    for edge, total in totals.items():
        parts = [float(row["seconds"]) for row in stages if row["edge"] in ("", edge)]
        assert sum(parts) == pytest.approx(total, abs=1e-4)
    assert totals == {"edge-1/detector": 63.6, "edge-2/detector": 64.0}
    lags = {row["clock"]: row["clock_lag_s"] for row in stages}
    assert lags == {"edge-1": "0.002000", "edge-2": "", "cloud": ""}
    page = (tmp_path / "report.html").read_text()
    assert "Rounds of learning" in page
    assert "v2: 64.0 s, of these 15.0 s neither collecting nor training" in page
    Console(width=100, file=None).print(detection_table(summary, state.rounds.all()))
    assert "v2: 64.0 s" in capsys.readouterr().out


def test_a_run_without_rounds_has_an_empty_table(tmp_path):
    state = DetectionState()
    summary = build_summary(
        state, name="demo", started=at(0), finished=at(100), closed=False, outcome="stopped"
    )
    write_run(state, summary, PictureKeeper(), tmp_path)
    assert (tmp_path / "rounds.csv").read_text().count("\n") == 1
    assert not (tmp_path / "rounds.png").exists()
    assert "Rounds of learning" not in (tmp_path / "report.html").read_text()


def test_clocks_that_disagree_are_told():
    found = only(story())
    assert clock_skew([found]) == ""
    early = [m for m in story() if not isinstance(m, Release)] + [release(94)]
    assert clock_skew([only(early)]) == (
        "Clocks disagree by 1.900 s or more: by that of edge-1, announcing ended before it began."
    )
    assert round_summary(found).endswith("(judging 4.0 s, labelling 3.0 s, releasing 1.5 s)")
