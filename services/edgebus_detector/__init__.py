"""The detector service: newest frame wins, models change between two frames."""

from edgebus_detector.service import Detector, DetectorSettings

__all__ = ["Detector", "DetectorSettings"]
