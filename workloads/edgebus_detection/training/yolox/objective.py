"""Detection as an objective: labelled pictures in, the loss of a YOLOX head out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgebus.training.finetune import Loss, Objective, Outputs, Total, TrainingError
from edgebus.training.graph import TorchGraph
from edgebus_detection.training.options import AugmentSettings
from edgebus_detection.training.yolox.augment import Example, augment
from edgebus_detection.training.yolox.head import Anchors, YoloxHead
from edgebus_detection.training.yolox.images import LabelledImage
from edgebus_detection.training.yolox.loss import (
    Target,
    distillation_loss,
    other_classes,
    yolox_loss,
)
from edgebus_detection.vision import Image, Placement, Truth


class HeadMismatchError(TrainingError):
    """The graph's output does not have the head's shape.

    Attributes:
        found: Shape of the output.
        wanted: Shape by strides, input size and classes.
    """

    def __init__(self, *, output: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"output {output!r} has shape {found}; a YOLOX head of these strides, input size and "
            f"classes has {wanted}; check decoder, strides and classes in the manifest"
        )


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a batch, in pixels of the model's input.

    Attributes:
        inputs: float32 [1, C, H, W].
        truth: Its boxes.
    """

    inputs: npt.NDArray[np.float32]
    truth: Truth


class YoloxObjective(Objective[LabelledImage, Picture]):
    """Boxes on pictures, learnt by a YOLOX head.

    Args:
        head: Shape and meaning of the graph's output.
        prepare: Makes the model's input of a picture, float32 [1, C, H, W] or [C, H, W], and tells
            where the picture lies in it, as `Preprocessor.prepare` does.
        augmentation: How far pictures are changed.
        classes: Class indices that labels of new pictures speak of: where the graph saw others
            before the run, these pictures are no evidence of background; None: all.
    """

    def __init__(
        self,
        *,
        head: YoloxHead,
        prepare: Callable[[Image], tuple[npt.NDArray[Any], Placement]],
        augmentation: AugmentSettings | None = None,
        classes: Sequence[int] | None = None,
    ) -> None:
        self._head = head
        self._prepare = prepare
        self._augmentation = AugmentSettings() if augmentation is None else augmentation
        self._classes = None if classes is None else tuple(classes)
        self._anchors: Anchors | None = None
        self.compares = classes is not None

    def name(self, item: LabelledImage) -> str:
        """Name of the picture."""
        return item.name

    def digest(self, item: LabelledImage) -> bytes:
        """Name, labels, and how pictures are changed."""
        parts = [json.dumps([item.name, self._classes]), self._augmentation.model_dump_json()]
        values = item.truth.boxes, item.truth.labels, item.truth.ignore
        parts += [str(each.shape) for each in values]
        arrays = b"".join(np.ascontiguousarray(each).tobytes() for each in values)
        return "".join(parts).encode() + arrays

    def labels(self, item: LabelledImage) -> Iterable[int]:
        """The classes on the picture."""
        return np.unique(item.truth.labels).tolist()  # type: ignore[no-any-return]

    def load(self, item: LabelledImage, rng: np.random.Generator | None) -> Picture:
        """Decode, change and prepare a picture."""
        example = Example(item.load(), item.truth)
        if rng is not None:
            example = augment(example, self._augmentation, rng)
        tensor, place = self._prepare(example.image)
        truth = example.truth
        return Picture(
            np.asarray(tensor, np.float32).reshape(1, *tensor.shape[-3:]),
            Truth(place.to_input(truth.boxes), truth.labels, place.to_input(truth.ignore)),
        )

    def inputs(self, rows: Sequence[Picture]) -> npt.NDArray[Any]:
        """Pictures as float32 [B, C, H, W]."""
        return np.concatenate([row.inputs for row in rows])

    def outputs(self, graph: TorchGraph, inputs: Tensor) -> Outputs:
        """The head's output alone.

        Raises:
            HeadMismatchError: It does not have the head's shape.
        """
        head = self._head
        name = head.output or graph.output_names[0]
        raw = graph(inputs, logits=True)[name]
        wanted = (len(inputs), head.predictions, 5 + head.classes)
        if raw.shape != wanted:
            raise HeadMismatchError(output=name, found=tuple(raw.shape), wanted=wanted)
        return {name: raw}

    def loss(
        self,
        outputs: Outputs,
        rows: Sequence[Picture],
        *,
        before: Outputs | None = None,
        earlier: Sequence[bool] = (),
        total: Total = list,
    ) -> Loss:
        """The loss of YOLOX; see `yolox_loss`."""
        ((name, raw),) = outputs.items()
        unjudged = None
        if before is not None and self._classes is not None:
            # Earlier pictures are labelled with all classes.
            new = torch.tensor([not each for each in earlier], dtype=torch.bool, device=raw.device)
            unjudged = other_classes(before[name], self._classes) & new[:, None]
        if self._anchors is None:
            self._anchors = self._head.anchors(raw.device)
        return yolox_loss(
            raw,
            targets_of(rows, raw.device),
            self._anchors,
            unjudged=unjudged,
            total=total,
        )

    def distillation(self, outputs: Outputs, before: Outputs, *, total: Total = list) -> Tensor:
        """Divergence from the predictions before the run; see `distillation_loss`."""
        ((name, raw),) = outputs.items()
        return distillation_loss(raw, before[name], total=total)


def targets_of(rows: Sequence[Picture], device: torch.device) -> list[Target]:
    """True boxes of each picture of a batch, on a device."""
    return [
        Target(
            boxes=torch.from_numpy(np.asarray(row.truth.boxes, np.float32)).to(device),
            labels=torch.from_numpy(np.asarray(row.truth.labels, np.int64)).to(device),
            ignore=torch.from_numpy(np.asarray(row.truth.ignore, np.float32)).to(device),
        )
        for row in rows
    ]
