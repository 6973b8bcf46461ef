"""Batches that mix new pictures with earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebus_retrainer.training._augment import AugmentSettings, Example, augment
from edgebus_retrainer.training._errors import NothingToTrainOnError, UnreadableImageError
from edgebus_retrainer.training._images import Boxes, LabelledImage, Labels, Prepare

__all__ = ["Batch", "Batches"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures as the model takes them.

    Attributes:
        inputs: float32 [B, C, H, W].
        boxes: Per picture, in pixels of the input.
        labels: Per picture.
        ignore: Per picture, in pixels of the input.
    """

    inputs: npt.NDArray[np.float32]
    boxes: tuple[Boxes, ...]
    labels: tuple[Labels, ...]
    ignore: tuple[Boxes, ...]


class _Pool:
    """Draws pictures in random order, each once before any comes again."""

    def __init__(self, images: Sequence[LabelledImage], rng: np.random.Generator) -> None:
        self.images = list(images)
        self._rng = rng
        self._order: list[LabelledImage] = []

    def draw(self) -> LabelledImage:
        if not self._order:
            self._order = [self.images[i] for i in self._rng.permutation(len(self.images))]
        return self._order.pop()

    def drop(self, image: LabelledImage) -> None:
        self.images = [other for other in self.images if other is not image]
        self._order = [other for other in self._order if other is not image]


class Batches:
    """An endless, seeded source of batches.

    A picture that cannot be decoded is left out and named in `unreadable`: one broken file does not
    cost the run.
    """

    def __init__(
        self,
        *,
        new: Sequence[LabelledImage],
        replay: Sequence[LabelledImage],
        size: int,
        replay_share: float,
        prepare: Prepare,
        augmentation: AugmentSettings,
        seed: int,
    ) -> None:
        """Set up the source.

        Args:
            new: Pictures of the domain to learn.
            replay: Pictures of what the model knew before.
            size: Pictures per batch.
            replay_share: Part of each batch that comes from `replay`, when there are both.
            prepare: Makes the model's input.
            augmentation: How far pictures are changed.
            seed: Where chance starts.
        """
        self._rng = np.random.default_rng(seed)
        self._new = _Pool(new, self._rng)
        self._replay = _Pool(replay, self._rng)
        self._size = size
        self._share = replay_share
        self._prepare = prepare
        self._augmentation = augmentation
        self._owed = 0.0
        self.unreadable: list[str] = []

    def next(self) -> Batch:
        """The next batch.

        Raises:
            NothingToTrainOnError: No readable picture is left.
        """
        rows = [self._example() for _ in range(self._size)]
        return Batch(
            inputs=np.concatenate([row[0] for row in rows]),
            boxes=tuple(row[1] for row in rows),
            labels=tuple(row[2] for row in rows),
            ignore=tuple(row[3] for row in rows),
        )

    def _pool(self) -> _Pool:
        if not self._new.images and not self._replay.images:
            raise NothingToTrainOnError(unreadable=tuple(self.unreadable))
        if not self._replay.images:
            return self._new
        if not self._new.images:
            return self._replay
        # An exact share over time, also where share times size is no whole number.
        self._owed += self._share
        if self._owed >= 1.0 - 1e-9:
            self._owed -= 1.0
            return self._replay
        return self._new

    def _example(self) -> tuple[npt.NDArray[np.float32], Boxes, Labels, Boxes]:
        while True:
            pool = self._pool()
            labelled = pool.draw()
            try:
                image = labelled.load()
            except (UnreadableImageError, OSError):
                pool.drop(labelled)
                self.unreadable.append(labelled.name)
                continue
            example = Example(image, labelled.boxes, labelled.labels, labelled.ignore)
            changed = augment(example, self._augmentation, self._rng)
            tensor, place = self._prepare(changed.image)
            row = np.asarray(tensor, np.float32).reshape(1, *tensor.shape[-3:])
            return (
                row,
                place.to_input(changed.boxes),
                changed.labels,
                place.to_input(changed.ignore),
            )
