"""Drift: whether a stream's inputs, or the model's predictions, are what they were."""

from edgebus_collector.drift.changes import Change, ChangeMonitor, split_at
from edgebus_collector.drift.detectors import DetectorName, check_parameter, make_detector
from edgebus_collector.drift.watch import DriftSettings, DriftWatch

__all__ = [
    "Change",
    "ChangeMonitor",
    "DetectorName",
    "DriftSettings",
    "DriftWatch",
    "check_parameter",
    "make_detector",
    "split_at",
]
