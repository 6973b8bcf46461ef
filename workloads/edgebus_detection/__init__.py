"""The detection workload: objects in pictures of cameras, found, mined, labelled and learnt."""

from edgebus_detection.workload import Detection

__all__ = ["Detection"]
