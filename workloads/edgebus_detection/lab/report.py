"""The run folder of detection: pictures, plot and frames beside the files of every run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgebus import lab
from edgebus.contracts import rfc3339, split_of
from edgebus.lab import data_uri, write_csv
from edgebus_detection.lab.measure import PHASES
from edgebus_detection.lab.pictures import PictureKeeper, SavedPicture, write_pictures
from edgebus_detection.lab.plots import plot_map
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
    saved = write_pictures(keeper, state, folder / "pictures")
    plot = plot_map(state, summary, folder / "map.png")
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
    files = lab.write_run(state, summary, folder, template=_TEMPLATE, **_values(saved, plot))
    names = ("map.png", "frames.csv", "map.csv")
    return [*files, *(folder / name for name in names if (folder / name).exists())]


def render_report(
    state: DetectionState,
    summary: DetectionSummary,
    *,
    saved: Sequence[SavedPicture],
    plot: Path | None,
) -> str:
    """The report as one HTML file: no script, nothing loaded from anywhere."""
    values = _values(saved, plot)
    return lab.render_report(state, summary, template=_TEMPLATE, **values)


def _values(saved: Sequence[SavedPicture], plot: Path | None) -> dict[str, Any]:
    return {
        "plot": data_uri(plot) if plot else None,
        "pictures": _rows_of_pictures(saved),
        "phases": PHASES,
    }


def _rows_of_pictures(saved: Sequence[SavedPicture]) -> list[tuple[str, list[tuple[str, str]]]]:
    rows: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for one in saved:
        rows.setdefault((one.camera, one.row), []).append((one.phase, data_uri(one.path)))
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
