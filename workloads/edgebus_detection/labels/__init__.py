"""Labels of samples: their sources, teachers, and the labels that a job trains on."""

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
from edgebus_detection.labels.settings import LabelSettings
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
    "LabelSettings",
    "Labeller",
    "Labelling",
    "TaughtFrame",
    "Teacher",
    "answer_folder",
    "calibrate",
    "check_boxes",
    "fuse",
    "inconsistent_boxes",
    "open_model",
    "open_teacher",
    "parse_words",
    "read_rows",
    "unknown_class",
]
