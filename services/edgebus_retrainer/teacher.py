"""The teacher: a larger model that labels samples nobody else can."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgebus.artifacts import Bundle, import_onnx
from edgebus.contracts import Box, Record
from edgebus.inference import DetectionModel, EngineSettings
from edgebus.vision import decode_jpeg, to_boxes
from edgebus_retrainer.files import write_atomically

__all__ = ["Teacher", "open_model"]


class _Answer(Record):
    boxes: tuple[Box, ...]


class Teacher:
    """Labels pictures, each picture once: answers are kept on disk by the picture's digest.

    Args:
        model: The loaded model.
        threshold: Boxes below this score are nothing.
        cache: Folder of the answers, shared by all jobs; the teacher's digest is part of a path.
    """

    def __init__(self, model: DetectionModel, *, threshold: float, cache: Path) -> None:
        self._model = model
        self._threshold = threshold
        self._cache = cache / f"{model.ref.digest[:16]}-{threshold:g}"
        self._cache.mkdir(parents=True, exist_ok=True)
        self.asked = 0
        """Pictures that the model really had to look at."""

    def label(self, jpeg: bytes, *, key: str) -> tuple[Box, ...]:
        """What it sees in a picture, with scores.

        Args:
            jpeg: The picture.
            key: Names the picture's content: its digest.

        Raises:
            ImageError: The picture cannot be decoded.
            EngineError: The model fails.
        """
        path = self._cache / f"{key}.json"
        if path.is_file():
            return _Answer.model_validate_json(path.read_bytes()).boxes
        found, _ = self._model.detect(decode_jpeg(jpeg), threshold=self._threshold)
        answer = _Answer(boxes=to_boxes(found, self._model.classes))
        write_atomically(path, answer.model_dump_json(exclude_none=True).encode())
        self.asked += 1
        return answer.boxes


def open_model(path: Path, *, imports: Path, settings: EngineSettings) -> DetectionModel:
    """Load a bundle's folder or an ONNX file.

    Args:
        path: Either of the two.
        imports: Where an ONNX file becomes a bundle.
        settings: How it is run.

    Raises:
        BundleError: It is no bundle.
        OSError: The file is not there.
        ImportRefusedError: The ONNX file has a head that is not known.
        EngineError: The runtime refuses it.
    """
    if path.is_dir():
        bundle = Bundle.open(path)
    else:
        folder = imports / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        if not folder.exists():
            import_onnx(path, name="teacher", out=folder, serve_only=True)
        bundle = Bundle.open(folder)
    return DetectionModel.load(bundle, settings)
