"""Labels for the samples of a job: who says what, who is right, what is left out."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgebus.contracts import LabelReport, PayloadError, TeacherThreshold
from edgebus_detection.messages import Box, Sample, SampleRecord
from edgebus_detection.vision import Image, ImageError, decode_jpeg
from edgebus_retrainer.claims import Claim, Resolved, Voices, count_conflicts, resolve
from edgebus_retrainer.labels._calibration import Compared, calibrate
from edgebus_retrainer.labels._labelled import LabelBuilder, Labelled
from edgebus_retrainer.labels._steadiness import Seen, flips, to_grey
from edgebus_retrainer.labels._teacher import Labeller
from edgebus_retrainer.settings import LabelSettings
from edgebus_retrainer.spec import SampleFile

__all__ = ["Labelling"]

_BLOCK = 20  # frames that are held out together: see `split_of`
_CAMERAS = 64  # whose last picture is kept to be compared with the next


@dataclass(slots=True, kw_only=True)
class _Heard:
    """One sample while its neighbours are still looked at; without its picture."""

    file: SampleFile
    record: SampleRecord
    voices: Voices
    flipped: set[int] = field(default_factory=set)

    def resolve(self) -> Resolved | None:
        """Who is right; boxes that the teacher did not stand by are uncertain."""
        voices = self.voices
        if voices.teacher is not None and self.flipped:
            voices = replace(
                voices,
                teacher=tuple(b for n, b in enumerate(voices.teacher) if n not in self.flipped),
                unsure=(*voices.unsure, *(voices.teacher[n] for n in sorted(self.flipped))),
            )
        return resolve(voices)


class Labelling:
    """Labels samples, and counts what their labels are made of.

    A sample that cannot be read, or whose picture is corrupt, is left out and named; the others
    are still worth a job.

    Args:
        builder: The model's classes.
        settings: Where labels come from.
        teacher: Labels what nobody else has; None where there is none.
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
        self._ignored = self._flips = 0
        self.waiting: list[str] = []
        """Ids of samples that nobody has labelled and nobody can: they wait for an operator."""
        self.unusable: list[str] = []
        """What was left out, and why."""

    def report(self) -> LabelReport:
        """What the labels were made of so far."""
        return LabelReport(
            pictures=dict(sorted(self._pictures.items())),
            boxes=dict(sorted(self._boxes.items())),
            ignored=self._ignored,
            flips=self._flips,
            conflicts=dict(sorted(self._conflicts.items())),
            thresholds=tuple(self._thresholds.values()),
        )

    def calibrate(self, samples: Iterable[SampleFile]) -> None:
        """Choose the teacher's thresholds where truth or operators tell; see `calibrate`.

        Does nothing without a teacher or a wanted precision. Pictures are taken evenly from the
        samples, at most `calibrate_images`.
        """
        settings = self._settings
        if self._teacher is None or settings.precision is None:
            return
        files = list(samples)
        compared: list[Compared] = []
        # At most so many are opened as may be compared, or a store of unlabelled samples would
        # be read as a whole for nothing.
        most = min(len(files), 4 * settings.calibrate_images)
        for number in range(most):
            if len(compared) == settings.calibrate_images:
                break
            found = self._compare(files[number * len(files) // most], self._teacher)
            if found is not None:
                compared.append(found)
        self._thresholds = calibrate(
            compared,
            precision=settings.precision,
            fallback=settings.accept,
            min_boxes=settings.calibrate_boxes,
        )

    def label(self, samples: Sequence[SampleFile]) -> tuple[Labelled, ...]:
        """Labels of each sample that can be used, in order."""
        heard: list[_Heard] = []
        last: OrderedDict[str, tuple[_Heard, Seen]] = OrderedDict()
        for file in samples:
            self._done += 1
            try:
                one, picture = self._hear(file)
            except (OSError, PayloadError, ImageError) as error:
                self.unusable.append(f"sample {file.id}: {error}")
            else:
                heard.append(one)
                self._compare_with_last(one, picture, last)
            self._on_picture(self._done, self._total)
        found = [self._finish(one) for one in heard]
        return tuple(one for one in found if one is not None)

    def _compare(self, file: SampleFile, teacher: Labeller) -> Compared | None:
        try:
            sample = Sample.decode(file.path.read_bytes())
            if file.labels is not None:
                there = tuple(claim.box for claim in file.labels.claims)
            elif sample.record.truth is not None:
                there = sample.record.truth
            else:
                return None
            answer = teacher.answer(sample.jpeg, key=file.path.stem)
        except (OSError, PayloadError, ImageError):
            # It is named when it is to be labelled.
            return None
        return Compared(said=self._named(answer.boxes), there=self._named(there))

    def _hear(self, file: SampleFile) -> tuple[_Heard, Image]:
        """Everything that is said of a sample, and its picture."""
        sample = Sample.decode(file.path.read_bytes())
        picture = decode_jpeg(sample.jpeg)
        record = sample.record
        voices = Voices(
            operator=file.labels,
            truth=None if self._settings.source == "teacher" else record.truth,
            verdicts=record.feedback,
            detections=record.detections,
        )
        if self._teacher is not None and voices.operator is None and voices.truth is None:
            answer = self._teacher.answer(sample.jpeg, key=file.path.stem)
            named = self._named(answer.boxes)
            sure = [self._is_sure(box) for box in named]
            doubtful = [b for b, yes in zip(named, sure, strict=True) if not yes]
            voices = replace(
                voices,
                teacher=tuple(b for b, yes in zip(named, sure, strict=True) if yes),
                unsure=(*doubtful, *self._named(answer.unsure)),
                teacher_by=self._teacher.by,
            )
        return _Heard(file=file, record=record, voices=voices), picture

    def _is_sure(self, box: Box) -> bool:
        threshold = self._thresholds.get(box.label)
        accept = self._settings.accept if threshold is None else threshold.accept
        return box.score is None or (accept is not None and box.score >= accept)

    def _compare_with_last(
        self, one: _Heard, picture: Image, last: OrderedDict[str, tuple[_Heard, Seen]]
    ) -> None:
        """Mark what the teacher says of this frame and did not say of the one before."""
        tolerance = self._settings.flip_tolerance
        if tolerance is None or one.voices.teacher is None:
            return
        grey, factor = to_grey(picture)
        seen = Seen(grey=grey, factor=factor, sure=one.voices.teacher, unsure=one.voices.unsure)
        camera = f"{one.record.source}/{one.record.stream}"
        before = last.pop(camera, None)
        if before is not None:
            theirs, mine = flips(before[1], seen, tolerance=tolerance)
            before[0].flipped.update(theirs)
            one.flipped.update(mine)
        last[camera] = one, seen
        if len(last) > _CAMERAS:
            last.popitem(last=False)

    def _finish(self, one: _Heard) -> Labelled | None:
        found = one.resolve()
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

    def _possible(self, one: _Heard, found: Resolved) -> Resolved:
        """Without boxes outside of the picture: a verdict's place is checked by nobody before."""
        record = one.record
        kept: list[Claim] = []
        for claim in found.claims:
            if claim.box.x1 < record.width and claim.box.y1 < record.height:
                kept.append(claim)
                continue
            place = f"({claim.box.x1:g}, {claim.box.y1:g})"
            self.unusable.append(
                f"sample {one.file.id}: {claim.by} has a {claim.box.label} at {place}, outside the "
                f"picture of {record.width} x {record.height}"
            )
        return found if len(kept) == len(found.claims) else replace(found, claims=tuple(kept))

    def _count(self, one: _Heard, found: Resolved) -> None:
        self._pictures[found.source] += 1
        self._boxes.update(claim.by for claim in found.claims)
        self._ignored += len(found.ignore)
        self._flips += len(one.flipped)
        self._conflicts.update(count_conflicts(found.conflicts))
        if self._log is None:
            return
        line = {
            "sample": one.file.id,
            "source": found.source,
            "boxes": [claim.model_dump(exclude_none=True) for claim in found.claims],
            "ignore": [box.model_dump(exclude_none=True) for box in found.ignore],
            "flipped": len(one.flipped),
            "conflicts": [conflict.words for conflict in found.conflicts],
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
