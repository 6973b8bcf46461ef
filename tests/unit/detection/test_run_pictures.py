from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from edgebus.artifacts import Store
from edgebus.contracts import GateReport, ModelRef, TrainingResult, split_of
from edgebus_detection.lab.asking_again import FirstModels
from edgebus_detection.lab.frames import CameraFrames, FrameEntry
from edgebus_detection.lab.measure import build_summary
from edgebus_detection.lab.pictures import PictureKeeper, write_pictures
from edgebus_detection.lab.report import render_report, write_run
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import DetectionSummary
from edgebus_detection.lab.view import detection_table
from edgebus_detection.messages import Box, Frame
from edgebus_detection.models.testing import tiny_bundle
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
    state, keeper = story()
    saved = write_pictures(keeper, state, tmp_path)
    assert [one.phase for one in saved] == ["before_drift", "after_drift", "after_loop"]


def story() -> tuple[DetectionState, PictureKeeper]:
    state, keeper = play_story(DetectionState(), cameras={"north": "edge-1"}), PictureKeeper()
    for frame in list(state.cameras["edge-1/north"].frames.values()):
        keeper.add_frame("edge-1/north", frame.id, picture("north", frame.index))
        keeper.add_answer(state.cameras["edge-1/north"], frame.id)
    return state, keeper


def test_a_crowd_in_the_ramp_does_not_replace_the_picture_from_before() -> None:
    state, keeper = DetectionState(), PictureKeeper()
    camera = state.camera("edge-1", "north")
    for index in range(3 * PASS):
        dusk = (0, 0.02, 0.8)[index // PASS]
        boxes = 2 if 0 < dusk < 0.8 else 1
        state.on_truth("edge-1", truth("north", index, dusk=dusk, boxes=boxes))
        said = answer("north", index, model=OLD, found=1)
        state.on_detections("edge-1", said)
        keeper.add_frame("edge-1/north", said.frame, picture("north", index))
        keeper.add_answer(camera, said.frame)
    chosen = keeper.choose(state)
    assert {phase for _, phase in chosen} == {"before_drift", "after_drift"}


def test_where_the_old_model_is_at_hand_both_answer_one_frame(tmp_path: Path) -> None:
    state, keeper = story()
    entry, jpeg = keeper.choose(state)["edge-1/north", "after_loop"]
    asked = []

    def again(camera: CameraFrames, frame: FrameEntry, data: bytes) -> FrameEntry:
        asked.append((camera.key, frame.index, data))
        assert frame.answer is not None
        said = frame.answer.model_copy(update={"model": OLD, "boxes": ()})
        return replace(frame, answer=said)

    saved = write_pictures(keeper, state, tmp_path, again=again)
    assert asked == [("edge-1/north", entry.index, jpeg)]
    assert [one.phase for one in saved] == ["before_drift", "after_drift", "after_loop"]
    old, new = (cv2.imread(str(one.path)) for one in saved[1:])
    assert old is not None
    assert new is not None
    # One picture but for the boxes and the caption.
    assert (np.abs(old[-100:].astype(int) - new[-100:]) < 30).mean() > 0.97


def test_the_first_model_is_asked_again_from_the_stores_of_the_run(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    state = DetectionState()
    for index, model in ((0, bundle.ref), (1, NEW)):
        state.on_detections("edge-1", answer("north", index, model=model))
    camera = state.cameras["edge-1/north"]
    entry = list(camera.frames.values())[-1]
    jpeg = picture("north", 1)
    assert FirstModels(tmp_path / "run").ask(camera, entry, jpeg) is None
    store = Store(tmp_path / "run" / "data" / "edge-1" / "detector" / "store")
    store.put_bundle(bundle)
    found = FirstModels(tmp_path / "run").ask(camera, entry, jpeg)
    assert found is not None
    assert found.answer is not None
    assert (found.id, found.answer.model) == (entry.id, bundle.ref)
    assert FirstModels(tmp_path / "run").ask(camera, entry, b"no picture") is None


def test_the_worst_mistakes_are_those_of_the_newest_version() -> None:
    state, keeper = DetectionState(), PictureKeeper()
    camera = state.camera("edge-1", "north")
    for index in range(4 * PASS):
        # Version 1 misses both objects; version 2 one, and every other time sees one too many.
        old = index < 2 * PASS
        said = answer("north", index, model=OLD if old else NEW, found=0 if old else 1)
        if not old and index % 2:
            ghost = Box(label="bus", x1=200, y1=5, x2=300, y2=15, score=0.5 + index / 1e4)
            said = said.model_copy(update={"boxes": (*said.boxes, ghost)})
        state.on_truth("edge-1", truth("north", index))
        state.on_detections("edge-1", said)
        keeper.add_frame("edge-1/north", said.frame, picture("north", index))
        keeper.add_answer(camera, said.frame)
    found = keeper.mistakes("edge-1/north")
    assert [one.kind for one in found] == ["miss"] * 3 + ["false alarm"] * 3
    assert all(one.entry.index >= 2 * PASS for one in found)
    assert all(split_of("north", one.entry.index) == "holdout" for one in found)
    assert {box.label for one in found for box in one.boxes if one.kind == "miss"} == {"person"}
    surest = [one.weight for one in found if one.kind == "false alarm"]
    assert surest == sorted(surest, reverse=True)


def test_the_report_has_curves_and_what_is_wrong(tmp_path: Path) -> None:
    state, keeper = story()
    page = write_run(state, summary_of(state), keeper, tmp_path)[0].read_text()
    for heading in ("Accuracy over time", "What a model says of itself", "Precision and recall",
                    "What is taken for what", "Worst misses and false alarms"):  # fmt: skip
        assert heading in page
    assert "edge-1/north, frame" in page
    # Without ground truth there is nothing to be wrong by; the signals are there all the same.
    state, keeper = recording()
    page = write_run(state, summary_of(state), keeper, tmp_path / "own")[0].read_text()
    assert "What a model says of itself" in page
    assert "Precision and recall" not in page
    assert "Worst misses" not in page


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
    html = render_report(state, summary_of(state))
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
    html = render_report(state, summary_of(state), saved=saved)
    assert html.count("<img class=") == len(saved)
    assert 'class="pictures two"' in html
    assert "What the gate measured" in html
    assert "0.500 &rarr; 0.700" in html
    assert "Figures on held-out frames" not in html


def test_truth_keeps_the_report_as_it_was() -> None:
    state = play_story(DetectionState())
    state.on_truth("edge-1", truth("north", 0))
    html = render_report(state, summary_of(state))
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
    html = render_report(state, summary_of(state))
    assert "with the old model, with the new one" in html
    assert "won back" not in html
