"""Cameras in the live view, and accuracy in the table at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.text import Text

from edgebus.inspect.tables import FittedTable
from edgebus.lab import Round, summary_table
from edgebus_detection.lab.frames import CameraFrames, severity_of
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import DetectionSummary, MapFigures

_SECOND = Text("mAP .50:.95", "dim", justify="right")
_BARS = "▁▂▃▄▅▆▇█"
_HEADERS = ("camera", "condition", "fps", "latency", "dropped", "samples", "model", "AP50", "")


class Sparkline:
    """Values between 0 and 1 as a row of bars, as many as there is width for, newest right.

    Args:
        values: Oldest first.
    """

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(8, max(20, min(len(self._values), options.max_width)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        step = max(1, -(-len(self._values) // options.max_width))
        shown = self._values[::-1][::step][::-1]
        yield Text("".join(_BARS[min(7, max(0, int(value * 8)))] for value in shown), "cyan")


def camera_table(state: DetectionState, now: datetime) -> RenderableType:
    """A row per camera, with the accuracy of its newest frames."""
    if not state.cameras:
        return Text("waiting for the first frame\n", "dim")
    table = FittedTable(_HEADERS, ruled=True, expand=True)
    for key, camera in sorted(state.cameras.items()):
        latency = camera.latency_ms()
        value = camera.rolling.value
        table.add_row(
            key,
            _condition(camera),
            f"{camera.rate(now):.1f}",
            "" if latency is None else f"{latency:.0f} ms",
            str(camera.dropped),
            str(state.samples.get(key, 0)),
            "" if camera.version is None else f"v{camera.version}",
            "" if value is None else Text(f"{value:.2f}", _grade(value)),
            Sparkline([value for _, value, _ in camera.history]),
        )
    return Padding(table, (1, 0))


def _condition(camera: CameraFrames) -> Text:
    severity = severity_of(camera.effects)
    if severity <= 0:
        return Text(camera.condition or "unknown", "" if camera.condition else "dim")
    return Text(f"{camera.condition} {severity:.0%}", "yellow")


def _grade(value: float) -> str:
    return "green" if value >= 0.75 else "yellow" if value >= 0.5 else "red"


def camera_lines(state: DetectionState, now: datetime) -> Iterable[str]:
    """A line per camera."""
    for key, camera in sorted(state.cameras.items()):
        latency, value = camera.latency_ms(), camera.rolling.value
        parts = [f"{camera.rate(now):.1f} fps"]
        if latency is not None:
            parts.append(f"{latency:.0f} ms")
        if camera.version is not None:
            parts.append(f"v{camera.version}")
        if value is not None:
            parts.append(f"AP50 {value:.2f}")
        parts.append(f"{state.samples.get(key, 0)} samples")
        yield f"{key}: {', '.join(parts)}"


def detection_table(summary: DetectionSummary, rounds: Sequence[Round] = ()) -> RenderableType:
    """Accuracy per camera, then the rows of every run, with its frames."""
    figures, frames = summary.map50, summary.frames
    measured = figures.after_drift is not None or figures.after_loop is not None
    above = [_phases(summary)] if measured else []
    text = (
        f"{frames.answered} of {frames.total} answered, {frames.dropped} dropped "
        f"({frames.dropped_in_swap} in the swap), {frames.unserved} while no detector was there, "
        f"{frames.failed} failed, {frames.torn} torn"
    )
    return summary_table(summary, rounds, above=above, rows={"frames": text})


def _phases(summary: DetectionSummary) -> RenderableType:
    scripted = summary.map50.before_drift is not None
    names = ("before drift", "after drift", "after loop", "recovered")
    table = FittedTable(
        ("held-out frames", *(names if scripted else ("old model", "new model"))), ruled=True
    )
    for camera in summary.cameras:
        table.add_row(f"{camera.camera}  mAP50", *_figures(camera.map50, scripted=scripted))
        table.add_row(_SECOND, *_figures(camera.map, "dim", scripted=scripted))
    if summary.cameras:
        table.add_section()
        whole = Text("all cameras  mAP50", "bold")
        table.add_row(whole, *_figures(summary.map50, "bold", scripted=scripted))
        table.add_row(_SECOND, *_figures(summary.map, "dim", scripted=scripted))
    return Padding(table, (1, 0))


def _figures(figures: MapFigures, style: str = "", *, scripted: bool) -> list[Text]:
    if not scripted:
        values: tuple[float | None, ...] = (figures.after_drift, figures.after_loop)
        return [_cell(value, style) for value in values]
    values = (figures.before_drift, figures.after_drift, figures.after_loop)
    share = figures.recovered
    last = Text("n/a" if share is None else f"{share:.0%}", style)
    return [*(_cell(value, style) for value in values), last]


def _cell(value: float | None, style: str) -> Text:
    return Text("n/a" if value is None else f"{value:.3f}", style)
