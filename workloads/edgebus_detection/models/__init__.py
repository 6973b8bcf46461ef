"""Detection models: heads, import from ONNX, prediction, novelty."""

from edgebus_detection.models.heads import COCO_CLASSES, TRAINABLE_HEADS
from edgebus_detection.models.model import DetectionModel, Look, NamedSource
from edgebus_detection.models.novelty import Novelty, NoveltyError, add_novelty, make_novelty
from edgebus_detection.models.onnx_import import import_onnx

__all__ = [
    "COCO_CLASSES",
    "TRAINABLE_HEADS",
    "DetectionModel",
    "Look",
    "NamedSource",
    "Novelty",
    "NoveltyError",
    "add_novelty",
    "import_onnx",
    "make_novelty",
]
