"""How sure the gate's figures are: a bootstrap interval of the gain, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebus_detection.metrics import Matches

__all__ = ["calibration_error", "gain_interval", "resampled_ap"]

_CHUNK = 64  # resamples at a time: bounds memory to some megabytes
_BINS = 10

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Curve:
    """The detections of one class, best first, up to the last hit: what follows adds no area."""

    images: Counts
    hits: npt.NDArray[np.bool_]
    truths: Counts  # per picture


def gain_interval(
    before: Sequence[Matches],
    after: Sequence[Matches],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Percentile bootstrap interval of what mAP50 gains from one model to another.

    Pictures are drawn with replacement (Efron 1979), the same ones for both models: what makes a
    picture hard is hard for both, and cancels. A class that no drawn picture shows counts in
    neither. Average precision is the area under the precision envelope.

    Args:
        before: The incumbent's detections, one entry per picture.
        after: The candidate's, of the same pictures in the same order.
        confidence: Of the two-sided interval, for example 0.9.
        resamples: How often pictures are drawn.
        seed: Where chance starts: equal seeds give equal intervals.

    Raises:
        ValueError: The two are of different pictures, or there are none.
    """
    if len(before) != len(after) or not before:
        msg = f"{len(before)} pictures before and {len(after)} after; give the same ones to both"
        raise ValueError(msg)
    count = len(before)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    gains = resampled_ap(after, drawn) - resampled_ap(before, drawn)
    gains = gains[np.isfinite(gains)]
    if not len(gains):
        return -1.0, 1.0
    tail = (1 - confidence) / 2
    low, high = np.quantile(gains, [tail, 1 - tail])
    return float(low), float(high)


def resampled_ap(matches: Sequence[Matches], drawn: Counts) -> npt.NDArray[np.float64]:
    """Average precision, over classes, where each picture counts several times, or not at all.

    Args:
        matches: Detections and truths, one entry per picture [n].
        drawn: int64 [resamples, n]: how often each picture counts.

    Returns:
        float64 [resamples]; NaN where no drawn picture has a true box.
    """
    curves = _curves(matches)
    rows = [
        np.nanmean([_area(curve, part) for curve in curves], axis=0)
        if curves
        else np.full(len(part), np.nan)
        for part in (drawn[at : at + _CHUNK] for at in range(0, len(drawn), _CHUNK))
    ]
    return np.concatenate(rows)


def calibration_error(matches: Sequence[Matches], *, threshold: float = 0.1) -> float | None:
    """Expected calibration error of detections (Guo et al. 2017; for detections Kueppers 2020).

    How far, on average, the share of hits among detections of about the same score lies from that
    score. Ten bins of equal width.

    Args:
        matches: Detections, one entry per picture.
        threshold: Lower scores are left out: there are thousands of nearly 0, and all are right
            to be so.

    Returns:
        0 (scores are what they say) to 1; None without a detection.
    """
    scores = np.concatenate([np.zeros(0, np.float32), *(entry.scores for entry in matches)])
    hits = np.concatenate([np.zeros(0, np.bool_), *(entry.hits for entry in matches)])
    counted = scores >= threshold
    scores, hits = scores[counted].astype(np.float64), hits[counted]
    if not len(scores):
        return None
    bins = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, scores - hits, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def _curves(matches: Sequence[Matches]) -> list[_Curve]:
    scores = np.concatenate([entry.scores for entry in matches])
    order = np.argsort(-scores, kind="stable")
    images = np.repeat(np.arange(len(matches)), [len(entry.scores) for entry in matches])[order]
    labels = np.concatenate([entry.labels for entry in matches])[order]
    hits = np.concatenate([entry.hits for entry in matches])[order]
    truths = np.concatenate([entry.truths for entry in matches])
    owners = np.repeat(np.arange(len(matches)), [len(entry.truths) for entry in matches])
    curves = []
    for name in np.unique(truths):
        mine = np.flatnonzero(labels == name)
        last = np.flatnonzero(hits[mine])
        mine = mine[: last[-1] + 1] if len(last) else mine[:0]
        per_picture = np.bincount(owners[truths == name], minlength=len(matches))
        curves.append(_Curve(images[mine], hits[mine], per_picture))
    return curves


def _area(curve: _Curve, drawn: Counts) -> npt.NDArray[np.float64]:
    """Average precision of one class per resample; NaN where the class is on no drawn picture."""
    total = (drawn @ curve.truths).astype(np.float64)
    total[total == 0] = np.nan
    weight = drawn[:, curve.images].astype(np.float64)
    found = weight * curve.hits
    seen = weight.cumsum(axis=1)
    precision = found.cumsum(axis=1) / np.maximum(seen, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: npt.NDArray[np.float64] = (found * envelope).sum(axis=1) / total
    return area
