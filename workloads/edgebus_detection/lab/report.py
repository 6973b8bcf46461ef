"""The run folder of detection: pictures, plot and frames beside the files of every run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebus import lab
from edgebus.contracts import rfc3339, split_of
from edgebus.lab import Shown, data_uri, write_csv
from edgebus_detection.lab.asking_again import FirstModels
from edgebus_detection.lab.pictures import (
    PictureKeeper,
    SavedPicture,
    write_mistakes,
    write_pictures,
)
from edgebus_detection.lab.plots import plot_confusion, plot_map, plot_precision, plot_signals
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import DetectionSummary

_TEMPLATE = Path(__file__).parent / "assets" / "detection_report.html.j2"

FRAME_COLUMNS = (
    "camera",
    "index",
    "frame",
    "captured",
    "sent",
    "received",
    "detected",
    "split",
    "condition",
    "version",
    "digest",
    "boxes",
    "truth",
    "dropped",
)


def write_run(
    state: DetectionState, summary: DetectionSummary, keeper: PictureKeeper, folder: Path
) -> list[Path]:
    """Write the files of a run.

    Returns:
        The files, the report first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    again = FirstModels(folder).ask
    plots = {
        "map": plot_map(state, summary, folder / "map.png"),
        "signals": plot_signals(state, summary, folder / "signals.png"),
        "precision": plot_precision(state, summary, folder / "precision.png"),
        "confusion": plot_confusion(state, summary, folder / "confusion.png"),
    }
    saved = write_pictures(keeper, state, folder / "pictures", again=again)
    values = _values(summary, saved, plots, write_mistakes(keeper, state, folder / "pictures"))
    write_csv(folder / "frames.csv", FRAME_COLUMNS, _frame_rows(state))
    write_csv(
        folder / "map.csv",
        ("time", "camera", "version", "ap50"),
        (
            (rfc3339(time), camera.key, str(version), f"{value:.4f}")
            for camera in state.cameras.values()
            for time, value, version in camera.history
        ),
    )
    files = lab.write_run(state, summary, folder, template=_TEMPLATE, **values)
    names = (*(f"{name}.png" for name in plots), "frames.csv", "map.csv")
    return [*files, *(folder / name for name in names if (folder / name).exists())]


def render_report(
    state: DetectionState,
    summary: DetectionSummary,
    *,
    saved: Sequence[SavedPicture] = (),
    plots: Mapping[str, Shown | None] | None = None,
    mistakes: Sequence[tuple[str, Path]] = (),
) -> str:
    """The report as one HTML file: no script, nothing loaded from anywhere."""
    values = _values(summary, saved, plots or {}, mistakes)
    return lab.render_report(state, summary, template=_TEMPLATE, **values)


def _values(
    summary: DetectionSummary,
    saved: Sequence[SavedPicture],
    plots: Mapping[str, Shown | None],
    mistakes: Sequence[tuple[str, Path]],
) -> dict[str, Any]:
    return {
        "plots": dict.fromkeys(("map", "signals", "precision", "confusion")) | dict(plots),
        "pictures": _rows_of_pictures(saved),
        "mistakes": [(text, Shown(data_uri(path))) for text, path in mistakes],
        "phase_figures": [
            *((one.camera, one.map, one.map50, one.frames.held_out) for one in summary.cameras),
            ("all", summary.map, summary.map50, summary.frames.held_out),
        ],
    }


def _rows_of_pictures(saved: Sequence[SavedPicture]) -> list[tuple[str, list[tuple[str, Shown]]]]:
    rows: dict[tuple[str, int], list[tuple[str, Shown]]] = {}
    for one in saved:
        rows.setdefault((one.camera, one.row), []).append((one.phase, Shown(data_uri(one.path))))
    return [(camera, row) for (camera, _), row in rows.items()]


def _frame_rows(state: DetectionState) -> Iterable[tuple[str, ...]]:
    for key, camera in sorted(state.cameras.items()):
        for frame in camera.frames.values():
            answer, truth = frame.answer, frame.truth
            yield (
                key,
                str(frame.index),
                frame.id,
                rfc3339(frame.captured),
                rfc3339(answer.sent) if answer else "",
                rfc3339(answer.received) if answer else "",
                rfc3339(answer.detected) if answer else "",
                split_of(camera.name, frame.index),
                truth.condition if truth else "",
                str(answer.model.version) if answer else "",
                answer.model.digest if answer else "",
                str(len(answer.boxes)) if answer else "",
                str(len(truth.boxes)) if truth else "",
                str(answer.dropped) if answer else "",
            )
