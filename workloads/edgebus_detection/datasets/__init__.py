"""Labelled pictures: readers, writers, and labels as a model learns them."""

from edgebus_detection.datasets.dataset import (
    DatasetError,
    ExportPicture,
    IncomingBox,
    IncomingPicture,
    Style,
)
from edgebus_detection.datasets.folders import FolderError, read_folder
from edgebus_detection.datasets.labelled import (
    ImpossibleBoxError,
    LabelBuilder,
    Labelled,
    checked_box,
    ignore_rare,
)
from edgebus_detection.datasets.labels import read_coco, read_mot, read_yolo
from edgebus_detection.datasets.reading import read_dataset
from edgebus_detection.datasets.writing import write_dataset

__all__ = [
    "DatasetError",
    "ExportPicture",
    "FolderError",
    "ImpossibleBoxError",
    "IncomingBox",
    "IncomingPicture",
    "LabelBuilder",
    "Labelled",
    "Style",
    "checked_box",
    "ignore_rare",
    "read_coco",
    "read_dataset",
    "read_folder",
    "read_mot",
    "read_yolo",
    "write_dataset",
]
