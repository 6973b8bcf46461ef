"""The tutorial's pictures: a drift over time, pictures side by side, boxes without a picture."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np

from edgebus_detection.messages import Box
from edgebus_detection.vision import Image, Style, caption, draw_boxes

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

__all__ = ["draw_bare", "draw_pairs", "plot_drift"]

# Okabe and Ito's colours, told apart by colour-blind people too.
_NOVELTY, _CONFIDENCE, _DRIFT, _TRAINING, _SWAP = (
    "#0072B2",
    "#D55E00",
    "#E69F00",
    "#999999",
    "#009E73",
)
_SMOOTH = 12
_WIDTH = 560
_GREY = 150


def plot_drift(
    frames: Sequence[dict[str, Any]],
    drifts: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    *,
    change: int,
    path: Path,
) -> None:
    """Feature and confidence of every frame, with what was told and done.

    Args:
        frames: Detections, in the order of their frames.
        drifts: Drift events.
        results: Results of jobs.
        change: Place in `frames` of the first frame of the changed view.
        path: PNG to write.
    """
    begin = _time(frames[0]["captured"])
    seconds = np.array([(_time(frame["captured"]) - begin).total_seconds() for frame in frames])
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(9.6, 5.0))
    novelty = np.array([frame.get("novelty") or np.nan for frame in frames], float)
    upper.plot(seconds, novelty, ".", ms=2, color=_NOVELTY)
    upper.set_yscale("log")
    upper.axhline(1.5, color=_NOVELTY, lw=0.8, ls=":")
    upper.set_ylabel("novelty\n(1 = 95th percentile\nof the reference)")
    scores = np.array(
        [
            np.mean([box["score"] for box in frame["boxes"]]) if frame["boxes"] else np.nan
            for frame in frames
        ],
        float,
    )
    lower.plot(seconds, scores, ".", ms=2, color=_CONFIDENCE, alpha=0.5)
    lower.plot(seconds, _smooth(scores), color=_CONFIDENCE, lw=1)
    lower.set_ylabel("confidence\n(mean score of the boxes)")
    lower.set_ylim(0, 1)
    lower.set_xlabel("seconds since the first frame")
    for axis in (upper, lower):
        axis.axvline(seconds[change], color="black", lw=1, ls="--", label="the view changes")
        _mark_jobs(axis, results, begin)
        _mark_swaps(axis, frames, seconds)
        axis.grid(alpha=0.2)
    for drift in drifts:
        axis = upper if drift["statistic"] == "novelty" else lower
        at = next((s for s, f in zip(seconds, frames, strict=True) if f["frame"] == drift["input"]))
        words = "back to normal, told" if drift["returned"] else "drift, told"
        axis.axvline(at, color=_DRIFT, lw=1.5, ls=":" if drift["returned"] else "-", label=words)
    for axis, place in ((upper, "center right"), (lower, "lower right")):
        handles, labels = axis.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axis.legend(unique.values(), unique.keys(), fontsize=8, loc=place)
    figure.align_ylabels()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _mark_jobs(axis: Axes, results: Sequence[dict[str, Any]], begin: datetime) -> None:
    for result in results:
        start, end = _time(result["started"]), _time(result["time"])
        axis.axvspan(
            (start - begin).total_seconds(),
            (end - begin).total_seconds(),
            color=_TRAINING,
            alpha=0.2,
            lw=0,
            label=f"training: {result['outcome']}",
        )


def _mark_swaps(axis: Axes, frames: Sequence[dict[str, Any]], seconds: Any) -> None:
    for place in range(1, len(frames)):
        new = frames[place]["model"]["version"]
        if new != frames[place - 1]["model"]["version"]:
            axis.axvline(seconds[place], color=_SWAP, lw=1.5, label=f"version {new} serves")


def _smooth(values: Any) -> Any:
    smooth = np.full(len(values), np.nan)
    for place in range(len(values)):
        window = values[max(0, place - _SMOOTH) : place + _SMOOTH + 1]
        if np.isfinite(window).sum() >= _SMOOTH // 2:
            smooth[place] = np.nanmean(window)
    return smooth


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def draw_pairs(rows: Sequence[Sequence[tuple[Image, Sequence[Box], str]]], *, path: Path) -> None:
    """Pictures with boxes and a title below each, in rows."""
    lines = [np.hstack([_tile(image, boxes, title) for image, boxes, title in row]) for row in rows]
    cv2.imwrite(str(path), np.vstack(lines), [cv2.IMWRITE_JPEG_QUALITY, 82])


def _tile(image: Image, boxes: Sequence[Box], title: str) -> Image:
    drawn = draw_boxes(image, boxes)
    height = round(drawn.shape[0] * _WIDTH / drawn.shape[1])
    small = cv2.resize(drawn, (_WIDTH, height), interpolation=cv2.INTER_AREA)
    framed = caption(np.asarray(small, np.uint8), title)
    return np.asarray(cv2.copyMakeBorder(framed, 2, 2, 2, 2, cv2.BORDER_CONSTANT), np.uint8)


def draw_bare(
    rows: Sequence[tuple[tuple[int, ...], Sequence[Box], Sequence[Sequence[Box]]]], *, path: Path
) -> None:
    """Boxes on grey: corners where something is, solid where a model says so; old, then new."""
    lines = []
    for shape, truth, answers in rows:
        tiles = []
        for boxes, title in zip(answers, ("old model", "new model"), strict=True):
            canvas = np.full((shape[0], shape[1], 3), _GREY, np.uint8)
            known = draw_boxes(
                canvas, truth, style=Style(line="corners", labels=False, color=(255, 255, 255))
            )
            tiles.append(_tile(known, boxes, f"infrared, {title}; white: what is there"))
        lines.append(np.hstack(tiles))
    cv2.imwrite(str(path), np.vstack(lines))
