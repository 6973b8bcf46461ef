"""Accuracy metrics of detectors."""

from edgebus_detection.metrics.average_precision import (
    MapResult,
    Matches,
    RollingAp,
    average_precision,
    match,
    mean_average_precision,
)

__all__ = [
    "MapResult",
    "Matches",
    "RollingAp",
    "average_precision",
    "match",
    "mean_average_precision",
]
