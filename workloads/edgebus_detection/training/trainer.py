"""The trainer of detectors: labelled pictures, a YOLOX loss, mAP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from edgebus.artifacts import Bundle
from edgebus.serving import EngineSettings
from edgebus.training.gate import Measured
from edgebus.training.job_spec import JobOutcome, JobSpec
from edgebus.training.trainer import Leak, LeakReport, Material, Trainer
from edgebus_detection.datasets.labelled import Labelled
from edgebus_detection.datasets.leaks import remove_leaks
from edgebus_detection.datasets.material import prepare
from edgebus_detection.labels import open_teacher
from edgebus_detection.metrics.measuring import measure
from edgebus_detection.models import DetectionModel, detection_spec, input_spec
from edgebus_detection.training.card import make_card, write_card
from edgebus_detection.training.checking import check_head
from edgebus_detection.training.options import DetectionTraining
from edgebus_detection.vision import ImageError, Preprocessor, read_picture

if TYPE_CHECKING:
    from edgebus.training.finetune import FinetuneResult
    from edgebus_detection.training.yolox.images import LabelledImage
    from edgebus_detection.training.yolox.objective import YoloxObjective


class DetectionTrainer(Trainer[Labelled]):
    """Detection as jobs train it."""

    def __init__(self, spec: JobSpec, base: Bundle, *, threads: int) -> None:
        super().__init__(spec, base, threads=threads)
        self._options = DetectionTraining.model_validate(spec.options)
        self._engine = EngineSettings(threads=threads)
        cv2.setNumThreads(threads)

    def check(self) -> None:
        """Refuse heads without a loss.

        Raises:
            UntrainableError: The model has such a head.
        """
        check_head(self.base.manifest)

    def prepare(
        self,
        *,
        enough: Callable[[Sequence[Labelled], Sequence[Labelled]], bool],
        on_item: Callable[[int, int], None],
    ) -> Material[Labelled]:
        """Labelled samples and folders; see `edgebus_detection.datasets.material.prepare`."""
        labels = self._options.labels
        return prepare(
            self.spec,
            self._options,
            self.base.manifest,
            teacher=open_teacher(labels, cache=self.spec.cache, engine=self._engine),
            enough=enough,
            on_picture=on_item,
        )

    def remove_leaks(self, material: Material[Labelled]) -> LeakReport[Labelled]:
        """Leave out training pictures that look like held-out ones."""
        return remove_leaks(material, distance=self._options.leak_distance)

    def leak_hint(self, leak: Leak) -> str:
        """The collectors' settings that keep near-duplicates out."""
        return (
            "the cameras show the same picture again and again: raise the collectors' "
            "duplicate_distance and duplicate_memory, or wait for other pictures"
        )

    def objective(self) -> YoloxObjective:
        """The loss of a YOLOX head."""
        from edgebus_detection.training.yolox.head import YoloxHead
        from edgebus_detection.training.yolox.objective import YoloxObjective

        manifest, names = self.base.manifest, self._options.labels.classes
        described, picture = detection_spec(manifest), input_spec(manifest)
        return YoloxObjective(
            head=YoloxHead(
                height=picture.height,
                width=picture.width,
                classes=len(described.classes),
                strides=described.decoder.strides,
            ),
            prepare=Preprocessor(picture).prepare,
            augmentation=self._options.augment,
            classes=None if names is None else [described.classes.index(name) for name in names],
        )

    def learnables(self, items: Sequence[Labelled]) -> list[LabelledImage]:
        """Pictures with boxes in their pixels."""
        from edgebus_detection.training.yolox.images import LabelledImage

        return [LabelledImage(item.key, item.path, item.truth) for item in items]

    def load(self, bundle: Bundle) -> DetectionModel:
        """The model as it is served."""
        return DetectionModel.load(bundle, self._engine)

    def measure(
        self, model: DetectionModel, items: Sequence[Labelled], *, on_item: Callable[[], None]
    ) -> Measured:
        """mAP, calibration, and mAP50 per class and camera."""
        return measure(model, items, on_picture=on_item)

    def example(self, items: Sequence[Labelled]) -> Any:
        """The first picture that can be read, BGR."""
        for item in items:
            try:
                return read_picture(item.path)
            except ImageError:
                continue
        return None

    def write_card(
        self,
        material: Material[Labelled],
        learnt: FinetuneResult,
        outcome: JobOutcome,
        folder: Path,
    ) -> None:
        """`card.json`, `card.md` and the curve of the loss."""
        card = make_card(
            self.spec,
            self._options,
            self.base,
            material=material,
            learnt=learnt,
            outcome=outcome,
        )
        write_card(card, folder)
