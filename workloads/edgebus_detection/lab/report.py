"""The run folder: pictures, plot, CSV files, `summary.json` and a `report.html` in one file."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path

from edgebus.contracts import rfc3339, split_of
from edgebus_detection.lab.measure import PHASES
from edgebus_detection.lab.pictures import PictureKeeper, Shot, write_pictures
from edgebus_detection.lab.plots import plot_map
from edgebus_detection.lab.round_report import (
    ROUND_COLUMNS,
    plot_rounds,
    round_rows,
    round_words,
    skew_words,
)
from edgebus_detection.lab.run_state import Tracker
from edgebus_detection.lab.summary import MapFigures, Summary

__all__ = ["render_report", "write_run"]

DOMAINS = {"new": "what the cameras show now", "old": "what the model knew before"}
"""The gate's domains, in words."""

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
    tracker: Tracker, summary: Summary, keeper: PictureKeeper, folder: Path
) -> list[Path]:
    """Write everything that a run leaves behind.

    Returns:
        The files, the report first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shots = write_pictures(keeper, tracker, folder / "pictures")
    plot = plot_map(tracker, summary, folder / "map.png")
    (folder / "summary.json").write_text(summary.to_json())
    _write_csv(folder / "frames.csv", FRAME_COLUMNS, _frame_rows(tracker))
    _write_csv(
        folder / "events.csv",
        ("time", "source", "kind", "text"),
        (
            (rfc3339(line.time), line.source, line.kind, line.text)
            for line in sorted(tracker.lines, key=lambda line: line.time)
        ),
    )
    _write_csv(
        folder / "map.csv",
        ("time", "camera", "version", "ap50"),
        (
            (rfc3339(time), camera.key, str(version), f"{value:.4f}")
            for camera in tracker.cameras.values()
            for time, value, version in camera.history
        ),
    )
    rounds = tracker.rounds.all(since=summary.started)
    _write_csv(folder / "rounds.csv", ROUND_COLUMNS, round_rows(rounds, tracker.rounds))
    bars = plot_rounds(rounds, folder / "rounds.png")
    report = folder / "report.html"
    report.write_text(render_report(tracker, summary, shots=shots, plot=plot, bars=bars))
    names = (
        "summary.json",
        "map.png",
        "rounds.png",
        "frames.csv",
        "events.csv",
        "map.csv",
        "rounds.csv",
    )
    return [report, *(folder / name for name in names if (folder / name).exists())]


def render_report(
    tracker: Tracker,
    summary: Summary,
    *,
    shots: Sequence[Shot],
    plot: Path | None,
    bars: Path | None = None,
) -> str:
    """The report as one HTML file: no script, nothing loaded from anywhere."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        figure=_figure, percent=_percent, size=human_size, clock=_clock, seconds=_seconds
    )
    rounds = tracker.rounds.all(since=summary.started)
    text = (resources.files("edgebus_detection.lab") / "assets" / "report.html.j2").read_text()
    return environment.from_string(text).render(
        summary=summary,
        judged=summary.judged,
        domains=DOMAINS,
        stages=_stages(summary),
        bars=_data_uri(bars) if bars else None,
        rounds=rounds,
        round_words=round_words,
        skew=skew_words(rounds),
        plot=_data_uri(plot) if plot else None,
        pictures=_rows_of_pictures(shots),
        lines=[line for line in tracker.lines if line.kind != "state"][-200:],
        states=[line for line in tracker.lines if line.kind == "state"][-200:],
        phases=PHASES,
    )


def human_size(size: float) -> str:
    """Bytes in words: ``16.1 kB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _rows_of_pictures(shots: Sequence[Shot]) -> list[tuple[str, list[tuple[str, str]]]]:
    rows: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for shot in shots:
        rows.setdefault((shot.camera, shot.row), []).append((shot.phase, _data_uri(shot.path)))
    return [(camera, row) for (camera, _), row in rows.items()]


def _stages(summary: Summary) -> list[tuple[str, float, float]]:
    """Name, seconds and share in percent of each stage that was reached."""
    seconds = summary.seconds
    reached = [
        (name.replace("_", " "), value)
        for name in (
            "until_drift",
            "collecting",
            "training",
            "releasing",
            "delivering",
            "measuring",
        )
        if (value := getattr(seconds, name)) is not None
    ]
    whole = sum(value for _, value in reached) or 1.0
    return [(name, value, 100 * value / whole) for name, value in reached]


def _frame_rows(tracker: Tracker) -> Iterable[tuple[str, ...]]:
    for key, camera in sorted(tracker.cameras.items()):
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


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _data_uri(path: Path) -> str:
    kind = "png" if path.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:.0f} %"


def _seconds(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _clock(value: datetime) -> str:
    return value.strftime("%H:%M:%S.%f")[:-3]


def figures_in_order(figures: MapFigures) -> list[float | None]:
    """Before drift, after drift, after the loop."""
    return [getattr(figures, phase) for phase in PHASES]
