"""Samples and labels as other tools have them: COCO, YOLO, Label Studio."""

from edgebus_retrainer.exchange._dataset import (
    DatasetError,
    ExportPicture,
    IncomingBox,
    IncomingPicture,
    Style,
    picture_of,
)
from edgebus_retrainer.exchange._importing import ImportReport, import_dataset
from edgebus_retrainer.exchange._reading import read_dataset
from edgebus_retrainer.exchange._writing import write_dataset

__all__ = [
    "DatasetError",
    "ExportPicture",
    "ImportReport",
    "IncomingBox",
    "IncomingPicture",
    "Style",
    "import_dataset",
    "picture_of",
    "read_dataset",
    "write_dataset",
]
