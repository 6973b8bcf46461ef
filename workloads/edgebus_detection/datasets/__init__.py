"""Labelled pictures: readers of the common formats."""

from edgebus_detection.datasets.labels import read_coco, read_mot, read_yolo

__all__ = [
    "read_coco",
    "read_mot",
    "read_yolo",
]
