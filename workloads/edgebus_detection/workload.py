"""Object detection as a workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edgebus.workload import Answer, InputKey, Workload
from edgebus_detection.messages import CAMERA_FRAME, DETECTIONS, Detections, Frame

if TYPE_CHECKING:
    from edgebus.artifacts import Array, Manifest
    from edgebus.contracts import Topic
    from edgebus.serving import Engine, NamedSource
    from edgebus_detection.messages import Sample, SampleRecord
    from edgebus_detection.models import DetectionModel, Prediction
    from edgebus_detection.vision import Image

__all__ = ["Detection"]


class Detection(Workload):
    """Object detection in pictures of cameras."""

    name: ClassVar[str] = "detection"
    inputs: ClassVar[Topic[Frame]] = CAMERA_FRAME
    predictions: ClassVar[Topic[Detections]] = DETECTIONS
    stream_level: ClassVar[str] = "camera"

    # Samples.

    sample_suffix: ClassVar[str] = ".jpg"

    def count_truths(self, record: SampleRecord) -> int | None:
        """Number of true boxes; None where the camera knows none."""
        return None if record.truth is None else len(record.truth)

    def check_sample(self, sample: Sample) -> None:
        """Decode a sample's picture and compare its size with that of its record.

        Raises:
            SampleRefusedError: It cannot be decoded, or has another size.
        """
        from edgebus_detection.labels.check import check_picture

        check_picture(sample)

    # Serving.

    def key(self, payload: Frame) -> InputKey:
        """Camera, id and number of a frame."""
        record = payload.record
        return InputKey(
            stream=record.camera,
            id=record.id,
            index=record.index,
            captured=record.captured,
            traceparent=record.traceparent,
        )

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

    def probe_inputs(self, manifest: Manifest, *, seed: int) -> Mapping[str, Array]:
        """The mosaic of `probe_picture`."""
        from edgebus_detection.models import input_spec, probe_picture
        from edgebus_detection.vision import Preprocessor

        spec = input_spec(manifest)
        tensor, _ = Preprocessor(spec).prepare(probe_picture(manifest, seed=seed))
        return {spec.name: tensor}

    # Lab.

    lab: ClassVar[str] = "edgebus_detection.lab.lab:DetectionLab"
