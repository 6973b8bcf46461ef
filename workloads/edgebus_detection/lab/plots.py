"""Plots of a run: accuracy and signals over time, precision by recall, confusions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgebus.lab import Shown, draw_twice
from edgebus.lab.round_report import NARROW, figure_at
from edgebus.lab.run_state import drifted_stream
from edgebus_detection.lab.frames import ROLLING_WINDOW, CameraFrames, severity_of
from edgebus_detection.lab.measure import PHASES, Phase, frames_by_phase
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import DetectionSummary
from edgebus_detection.metrics import match
from edgebus_detection.metrics.mistakes import NOTHING, confusion, precision_recall
from edgebus_detection.workload import Detection

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.axes import Axes

# Okabe and Ito's colours, distinct for colour-blind people too.
_VERSIONS = ("#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_DRIFT, _TRAINING, _INK, _NOTICED = "#E69F00", "#999999", "#333333", "#B0306A"
_PHASES = ("#56B4E9", "#D55E00", "#009E73")
_POINTS = 400
_SURE = 0.4


def plot_map(state: DetectionState, summary: DetectionSummary, path: Path) -> Shown | None:
    """Draw the rolling AP50 of every camera; None where no camera has ground truth."""
    cameras = [camera for _, camera in sorted(state.cameras.items()) if camera.history]

    def draw(axis: Axes, camera: CameraFrames) -> None:
        _draw_accuracy(axis, camera, state, summary.started)
        axis.set_ylabel(f"{camera.key}\nAP50, last {ROLLING_WINDOW} frames", color=_INK)

    return _plot_cameras(cameras, draw, path)


def plot_signals(state: DetectionState, summary: DetectionSummary, path: Path) -> Shown | None:
    """Draw what a detector of drift sees of every camera, without labels; None without answers."""
    cameras = [camera for _, camera in sorted(state.cameras.items()) if camera.answered]

    def draw(axis: Axes, camera: CameraFrames) -> None:
        _draw_signals(axis, camera, state, summary.started)
        axis.set_ylabel(f"{camera.key}\nconfidence", color=_INK)

    return _plot_cameras(cameras, draw, path)


def plot_precision(state: DetectionState, summary: DetectionSummary, path: Path) -> Shown | None:
    """Draw precision by recall of each phase, all cameras together; None without ground truth."""
    curves = {
        phase: precision_recall(
            match(
                state.classes.detected(frame.answer.boxes), state.classes.truth(frame.truth.boxes)
            )
            for frame in frames
            if frame.answer is not None and frame.truth is not None
        )
        for phase, frames in frames_by_phase(state).items()
    }
    curves = {phase: curve for phase, curve in curves.items() if len(curve[0])}
    if not curves:
        return None

    def draw(target: Path | BytesIO, narrow: bool) -> None:
        with figure_at(target, 1, 1, figsize=(NARROW if narrow else 9.6, 3.9)) as (figure, axes):
            axis = axes[0, 0]
            for number, (phase, (recall, precision)) in enumerate(curves.items()):
                color = _PHASES[PHASES.index(phase)]
                label = phase_title(phase, scripted=summary.map50.before_drift is not None)
                axis.plot(recall, precision, color=color, lw=1.8, label=label, zorder=3 - number)
            axis.set_xlim(0, 1.01)
            axis.set_ylim(0, 1.02)
            axis.set_xlabel("recall: share of the true objects that are found", color=_INK)
            axis.set_ylabel("precision", color=_INK)
            axis.grid(color="#dddddd", linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(loc="lower left", frameon=False, fontsize=8)
            figure.tight_layout()

    return draw_twice(path, draw)


def plot_confusion(state: DetectionState, summary: DetectionSummary, path: Path) -> Shown | None:
    """Draw which class each model took for which, in the present domain; None without truth."""
    names, matrices = state.classes.names, {}
    for phase, frames in frames_by_phase(state).items():
        said = [
            (frame.answer.boxes, frame.truth.boxes)
            for frame in frames
            if frame.answer is not None and frame.truth is not None
        ]
        if phase != "before_drift" and any(truths for _, truths in said):
            matrices[phase] = confusion(said, names, score=_SURE)
    if not matrices:
        return None
    labels = [*names, NOTHING]
    cells = 0.55 * len(labels) + 1.3

    def draw(target: Path | BytesIO, narrow: bool) -> None:
        shape = (len(matrices), 1) if narrow else (1, len(matrices))
        size = (NARROW, cells * shape[0]) if narrow else (4.8 * len(matrices), cells)
        with figure_at(target, *shape, figsize=size) as (figure, axes):
            for axis, (phase, matrix) in zip(axes.flat, matrices.items(), strict=True):
                share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
                axis.imshow(share, cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
                for (row, column), count in np.ndenumerate(matrix):
                    if count:
                        ink = "white" if share[row, column] > 0.6 else _INK
                        axis.text(column, row, str(count), ha="center", va="center", color=ink)
                axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
                axis.set_yticks(range(len(labels)), labels)
                axis.set_ylabel("there is", color=_INK)
                scripted = summary.map50.before_drift is not None
                axis.set_title(f"{phase_title(phase, scripted=scripted)}: it says", fontsize=10)
            figure.tight_layout()

    return draw_twice(path, draw)


def phase_title(phase: Phase, *, scripted: bool) -> str:
    """A phase in words; without a script the old and the new model are all there is."""
    if phase == "before_drift":
        return "before drift"
    old = phase == "after_drift"
    if not scripted:
        return "old model" if old else "new model"
    return "after drift, old model" if old else "after the loop, new model"


def _plot_cameras(
    cameras: Sequence[CameraFrames], draw: Callable[[Axes, CameraFrames], None], path: Path
) -> Shown | None:
    """A panel for each camera, over one time axis."""
    if not cameras:
        return None

    def both(target: Path | BytesIO, narrow: bool) -> None:
        size = (NARROW if narrow else 9.6, 1.0 + 2.3 * len(cameras))
        with figure_at(target, len(cameras), 1, sharex=True, figsize=size) as (figure, axes):
            for axis, camera in zip(axes[:, 0], cameras, strict=True):
                draw(axis, camera)
                axis.spines["top"].set_visible(False)
            axes[-1, 0].set_xlabel("seconds since the start of the run", color=_INK)
            figure.align_ylabels()
            figure.tight_layout()

    return draw_twice(path, both)


def _draw_signals(axis: Axes, camera: CameraFrames, state: DetectionState, start: datetime) -> None:
    answers = [frame.answer for frame in camera.frames.values() if frame.answer is not None]
    times = [_at(answer.captured, start) for answer in answers]
    confidence, novelty = (Detection.statistics[name].value for name in ("confidence", "novelty"))
    points = _smooth(times, [confidence(answer) for answer in answers])
    axis.plot(*points, color=_VERSIONS[0], lw=1.4, label="confidence")
    axis.set_ylim(0, 1.02)
    handles = axis.get_lines()
    strange = _smooth(times, [novelty(answer) for answer in answers])
    if len(strange[0]):
        other = axis.twinx()
        other.plot(*strange, color=_VERSIONS[3], lw=1.4, label="novelty")
        other.set_ylim(bottom=0)
        other.set_ylabel("novelty", color=_VERSIONS[3])
        other.spines["top"].set_visible(False)
        handles = [*handles, *other.get_lines()]
    _mark_drifts(axis, camera, state, start)
    _mark_swaps(axis, camera, start)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False, fontsize=8,
        ncols=2,
    )  # fmt: skip


def _smooth(
    times: Sequence[float], values: Sequence[float | None]
) -> tuple[Sequence[float], Sequence[float]]:
    """Means of neighbours, some hundred points in all; without what is None."""
    points = np.array(
        [(at, value) for at, value in zip(times, values, strict=True) if value is not None]
    ).reshape(-1, 2)
    size = max(1, len(points) // _POINTS)
    whole = points[: len(points) // size * size].reshape(-1, size, 2).mean(axis=1)
    return whole[:, 0].tolist(), whole[:, 1].tolist()


def _mark_drifts(axis: Axes, camera: CameraFrames, state: DetectionState, start: datetime) -> None:
    """When a drift detector noticed a change of the camera, and when that was over."""
    for drift in state.drifts:
        if drifted_stream(drift) != camera.key:
            continue
        at = _at(drift.time, start)
        axis.axvline(at, color=_NOTICED, lw=1.2, ls=":" if drift.returned else "-")
        word = "back" if drift.returned else f"{drift.statistic} noticed"
        _write(axis, at, word, _NOTICED, y=0.78 if drift.returned else 0.9)


def _mark_swaps(axis: Axes, camera: CameraFrames, start: datetime) -> None:
    for time, version in _swaps(camera):
        axis.axvline(_at(time, start), color=_VERSIONS[1], linewidth=1.2, linestyle=(0, (4, 2)))
        _write(axis, _at(time, start), f"swap to {version}", _VERSIONS[1], y=0.2)


def _draw_accuracy(
    axis: Axes, camera: CameraFrames, state: DetectionState, start: datetime
) -> None:
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
    _mark_swaps(axis, camera, start)
    _mark_drifts(axis, camera, state, start)
    axis.set_ylim(0, 1.02)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.98), frameon=False, fontsize=8, ncols=3)


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
