"""Check of a retraining before there are samples."""

from __future__ import annotations

from pathlib import Path

from edgebus.artifacts import Bundle, Manifest
from edgebus.training.settings import RetrainingSettings
from edgebus.workload import TrainingCheck, UntrainableError
from edgebus_detection.datasets import Folder, LabelBuilder, SourceError, read_dataset, read_folder
from edgebus_detection.datasets.material import wanted_classes
from edgebus_detection.models import TRAINABLE_HEADS, detection_spec
from edgebus_detection.training.options import DetectionTraining


def check_training(settings: RetrainingSettings, base: Bundle | None) -> TrainingCheck:
    """See whether a job could work; see `edgebus.workload.Workload.check_training`."""
    labels = DetectionTraining.model_validate(settings.options).labels
    for teacher in (labels.teacher, *labels.teachers):
        if teacher is not None and not teacher.exists():
            reason = "the teacher is not there; check retrainer.options.labels"
            raise SourceError(source=str(teacher), reason=reason)
    known = None
    if base is not None:
        check_head(base.manifest)
        known = detection_spec(base.manifest).classes
        wanted_classes(labels, known)

    def read(path: Path, limit: int) -> Folder:
        # Without a model any class will do.
        names = tuple(read_dataset(path).counts) if known is None else known
        return read_folder(path, LabelBuilder(names, labels.aliases), limit=limit)

    found: list[str] = []
    measured: tuple[str, int] | None = None
    if settings.replay is not None:
        folder = read(settings.replay, settings.train.max_replay)
        found.append(_found(settings.replay, folder))
        held = sum(picture.label_count > 0 for picture in folder.split("holdout"))
        measured = f"a part of {settings.replay} that is held out", held
    if settings.replay_holdout is not None:
        folder = read(settings.replay_holdout, settings.gate.max_items)
        found.append(_found(settings.replay_holdout, folder))
        held = sum(picture.label_count > 0 for picture in folder.pictures)
        measured = str(settings.replay_holdout), held
    lacking: tuple[str, ...] = ()
    if measured is not None and measured[1] < settings.gate.min_items:
        place, held = measured
        lacking = (
            f"forgetting is measured on {place}: {held} pictures with known objects, and "
            f"gate.min_items is {settings.gate.min_items}; candidates are refused until earlier "
            f"held-out samples make up for it: give replay {4 * settings.gate.min_items} pictures "
            f"or more, or replay_holdout {settings.gate.min_items}",
        )
    return TrainingCheck(found=tuple(found), lacking=lacking)


def check_head(manifest: Manifest) -> None:
    """Refuse heads without a loss, and graphs that are only served.

    Raises:
        UntrainableError: The model has such a head.
    """
    kind = detection_spec(manifest).decoder.kind
    if kind not in TRAINABLE_HEADS:
        reason = (
            f"there is no loss for {kind!r} heads; use a model with one of these: "
            f"{', '.join(sorted(TRAINABLE_HEADS))}"
        )
        raise UntrainableError(model=manifest.name, reason=reason)


def _found(path: Path, folder: Folder) -> str:
    gone = folder.refused
    left_out = f"; {len(gone)} labels or pictures left out, first: {gone[0]}" if gone else ""
    return f"{path}: {folder.summary}{left_out}"
