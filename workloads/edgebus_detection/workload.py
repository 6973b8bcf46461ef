"""Object detection as a workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edgebus.workload import Workload

if TYPE_CHECKING:
    from edgebus.artifacts import Array, Bundle, Manifest
    from edgebus.serving import Engine, NamedSource
    from edgebus.training.job_spec import JobSpec
    from edgebus_detection.messages import Sample, SampleRecord
    from edgebus_detection.models import DetectionModel
    from edgebus_detection.training.options import DetectionTraining
    from edgebus_detection.training.trainer import DetectionTrainer

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

    # Training.

    def training_settings(self) -> type[DetectionTraining]:
        """Label sources, augmentation, near-duplicates."""
        from edgebus_detection.training.options import DetectionTraining

        return DetectionTraining

    def trainer(self, spec: JobSpec, base: Bundle, *, threads: int) -> DetectionTrainer:
        """Boxes on pictures, learnt by a YOLOX head."""
        from edgebus_detection.training.trainer import DetectionTrainer

        return DetectionTrainer(spec, base, threads=threads)

    # Lab.

    lab: ClassVar[str] = "edgebus_detection.lab.lab:DetectionLab"
