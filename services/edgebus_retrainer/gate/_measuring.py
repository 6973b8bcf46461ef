"""How good, and how fast, a written bundle is: through the engine that serves it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2

from edgebus_detection.datasets import Labelled
from edgebus_detection.metrics import (
    MapResult,
    Matches,
    average_precision,
    match,
    mean_average_precision,
)
from edgebus_detection.models import DetectionModel
from edgebus_detection.vision import Detected, Image, Truth
from edgebus_retrainer.gate._evidence import calibration_error

__all__ = ["Measured", "Sees", "measure", "milliseconds"]

_THRESHOLD = 0.01  # of the score: mAP needs the whole precision-recall curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model on one held-out set.

    Attributes:
        result: COCO's figures.
        matches: Which detections are hits (IoU 0.5), one entry per picture.
        boxes_of: True boxes of each class, by name.
        calibration: Expected calibration error; None where nothing was detected.
        cameras: Camera or data set of each picture.
    """

    result: MapResult
    matches: tuple[Matches, ...]
    boxes_of: dict[str, int]
    calibration: float | None
    cameras: tuple[str, ...]

    def per_stream(self) -> dict[str, tuple[float, int]]:
        """Average precision, over classes, and true boxes on each camera that shows any."""
        found: dict[str, tuple[float, int]] = {}
        for name in dict.fromkeys(self.cameras):
            rows = zip(self.matches, self.cameras, strict=True)
            mine = [entry for entry, camera in rows if camera == name]
            value, _ = average_precision(mine)
            if value is not None:
                found[name] = value, sum(len(entry.truths) for entry in mine)
        return found


def measure(
    model: DetectionModel, pictures: Sequence[Labelled], *, on_picture: Callable[[], None]
) -> Measured:
    """Measure a model.

    Args:
        model: The loaded bundle.
        pictures: Held-out pictures, of which at least one shows something.
        on_picture: Called after each.

    Raises:
        EngineError: The model's outputs are not finite.
        ValueError: There is no true box, or no readable picture.
    """
    found: list[Detected] = []
    truths: list[Truth] = []
    cameras: list[str] = []
    for picture in pictures:
        image: Any = cv2.imread(str(picture.path), cv2.IMREAD_COLOR)
        if image is None:
            # Gone or broken since it was listed; every model skips the same pictures.
            continue
        detected, _ = model.detect(image, threshold=_THRESHOLD)
        found.append(detected)
        truths.append(picture.truth)
        cameras.append(picture.group.rpartition("/")[0])
        on_picture()
    matches = tuple(match(*both) for both in zip(found, truths, strict=True))
    counts = Counter(int(label) for truth in truths for label in truth.labels)
    return Measured(
        result=mean_average_precision(found, truths, model.classes),
        matches=matches,
        boxes_of={model.classes[label]: count for label, count in sorted(counts.items())},
        calibration=calibration_error(matches),
        cameras=tuple(cameras),
    )


class Sees(Protocol):
    """A model that finds objects in a picture, as `DetectionModel` does."""

    def detect(self, image: Image, /) -> object:
        """What is in a picture."""
        ...


def milliseconds(before: Sees, after: Sees, image: Image, *, runs: int = 12) -> tuple[float, float]:
    """The least time that each of two models takes for a picture, in milliseconds.

    The least of some runs, one model after the other: whatever else a host does only adds to it,
    and what slows the host down for a while slows both.

    Args:
        before: One model.
        after: The other.
        image: What they look at, BGR.
        runs: Runs of each, after two that are not counted.
    """
    best = [float("inf"), float("inf")]
    for number in range(runs + 2):
        for which, model in enumerate((before, after)):
            began = time.perf_counter()
            model.detect(image)
            spent = time.perf_counter() - began
            if number >= 2:
                best[which] = min(best[which], spent)
    return best[0] * 1e3, best[1] * 1e3
