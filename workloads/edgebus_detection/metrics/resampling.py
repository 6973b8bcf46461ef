"""Average precision of resampled pictures, for bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebus_detection.metrics.average_precision import Matches

_CHUNK = 64  # resamples at a time: bounds memory to some megabytes

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Curve:
    """The detections of one class, best first, up to the last hit: what follows adds no area."""

    images: Counts
    hits: npt.NDArray[np.bool_]
    truths: Counts  # per picture


def resampled_ap(matches: Sequence[Matches], drawn: Counts) -> npt.NDArray[np.float64]:
    """Average precision, over classes, where each picture counts several times, or not at all.

    It is the area under the precision envelope; a class that no drawn picture shows does not count.

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
