"""The model that a camera began with, asked once more about a picture that a later one answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgebus.artifacts import BlobMissingError, Bundle, BundleError, Store
from edgebus.serving import EngineError, EngineSettings
from edgebus_detection.lab.frames import CameraFrames, FrameEntry
from edgebus_detection.models import DetectionModel
from edgebus_detection.vision import ImageError, decode_picture, to_boxes

_LOWEST = 0.05


class FirstModels:
    """The models that the cameras of a run began with, from the stores in the run's folder."""

    def __init__(self, folder: Path) -> None:
        """Look for bundles below a run's folder."""
        self._stores = sorted(folder.glob("data/*/*/store"))
        self._models: dict[str, DetectionModel | None] = {}

    def ask(self, camera: CameraFrames, entry: FrameEntry, jpeg: bytes) -> FrameEntry | None:
        """The frame as the first model would have answered it; None where that is not here."""
        first = next((f.answer.model for f in camera.frames.values() if f.answer), None)
        if first is None or entry.answer is None:
            return None
        if first.digest not in self._models:
            self._models[first.digest] = self._load(first.digest)
        model = self._models[first.digest]
        if model is None:
            return None
        try:
            found = model.predict(decode_picture(jpeg)).found
        except (ImageError, EngineError):
            return None
        boxes = to_boxes(found, model.classes)
        return replace(
            entry, answer=entry.answer.model_copy(update={"boxes": boxes, "model": first})
        )

    def _load(self, digest: str) -> DetectionModel | None:
        for place in self._stores:
            try:
                bundle: Bundle = Store(place).open_bundle(digest)
                return DetectionModel.load(bundle, EngineSettings(threads=1), threshold=_LOWEST)
            except (BlobMissingError, BundleError, EngineError, OSError):
                continue
        return None
