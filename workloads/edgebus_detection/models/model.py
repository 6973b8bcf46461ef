"""A detector: a bundle, an engine, and the steps before and after it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from edgebus.artifacts import Array, Bundle, Manifest, ModelSource
from edgebus.contracts import ModelRef
from edgebus.serving.engine import Engine, EngineSettings, OrtEngine
from edgebus.serving.errors import EngineError
from edgebus_detection.messages import StageTimes
from edgebus_detection.models.novelty import Novelty
from edgebus_detection.vision import (
    Detected,
    Image,
    OutputError,
    Preprocessor,
    clip_boxes,
    make_decoder,
    suppress,
)

__all__ = ["DetectionModel", "Look", "NamedSource"]


class NamedSource(ModelSource, Protocol):
    """A model source with a digest; `edgebus.artifacts.Bundle` is one."""

    @property
    def ref(self) -> ModelRef:
        """Name, version and digest."""
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """What a model makes of a picture.

    Attributes:
        found: The boxes, in pixels of the picture.
        stages: Where the time went.
        novelty: How unlike the reference pictures it is; None where the bundle cannot tell.
    """

    found: Detected
    stages: StageTimes
    novelty: float | None


class DetectionModel:
    """Pictures in, boxes out, as one bundle's manifest says. May be used from any thread.

    Attributes:
        manifest: What the model is.
        ref: Name, version and digest, with the engine that runs it.
        classes: Names of the labels.
        engine: What runs the graph.
        novelty: What tells strange pictures, or None.
    """

    def __init__(
        self,
        source: NamedSource,
        engine: Engine,
        *,
        threshold: float | None = None,
        nms_iou: float | None = None,
        limit: int = 300,
        novelty: Novelty | None = None,
    ) -> None:
        """Put a model together.

        Args:
            source: The bundle.
            engine: The bundle's graph, loaded.
            threshold: Lowest score that is kept; the manifest's by default.
            nms_iou: Overlap of one class that is suppressed; the manifest's by default.
            limit: Most boxes per picture.
            novelty: The bundle's, loaded.

        Raises:
            ValueError: The manifest names an unknown decoder or an impossible input.
        """
        manifest = source.manifest
        self.manifest: Manifest = manifest
        self.ref = source.ref.model_copy(update={"engine": engine.name})
        self.classes = manifest.classes
        self.engine = engine
        self.novelty = novelty
        self.threshold = manifest.decoder.score_threshold if threshold is None else threshold
        self.nms_iou = manifest.decoder.nms_iou if nms_iou is None else nms_iou
        self._limit = limit
        self._preprocessor = Preprocessor(manifest.input)
        self._decoder = make_decoder(
            manifest.decoder,
            height=manifest.input.height,
            width=manifest.input.width,
            classes=len(manifest.classes),
        )

    @classmethod
    def load(
        cls,
        source: NamedSource,
        settings: EngineSettings | None = None,
        *,
        threshold: float | None = None,
        nms_iou: float | None = None,
    ) -> DetectionModel:
        """Load a bundle into ONNX Runtime.

        Raises:
            EngineError: The runtime refuses it.
            ValueError: The manifest names an unknown decoder or an impossible input.
        """
        engine = OrtEngine(source, settings)
        novelty = Novelty.of(source) if isinstance(source, Bundle) else None
        return cls(source, engine, threshold=threshold, nms_iou=nms_iou, novelty=novelty)

    def detect(
        self, image: Image, *, threshold: float | None = None
    ) -> tuple[Detected, StageTimes]:
        """Find objects in one picture.

        Args:
            image: BGR, uint8 [height, width, 3].
            threshold: Lowest score for this call; 0.01 or so for measuring mAP.

        Returns:
            Boxes in pixels of the picture, clipped to it, best first, and where the time went.

        Raises:
            ImageError: The array is no picture.
            EngineError: The runtime fails, or the outputs are NaN, infinite or misshapen; the
                text says the model's digest.
        """
        look = self._look(image, threshold=threshold, novelty=None)
        return look.found, look.stages

    def look(self, image: Image) -> Look:
        """As `detect`, and how strange the picture is, where the bundle can tell."""
        return self._look(image, threshold=None, novelty=self.novelty)

    def _look(self, image: Image, *, threshold: float | None, novelty: Novelty | None) -> Look:
        began = time.perf_counter()
        tensor, placement = self._preprocessor.prepare(image)
        prepared = time.perf_counter()
        strange = None if novelty is None else novelty.of_input(tensor)
        outputs = self.engine.run(tensor)
        ran = time.perf_counter()
        try:
            raw = self._decoder.decode(
                outputs, threshold=self.threshold if threshold is None else threshold
            )
        except OutputError as error:
            reason = (
                f"{self.ref.name} v{self.ref.version} ({self.ref.digest[:12]}) gave an unusable "
                f"{error}"
            )
            raise EngineError(engine=self.engine.name, reason=reason) from error
        placed = Detected(placement.to_image(raw.boxes), raw.scores, raw.labels)
        clipped = clip_boxes(placed, width=image.shape[1], height=image.shape[0])
        found = suppress(clipped, iou=self.nms_iou, limit=self._limit)
        done = time.perf_counter()
        stages = StageTimes(
            preprocess_ms=_ms(began, prepared),
            inference_ms=_ms(prepared, ran),
            postprocess_ms=_ms(ran, done),
        )
        return Look(found, stages, strange)

    def raw(self, image: Image) -> list[Array]:
        """The engine's outputs for a picture, as they are."""
        tensor, _ = self._preprocessor.prepare(image)
        return list(self.engine.run(tensor))


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1e3, 3)
