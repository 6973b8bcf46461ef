"""Labels of a job's samples, merged from their sources."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cachetools import LRUCache

from edgebus.contracts import LabelReport, PayloadError, StoredSample, TeacherThreshold
from edgebus.samples import edge_of
from edgebus_detection.datasets.labelled import LabelBuilder, Labelled
from edgebus_detection.labels.calibration import Compared, calibrate
from edgebus_detection.labels.consistency import TaughtFrame, inconsistent_boxes
from edgebus_detection.labels.label_sources import (
    LabelSources,
    MergedLabels,
    count_conflicts,
    merge,
)
from edgebus_detection.labels.settings import LabelSettings
from edgebus_detection.labels.teacher import Labeller
from edgebus_detection.messages import Box, BoxLabels, Sample, SampleRecord, SourcedBox
from edgebus_detection.vision import Image, ImageError, decode_picture

_BLOCK = 20  # frames that are held out together: see `split_of`
_CAMERAS = 64  # whose last picture is kept to be compared with the next


@dataclass(slots=True, kw_only=True)
class _TeacherLabels:
    """A sample's label sources, until its neighbours are known too; without its picture."""

    file: StoredSample
    record: SampleRecord
    sources: LabelSources
    inconsistent: set[int] = field(default_factory=set)

    def merge(self) -> MergedLabels | None:
        """Merged labels; boxes that the teacher contradicted itself on are uncertain."""
        sources = self.sources
        if sources.teacher is not None and self.inconsistent:
            sources = replace(
                sources,
                teacher=tuple(
                    b for n, b in enumerate(sources.teacher) if n not in self.inconsistent
                ),
                unsure=(*sources.unsure, *(sources.teacher[n] for n in sorted(self.inconsistent))),
            )
        return merge(sources)


class Labelling:
    """Labels samples, and counts what their labels are made of.

    A sample that cannot be read, or whose picture is corrupt, is left out and named; the others
    are still worth a job.

    Args:
        builder: The model's classes.
        settings: Where labels come from.
        teacher: Labels samples without another source; None where there is none.
        total: Samples that will come, for the progress.
        on_picture: Called with the number of samples done and of all.
        log: A file that gets one JSON line per sample: its boxes with their provenance, what is
            ignored, and the conflicts; None for none.
    """

    def __init__(
        self,
        builder: LabelBuilder,
        settings: LabelSettings,
        teacher: Labeller | None,
        *,
        total: int,
        on_picture: Callable[[int, int], None],
        log: Path | None = None,
    ) -> None:
        self._builder = builder
        self._settings = settings
        self._teacher = None if settings.source == "truth" else teacher
        self._total = total
        self._on_picture = on_picture
        self._log = log
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_bytes(b"")
        self._done = 0
        self._thresholds: dict[str, TeacherThreshold] = {}
        self._pictures: Counter[str] = Counter()
        self._boxes: Counter[str] = Counter()
        self._conflicts: Counter[str] = Counter()
        self._ignored = self._inconsistent = 0
        self.waiting: list[str] = []
        """Ids of samples without any label source: they wait for an operator."""
        self.unusable: list[str] = []
        """Samples and boxes that were left out, and why."""

    def report(self) -> LabelReport:
        """Label sources so far, counted."""
        return LabelReport(
            inputs=dict(sorted(self._pictures.items())),
            labels=dict(sorted(self._boxes.items())),
            ignored=self._ignored,
            inconsistent=self._inconsistent,
            conflicts=dict(sorted(self._conflicts.items())),
            thresholds=tuple(self._thresholds.values()),
        )

    def calibrate(self, samples: Iterable[StoredSample]) -> None:
        """Choose the teacher's thresholds on samples of known truth; see `calibrate`.

        Does nothing without a teacher or a wanted precision. Pictures are taken evenly from the
        samples, at most `calibrate_images`.
        """
        settings = self._settings
        if self._teacher is None or settings.precision is None:
            return
        files = list(samples)
        compared: list[Compared] = []
        # A bound on the files that are opened, or a store of unlabelled samples would
        # be read as a whole for nothing.
        most = min(len(files), 4 * settings.calibrate_images)
        for number in range(most):
            if len(compared) == settings.calibrate_images:
                break
            if found := self._compare(files[number * len(files) // most], self._teacher):
                compared.append(found)
        self._thresholds = calibrate(
            compared,
            precision=settings.precision,
            fallback=settings.accept,
            min_boxes=settings.calibrate_boxes,
        )

    def label(self, samples: Sequence[StoredSample]) -> tuple[Labelled, ...]:
        """Labels of each sample that can be used, in order."""
        pending: list[_TeacherLabels] = []
        last: LRUCache[str, tuple[_TeacherLabels, TaughtFrame]] = LRUCache(_CAMERAS)
        for file in samples:
            self._done += 1
            try:
                one, picture = self._sources(file)
            except (OSError, PayloadError, ImageError) as error:
                self.unusable.append(f"sample {file.id}: {error}")
            else:
                pending.append(one)
                self._compare_with_last(one, picture, last)
            self._on_picture(self._done, self._total)
        return tuple(done for one in pending if (done := self._finish(one)) is not None)

    def _compare(self, file: StoredSample, teacher: Labeller) -> Compared | None:
        try:
            sample = Sample.decode(file.path.read_bytes())
            if file.labels is not None:
                there = tuple(each.box for each in BoxLabels.of(file.labels).labels)
            elif sample.record.truth is not None and self._believes(sample.record):
                there = sample.record.truth
            else:
                return None
            answer = teacher.answer(sample.jpeg, key=file.path.stem)
        except (OSError, PayloadError, ImageError):
            # It is named when it is to be labelled.
            return None
        return Compared(predicted=self._named(answer.boxes), actual=self._named(there))

    def _believes(self, record: SampleRecord) -> bool:
        """Whether what a sample's device says of it is a label."""
        nodes = self._settings.truth_from
        return nodes is None or edge_of(record.source) in nodes

    def _sources(self, file: StoredSample) -> tuple[_TeacherLabels, Image]:
        """A sample with its label sources, and its picture."""
        sample = Sample.decode(file.path.read_bytes())
        picture = decode_picture(sample.jpeg)
        record = sample.record
        believed = self._believes(record)
        sources = LabelSources(
            operator=None if file.labels is None else BoxLabels.of(file.labels),
            truth=record.truth if believed and self._settings.source != "teacher" else None,
            verdicts=record.feedback if believed else (),
            detections=record.detections,
        )
        if self._teacher is not None and sources.operator is None and sources.truth is None:
            answer = self._teacher.answer(sample.jpeg, key=file.path.stem)
            named = self._named(answer.boxes)
            doubtful = [box for box in named if not self._is_sure(box)]
            sources = sources.with_teacher(
                certain=tuple(filter(self._is_sure, named)),
                unsure=(*doubtful, *self._named(answer.unsure)),
                by=self._teacher.by,
            )
        return _TeacherLabels(file=file, record=record, sources=sources), picture

    def _is_sure(self, box: Box) -> bool:
        threshold = self._thresholds.get(box.label)
        accept = self._settings.accept if threshold is None else threshold.accept
        return box.score is None or (accept is not None and box.score >= accept)

    def _compare_with_last(
        self,
        one: _TeacherLabels,
        picture: Image,
        last: LRUCache[str, tuple[_TeacherLabels, TaughtFrame]],
    ) -> None:
        """Mark the boxes on which the teacher contradicts itself between two frames."""
        tolerance = self._settings.flip_tolerance
        if tolerance is None or one.sources.teacher is None:
            return
        seen = TaughtFrame.of(picture, sure=one.sources.teacher, unsure=one.sources.unsure)
        camera = f"{one.record.source}/{one.record.stream}"
        before = last.pop(camera, None)
        if before is not None:
            theirs, mine = inconsistent_boxes(before[1], seen, tolerance=tolerance)
            before[0].inconsistent.update(theirs)
            one.inconsistent.update(mine)
        last[camera] = one, seen

    def _finish(self, one: _TeacherLabels) -> Labelled | None:
        found = one.merge()
        if found is None:
            self.waiting.append(one.file.id)
            return None
        record = one.record
        found = self._possible(one, found)
        self._count(one, found)
        return Labelled(
            path=one.file.path,
            truth=self._builder.build(
                found.boxes, width=record.width, height=record.height, ignore=found.ignore
            ),
            provenance=found.source,
            key=one.file.id,
            group=f"{record.source}/{record.stream}/{record.index // _BLOCK}",
        )

    def _possible(self, one: _TeacherLabels, found: MergedLabels) -> MergedLabels:
        """Labels without boxes outside of the picture: a verdict's place was not checked before."""
        record = one.record
        kept: list[SourcedBox] = []
        for each in found.sourced:
            if each.box.x1 < record.width and each.box.y1 < record.height:
                kept.append(each)
                continue
            place = f"({each.box.x1:g}, {each.box.y1:g})"
            self.unusable.append(
                f"sample {one.file.id}: {each.by} has a {each.box.label} at {place}, outside the "
                f"picture of {record.width} x {record.height}"
            )
        return found if len(kept) == len(found.sourced) else replace(found, sourced=tuple(kept))

    def _count(self, one: _TeacherLabels, found: MergedLabels) -> None:
        self._pictures[found.source] += 1
        self._boxes.update(each.by for each in found.sourced)
        self._ignored += len(found.ignore)
        self._inconsistent += len(one.inconsistent)
        self._conflicts.update(count_conflicts(found.conflicts))
        if self._log is None:
            return
        line = {
            "sample": one.file.id,
            "source": found.source,
            "boxes": [each.model_dump(exclude_none=True) for each in found.sourced],
            "ignore": [box.model_dump(exclude_none=True) for box in found.ignore],
            "inconsistent": len(one.inconsistent),
            "conflicts": [conflict.summary for conflict in found.conflicts],
        }
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _named(self, boxes: Iterable[Box]) -> tuple[Box, ...]:
        """Boxes under the names that the model's classes have."""
        aliases = self._builder.aliases
        return tuple(
            box.model_copy(update={"label": aliases[box.label]}) if box.label in aliases else box
            for box in boxes
        )
