"""Import of a data set's labels into the store: all of them, or none and a list of errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edgebus.contracts import TRUTH, PayloadError, SampleRefusedError, operator
from edgebus.samples import SampleUnknownError
from edgebus_detection.datasets import DatasetPicture
from edgebus_detection.datasets.files import picture_size
from edgebus_detection.labels import BoxesRefusedError, unknown_class
from edgebus_detection.labels.check import check_picture
from edgebus_detection.messages import Box, BoxLabels, Sample, SourcedBox
from edgebus_detection.vision import ImageError, pair_boxes
from edgebus_samples.details import PictureCatalog, SampleUnreadableError

_SAME_IOU = 0.99
"""Least overlap of a box that was not moved; formats round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """Outcome of an import.

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
    """Labels of a sample before the import.

    `boxes` is None where it has none. `settled` means by truth or an operator.
    """

    boxes: tuple[SourcedBox, ...] | None
    settled: bool
    size: tuple[int, int]


def import_dataset(
    catalog: PictureCatalog,
    pictures: Sequence[DatasetPicture],
    *,
    wrong: Sequence[str] = (),
    who: str,
    time: datetime,
    classes: Sequence[str] | None,
    confirm: bool = False,
) -> ImportReport:
    """Take over a person's changes.

    A picture whose boxes are what they were says nothing new, unless somebody has looked at
    it: a task that was submitted, or `confirm`. A box that was left as it was keeps its
    provenance; every other one is the operator's. Samples that the store lacks are taken from
    the data set's own pictures, which hold their records.

    Args:
        catalog: The store.
        pictures: From `read_dataset`.
        wrong: Errors of the data set itself.
        who: The operator.
        time: When.
        classes: Those that a box may have; None: any.
        confirm: Somebody has looked at every picture.

    Raises:
        BoxesRefusedError: Something is wrong; nothing was written.
    """
    reasons = list(wrong)
    sets: dict[str, BoxLabels | None] = {}
    added: dict[str, Sample] = {}
    unchanged: list[str] = []
    seen: set[str] = set()
    for picture in pictures:
        if picture.boxes is None and not confirm:
            continue  # nobody has labelled it
        known, fresh = _known(catalog, picture, reasons)
        sample = picture.sample
        if known is None or sample is None:
            continue
        if sample in seen:
            reasons.append(f"{picture.where}: sample {sample} a second time")
            continue
        seen.add(sample)
        boxes = _sourced(picture, known, operator(who), classes, reasons, trust=fresh is not None)
        if fresh is not None:
            added[sample] = fresh
        if _is_unchanged(boxes, known, picture, confirm, fresh is not None):
            unchanged.append(sample)
        else:
            sets[sample] = BoxLabels(labels=boxes, by=operator(who), time=time)
    if reasons:
        raise BoxesRefusedError(reasons)
    catalog.add(list(added.values()), sets, received=time)
    return ImportReport(changed=tuple(sets), unchanged=tuple(unchanged), added=tuple(added))


def _known(
    catalog: PictureCatalog, picture: DatasetPicture, reasons: list[str]
) -> tuple[_Known | None, Sample | None]:
    """Labels of a picture in the store; and its sample, where it has to be added first."""
    if picture.sample is None:
        reasons += _wrong_in(picture)
        reasons.append(
            f"{picture.where}: {picture.name!r} holds no sample's id; pictures of other "
            "sources are no samples: give them to retrainer.replay as a folder"
        )
        return None, None
    try:
        detail = catalog.read(catalog.find(picture.sample))
    except SampleUnknownError:
        return _from_file(picture, reasons)
    except SampleUnreadableError as error:
        reasons.append(f"{picture.where}: {error}")
        return None, None
    found = detail.merged
    return (
        _Known(
            boxes=None if found is None else (*found.sourced, *found.regions),
            settled=found is not None and found.source != "teacher",
            size=(detail.record.width, detail.record.height),
        ),
        None,
    )


def _wrong_in(picture: DatasetPicture) -> tuple[str, ...]:
    """What is wrong with the labels of a picture that is no sample."""
    if picture.file is None:
        return picture.wrong
    try:
        return picture.place(picture_size(picture.file)).wrong
    except ImageError as error:
        return (f"{picture.where}: {error}",)


def _from_file(picture: DatasetPicture, reasons: list[str]) -> tuple[_Known | None, Sample | None]:
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
    boxes = None if truth is None else tuple(SourcedBox(box=box, by=TRUTH) for box in truth)
    size = record.width, record.height
    return _Known(boxes=boxes, settled=truth is not None, size=size), sample


def _sourced(
    picture: DatasetPicture,
    known: _Known,
    by: str,
    classes: Sequence[str] | None,
    reasons: list[str],
    *,
    trust: bool,
) -> tuple[SourcedBox, ...]:
    """The boxes of a picture; what the data set says of their provenance counts if `trust`."""
    placed = picture.place(known.size)
    reasons += placed.wrong
    made: list[SourcedBox] = []
    for box, whose in zip(placed.boxes, placed.by, strict=True):
        if classes is not None and box.label not in classes:
            reasons.append(f"{picture.where}: {unknown_class(box.label, classes)}")
            continue
        made.append(SourcedBox(box=_rounded(box), by=whose if trust and whose is not None else by))
    old = tuple(each for each in known.boxes or () if not each.box.ignore)
    regions = [each for each in known.boxes or () if each.box.ignore]
    boxes = [each.box for each in made]
    alike = 0.5 if picture.grid else _SAME_IOU
    for mine, theirs in pair_boxes(boxes, [each.box for each in old], min_iou=alike):
        before = old[theirs].box
        moved = picture.grid and _distance(boxes[mine], before) > picture.grid
        if boxes[mine].label == before.label and not moved:
            # Untouched: exactly what it was, score and all.
            made[mine] = old[theirs]
    drawn = [SourcedBox(box=_rounded(box), by=by) for box in placed.ignore]
    for mine, theirs in pair_boxes(
        [each.box for each in drawn], [each.box for each in regions], min_iou=_SAME_IOU
    ):
        drawn[mine] = regions[theirs]
    # Only COCO and VOC can speak of such regions; what the others do not mention stays.
    return (*made, *(drawn or regions))


def _distance(first: Box, second: Box) -> float:
    """The most by which a side has moved, in pixels."""
    sides = ("x1", "y1", "x2", "y2")
    return float(max(abs(getattr(first, side) - getattr(second, side)) for side in sides))


def _rounded(box: Box) -> Box:
    """To hundredths of a pixel: what formats write of one box differs by less."""
    corners = {key: round(getattr(box, key), 2) for key in ("x1", "y1", "x2", "y2")}
    has_area = corners["x2"] > corners["x1"] and corners["y2"] > corners["y1"]
    return box.model_copy(update=corners) if has_area else box


def _is_unchanged(
    boxes: tuple[SourcedBox, ...],
    known: _Known,
    picture: DatasetPicture,
    confirm: bool,
    fresh: bool,
) -> bool:
    if confirm:
        return False
    old = known.boxes
    if old is None:
        # It has no labels so far, and a picture without boxes may just not be done yet; nor is a
        # teacher's answer that came along with its picture news.
        news = [each for each in boxes if not (fresh and each.by.startswith("teacher:"))]
        return not news and not picture.confirmed
    same = len(old) == len(boxes) and all(each in old for each in boxes)
    return same and (known.settled or not picture.confirmed)
