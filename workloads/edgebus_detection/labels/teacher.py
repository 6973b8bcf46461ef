"""Teachers: larger models that label samples without another source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from edgebus.contracts import Record, teacher
from edgebus.files import write_file
from edgebus.serving import EngineSettings
from edgebus_detection.messages import Box
from edgebus_detection.models import DetectionModel, open_bundle
from edgebus_detection.vision import decode_picture, to_boxes


class Answer(Record):
    """A teacher's boxes of a picture.

    Attributes:
        boxes: With scores, down to the lowest that may be something.
        unsure: Boxes on which several teachers disagree: neither object nor background.
    """

    boxes: tuple[Box, ...]
    unsure: tuple[Box, ...] = ()


class Labeller(Protocol):
    """A source of labels for pictures: one teacher, or several."""

    @property
    def by(self) -> str:
        """The provenance of its boxes."""

    def answer(self, jpeg: bytes, *, key: str) -> Answer:
        """Its boxes of a picture; `key` names the picture's content."""


def answer_folder(cache: Path, *, by: str, threshold: float) -> Path:
    """Folder of a teacher's answers: a file each, named by the picture's digest."""
    return cache / f"{by.partition(':')[2]}-{threshold:g}"


class CachingLabeller(ABC):
    """Labels each picture once: answers are kept on disk by the picture's digest.

    Args:
        by: The provenance of its boxes.
        threshold: Score below which a box is background.
        cache: Folder of the answers, shared by all jobs; the teacher's digest is part of a path.
    """

    def __init__(self, *, by: str, threshold: float, cache: Path) -> None:
        self.by = by
        self._cache = answer_folder(cache, by=by, threshold=threshold)
        self._cache.mkdir(parents=True, exist_ok=True)

    def answer(self, jpeg: bytes, *, key: str) -> Answer:
        """Its boxes of a picture, with scores.

        Args:
            jpeg: The picture.
            key: Names the picture's content: its digest.

        Raises:
            ImageError: The picture cannot be decoded.
            EngineError: The model fails.
        """
        path = self._cache / f"{key}.json"
        try:
            return Answer.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            pass  # not asked yet, or its answer is damaged
        answer = self._ask(jpeg, key=key)
        write_file(path, answer.model_dump_json(exclude_none=True).encode())
        return answer

    @abstractmethod
    def _ask(self, jpeg: bytes, *, key: str) -> Answer:
        """Make the answer."""


class Teacher(CachingLabeller):
    """One model that labels pictures.

    Args:
        model: The loaded model.
        threshold: Score below which a box is background.
        cache: Folder of the answers.
    """

    def __init__(self, model: DetectionModel, *, threshold: float, cache: Path) -> None:
        super().__init__(by=teacher(model.ref.digest), threshold=threshold, cache=cache)
        self._model = model
        self._threshold = threshold
        self.asked = 0
        """Number of pictures that the model was run on."""

    def _ask(self, jpeg: bytes, *, key: str) -> Answer:
        found, _ = self._model.detect(decode_picture(jpeg), threshold=self._threshold)
        self.asked += 1
        return Answer(boxes=to_boxes(found, self._model.classes))


class CachedAnswers:
    """Teachers' answers of earlier jobs, for tools; runs no model.

    Args:
        cache: The folder of the answers.
    """

    def __init__(self, cache: Path) -> None:
        folders = [path for path in cache.glob("*-*") if path.is_dir()] if cache.is_dir() else []
        self._folders = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)

    def of(self, key: str) -> tuple[str, Answer] | None:
        """Provenance and answer of the newest teacher that saw a picture; None: no teacher did.

        Args:
            key: Digest of the picture.
        """
        for folder in self._folders:
            try:
                answer = Answer.model_validate_json((folder / f"{key}.json").read_bytes())
            except (OSError, ValidationError):
                continue
            return teacher(folder.name.partition("-")[0]), answer
        return None


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
    return DetectionModel.load(open_bundle(path, imports=imports), settings)
