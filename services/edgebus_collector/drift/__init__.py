"""Drift: whether a camera's pictures, or the model's answers to them, are what they were."""

from edgebus_collector.drift.changes import Change, ChangeMonitor, split_at
from edgebus_collector.drift.detectors import DetectorName, check_parameter, make_detector
from edgebus_collector.drift.watch import DriftWatch, Statistic

__all__ = [
    "Change",
    "ChangeMonitor",
    "DetectorName",
    "DriftWatch",
    "Statistic",
    "check_parameter",
    "make_detector",
    "split_at",
]
