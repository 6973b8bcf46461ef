"""Object detection as a workload."""

from typing import ClassVar

from edgebus.workload import Workload

__all__ = ["Detection"]


class Detection(Workload):
    """Object detection in pictures of cameras."""

    name: ClassVar[str] = "detection"

    # Lab.

    lab: ClassVar[str] = "edgebus_detection.lab.lab:DetectionLab"
