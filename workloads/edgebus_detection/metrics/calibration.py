"""Calibration of scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebus_detection.metrics.average_precision import Matches

_BINS = 10


def calibration_error(matches: Sequence[Matches], *, threshold: float = 0.1) -> float | None:
    """Expected calibration error of detections (Guo et al. 2017; for detections Kueppers 2020).

    How far, on average, the share of hits among detections of about the same score lies from that
    score. Ten bins of equal width.

    Args:
        matches: Detections, one entry per picture.
        threshold: Lower scores are left out: there are thousands of nearly 0, and all are right
            to be so.

    Returns:
        0 (scores are probabilities) to 1; None without a detection.
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
