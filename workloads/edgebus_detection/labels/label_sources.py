"""Label sources of a picture, their conflicts, and how they are merged.

Three sources: operators, the ground truth of a labelled source, a teacher. Operators overrule
truth, truth overrules the teacher. What is overruled is a conflict, counted and shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgebus.contracts import TRUTH, operator
from edgebus_detection.messages import Box, BoxLabels, SourcedBox, Verdict
from edgebus_detection.vision import certainty, corners, iou, outside_of, pair_boxes

_SAME_OBJECT = 0.7
"""Overlap (IoU) from which two boxes of one source are taken for one object, whatever their
classes; a rider and the bicycle overlap less."""

ConflictKind = Literal["denied", "missing", "class"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSources:
    """Labels of one picture, by source.

    Attributes:
        operator: The newest label set of an operator.
        truth: Ground truth; None where the source has none.
        teacher: The teacher's certain boxes; None where it was not asked.
        unsure: Its uncertain boxes: neither object nor background.
        teacher_by: Its provenance.
        teacher_conflicts: Objects to which it gave several classes, settled; see `settle_classes`.
        verdicts: Operators' feedback on single boxes of the model's answer.
        detections: The model's answer, which verdicts point into.
    """

    operator: BoxLabels | None = None
    truth: tuple[Box, ...] | None = None
    teacher: tuple[Box, ...] | None = None
    unsure: tuple[Box, ...] = ()
    teacher_by: str = "teacher:unknown"
    teacher_conflicts: tuple[Conflict, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    detections: tuple[Box, ...] = ()

    def with_teacher(
        self, *, certain: Sequence[Box], unsure: Sequence[Box], by: str
    ) -> LabelSources:
        """The same with a teacher's answer, in which each object has one class.

        Args:
            certain: Its boxes from the score on that makes a label.
            unsure: Its other boxes.
            by: Its provenance.
        """
        kept, conflicts = settle_classes(certain, by=by)
        return replace(
            self,
            teacher=kept,
            unsure=tuple(unsure),
            teacher_by=by,
            teacher_conflicts=conflicts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A contradiction of two sources about one object.

    Attributes:
        kind: denied: the loser has a box where the winner has none; missing: the loser lacks a
            box of the winner; class: both have a box, of different classes.
        winner: Provenance of the source that counts.
        loser: Provenance of the other one.
        box: The winner's box; the loser's where it is denied.
        loser_label: Class that the loser gave it; empty where it has no box.
    """

    kind: ConflictKind
    winner: str
    loser: str
    box: Box
    loser_label: str = ""

    @property
    def summary(self) -> str:
        """In one line."""
        x, y = (self.box.x1 + self.box.x2) / 2, (self.box.y1 + self.box.y2) / 2
        place = f"at ({x:.0f}, {y:.0f})"
        if self.winner == self.loser:
            what = f"{self.box.label} {place}, which it also calls {self.loser_label}"
            return f"{self.winner}: {what}"
        if self.kind == "denied":
            return f"{self.winner}: no {self.loser_label} {place}, against {self.loser}"
        if self.kind == "missing":
            return f"{self.winner}: {self.box.label} {place}, which {self.loser} lacks"
        return (
            f"{self.winner}: {self.box.label} {place}, which {self.loser} calls {self.loser_label}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedLabels:
    """Labels of one picture, merged from its sources.

    Attributes:
        source: The source that counted: operator, truth or teacher.
        sourced: Boxes with their provenance.
        regions: Regions to ignore that this source has marked or is in doubt about, with their
            provenance.
        ignore: Regions whose content is unknown.
        conflicts: Labels that were overruled.
    """

    source: Literal["operator", "truth", "teacher"]
    sourced: tuple[SourcedBox, ...]
    regions: tuple[SourcedBox, ...] = ()
    ignore: tuple[Box, ...] = ()
    conflicts: tuple[Conflict, ...] = ()

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes without their provenance."""
        return tuple(each.box for each in self.sourced)


def merge(sources: LabelSources) -> MergedLabels | None:
    """Labels by precedence: operator > truth > teacher; None where there is no source.

    An operator's label set replaces all boxes. Without one, verdicts on single boxes correct
    the truth or the teacher: a box with nothing in it goes, one of another class changes it, a
    missed object that came with its place is added.
    """
    found: list[tuple[Literal["operator", "truth", "teacher"], str, tuple[SourcedBox, ...]]] = []
    if sources.operator is not None:
        found.append(("operator", sources.operator.by, sources.operator.labels))
    if sources.truth is not None:
        found.append(
            ("truth", TRUTH, tuple(SourcedBox(box=box, by=TRUTH) for box in sources.truth))
        )
    if sources.teacher is not None:
        by = sources.teacher_by
        found.append(("teacher", by, tuple(SourcedBox(box=box, by=by) for box in sources.teacher)))
    if not found:
        return None
    # Regions to ignore are no objects; what others have there contradicts nobody.
    regions = tuple(each for each in found[0][2] if each.box.ignore)
    found = [(name, by, _objects(theirs)) for name, by, theirs in found]
    source, winner, boxes = found[0]
    conflicts: list[Conflict] = []
    for rank, (_, by, theirs) in enumerate(found):
        for _, loser, others in found[rank + 1 :]:
            # A teacher's uncertain boxes contradict no source.
            tolerant = sources.unsure if loser == sources.teacher_by else ()
            mine = [each.box for each in theirs]
            hidden = [each.box for each in regions] if rank == 0 else []
            pair = mine, outside_of(hidden, [each.box for each in others])
            conflicts += compare(*pair, winner=by, loser=loser, tolerant=tolerant)
    ignore = tuple(each.box for each in regions)
    if source == "teacher":
        ignore = sources.unsure
    if source == "teacher":
        conflicts += sources.teacher_conflicts
    if source != "operator":
        boxes, ignore, corrected = _correct(boxes, ignore, sources, loser=winner)
        conflicts = [*corrected, *conflicts]
    if source == "teacher":
        doubt = (box.model_copy(update={"ignore": True, "score": None}) for box in ignore)
        regions = tuple(SourcedBox(box=box, by=winner) for box in doubt)
    return MergedLabels(
        source=source,
        sourced=boxes,
        regions=regions,
        ignore=ignore,
        conflicts=tuple(conflicts),
    )


def _objects(labels: tuple[SourcedBox, ...]) -> tuple[SourcedBox, ...]:
    return tuple(each for each in labels if not each.box.ignore)


def settle_classes(
    boxes: Sequence[Box], *, by: str
) -> tuple[tuple[Box, ...], tuple[Conflict, ...]]:
    """Boxes of one source with one class for each object, and the classes that were overruled.

    Detectors suppress overlapping boxes within each class, so one object may be a car and a truck.
    The class with the higher score stands; of the same class, which an alias may have made, the
    better box does, and nothing is overruled.

    Args:
        boxes: With scores, of one picture.
        by: Provenance of the boxes.
    """
    if len(boxes) < 2:
        return tuple(boxes), ()
    overlap = iou(corners(boxes), corners(boxes))
    conflicts: list[Conflict] = []
    kept: list[int] = []
    for place in sorted(range(len(boxes)), key=lambda place: -certainty(boxes[place])):
        winner = max(kept, key=lambda other: float(overlap[other, place]), default=None)
        if winner is None or overlap[winner, place] < _SAME_OBJECT:
            kept.append(place)
            continue
        box, lost = boxes[winner], boxes[place].label
        if lost != box.label:
            conflicts.append(Conflict(kind="class", winner=by, loser=by, box=box, loser_label=lost))
    return tuple(boxes[place] for place in sorted(kept)), tuple(conflicts)


def compare(
    first: Sequence[Box],
    second: Sequence[Box],
    *,
    winner: str,
    loser: str,
    tolerant: Sequence[Box] = (),
) -> list[Conflict]:
    """Contradictions of two sources.

    Args:
        first: Boxes of the source that counts.
        second: Boxes of the other one.
        winner: Provenance of the first.
        loser: Provenance of the second.
        tolerant: The second's uncertain boxes: an object there is not missing.
    """
    pairs = pair_boxes(first, second)
    found: list[Conflict] = []
    for mine, theirs in pairs:
        box, other = first[mine], second[theirs]
        if box.label != other.label:
            found.append(
                Conflict(kind="class", winner=winner, loser=loser, box=box, loser_label=other.label)
            )
    seen, matched = {mine for mine, _ in pairs}, {theirs for _, theirs in pairs}
    lonely = [box for number, box in enumerate(first) if number not in seen]
    known = {mine for mine, _ in pair_boxes(lonely, tolerant)}
    found += [
        Conflict(kind="missing", winner=winner, loser=loser, box=box)
        for number, box in enumerate(lonely)
        if number not in known
    ]
    found += [
        Conflict(kind="denied", winner=winner, loser=loser, box=box, loser_label=box.label)
        for number, box in enumerate(second)
        if number not in matched
    ]
    return found


def count_conflicts(conflicts: Iterable[Conflict]) -> Counter[str]:
    """Number of each kind, such as ``operator over teacher: denied``."""
    return Counter(
        f"{each.winner.partition(':')[0]} over {each.loser.partition(':')[0]}: {each.kind}"
        for each in conflicts
    )


def _correct(
    boxes: tuple[SourcedBox, ...], ignore: tuple[Box, ...], sources: LabelSources, *, loser: str
) -> tuple[tuple[SourcedBox, ...], tuple[Box, ...], list[Conflict]]:
    """Labels after operators' feedback on single boxes; the oldest verdict first."""
    kept = list(boxes)
    conflicts: list[Conflict] = []
    for verdict in sorted(sources.verdicts, key=lambda each: each.time):
        by = operator(verdict.by)
        meant = _box_of(verdict, sources.detections)
        if meant is None:
            continue
        place = pair_boxes([meant], [each.box for each in kept])
        old = kept[place[0][1]] if place else None
        if verdict.verdict == "wrong_box":
            # Nothing is there, so nothing is uncertain there.
            gone = {theirs for _, theirs in pair_boxes([meant], ignore)}
            ignore = tuple(box for number, box in enumerate(ignore) if number not in gone)
            if old is not None:
                kept.remove(old)
                conflicts.append(_against(old, by, "denied", old.box))
            continue
        if old is not None and old.box.label == meant.label:
            continue
        new = meant.model_copy(update={"score": None})
        if old is not None:
            kept.remove(old)
            conflicts.append(_against(old, by, "class", new))
        else:
            conflicts.append(Conflict(kind="missing", winner=by, loser=loser, box=new))
        kept.append(SourcedBox(box=new, by=by))
    return tuple(kept), ignore, conflicts


def _against(old: SourcedBox, by: str, kind: ConflictKind, box: Box) -> Conflict:
    return Conflict(kind=kind, winner=by, loser=old.by, box=box, loser_label=old.box.label)


def _box_of(verdict: Verdict, detections: Sequence[Box]) -> Box | None:
    """The box that a verdict is about, with the class that it should have; None: no place."""
    pointed = None
    if verdict.box is not None and verdict.box < len(detections):
        pointed = detections[verdict.box]
    if verdict.verdict == "wrong_box":
        return pointed if pointed is not None else verdict.at
    if verdict.verdict not in ("missed", "label"):
        return None
    if verdict.at is not None:
        return verdict.at
    if verdict.verdict == "label" and pointed is not None and verdict.label is not None:
        return pointed.model_copy(update={"label": verdict.label})
    return None
