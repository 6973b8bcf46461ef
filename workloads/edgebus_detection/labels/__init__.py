"""What is on a picture: who says so, and what a job is told."""

from edgebus_detection.datasets.labelled import (
    ImpossibleBoxError,
    LabelBuilder,
    Labelled,
    checked_box,
    ignore_rare,
)
from edgebus_detection.labels.box_text import (
    BoxesRefusedError,
    check_boxes,
    parse_words,
    read_rows,
    unknown_class,
)
from edgebus_detection.labels.calibration import Compared, calibrate
from edgebus_detection.labels.consistency import TaughtFrame, inconsistent_boxes
from edgebus_detection.labels.ensemble import Ensemble, fuse, open_teacher
from edgebus_detection.labels.labelling import Labelling
from edgebus_detection.labels.teacher import (
    Answer,
    CachedAnswers,
    Labeller,
    Teacher,
    answer_folder,
    open_model,
)

__all__ = [
    "Answer",
    "BoxesRefusedError",
    "CachedAnswers",
    "Compared",
    "Ensemble",
    "ImpossibleBoxError",
    "LabelBuilder",
    "Labelled",
    "Labeller",
    "Labelling",
    "TaughtFrame",
    "Teacher",
    "answer_folder",
    "calibrate",
    "check_boxes",
    "checked_box",
    "fuse",
    "ignore_rare",
    "inconsistent_boxes",
    "open_model",
    "open_teacher",
    "parse_words",
    "read_rows",
    "unknown_class",
]
