"""Labelled pictures: readers, writers, and labels as a model learns them.

A data set is read by `read_dataset`, `read_coco` or `read_yolo` as it is written, its boxes not
checked yet; `read_folder` makes labels of it. `write_dataset` writes samples.
"""

from edgebus_detection.datasets.folders import Folder, read_folder
from edgebus_detection.datasets.labelled import LabelBuilder, Labelled, ignore_rare
from edgebus_detection.datasets.mot import read_mot
from edgebus_detection.datasets.picture import (
    DatasetBox,
    DatasetPicture,
    ExportPicture,
    ImpossibleBoxError,
    SourceError,
    Style,
    checked_box,
)
from edgebus_detection.datasets.reading import read_coco, read_dataset
from edgebus_detection.datasets.writing import coco_document, write_dataset
from edgebus_detection.datasets.yolo import read_yolo

__all__ = [
    "DatasetBox",
    "DatasetPicture",
    "ExportPicture",
    "Folder",
    "ImpossibleBoxError",
    "LabelBuilder",
    "Labelled",
    "SourceError",
    "Style",
    "checked_box",
    "coco_document",
    "ignore_rare",
    "read_coco",
    "read_dataset",
    "read_folder",
    "read_mot",
    "read_yolo",
    "write_dataset",
]
