"""The reference model: a teacher or merely a different model, asked about a share of the frames."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgebus.artifacts import Bundle
from edgebus.serving import EngineSettings
from edgebus_detection.messages import Box, Frame
from edgebus_detection.models import DetectionModel, import_onnx
from edgebus_detection.vision import decode_picture, to_boxes

__all__ = ["ReferenceDetector"]

_LEAST_SCORE = 0.05
"""Boxes below it are not even doubts."""


class ReferenceDetector:
    """A detection model of the collector's own.

    Args:
        model: A bundle's folder, or an ONNX file of a known head, which becomes a bundle.
        threads: Threads that it may use. Reads from disk.
        imports: Folder of imported models.

    Raises:
        OSError: It is not there.
        BundleError: It is no bundle.
        ImportRefusedError: The ONNX file has a head that is not known.
        EngineError: The runtime refuses it.
    """

    def __init__(self, model: Path, *, threads: int, imports: Path) -> None:
        if not model.is_dir():
            folder = imports / hashlib.sha256(model.read_bytes()).hexdigest()[:16]
            if not folder.exists():
                import_onnx(model, name="reference", out=folder, serve_only=True)
            model = folder
        engine = EngineSettings(threads=threads, provider="cpu")
        self._model = DetectionModel.load(Bundle.open(model), engine)
        self.name = f"{self._model.ref.name} v{self._model.ref.version}"

    def predict(self, payload: Frame, /) -> tuple[Box, ...]:
        """Find the objects of a frame.

        Raises:
            ImageError: The picture cannot be decoded.
            EngineError: The model fails.
        """
        image = decode_picture(payload.jpeg)
        found, _ = self._model.detect(image, threshold=_LEAST_SCORE)
        return to_boxes(found, self._model.classes)
