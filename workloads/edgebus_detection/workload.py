"""Object detection as a workload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from edgebus.contracts import Topic
from edgebus.mining import Statistic
from edgebus.workload import Answer, Figure, Workload
from edgebus_detection.messages import (
    CAMERA_FRAME,
    CAMERA_TRUTH,
    DETECTIONS,
    FEEDBACK,
    SAMPLES,
    Detections,
    Feedback,
    Frame,
    Sample,
    SampleRecord,
    Verdict,
)

if TYPE_CHECKING:
    from pathlib import Path

    from edgebus.artifacts import Array, Bundle, Manifest
    from edgebus.mining import Fingerprint
    from edgebus.serving import Engine, NamedSource
    from edgebus.training.job_spec import JobSpec
    from edgebus.training.settings import RetrainingSettings
    from edgebus.workload import TrainingCheck
    from edgebus_detection.mining import Example
    from edgebus_detection.models import DetectionModel, Prediction
    from edgebus_detection.training.options import DetectionTraining
    from edgebus_detection.training.trainer import DetectionTrainer
    from edgebus_detection.vision import Image


def _mean_score(detections: Detections) -> float | None:
    scores = [box.score for box in detections.boxes if box.score is not None]
    return sum(scores) / len(scores) if scores else None


def _ms(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() * 1e3


class Detection(Workload):
    """Object detection in pictures of cameras."""

    name: ClassVar[str] = "detection"
    inputs: ClassVar[Topic[Any]] = CAMERA_FRAME
    predictions: ClassVar[Topic[Any]] = DETECTIONS
    stream_level: ClassVar[str] = "camera"

    def prepare(self) -> None:
        """Keep OpenCV to one thread: pictures are small, and the detector needs the others."""
        import cv2

        cv2.setNumThreads(1)

    # Collecting.

    truths: ClassVar[Topic[Any] | None] = CAMERA_TRUTH
    samples: ClassVar[Topic[Any]] = SAMPLES
    feedback: ClassVar[Topic[Any] | None] = FEEDBACK
    default_policies: ClassVar[tuple[str, ...] | None] = ("truth", "expected")
    statistics: ClassVar[Mapping[str, Statistic]] = {
        "confidence": Statistic(value=_mean_score, min_change=0.1),
        "novelty": Statistic(value=lambda d: d.novelty, min_change=0.12, logarithmic=True),
    }
    """``confidence``: mean score of a frame's boxes; ``novelty``: distance of its picture from
    the model's reference, where the bundle has one."""

    reference_options: ClassVar[Mapping[str, Any]] = {"threshold": 0.05, "novelty": False}

    def fingerprint(self, payload: Frame) -> Fingerprint:
        """The difference hash of the picture."""
        from edgebus_detection.vision import difference_hash

        return difference_hash(payload.jpeg)

    def sample(self, example: Example, facts: Mapping[str, Any]) -> Sample:
        """The frame's JPEG with the sample's record in place of the frame's.

        Raises:
            PayloadError: The record does not fit into a JPEG segment (64 KiB; some 400 boxes).
        """
        seen, truth = example.prediction, example.truth
        record = SampleRecord(
            **facts,
            width=seen.width,
            height=seen.height,
            detections=seen.boxes,
            truth=None if truth is None else truth.boxes,
            novelty=seen.novelty,
        )
        return Sample.build(example.input.jpeg, record)

    def verdict(self, feedback: Feedback, example: Example) -> Verdict:
        """The verdict of an operator on a frame.

        Raises:
            ValueError: There is no such box, or the object reaches outside of the frame.
        """
        seen, at = example.prediction, feedback.at
        if feedback.box is not None and feedback.box >= len(seen.boxes):
            msg = f"box {feedback.box} of {len(seen.boxes)}: they are counted from 0"
            raise ValueError(msg)
        if at is not None and (at.x2 > seen.width + 1 or at.y2 > seen.height + 1):
            msg = (
                f"the object at ({at.x1:g}, {at.y1:g}, {at.x2:g}, {at.y2:g}) reaches outside of "
                f"its frame of {seen.width} x {seen.height}"
            )
            raise ValueError(msg)
        return feedback.to_verdict()

    # Samples.

    sample_suffix: ClassVar[str] = ".jpg"

    def count_truths(self, record: SampleRecord) -> int | None:
        """Number of true boxes; None where the camera knows none."""
        return None if record.truth is None else sum(not box.ignore for box in record.truth)

    def check_sample(self, sample: Sample) -> None:
        """Decode a sample's picture and compare its size with that of its record.

        Raises:
            SampleRefusedError: It cannot be decoded, or has another size.
        """
        from edgebus_detection.labels.check import check_picture

        check_picture(sample)

    # Serving.

    def decode(self, payload: Frame) -> Image:
        """The picture of a frame, BGR.

        Raises:
            ImageError: It is broken, or of another size than its record says.
        """
        from edgebus_detection.vision import ImageError, decode_picture

        image, record = decode_picture(payload.jpeg), payload.record
        if image.shape[:2] != (record.height, record.width):
            reason = (
                f"is {image.shape[1]} x {image.shape[0]}, its record says "
                f"{record.width} x {record.height}"
            )
            raise ImageError(size=len(payload.jpeg), reason=reason)
        return image

    def prediction(self, payload: Frame, answer: Answer[Prediction]) -> Detections:
        """The boxes in a frame, in its pixels."""
        from edgebus_detection.vision import to_boxes

        record, found = payload.record, answer.prediction
        decode_ms = round(answer.stages["decode"], 3)
        return Detections(
            frame=record.id,
            camera=record.camera,
            index=record.index,
            width=record.width,
            height=record.height,
            boxes=to_boxes(found.found, found.classes),
            model=answer.model,
            captured=record.captured,
            sent=record.time,
            received=answer.received,
            detected=answer.answered,
            stages=found.stages.model_copy(update={"decode_ms": decode_ms}),
            dropped=answer.dropped,
            novelty=found.novelty,
        )

    def stages(self, prediction: Prediction) -> Mapping[str, float]:
        """Where the milliseconds of one detection went."""
        stages = prediction.stages
        return {
            "preprocess": stages.preprocess_ms,
            "inference": stages.inference_ms,
            "postprocess": stages.postprocess_ms,
        }

    def load(self, source: NamedSource, engine: Engine, **options: Any) -> DetectionModel:
        """A detection model; options are those of `DetectionModel`."""
        from edgebus_detection.models import DetectionModel

        return DetectionModel(source, engine, **options)

    def open_bundle(self, path: Path, *, imports: Path) -> Bundle:
        """A bundle's folder, or an ONNX file of a known head."""
        from edgebus_detection.models import open_bundle

        return open_bundle(path, imports=imports)

    def probe_inputs(self, manifest: Manifest, *, seed: int) -> Mapping[str, Array]:
        """The mosaic of `probe_picture`."""
        from edgebus_detection.models import input_spec, probe_picture
        from edgebus_detection.vision import Preprocessor

        spec = input_spec(manifest)
        tensor, _ = Preprocessor(spec).prepare(probe_picture(manifest, seed=seed))
        return {spec.name: tensor}

    # Training.

    def training_settings(self) -> type[DetectionTraining]:
        """Label sources, augmentation, near-duplicates."""
        from edgebus_detection.training.options import DetectionTraining

        return DetectionTraining

    def check_training(self, settings: RetrainingSettings, base: Bundle | None) -> TrainingCheck:
        """Read the replay folders, and see that the model's head, classes and teachers are there.

        Raises:
            SourceError: A folder cannot be read, or a teacher is not there.
            UntrainableError, UnknownClassError: The model has no such head, or class.
        """
        from edgebus_detection.training.checking import check_training

        return check_training(settings, base)

    def trainer(self, spec: JobSpec, base: Bundle, *, threads: int) -> DetectionTrainer:
        """Boxes on pictures, learnt by a YOLOX head."""
        from edgebus_detection.training.trainer import DetectionTrainer

        return DetectionTrainer(spec, base, threads=threads)

    # Telemetry.

    figures: ClassVar[Mapping[str, Mapping[str, Figure]]] = {
        "detections/1": {
            "labels": lambda seen: " ".join(
                f"{label}:{count}"
                for label, count in sorted(Counter(box.label for box in seen.boxes).items())
            ),
            "best_score": lambda seen: max((box.score or 0.0 for box in seen.boxes), default=None),
            "send_ms": lambda seen: _ms(seen.captured, seen.sent),
            "transport_ms": lambda seen: _ms(seen.sent, seen.received),
            "process_ms": lambda seen: _ms(seen.received, seen.detected),
            "latency_ms": lambda seen: _ms(seen.captured, seen.detected),
        }
    }

    # Tools.

    follows: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "frame": (),
        "truth": ("frame",),
        "detections": ("frame",),
        "sample": ("detections", "frame"),
    }

    def phrase(self, kind: str, body: Mapping[str, Any]) -> str:
        """Size of a frame, number of boxes."""
        boxes = f"{len(body.get('boxes', ()))} boxes"
        if kind == "frame":
            size = f"{body.get('width')} x {body.get('height')}"
            return f"{body.get('camera')} #{body.get('index')}, {size}"
        if kind == "truth":
            return f"{boxes}, {body.get('condition', 'normal')}"
        if kind == "detections":
            model = body.get("model") or {}
            times = (value for value in body.get("stages", {}).values())
            total = sum(value for value in times if isinstance(value, int | float))
            return f"{boxes} by {model.get('name')} v{model.get('version')} in {total:.1f} ms"
        return ""

    # Lab.

    lab: ClassVar[str] = "edgebus_detection.lab.lab:DetectionLab"
