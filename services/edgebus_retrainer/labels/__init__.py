"""What is on a picture: who says so, and what a job is told."""

from edgebus_retrainer.labels._boxtext import (
    BoxesRefusedError,
    check_boxes,
    parse_words,
    read_rows,
    unknown_class,
)
from edgebus_retrainer.labels._calibration import Compared, calibrate
from edgebus_retrainer.labels._ensemble import Ensemble, fuse, open_teacher
from edgebus_retrainer.labels._labelled import (
    ImpossibleBoxError,
    LabelBuilder,
    Labelled,
    checked_box,
    ignore_rare,
)
from edgebus_retrainer.labels._labelling import Labelling
from edgebus_retrainer.labels._steadiness import Seen, flips
from edgebus_retrainer.labels._teacher import (
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
    "Seen",
    "Teacher",
    "answer_folder",
    "calibrate",
    "check_boxes",
    "checked_box",
    "flips",
    "fuse",
    "ignore_rare",
    "open_model",
    "open_teacher",
    "parse_words",
    "read_rows",
    "unknown_class",
]
