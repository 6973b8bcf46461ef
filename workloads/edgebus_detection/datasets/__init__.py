"""Labelled pictures: readers, writers, and labels as a model learns them.

`read_dataset` reads a data set of any known form as it is written; `Dataset.place` checks it
against its pictures; `read_folder` makes labels for training of it. `write_dataset` writes samples.
"""

from edgebus_detection.datasets.folders import Folder, read_folder
from edgebus_detection.datasets.labelled import LabelBuilder, Labelled, ignore_rare
from edgebus_detection.datasets.mot import read_mot
from edgebus_detection.datasets.picture import (
    DatasetBox,
    DatasetPicture,
    ExportPicture,
    ImpossibleBoxError,
    PlacedBoxes,
    SourceError,
    Style,
    checked_box,
)
from edgebus_detection.datasets.reading import (
    Dataset,
    LabelledPicture,
    NoLabelsError,
    read_dataset,
)
from edgebus_detection.datasets.writing import coco_document, write_dataset
from edgebus_detection.datasets.yolo import class_names

__all__ = [
    "Dataset",
    "DatasetBox",
    "DatasetPicture",
    "ExportPicture",
    "Folder",
    "ImpossibleBoxError",
    "LabelBuilder",
    "Labelled",
    "LabelledPicture",
    "NoLabelsError",
    "PlacedBoxes",
    "SourceError",
    "Style",
    "checked_box",
    "class_names",
    "coco_document",
    "ignore_rare",
    "read_dataset",
    "read_folder",
    "read_mot",
    "write_dataset",
]
