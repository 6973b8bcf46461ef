"""Figures of a loaded model on held-out pictures, through the engine that serves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from edgebus.training.gate import Measured
from edgebus_detection.datasets.labelled import Labelled
from edgebus_detection.metrics.average_precision import (
    MapResult,
    Matches,
    average_precision,
    match,
    mean_average_precision,
)
from edgebus_detection.metrics.resampling import resampled_ap
from edgebus_detection.models import DetectionModel
from edgebus_detection.vision import Detected, ImageError, Truth, read_picture

MAP50, MAP, CALIBRATION_ERROR = "mAP50", "mAP", "calibration_error"
"""Names of the figures; the first decides."""

_THRESHOLD = 0.01  # of the score: mAP needs the whole precision-recall curve
_BINS = 10


def measure(
    model: DetectionModel, pictures: Sequence[Labelled], *, on_picture: Callable[[], None]
) -> Measured:
    """Measure a model.

    Args:
        model: The loaded bundle.
        pictures: Held-out pictures, of which at least one shows something.
        on_picture: Called after each.

    Raises:
        EngineError: The model's outputs are not finite.
        ValueError: There is no true box, or no readable picture.
    """
    found: list[Detected] = []
    truths: list[Truth] = []
    streams: list[str] = []
    for picture in pictures:
        try:
            image = read_picture(picture.path)
        except ImageError:
            # Gone or broken since it was listed; every model skips the same pictures.
            continue
        detected, _ = model.detect(image, threshold=_THRESHOLD)
        found.append(detected)
        truths.append(picture.truth)
        streams.append(picture.group.rpartition("/")[0])
        on_picture()
    counts = Counter(int(label) for truth in truths for label in truth.labels)
    return figures_of(
        mean_average_precision(found, truths, model.classes),
        tuple(match(*both) for both in zip(found, truths, strict=True)),
        boxes_of={model.classes[label]: count for label, count in sorted(counts.items())},
        streams=streams,
    )


def figures_of(
    result: MapResult,
    matches: Sequence[Matches],
    *,
    boxes_of: dict[str, int],
    streams: Sequence[str],
) -> Measured:
    """The figures of a model that was run.

    Args:
        result: COCO's figures.
        matches: Which detections are hits (IoU 0.5), one entry per picture.
        boxes_of: True boxes of each class, by name.
        streams: Camera or data set of each picture.
    """
    figures = {MAP50: _fraction(result.map50), MAP: _fraction(result.map)}
    calibration = calibration_error(matches)
    if calibration is not None:
        figures[CALIBRATION_ERROR] = calibration
    of_streams: dict[str, tuple[float, int]] = {}
    for name in dict.fromkeys(streams):
        mine = [entry for entry, stream in zip(matches, streams, strict=True) if stream == name]
        value, _ = average_precision(mine)
        if value is not None:
            of_streams[name] = _fraction(value), sum(len(entry.truths) for entry in mine)
    return Measured(
        items=result.images,
        labels=result.boxes,
        deciding=MAP50,
        figures=figures,
        groups={
            "class": {
                label: (_fraction(value), boxes_of.get(label, 0))
                for label, value in result.per_class.items()
            },
            "stream": of_streams,
        },
        lower_is_better=(CALIBRATION_ERROR,),
        resample=partial(resampled_ap, matches),
    )


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


def _fraction(value: float) -> float:
    # Sums of float32 areas end a rounding error above 1.
    return min(1.0, max(0.0, value))
