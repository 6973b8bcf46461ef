from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import pytest

from edgebus_detection.lab.frames import FrameEntry
from edgebus_detection.lab.lab import DetectionLab
from edgebus_detection.lab.measure import build_summary, phase_of, recovered
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import DetectionSummary
from lab_story import NEW, OLD, answer, at, letter, play_story, record, truth


def summarize(state: DetectionState, *, end: float = 120) -> DetectionSummary:
    return build_summary(
        state, name="demo", started=at(-5), finished=at(end), closed=True, outcome="loop closed"
    )


@pytest.fixture(scope="module")
def summary() -> DetectionSummary:
    return summarize(play_story(DetectionState()))


def test_map_falls_with_dusk_and_comes_back(summary: DetectionSummary) -> None:
    figures = summary.map50
    assert figures.before_drift is not None
    assert figures.after_drift is not None
    assert figures.after_drift < figures.before_drift - 0.2
    assert figures.after_loop == pytest.approx(figures.before_drift, abs=0.03)
    assert figures.recovered == pytest.approx(1.0, abs=0.15)
    assert [camera.camera for camera in summary.cameras] == ["edge-1/north", "edge-2/south"]
    assert all(camera.map.after_loop is not None for camera in summary.cameras)


def test_frames_add_up(summary: DetectionSummary) -> None:
    assert summary.frames.total == 2 * 120 * 8 == summary.frames.answered
    assert (summary.frames.failed, summary.frames.torn, summary.frames.dropped) == (0, 0, 0)
    assert 0 < summary.frames.held_out < summary.frames.total / 3
    assert summary.cameras[0].versions == (1, 2)


def test_bytes_and_stages(summary: DetectionSummary) -> None:
    assert summary.bytes.up == 2 * 40 * 9_500
    assert summary.bytes.down == 24_000  # not what the retrainer gave the distributor
    seconds = summary.seconds
    assert seconds.total == 125
    assert seconds.until_drift == pytest.approx(30.125, abs=0.01)
    assert seconds.collecting == pytest.approx(60 - 30.125, abs=0.01)
    assert (seconds.training, seconds.releasing, seconds.delivering) == (20, 2, 2.9)
    assert summary.edges.total == summary.edges.converged == 2
    assert summary.nodes[0].received_bytes == 24_000
    assert summary.model is not None
    assert (summary.model.first_version, summary.model.last_version) == (1, 2)


def test_the_file_fits_its_published_schema(summary: DetectionSummary) -> None:
    tree = json.loads(summary.to_json())
    jsonschema.validate(tree, DetectionSummary.json_schema())
    assert tree["schema"] == "summary/1"
    assert DetectionSummary.model_validate_json(summary.to_json()) == summary
    tree["frames"]["failed"] = -1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, DetectionSummary.json_schema())


def test_a_run_in_which_nothing_happened_still_has_a_summary() -> None:
    summary = summarize(DetectionState())
    assert summary.map.before_drift is None
    assert summary.frames.total == 0
    assert summary.model is None
    jsonschema.validate(json.loads(summary.to_json()), DetectionSummary.json_schema())


def test_dead_letters_of_frames_are_failed_frames() -> None:
    state = play_story(DetectionState(), seconds=10)
    state.on_dead_letter(letter("edgebus/demo/edge-1/camera/north/frame"))
    state.on_dead_letter(letter("edgebus/demo/edge-1/collector/samples/detection"))
    summary = summarize(state, end=10)
    assert summary.frames.failed == 1
    assert summary.dead_letters == 2


def frame(*, model: object = OLD, dusk: float = 0.0) -> FrameEntry:
    seen = record("north", 1)
    return FrameEntry(
        seen.id,
        1,
        seen.captured,
        truth("north", 1, dusk=dusk),
        answer("north", 1, model=model),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("entry", "final", "phase"),
    [
        (frame(), 1.0, "before_drift"),
        (frame(dusk=0.5), 1.0, None),
        (frame(dusk=1.0), 1.0, "after_drift"),
        (frame(dusk=1.0, model=NEW), 1.0, "after_loop"),
        (frame(dusk=0.5, model=NEW), 1.0, None),
        (frame(model=NEW), 1.0, None),
        (frame(), 0.0, "after_drift"),
        (frame(model=NEW), 0.0, "after_loop"),
    ],
)
def test_phases(entry: FrameEntry, final: float, phase: str | None) -> None:
    assert phase_of(entry, first_version=1, final_severity=final) == phase


def test_recovery() -> None:
    assert recovered(0.9, 0.4, 0.8) == 0.8
    assert recovered(0.9, 0.4, 0.3) == -0.2
    assert recovered(0.9, 0.895, 0.9) is None  # drift cost nothing
    assert recovered(None, 0.4, 0.8) is None


def test_a_run_writes_its_figures_rows_and_plots(tmp_path: Path) -> None:
    lab = DetectionLab()
    play_story(lab.state)
    lab.finish(name="demo", started=at(-5), finished=at(120), closed=True, outcome="loop closed")
    report, *files = lab.write(tmp_path)
    names = {"summary.json", "map.png", "map.csv", "frames.csv", "events.csv"}
    assert {file.name for file in files} >= names
    assert all(file.stat().st_size > 0 for file in files)
    with (tmp_path / "frames.csv").open() as file:
        assert sum(1 for _ in csv.DictReader(file)) == lab.summary.frames.total
    html = report.read_text()
    for title in ("Accuracy over time", "Figures on held-out frames", "Frames", "Edges"):
        assert f"<h2>{title}</h2>" in html
