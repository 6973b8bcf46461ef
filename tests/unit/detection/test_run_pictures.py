from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from edgebus.contracts import GateReport, ModelRef, TrainingResult, split_of
from edgebus_detection.lab.measure import build_summary
from edgebus_detection.lab.pictures import PictureKeeper, write_pictures
from edgebus_detection.lab.report import render_report
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import DetectionSummary
from edgebus_detection.lab.view import detection_table
from edgebus_detection.messages import Frame
from lab_story import NEW, OLD, answer, at, picture, play_story, record, status, truth
from retrainer_jobs import domain

PASS = 160
"""Frames of the recording; a multiple of the period with which frames are held out."""


def film(
    state: DetectionState, keeper: PictureKeeper, *, first: int, model: ModelRef, found: int
) -> None:
    """One pass of a recording without ground truth."""
    for index in range(first, first + PASS):
        frame = Frame.build(picture("north", index % PASS), record("north", index))
        state.on_frame("edge-1", frame.record, size=len(frame.jpeg))
        keeper.add_frame("edge-1/north", frame.record.id, frame.jpeg)
        state.on_detections("edge-1", answer("north", index, model=model, found=found))
        keeper.add_answer(state.camera("edge-1", "north"), frame.record.id)


def recording() -> tuple[DetectionState, PictureKeeper]:
    state, keeper = DetectionState(), PictureKeeper()
    state.on_model_status("edge-1", "detector", status(0))
    film(state, keeper, first=0, model=OLD, found=1)
    film(state, keeper, first=PASS, model=OLD, found=1)
    film(state, keeper, first=2 * PASS, model=NEW, found=2)
    return state, keeper


def judged(
    state: DetectionState, *, outcome: str = "accepted", job: str = "j", gain: float = 0.2
) -> None:
    domains = tuple(
        domain(
            name,
            0.5,
            0.5 + gain,
            items=30,
            labelled_by=labels,
            groups={"class": {"car": (0.5, 0.5 + gain, 40)}},
        )
        for name, labels in (("new", "teacher"), ("old", "coco"))
    )
    state.on_result(
        TrainingResult(
            time=at(50),
            source="demo/cloud/retrainer",
            job=job,
            model=OLD,
            outcome=outcome,
            reason="why",
            trigger="count",
            samples=60,
            replay=90,
            gate=GateReport(passed=outcome == "accepted", domains=domains),
            started=at(40 + len(state.results)),
        )
    )


def summary_of(state: DetectionState) -> DetectionSummary:
    return build_summary(
        state, name="own", started=at(0), finished=at(60), closed=True, outcome="closed"
    )


def text_of(state: DetectionState) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(detection_table(summary_of(state)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_recording_shows_old_and_new_model_on_the_same_held_out_pictures() -> None:
    _, keeper = recording()
    pairs = keeper.pairs("edge-1/north")
    assert 1 <= len(pairs) <= 3
    for pair in pairs:
        assert pair.after.index == pair.before.index + 2 * PASS
        assert pair.before.answer is not None
        assert pair.after.answer is not None
        assert (pair.before.answer.model.version, pair.after.answer.model.version) == (1, 2)
        assert split_of("north", pair.before.index) == "holdout"
    indices = [pair.before.index for pair in pairs]
    assert all(later - earlier >= 20 for earlier, later in pairwise(indices))


def test_a_camera_that_never_shows_a_picture_twice_has_no_pairs(tmp_path: Path) -> None:
    state, keeper = DetectionState(), PictureKeeper()
    for index in range(2 * PASS):
        image = np.full((240, 320, 3), index % 250, np.uint8)
        image[:, : index + 1] = 0
        jpeg = cv2.imencode(".jpg", image)[1].tobytes()
        frame = Frame.build(jpeg, record("north", index))
        state.on_frame("edge-1", frame.record, size=len(frame.jpeg))
        keeper.add_frame("edge-1/north", frame.record.id, frame.jpeg)
        model = OLD if index < PASS else NEW
        state.on_detections("edge-1", answer("north", index, model=model))
        keeper.add_answer(state.camera("edge-1", "north"), frame.record.id)
    assert keeper.pairs("edge-1/north") == []
    saved = write_pictures(keeper, state, tmp_path)
    assert [one.phase for one in saved] == ["after_drift", "after_loop"]


def test_pictures_of_a_recording_are_pairs(tmp_path: Path) -> None:
    state, keeper = recording()
    saved = write_pictures(keeper, state, tmp_path)
    assert {(one.row, one.phase) for one in saved} >= {(0, "after_drift"), (0, "after_loop")}
    assert len(saved) == 2 * len(keeper.pairs("edge-1/north"))
    row = cv2.imread(str(tmp_path / "edge-1-north-row.jpg"))
    single = cv2.imread(str(saved[0].path))
    assert row is not None
    assert single is not None
    assert row.shape[1] == 2 * single.shape[1]


def test_a_scripted_run_shows_its_phases(tmp_path: Path) -> None:
    state, keeper = play_story(DetectionState(), cameras={"north": "edge-1"}), PictureKeeper()
    for frame in list(state.cameras["edge-1/north"].frames.values()):
        keeper.add_frame("edge-1/north", frame.id, picture("north", frame.index))
        keeper.add_answer(state.cameras["edge-1/north"], frame.id)
    saved = write_pictures(keeper, state, tmp_path)
    assert [one.phase for one in saved] == ["before_drift", "after_drift", "after_loop"]


def test_without_truth_the_table_shows_what_the_gate_measured() -> None:
    state, _ = recording()
    judged(state)
    text = text_of(state)
    assert "what the streams show now, labels: teacher" in text
    assert "what the model knew before, labels: coco" in text
    assert "0.700" in text
    assert "before drift" not in text


def test_with_truth_the_table_shows_the_phases() -> None:
    state = play_story(DetectionState())
    judged(state)
    assert "before drift" in text_of(state)
    assert "labels: teacher" not in text_of(state)


def test_nothing_measured_is_no_empty_table() -> None:
    state, _ = recording()
    text = text_of(state)
    assert "n/a" not in text
    assert text.lstrip().startswith("outcome")
    html = render_report(state, summary_of(state), saved=(), plot=None)
    assert "mAP50" not in html


def test_the_accepted_job_counts_before_a_later_refused_one() -> None:
    state, _ = recording()
    judged(state, job="first", outcome="refused", gain=0.0)
    assert summary_of(state).judged is not None
    judged(state, job="second")
    judged(state, job="third", outcome="refused", gain=0.1)
    found = summary_of(state).judged
    assert found is not None
    assert found.job == "second"


def test_the_report_of_a_recording_has_its_pairs_and_the_gate(tmp_path: Path) -> None:
    state, keeper = recording()
    judged(state)
    saved = write_pictures(keeper, state, tmp_path)
    html = render_report(state, summary_of(state), saved=saved, plot=None)
    assert html.count("<img src=") == len(saved)
    assert "repeat(2, 1fr)" in html
    assert "What the gate measured" in html
    assert "0.500 &rarr; 0.700" in html
    assert "Figures on held-out frames" not in html


def test_truth_keeps_the_report_as_it_was() -> None:
    state = play_story(DetectionState())
    state.on_truth("edge-1", truth("north", 0))
    html = render_report(state, summary_of(state), saved=(), plot=None)
    assert "Figures on held-out frames" in html
    assert "What the gate measured" not in html


def test_without_a_script_there_are_two_columns_not_four() -> None:
    state = DetectionState()
    state.on_model_status("edge-1", "detector", status(0))
    for index in range(2 * PASS):
        state.on_truth("edge-1", truth("north", index))
        model, found = (OLD, 1) if index < PASS else (NEW, 2)
        state.on_detections("edge-1", answer("north", index, model=model, found=found))
    text = text_of(state)
    assert "old model" in text
    assert "recovered" not in text
    assert "n/a" not in text
    html = render_report(state, summary_of(state), saved=(), plot=None)
    assert "with the old model, with the new one" in html
    assert "won back" not in html
