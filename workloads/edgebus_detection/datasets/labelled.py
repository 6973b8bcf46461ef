"""Labels of pictures, as a model learns them and is measured on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgebus_detection.messages import Box
from edgebus_detection.vision import Truth, to_truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A picture with its labels.

    Attributes:
        path: The picture.
        truth: Boxes with class indices of the model, and regions to ignore; picture pixels.
        provenance: Source of the labels: ``operator``, ``truth``, ``teacher`` or the name of a data
            set. That of each box is in the job's ``labels.jsonl``.
        key: Names the picture for good: a sample's id, or a file's path in its data set.
        group: Neighbours share it: a block of a camera's frames, or of a data set's pictures.
    """

    path: Path
    truth: Truth
    provenance: str
    key: str
    group: str

    @property
    def label_count(self) -> int:
        """Number of boxes."""
        return len(self.truth.labels)


@dataclass(slots=True)
class LabelBuilder:
    """Turns named boxes into a model's labels.

    A box of a class that the model does not know becomes an ignore region: whatever the model
    predicts there is neither right nor wrong. Trained as background it would unlearn what looks
    alike (a teacher that calls "cell phone" what it called a car a frame earlier).

    Args:
        classes: The model's classes, in order.
        aliases: Other names of its classes.
        only: Classes that are learnt; all of them by default.
    """

    classes: Sequence[str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    only: frozenset[str] | None = None

    def build(
        self, boxes: Iterable[Box], *, width: float, height: float, ignore: Iterable[Box] = ()
    ) -> Truth:
        """Labels of one picture; boxes are cut at its border.

        Args:
            boxes: Boxes with class names.
            width: Width of the picture in pixels.
            height: Its height.
            ignore: Boxes that are uncertain.
        """
        named = [
            box.model_copy(update={"label": self.aliases[box.label]})
            if box.label in self.aliases
            else box
            for box in boxes
        ]
        uncertain = list(ignore)
        if self.only is not None:
            uncertain += [box for box in named if box.label not in self.only]
            named = [box for box in named if box.label in self.only]
        truth = to_truth(named, self.classes, ignore=uncertain)
        limit = np.array([width, height, width, height], np.float32)
        return Truth(np.minimum(truth.boxes, limit), truth.labels, np.minimum(truth.ignore, limit))


def ignore_rare(
    pictures: Sequence[Labelled], *, min_boxes: int, counted: Sequence[Labelled] | None = None
) -> tuple[Labelled, ...]:
    """The pictures with boxes of rare classes turned into regions to ignore.

    Average precision is a mean over classes: a class of one box weighs as much as the one that
    matters, and its figure is either 0 or 1. A teacher's one "tennis racket" is mostly a mistake.

    Args:
        pictures: Labelled pictures.
        min_boxes: Classes with fewer boxes are rare.
        counted: Where they are counted; in `pictures` by default.
    """
    counts = Counter(
        int(label)
        for picture in (pictures if counted is None else counted)
        for label in picture.truth.labels
    )
    rare = [label for label, count in counts.items() if count < min_boxes]
    return tuple(_without(picture, rare) for picture in pictures)


def _without(picture: Labelled, labels: Sequence[int]) -> Labelled:
    truth = picture.truth
    gone = np.isin(truth.labels, labels)
    if not gone.any():
        return picture
    ignore = np.concatenate([truth.ignore, truth.boxes[gone]])
    return replace(picture, truth=Truth(truth.boxes[~gone], truth.labels[~gone], ignore))
