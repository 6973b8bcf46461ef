"""A data set's labels into the store: all of them, or none and a list of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy.orm import Session

from edgebus.contracts import PayloadError
from edgebus_detection.messages import Sample
from edgebus_retrainer.claims import TRUTH, Claim, LabelSet, operator, pair_up
from edgebus_retrainer.exchange._dataset import IncomingPicture
from edgebus_retrainer.labels import (
    BoxesRefusedError,
    ImpossibleBoxError,
    checked_box,
    unknown_class,
)
from edgebus_retrainer.samples import (
    Catalog,
    SampleRefusedError,
    SampleUnknownError,
    SampleUnreadableError,
    check_picture,
    row_of,
)

__all__ = ["ImportReport", "import_dataset"]

_SAME_IOU = 0.99
"""Boxes that overlap so much were not moved; formats round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import changed.

    Attributes:
        changed: Ids of samples that have new labels now.
        unchanged: Ids of samples whose labels are what they were.
        added: Ids of samples that were not in the store.
    """

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What counts of a sample before the import.

    `claims` is None where nobody has labelled it. `settled` means by truth or an operator.
    """

    claims: tuple[Claim, ...] | None
    settled: bool
    size: tuple[int, int]


def import_dataset(
    catalog: Catalog,
    pictures: Sequence[IncomingPicture],
    *,
    wrong: Sequence[str] = (),
    who: str,
    time: datetime,
    classes: Sequence[str] | None,
    confirm: bool = False,
) -> ImportReport:
    """Take over what a person has changed.

    A picture whose boxes are what they were says nothing new, unless somebody has looked at
    it: a task that was submitted, or `confirm`. A box that was left as it was keeps its
    provenance; every other one is the operator's. Samples that the store lacks are taken from
    the data set's own pictures, which hold their records.

    Args:
        catalog: The store.
        pictures: From `read_dataset`.
        wrong: What was wrong with the data set already.
        who: The operator.
        time: When.
        classes: Those that a box may have; None: any.
        confirm: Somebody has looked at every picture.

    Raises:
        BoxesRefusedError: Something is wrong; nothing was written.
    """
    reasons = list(wrong)
    sets: dict[str, LabelSet | None] = {}
    added: dict[str, Sample] = {}
    unchanged: list[str] = []
    seen: set[str] = set()
    for picture in pictures:
        known, fresh = _known(catalog, picture, reasons)
        sample = picture.sample
        if known is None or sample is None:
            continue
        if sample in seen:
            reasons.append(f"{picture.where}: sample {sample} a second time")
            continue
        seen.add(sample)
        claims = _claims(picture, known, operator(who), classes, reasons, trust=fresh is not None)
        if fresh is not None:
            added[sample] = fresh
        if _says_nothing_new(claims, known, picture, confirm, fresh is not None):
            unchanged.append(sample)
        else:
            sets[sample] = LabelSet(claims=claims, by=operator(who), time=time)
    if reasons:
        raise BoxesRefusedError(reasons)
    _write(catalog, sets, added, time)
    return ImportReport(changed=tuple(sets), unchanged=tuple(unchanged), added=tuple(added))


def _known(
    catalog: Catalog, picture: IncomingPicture, reasons: list[str]
) -> tuple[_Known | None, Sample | None]:
    """What the store knows of a picture; and its sample, where it has to be added first."""
    if picture.sample is None:
        reasons.append(
            f"{picture.where}: {picture.name!r} holds no sample's id; pictures of other "
            "sources are no samples: give them to retrainer.replay as a folder"
        )
        return None, None
    try:
        sight = catalog.look(catalog.find(picture.sample))
    except SampleUnknownError:
        return _from_file(picture, reasons)
    except SampleUnreadableError as error:
        reasons.append(f"{picture.where}: {error}")
        return None, None
    found = sight.resolved
    return (
        _Known(
            claims=None if found is None else found.claims,
            settled=found is not None and found.source != "teacher",
            size=(sight.record.width, sight.record.height),
        ),
        None,
    )


def _from_file(picture: IncomingPicture, reasons: list[str]) -> tuple[_Known | None, Sample | None]:
    where = f"{picture.where}: sample {picture.sample} is not in the store"
    if picture.file is None:
        reasons.append(f"{where} (evicted?), nor is its picture in the data set")
        return None, None
    try:
        sample = Sample.decode(picture.file.read_bytes())
        check_picture(sample)
    except (OSError, PayloadError, SampleRefusedError) as error:
        reasons.append(f"{where}, and its picture holds no sample: {error}")
        return None, None
    record = sample.record
    if record.id != picture.sample:
        reasons.append(f"{where}, and its picture is of sample {record.id}")
        return None, None
    truth = record.truth
    claims = None if truth is None else tuple(Claim(box=box, by=TRUTH) for box in truth)
    size = record.width, record.height
    return _Known(claims=claims, settled=truth is not None, size=size), sample


def _claims(
    picture: IncomingPicture,
    known: _Known,
    by: str,
    classes: Sequence[str] | None,
    reasons: list[str],
    *,
    trust: bool,
) -> tuple[Claim, ...]:
    """The boxes of a picture; what the data set says of their provenance counts if `trust`."""
    made: list[Claim] = []
    width, height = known.size
    for box in picture.boxes:
        if classes is not None and box.label not in classes:
            reasons.append(f"{box.where}: {unknown_class(box.label, classes)}")
            continue
        scale = (width, height, width, height) if box.relative else (1, 1, 1, 1)
        x1, y1, x2, y2 = (v * factor for v, factor in zip(box.corners, scale, strict=True))
        corners = round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2)
        try:
            good = checked_box(box.label, corners, size=known.size, where=partial(str, box.where))
        except (ImpossibleBoxError, ValueError) as error:
            reasons.append(str(error))
            continue
        made.append(Claim(box=good, by=box.by if trust and box.by is not None else by))
    old = known.claims or ()
    boxes = [claim.box for claim in made]
    for mine, theirs in pair_up(boxes, [claim.box for claim in old], iou=_SAME_IOU):
        if boxes[mine].label == old[theirs].box.label:
            # Untouched: exactly what it was, score and all.
            made[mine] = old[theirs]
    return tuple(made)


def _says_nothing_new(
    claims: tuple[Claim, ...],
    known: _Known,
    picture: IncomingPicture,
    confirm: bool,
    fresh: bool,
) -> bool:
    if confirm:
        return False
    old = known.claims
    if old is None:
        # Nobody has said anything so far, and a picture without boxes may just not be done yet;
        # nor does a teacher's answer that came along with its picture say anything.
        said = [claim for claim in claims if not (fresh and claim.by.startswith("teacher:"))]
        return not said and not picture.confirmed
    same = len(old) == len(claims) and all(claim in old for claim in claims)
    return same and (known.settled or not picture.confirmed)


def _write(
    catalog: Catalog,
    sets: Mapping[str, LabelSet | None],
    added: Mapping[str, Sample],
    time: datetime,
) -> None:
    # Files first: without their rows they are nothing, and rows without files would be broken.
    rows = [
        row_of(sample, file=catalog.pictures.put(sample.jpeg), received=time)
        for sample in added.values()
    ]
    with Session(catalog.engine) as session, session.begin():
        session.add_all(rows)
        session.flush()
        catalog.book.write_in(session, sets)
