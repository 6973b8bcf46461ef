"""Cameras in the live view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgebus_detection.lab.frames import CameraFrames, severity_of
from edgebus_detection.lab.state import DetectionState

__all__ = ["camera_lines", "camera_table", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], *, width: int = 20) -> str:
    """Values between 0 and 1 as a row of bars, newest right."""
    recent = values[-width:]
    return "".join(_BARS[min(7, max(0, int(value * 8)))] for value in recent)


def camera_table(state: DetectionState, now: datetime) -> RenderableType:
    """A row per camera, with the accuracy of its newest frames."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1))
    table.add_column("camera", no_wrap=True)
    table.add_column("condition", no_wrap=True)
    for name in ("fps", "latency", "dropped", "samples", "model", "AP50"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=20, ratio=1, overflow="crop")
    if not state.cameras:
        table.add_row(Text("waiting for the first frame", "dim"))
    for key, camera in sorted(state.cameras.items()):
        latency = camera.latency_ms()
        value = camera.rolling.value
        table.add_row(
            key,
            _condition(camera),
            f"{camera.fps(now):.1f}",
            "" if latency is None else f"{latency:.0f} ms",
            str(camera.dropped),
            str(state.samples.get(key, 0)),
            "" if camera.version is None else f"v{camera.version}",
            "" if value is None else Text(f"{value:.2f}", _grade(value)),
            Text(_history(camera), "cyan"),
        )
    return table


def _history(camera: CameraFrames, *, width: int = 20) -> str:
    """The whole run's accuracy in `width` bars."""
    values = [value for _, value, _ in camera.history]
    step = max(1, -(-len(values) // width))
    return sparkline(values[::-1][::step][::-1], width=width)


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
        parts = [f"{camera.fps(now):.1f} fps"]
        if latency is not None:
            parts.append(f"{latency:.0f} ms")
        if camera.version is not None:
            parts.append(f"v{camera.version}")
        if value is not None:
            parts.append(f"AP50 {value:.2f}")
        parts.append(f"{state.samples.get(key, 0)} samples")
        yield f"{key}: {', '.join(parts)}"
