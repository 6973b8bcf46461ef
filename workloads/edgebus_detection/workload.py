"""Object detection as a workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edgebus.workload import Workload

if TYPE_CHECKING:
    from edgebus.artifacts import Array, Manifest
    from edgebus.serving import Engine, NamedSource
    from edgebus_detection.models import DetectionModel

__all__ = ["Detection"]


class Detection(Workload):
    """Object detection in pictures of cameras."""

    name: ClassVar[str] = "detection"

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
