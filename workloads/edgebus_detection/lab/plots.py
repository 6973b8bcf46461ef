"""The plot of accuracy over time, with drift, training and swap marked per camera."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from edgebus.lab.round_report import figure_at
from edgebus_detection.lab.frames import ROLLING_WINDOW, CameraFrames, severity_of
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import DetectionSummary

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.axes import Axes

# Okabe and Ito's colours, distinct for colour-blind people too.
_VERSIONS = ("#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_DRIFT, _TRAINING, _INK = "#E69F00", "#999999", "#333333"


def plot_map(state: DetectionState, summary: DetectionSummary, path: Path) -> Path | None:
    """Draw the rolling AP50 of every camera.

    Returns:
        The file, or None where no camera has ground truth.
    """
    cameras = [camera for _, camera in sorted(state.cameras.items()) if camera.history]
    if not cameras:
        return None
    size = (9.6, 1.0 + 2.3 * len(cameras))
    with figure_at(path, len(cameras), 1, sharex=True, figsize=size) as (figure, axes):
        for axis, camera in zip(axes[:, 0], cameras, strict=True):
            _draw_camera(axis, camera, state, summary.started)
        axes[-1, 0].set_xlabel("seconds since the start of the run", color=_INK)
        figure.align_ylabels()
        figure.tight_layout()
    return path


def _draw_camera(axis: Axes, camera: CameraFrames, state: DetectionState, start: datetime) -> None:
    history = sorted(camera.history)
    first = history[0][2]
    begin = None
    for number, version in enumerate(dict.fromkeys(version for _, _, version in history)):
        points = [(time, value) for time, value, shown in history if shown == version]
        axis.plot(
            [_at(time, start) for time, _ in points],
            [value for _, value in points],
            color=_VERSIONS[number % len(_VERSIONS)],
            linewidth=1.8,
            label=f"version {version}",
        )
        if version != first and begin is None:
            begin = points[0][0]
    ramp = _ramp(camera)
    if ramp is not None:
        axis.axvspan(*(_at(time, start) for time in ramp), color=_DRIFT, alpha=0.22, lw=0)
        end = _at(history[-1][0], start)
        axis.axvspan(_at(ramp[1], start), end, color=_DRIFT, alpha=0.08, lw=0)
        _write(axis, _at(ramp[0], start), "drift", _DRIFT, y=1.04)
    for result in state.results.values():
        axis.axvspan(
            _at(result.started, start), _at(result.time, start), 0, 0.05, color=_TRAINING, lw=0
        )
        _write(axis, _at(result.started, start), "training", "#777777", y=0.09)
    for time, version in _swaps(camera):
        axis.axvline(_at(time, start), color=_VERSIONS[1], linewidth=1.2, linestyle=(0, (4, 2)))
        _write(axis, _at(time, start), f"swap to {version}", _VERSIONS[1], y=0.2)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel(f"{camera.key}\nAP50, last {ROLLING_WINDOW} frames", color=_INK)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower left", frameon=False, fontsize=8, ncols=3)


def _write(axis: Axes, x: float, text: str, color: str, *, y: float = 0.94) -> None:
    axis.annotate(
        text,
        (x, y),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        color=color if color != _DRIFT else "#9a6a00",
        fontsize=8,
        va="center",
    )


def _ramp(camera: CameraFrames) -> tuple[datetime, datetime] | None:
    """Begin and end of the scripted effects' ramp."""
    steps = [
        (frame.captured, severity_of(frame.truth.effects))
        for frame in camera.frames.values()
        if frame.truth is not None
    ]
    if not steps or steps[-1][1] <= 0 or steps[0][1] >= steps[-1][1]:
        return None
    begin = next(time for time, value in steps if value > 0)
    full = next(time for time, value in steps if value >= steps[-1][1] * 0.98)
    return begin, full


def _swaps(camera: CameraFrames) -> list[tuple[datetime, int]]:
    answers = [frame.answer for frame in camera.frames.values() if frame.answer is not None]
    return [
        (after.detected, after.model.version)
        for before, after in pairwise(answers)
        if after.model.version != before.model.version
    ]


def _at(time: datetime, start: datetime) -> float:
    return (time - start).total_seconds()
