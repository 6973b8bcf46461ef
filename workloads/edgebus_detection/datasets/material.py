"""Material of a detection job: samples and folders, labelled."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgebus.artifacts import Manifest
from edgebus.training.job_spec import JobSpec
from edgebus.training.trainer import Material
from edgebus_detection.datasets.folders import Folder, read_folder, spread
from edgebus_detection.datasets.labelled import LabelBuilder, Labelled, ignore_rare
from edgebus_detection.labels import Labeller, Labelling, LabelSettings
from edgebus_detection.models import detection_spec
from edgebus_detection.training.options import DetectionTraining


class TeacherMissingError(ValueError):
    """Samples that nobody has labelled, and nobody to do so.

    Attributes:
        samples: How many.
    """

    def __init__(self, *, samples: int) -> None:
        super().__init__(
            f"{samples} samples have no ground truth and there is no teacher; "
            "set retrainer.options.labels.teacher to a larger model, or label some: "
            "edgebus samples label"
        )
        self.samples = samples


class UnknownClassError(ValueError):
    """`labels.classes` names classes that the model does not have.

    Attributes:
        classes: Their names.
    """

    exit_code = 2

    def __init__(self, *, classes: Sequence[str], known: Sequence[str]) -> None:
        near = difflib.get_close_matches(classes[0], known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(
            f"retrainer.options.labels.classes: the model has no {', '.join(classes)}; {hint}"
            f"it has {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
        )
        self.classes = tuple(classes)


def prepare(
    spec: JobSpec,
    options: DetectionTraining,
    manifest: Manifest,
    *,
    teacher: Labeller | None,
    enough: Callable[[Sequence[Labelled], Sequence[Labelled]], bool],
    on_picture: Callable[[int, int], None],
) -> Material[Labelled]:
    """Label everything that a job uses; what cannot be used is left out and named.

    Held-out samples come first: where they are not enough, the others are not labelled.

    Args:
        spec: The job.
        options: Where labels come from.
        manifest: The incumbent's manifest.
        teacher: Labels samples; None where there is none.
        enough: Whether the held-out pictures, new and old, are enough to measure on.
        on_picture: Called with the number of samples done and of all.

    Raises:
        UnknownClassError: The settings name a class that the model does not have.
        TeacherMissingError: Nobody has labelled a single sample. Where some are labelled, the
            others wait.
        SourceError: A replay folder cannot be read.
    """
    known = detection_spec(manifest).classes
    builder = LabelBuilder(known, options.labels.aliases)
    only = wanted_classes(options.labels, known)
    groups = (spec.train, spec.replay_samples, spec.new_holdout, spec.old_holdout)
    labeller = Labelling(
        replace(builder, only=only),
        options.labels,
        teacher,
        total=sum(len(g) for g in groups),
        on_picture=on_picture,
        log=spec.folder / "labels.jsonl",
    )
    # Not on what is held out: the gate shall not be shaped by what it measures on.
    labeller.calibrate((*spec.train, *spec.replay_samples))
    new_holdout, old_holdout = labeller.label(spec.new_holdout), labeller.label(spec.old_holdout)
    replay, measured = _folders(spec, builder, labeller.unusable)
    measured = ignore_rare(
        spread(old_holdout + measured, spec.gate.max_items), min_boxes=options.min_measured_boxes
    )
    held_out = ignore_rare(new_holdout, min_boxes=options.min_measured_boxes)
    nobody_knows = bool(labeller.waiting) and not labeller.report().inputs
    if not nobody_knows and not enough(held_out, measured):
        return Material(
            new_holdout=held_out,
            old_holdout=measured,
            unusable=labeller.unusable,
            labels=labeller.report(),
        )
    new, earlier = labeller.label(spec.train), labeller.label(spec.replay_samples)
    if labeller.waiting and not labeller.report().inputs:
        raise TeacherMissingError(samples=len(labeller.waiting))
    if labeller.waiting:
        count = len(labeller.waiting)
        labeller.unusable.append(f"{count} samples wait until an operator or a teacher labels them")
    everything = [*new, *earlier, *new_holdout, *old_holdout]
    taught = [picture for picture in everything if picture.provenance == "teacher"]
    new, earlier, new_holdout, old_holdout = (
        _trusted(group, taught, options.labels.min_boxes)
        for group in (new, earlier, new_holdout, old_holdout)
    )
    return Material(
        new=new,
        replay=(earlier + replay)[-spec.settings.max_replay :],
        new_holdout=ignore_rare(new_holdout, min_boxes=options.min_measured_boxes),
        old_holdout=measured,
        unusable=labeller.unusable,
        labels=labeller.report(),
        waiting=tuple(labeller.waiting),
    )


def wanted_classes(labels: LabelSettings, known: Sequence[str]) -> frozenset[str] | None:
    """The classes that are learnt of samples; None: all.

    Raises:
        UnknownClassError: The settings name one that the model does not have.
    """
    if labels.classes is None:
        return None
    only = frozenset(labels.classes)
    if unknown := sorted(only - set(known)):
        raise UnknownClassError(classes=unknown, known=known)
    return only


def _trusted(
    pictures: Sequence[Labelled], taught: Sequence[Labelled], min_boxes: int
) -> tuple[Labelled, ...]:
    """Pictures without classes that the teacher saw too rarely to be trusted."""
    checked = ignore_rare(pictures, min_boxes=min_boxes, counted=taught)
    return tuple(
        new if new.provenance == "teacher" else old
        for old, new in zip(pictures, checked, strict=True)
    )


def _folders(
    spec: JobSpec, builder: LabelBuilder, unusable: list[str]
) -> tuple[tuple[Labelled, ...], tuple[Labelled, ...]]:
    """Pictures of the replay folders to train on and to measure on."""

    def read(path: Path, limit: int) -> Folder:
        folder = read_folder(path, builder, limit=limit)
        unusable.extend(folder.refused)
        return folder

    train: tuple[Labelled, ...] = ()
    measured: tuple[Labelled, ...] = ()
    if spec.replay is not None:
        folder = read(spec.replay, spec.settings.max_replay)
        if spec.replay_holdout is None:
            train, measured = folder.split("train"), folder.split("holdout")
        else:
            train = folder.pictures
    if spec.replay_holdout is not None:
        measured = read(spec.replay_holdout, spec.gate.max_items).pictures
    return train, measured
