"""The second model: a teacher or merely another opinion, asked about a share of the frames."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from edgebus.service import ServiceSettings
from edgebus_detection.messages import Box

if TYPE_CHECKING:
    from edgebus_detection.models import DetectionModel

__all__ = ["SecondModel", "SecondSettings"]


class SecondSettings(ServiceSettings):
    """A second model on the collector's node."""

    model: Path
    """Folder of a bundle, or an ONNX file of a known head."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of the frames for training that it is shown; it is shown one at a time, and frames
    that come meanwhile are not waited for."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Its boxes below this score are nothing."""
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads that it may use beside the detector."""


class SecondModel:
    """A detector of the collector's own.

    Args:
        model: Loaded.
        threshold: Boxes below this score are nothing.
    """

    def __init__(self, model: DetectionModel, *, threshold: float) -> None:
        self._model = model
        self._threshold = threshold
        self.name = f"{model.ref.name} v{model.ref.version}"
        """For people."""

    @classmethod
    def load(cls, settings: SecondSettings, *, imports: Path) -> SecondModel:
        """Load a bundle, or an ONNX file, which becomes one below `imports`. Reads from disk.

        Raises:
            OSError: It is not there.
            BundleError: It is no bundle.
            ImportRefusedError: The ONNX file has a head that is not known.
            EngineError: The runtime refuses it.
        """
        # Imported only here: a collector without a second model need not load a runtime.
        from edgebus.artifacts import Bundle
        from edgebus.serving import EngineSettings
        from edgebus_detection.models import DetectionModel, import_onnx

        path = settings.model
        if not path.is_dir():
            folder = imports / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            if not folder.exists():
                import_onnx(path, name="second", out=folder, serve_only=True)
            path = folder
        engine = EngineSettings(threads=settings.threads, provider="cpu")
        loaded = DetectionModel.load(Bundle.open(path), engine)
        return cls(loaded, threshold=settings.threshold)

    def look(self, jpeg: bytes) -> tuple[Box, ...]:
        """What it sees in a picture. Takes its time; not for the event loop.

        Raises:
            ImageError: The picture cannot be decoded.
            EngineError: The model fails.
        """
        from edgebus_detection.vision import decode_picture, to_boxes

        image: Any = decode_picture(jpeg)
        found, _ = self._model.detect(image, threshold=self._threshold)
        return to_boxes(found, self._model.classes)
