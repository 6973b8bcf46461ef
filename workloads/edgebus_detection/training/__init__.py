"""Training of detectors. Nothing here but `yolox` needs torch."""

from edgebus_detection.training.options import AugmentSettings, DetectionTraining

__all__ = ["AugmentSettings", "DetectionTraining"]
