"""Who says what of a picture, where they contradict each other, and who is right.

Three voices: operators, the ground truth of a labelled source, a teacher. Operators overrule
truth, truth overrules the teacher. What is overruled is not forgotten: it is a conflict, and
conflicts are counted and shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from edgebus.contracts import Record, Timestamp
from edgebus_detection.messages import Box, Verdict
from edgebus_detection.vision import box_iou

__all__ = [
    "TRUTH",
    "Claim",
    "Conflict",
    "ConflictKind",
    "LabelSet",
    "Resolved",
    "Voices",
    "box_array",
    "compare",
    "count_conflicts",
    "operator",
    "pair_up",
    "resolve",
    "teacher",
]

TRUTH = "truth"
"""Provenance of what a labelled source says."""

SAME_OBJECT_IOU = 0.5
"""Boxes that overlap at least this much speak of the same object, as in mAP50."""

By = Annotated[str, Field(pattern=r"^(truth|teacher:\S+|operator:\S.*)$", max_length=140)]
ConflictKind = Literal["denied", "missing", "class"]


def operator(who: str) -> str:
    """Provenance of what an operator says; a name may come from anywhere, and is cut to fit."""
    return f"operator:{' '.join(who.split())[:120] or 'unknown'}"


def teacher(digest: str) -> str:
    """Provenance of what a teacher says: the first 16 digits of its model's digest."""
    return f"teacher:{digest[:16]}"


class Claim(Record):
    """One box, and who says that it is there: ``truth``, ``teacher:<digest>``, ``operator:<who>``.

    An operator who left a teacher's box as it was has agreed with it; it stays the teacher's.
    """

    box: Box
    by: By


class LabelSet(Record):
    """What an operator made of one picture: all its boxes; none at all is an answer too."""

    claims: tuple[Claim, ...]
    by: By
    time: Timestamp
    note: Annotated[str, Field(max_length=500)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voices:
    """Everything that was said of one picture.

    Attributes:
        operator: The newest label set of an operator.
        truth: Ground truth; None where the source has none.
        teacher: Boxes that the teacher is sure of; None where it was not asked.
        unsure: Boxes that it is not sure of: neither object nor background.
        teacher_by: Its provenance.
        verdicts: What operators said of single boxes of the model's answer.
        detections: The model's answer, which verdicts point into.
    """

    operator: LabelSet | None = None
    truth: tuple[Box, ...] | None = None
    teacher: tuple[Box, ...] | None = None
    unsure: tuple[Box, ...] = ()
    teacher_by: str = "teacher:unknown"
    verdicts: tuple[Verdict, ...] = ()
    detections: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Two voices contradict each other about one object.

    Attributes:
        kind: denied: the loser has a box where the winner has none; missing: the loser lacks a
            box of the winner; class: both have a box, of different classes.
        winner: Provenance of the voice that counts.
        loser: Provenance of the other one.
        box: The winner's box; the loser's where it is denied.
        said: Class that the loser gave it; empty where it has no box.
    """

    kind: ConflictKind
    winner: str
    loser: str
    box: Box
    said: str = ""

    @property
    def words(self) -> str:
        """In one line."""
        x, y = (self.box.x1 + self.box.x2) / 2, (self.box.y1 + self.box.y2) / 2
        place = f"at ({x:.0f}, {y:.0f})"
        if self.kind == "denied":
            return f"{self.winner}: no {self.said} {place}, though {self.loser} says so"
        if self.kind == "missing":
            return f"{self.winner}: {self.box.label} {place}, which {self.loser} lacks"
        return f"{self.winner}: {self.box.label} {place}, which {self.loser} calls {self.said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The labels of one picture.

    Attributes:
        source: The voice that they are of: operator, truth or teacher.
        claims: Boxes with their provenance.
        ignore: Where nobody knows.
        conflicts: What was overruled.
    """

    source: Literal["operator", "truth", "teacher"]
    claims: tuple[Claim, ...]
    ignore: tuple[Box, ...] = ()
    conflicts: tuple[Conflict, ...] = ()

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes without their provenance."""
        return tuple(claim.box for claim in self.claims)


def resolve(voices: Voices) -> Resolved | None:
    """Who is right: operator > truth > teacher; None where nobody has said anything.

    An operator's label set replaces all boxes. Without one, verdicts on single boxes correct
    the truth or the teacher: a box with nothing in it goes, one of another class changes it, a
    missed object that came with its place is added.
    """
    said: list[tuple[Literal["operator", "truth", "teacher"], str, tuple[Claim, ...]]] = []
    if voices.operator is not None:
        said.append(("operator", voices.operator.by, voices.operator.claims))
    if voices.truth is not None:
        said.append(("truth", TRUTH, tuple(Claim(box=box, by=TRUTH) for box in voices.truth)))
    if voices.teacher is not None:
        by = voices.teacher_by
        said.append(("teacher", by, tuple(Claim(box=box, by=by) for box in voices.teacher)))
    if not said:
        return None
    source, winner, claims = said[0]
    conflicts: list[Conflict] = []
    for place, (_, by, theirs) in enumerate(said):
        for _, loser, others in said[place + 1 :]:
            # What the teacher is unsure of contradicts nobody.
            tolerant = voices.unsure if loser == voices.teacher_by else ()
            boxes = [claim.box for claim in theirs], [claim.box for claim in others]
            conflicts += compare(*boxes, winner=by, loser=loser, tolerant=tolerant)
    ignore = voices.unsure if source == "teacher" else ()
    if source != "operator":
        claims, ignore, corrected = _correct(claims, ignore, voices, loser=winner)
        conflicts = [*corrected, *conflicts]
    return Resolved(source=source, claims=claims, ignore=ignore, conflicts=tuple(conflicts))


def compare(
    first: Sequence[Box],
    second: Sequence[Box],
    *,
    winner: str,
    loser: str,
    tolerant: Sequence[Box] = (),
) -> list[Conflict]:
    """Where two voices contradict each other.

    Args:
        first: Boxes of the voice that counts.
        second: Boxes of the other one.
        winner: Provenance of the first.
        loser: Provenance of the second.
        tolerant: Boxes that the second is unsure of: an object there is not missing.
    """
    pairs = pair_up(first, second)
    found: list[Conflict] = []
    for mine, theirs in pairs:
        box, other = first[mine], second[theirs]
        if box.label != other.label:
            found.append(
                Conflict(kind="class", winner=winner, loser=loser, box=box, said=other.label)
            )
    seen, matched = {mine for mine, _ in pairs}, {theirs for _, theirs in pairs}
    lonely = [box for number, box in enumerate(first) if number not in seen]
    known = {mine for mine, _ in pair_up(lonely, tolerant)}
    found += [
        Conflict(kind="missing", winner=winner, loser=loser, box=box)
        for number, box in enumerate(lonely)
        if number not in known
    ]
    found += [
        Conflict(kind="denied", winner=winner, loser=loser, box=box, said=box.label)
        for number, box in enumerate(second)
        if number not in matched
    ]
    return found


def pair_up(
    first: Sequence[Box], second: Sequence[Box], *, iou: float = SAME_OBJECT_IOU
) -> list[tuple[int, int]]:
    """Which boxes speak of the same object: pairs of indices, each box at most once.

    Same classes first, the best overlap first; what is left is paired whatever its class.
    """
    if not first or not second:
        return []
    overlap = box_iou(box_array(first), box_array(second))
    mine, theirs = np.nonzero(overlap >= iou)
    order = sorted(
        zip(mine.tolist(), theirs.tolist(), strict=True),
        key=lambda pair: (first[pair[0]].label != second[pair[1]].label, -float(overlap[pair])),
    )
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = set(), set()
    for a, b in order:
        if a not in used[0] and b not in used[1]:
            used[0].add(a)
            used[1].add(b)
            pairs.append((a, b))
    return pairs


def box_array(boxes: Sequence[Box]) -> npt.NDArray[np.float32]:
    """Corners as float32 [n, 4]."""
    return np.array([(b.x1, b.y1, b.x2, b.y2) for b in boxes], np.float32).reshape(-1, 4)


def count_conflicts(conflicts: Iterable[Conflict]) -> Counter[str]:
    """How many of each kind, such as ``operator over teacher: denied``."""
    return Counter(
        f"{each.winner.partition(':')[0]} over {each.loser.partition(':')[0]}: {each.kind}"
        for each in conflicts
    )


def _correct(
    claims: tuple[Claim, ...], ignore: tuple[Box, ...], voices: Voices, *, loser: str
) -> tuple[tuple[Claim, ...], tuple[Box, ...], list[Conflict]]:
    """Labels after what operators said of single boxes; the oldest verdict first."""
    kept = list(claims)
    conflicts: list[Conflict] = []
    for verdict in sorted(voices.verdicts, key=lambda each: each.time):
        by = operator(verdict.by)
        meant = _box_of(verdict, voices.detections)
        if meant is None:
            continue
        place = pair_up([meant], [claim.box for claim in kept])
        old = kept[place[0][1]] if place else None
        if verdict.verdict == "wrong_box":
            # Nothing is there, so nothing is uncertain there.
            gone = {theirs for _, theirs in pair_up([meant], ignore)}
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
        kept.append(Claim(box=new, by=by))
    return tuple(kept), ignore, conflicts


def _against(old: Claim, by: str, kind: ConflictKind, box: Box) -> Conflict:
    return Conflict(kind=kind, winner=by, loser=old.by, box=box, said=old.box.label)


def _box_of(verdict: Verdict, detections: Sequence[Box]) -> Box | None:
    """The box that a verdict speaks of, with the class that it should have; None: no place."""
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
