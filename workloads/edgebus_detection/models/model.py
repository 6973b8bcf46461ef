"""The detection model: a bundle, an engine, and the steps before and after it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from edgebus.artifacts import Bundle, Manifest
from edgebus.serving import Engine, EngineError, EngineSettings, NamedSource, OrtEngine
from edgebus.serving.probe import seeded_bytes
from edgebus_detection.messages import StageTimes
from edgebus_detection.models.novelty import Novelty
from edgebus_detection.models.spec import detection_spec, input_spec
from edgebus_detection.vision import (
    Detected,
    Image,
    OutputError,
    Preprocessor,
    clip_boxes,
    make_decoder,
    suppress,
)

_TILES = 13


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to a picture.

    Attributes:
        found: The boxes, in pixels of the picture.
        classes: Names of the labels.
        stages: Where the time went.
        novelty: How unlike the reference pictures it is; None where the bundle has no measure.
    """

    found: Detected
    classes: tuple[str, ...]
    stages: StageTimes
    novelty: float | None


class DetectionModel:
    """Pictures in, boxes out, as one bundle's manifest says. May be used from any thread.

    Attributes:
        manifest: What the model is.
        ref: Name, version and digest, with the engine that runs it.
        classes: Names of the labels.
        engine: What runs the graph.
        novelty: What measures novelty, or None.
    """

    def __init__(
        self,
        source: NamedSource,
        engine: Engine,
        *,
        threshold: float | None = None,
        nms_iou: float | None = None,
        limit: int = 300,
        novelty: bool = True,
    ) -> None:
        """Put a model together.

        Args:
            source: The bundle.
            engine: The bundle's graph, loaded.
            threshold: Lowest score that is kept; the manifest's by default.
            nms_iou: Overlap of one class that is suppressed; the manifest's by default.
            limit: Most boxes per picture.
            novelty: Load what measures novelty, where the bundle has it.

        Raises:
            ValueError: The manifest names an unknown decoder or an impossible input.
            BundleFormatError: The manifest's detection part is missing or wrong.
            EngineError: The novelty graph cannot be loaded.
        """
        manifest = source.manifest
        spec, picture = detection_spec(manifest), input_spec(manifest)
        self.manifest: Manifest = manifest
        self.ref = source.ref.model_copy(update={"engine": engine.name})
        self.classes = spec.classes
        self.engine = engine
        self.novelty = Novelty.of(source) if novelty and isinstance(source, Bundle) else None
        self.threshold = spec.decoder.score_threshold if threshold is None else threshold
        self.nms_iou = spec.decoder.nms_iou if nms_iou is None else nms_iou
        self._limit = limit
        self._input = picture.name
        self._preprocessor = Preprocessor(picture)
        self._decoder = make_decoder(
            spec.decoder, height=picture.height, width=picture.width, classes=len(spec.classes)
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
        return cls(source, OrtEngine(source, settings), threshold=threshold, nms_iou=nms_iou)

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
        answer = self._predict(image, threshold=threshold, novelty=None)
        return answer.found, answer.stages

    def predict(self, image: Image, /) -> Prediction:
        """As `detect`, and the picture's novelty, where the bundle measures it."""
        return self._predict(image, threshold=None, novelty=self.novelty)

    def warm_up(self) -> None:
        """Answer the probe's picture."""
        self.predict(probe_picture(self.manifest, seed=0))

    def _predict(
        self, image: Image, *, threshold: float | None, novelty: Novelty | None
    ) -> Prediction:
        began = time.perf_counter()
        tensor, placement = self._preprocessor.prepare(image)
        prepared = time.perf_counter()
        distance = None if novelty is None else novelty.of_input(tensor)
        named = self.engine.run({self._input: tensor})
        outputs = [np.asarray(named[item.name], np.float32) for item in self.manifest.outputs]
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
        return Prediction(found, self.classes, stages, distance)


def probe_picture(manifest: Manifest, *, seed: int) -> Image:
    """A picture of the model's own input size, the same on every machine and in every version.

    A mosaic of coloured tiles with fine grain on it: no random generator or interpolation that
    could change with a library.

    Returns:
        uint8 [height, width, 3].
    """
    spec = input_spec(manifest)
    height, width = spec.height, spec.width
    tall, wide = -(-height // _TILES), -(-width // _TILES)
    tiles = seeded_bytes(f"tiles {seed}", (tall, wide, 3))
    picture = tiles.repeat(_TILES, axis=0).repeat(_TILES, axis=1)[:height, :width]
    grain = seeded_bytes(f"grain {seed}", (height, width, 3)) >> 4
    mixed: Image = (picture - (picture >> 3) + grain // 2).astype(np.uint8)
    return mixed


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1e3, 3)
