"""How good a written bundle is on held-out pictures, through the engine that serves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2

from edgebus.inference import DetectionModel
from edgebus.vision import Detected, MapResult, Truth, mean_average_precision
from edgebus_retrainer.labels import Labelled

__all__ = ["measure"]

_THRESHOLD = 0.01  # of the score: mAP needs the whole precision-recall curve


def measure(
    model: DetectionModel, pictures: Sequence[Labelled], *, on_picture: Callable[[], None]
) -> MapResult:
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
    for picture in pictures:
        image: Any = cv2.imread(str(picture.path), cv2.IMREAD_COLOR)
        if image is None:
            # Gone or broken since it was listed; every model skips the same pictures.
            continue
        detected, _ = model.detect(image, threshold=_THRESHOLD)
        found.append(detected)
        truths.append(picture.truth)
        on_picture()
    return mean_average_precision(found, truths, model.classes)
