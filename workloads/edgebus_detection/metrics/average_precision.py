"""Accuracy of detections: a cheap average precision for live views, COCO's for reports."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebus.service import install_command
from edgebus_detection.vision import Detected, Truth, coverage, pair
from edgebus_detection.vision import iou as overlaps


@dataclass(frozen=True, slots=True)
class Matches:
    """Detections of one picture, each a hit or a false alarm; ignored ones are left out.

    Attributes:
        scores: float32 [n].
        labels: int64 [n].
        hits: bool [n].
        truths: int64 [m], the label of every true box.
    """

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    hits: npt.NDArray[np.bool_]
    truths: npt.NDArray[np.int64]


def match(detected: Detected, truth: Truth, *, iou: float = 0.5) -> Matches:
    """Assign detections to true boxes, best score first, each true box once.

    A false alarm of which a share of at least `iou` lies in an ignore region is left out, as
    COCO does with crowds.
    """
    order = np.argsort(-detected.scores, kind="stable")
    boxes, labels = detected.boxes[order], detected.labels[order]
    overlap = overlaps(boxes, truth.boxes)
    overlap[labels[:, None] != truth.labels[None]] = -1
    hits = np.zeros(len(order), np.bool_)
    for row, _ in pair(overlap, min_iou=iou, rank=np.arange(len(order))[:, None]):
        hits[row] = True
    counted = np.ones(len(order), np.bool_)
    if len(truth.ignore):
        counted = hits | (coverage(boxes, truth.ignore).max(axis=1, initial=0) < iou)
    return Matches(
        detected.scores[order][counted], labels[counted], hits[counted], truth.labels.copy()
    )


def average_precision(matches: Iterable[Matches]) -> tuple[float | None, dict[int, float]]:
    """Average precision over pictures: the area under the precision envelope (PASCAL VOC 2010).

    Returns:
        The mean over the classes that have true boxes, None where there is none, and the value of
        each such class.
    """
    pictures = list(matches)
    if not pictures:
        return None, {}
    scores = np.concatenate([picture.scores for picture in pictures])
    order = np.argsort(-scores, kind="stable")
    labels = np.concatenate([picture.labels for picture in pictures])[order]
    hits = np.concatenate([picture.hits for picture in pictures])[order]
    names, counts = np.unique(
        np.concatenate([picture.truths for picture in pictures]), return_counts=True
    )
    per_class = {
        int(name): _area(hits[labels == name], int(count))
        for name, count in zip(names, counts, strict=True)
    }
    return (float(np.mean(list(per_class.values()))) if per_class else None), per_class


def _area(hits: npt.NDArray[np.bool_], truths: int) -> float:
    """The area under the precision envelope of hits in the order of falling score."""
    if not len(hits):
        return 0.0
    found = hits.cumsum()
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall = np.diff(np.concatenate([[0.0], found / truths]))
    return float((recall * envelope).sum())


class RollingAp:
    """Average precision over the last pictures, for a live view."""

    def __init__(self, *, window: int = 60, iou: float = 0.5) -> None:
        """Look back over `window` pictures."""
        self._iou = iou
        self._matches: deque[Matches] = deque(maxlen=window)

    def __len__(self) -> int:
        return len(self._matches)

    def add(self, detected: Detected, truth: Truth) -> None:
        """Take one more picture in."""
        self._matches.append(match(detected, truth, iou=self._iou))

    @property
    def value(self) -> float | None:
        """The mean over classes; None before the first true box."""
        return average_precision(self._matches)[0]


@dataclass(frozen=True, slots=True)
class MapResult:
    """COCO's figures (https://cocodataset.org/#detection-eval), over classes with true boxes.

    Attributes:
        map50: Mean average precision at IoU 0.5.
        map: Mean over the IoU thresholds (0.50 to 0.95 in steps of 0.05 by default).
        per_class: map50 of each class that has true boxes, by name.
        images: Pictures evaluated.
        boxes: True boxes in them.
    """

    map50: float
    map: float
    per_class: Mapping[str, float]
    images: int
    boxes: int


def mean_average_precision(
    predictions: Sequence[Detected],
    truths: Sequence[Truth],
    classes: Sequence[str],
    *,
    iou: Sequence[float] | None = None,
) -> MapResult:
    """Mean average precision by a COCO evaluator (faster-coco-eval).

    Args:
        predictions: One per picture, with low scores too (0.01 or so), or recall is cut.
        truths: One per picture, in the same order.
        classes: Class names; labels are indices of it.
        iou: Overlaps that count as a hit, the first of which is `map50`'s; COCO's ten by default.

    Raises:
        ValueError: The lengths differ, or there is no true box to measure on.
        ImportError: faster-coco-eval is missing; it is in the extra ``edgebus[cloud]``.
    """
    if len(predictions) != len(truths):
        msg = f"{len(predictions)} predictions for {len(truths)} pictures; give one each"
        raise ValueError(msg)
    boxes = sum(len(truth.labels) for truth in truths)
    if not boxes:
        msg = f"no true box in {len(truths)} pictures; there is nothing to measure"
        raise ValueError(msg)
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        msg = f"measuring mAP needs faster-coco-eval; run: {install_command('cloud')}"
        raise ImportError(msg) from error
    coco = COCO(_annotations(truths, classes))
    rows = _results(predictions)
    # `loadRes` refuses an empty list.
    found = coco.loadRes(rows) if rows else COCO(coco.dataset | {"annotations": []})
    evaluator = COCOeval_faster(coco, found, "bbox")
    if iou is not None:
        evaluator.params.iouThrs = np.asarray(iou, np.float64)
    evaluator.evaluate()
    evaluator.accumulate()
    # [thresholds, recalls, classes, area ranges, detection limits]; -1 where a class has no truth
    precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]
    present = [k for k in range(len(classes)) if (precision[0, :, k] >= 0).any()]
    return MapResult(
        map50=float(precision[0][:, present].mean()),
        map=float(precision[:, :, present].mean()),
        per_class={classes[k]: float(precision[0, :, k].mean()) for k in present},
        images=len(truths),
        boxes=boxes,
    )


def _annotations(truths: Sequence[Truth], classes: Sequence[str]) -> dict[str, Any]:
    """True boxes as a COCO data set. An ignore region is a crowd of every class."""
    rows: list[dict[str, Any]] = []

    def add(image: int, label: int, box: npt.NDArray[np.float32], *, crowd: bool) -> None:
        x1, y1, x2, y2 = (float(value) for value in box)
        rows.append(
            {
                "id": len(rows) + 1,
                "image_id": image,
                "category_id": label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(crowd),
            }
        )

    for image, truth in enumerate(truths):
        for box, label in zip(truth.boxes, truth.labels, strict=True):
            if not 0 <= label < len(classes):
                msg = f"picture {image}: label {label} is no index of {len(classes)} classes"
                raise ValueError(msg)
            add(image, int(label), box, crowd=False)
        for box in truth.ignore:
            for label in range(len(classes)):
                add(image, label, box, crowd=True)
    return {
        "images": [{"id": image} for image in range(len(truths))],
        "annotations": rows,
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes)],
    }


def _results(predictions: Sequence[Detected]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for image, found in enumerate(predictions)
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes, found.scores, found.labels, strict=True
        )
    ]
