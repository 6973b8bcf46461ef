"""Object detection as a workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edgebus.workload import Workload

if TYPE_CHECKING:
    from edgebus.artifacts import Array, Manifest
    from edgebus.serving import Engine, NamedSource
    from edgebus_detection.messages import Sample, SampleRecord
    from edgebus_detection.models import DetectionModel

__all__ = ["Detection"]


class Detection(Workload):
    """Object detection in pictures of cameras."""

    name: ClassVar[str] = "detection"

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
