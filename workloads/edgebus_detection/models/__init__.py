"""Detection models: manifest, heads, import from ONNX, prediction, novelty."""

from edgebus_detection.datasets.coco import COCO_CLASSES
from edgebus_detection.models.heads import TRAINABLE_HEADS
from edgebus_detection.models.model import DetectionModel, Prediction, probe_picture
from edgebus_detection.models.novelty import Novelty, NoveltyError, add_novelty, make_novelty
from edgebus_detection.models.onnx_import import import_onnx, open_bundle
from edgebus_detection.models.spec import (
    DetectionSpec,
    NoveltySpec,
    detection_manifest,
    detection_spec,
    input_spec,
)

__all__ = [
    "COCO_CLASSES",
    "TRAINABLE_HEADS",
    "DetectionModel",
    "DetectionSpec",
    "Novelty",
    "NoveltyError",
    "NoveltySpec",
    "Prediction",
    "add_novelty",
    "detection_manifest",
    "detection_spec",
    "import_onnx",
    "input_spec",
    "make_novelty",
    "open_bundle",
    "probe_picture",
]
