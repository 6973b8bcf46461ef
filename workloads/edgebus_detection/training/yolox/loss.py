"""The loss of YOLOX with ignore regions, and distillation on earlier pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgebus.training.finetune import Loss, Total
from edgebus_detection.training.yolox.assign import areas, assign, inside, iou_of, overlaps
from edgebus_detection.training.yolox.head import Anchors, decode_boxes

_BOX_WEIGHT = 5.0
_IGNORED = 0.5  # a prediction of which this part lies in an ignore region is not judged
_SEEN = 0.1  # a score from which the graph is taken to have seen something


@dataclass(frozen=True, slots=True)
class Target:
    """Labels of one picture, in pixels of the model's input.

    Attributes:
        boxes: [G, 4].
        labels: [G].
        ignore: [I, 4].
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor


def yolox_loss(
    raw: Tensor,
    targets: Sequence[Target],
    anchors: Anchors,
    *,
    unjudged: Tensor | None = None,
    total: Total = list,
) -> Loss:
    """Box, objectness and class loss (arXiv:2107.08430, section 2.1).

    Boxes: 1 - IoU^2, weight 5. Classes: binary cross-entropy of the assigned predictions against
    the class times the IoU. Objectness: binary cross-entropy of all predictions, except those that
    no box owns and that lie in an ignore region. All are divided by the number of assigned
    predictions, or by the number of pictures where that is larger, so that a batch without objects
    makes no huge step.

    Args:
        raw: Output of the graph with logits in place of scores, [B, N, 5 + C].
        targets: What is on each of the B pictures.
        anchors: The cells.
        unjudged: Predictions that are not called background where no box owns them, bool [B, N].
        total: Sums over the processes that have a share of the batch each: what is divided by
            counts for the whole batch.

    Returns:
        The loss; its parts, without weights, are `box`, `objectness` and `classes`, and `matched`,
        the number of predictions that answer for a box.
    """
    predicted = decode_boxes(raw[..., :4], anchors)
    objectness, classes = raw[..., 4], raw[..., 5:]
    wanted = torch.zeros_like(objectness)
    judged = torch.ones_like(objectness) if unjudged is None else (~unjudged).to(objectness.dtype)
    owned: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for index, target in enumerate(targets):
        found = assign(
            predicted=predicted[index].detach(),
            objectness=objectness[index].detach(),
            classes=classes[index].detach(),
            anchors=anchors,
            boxes=target.boxes,
            labels=target.labels,
        )
        if len(target.ignore):
            judged[index] *= (~_ignored(predicted[index].detach(), anchors, target.ignore)).float()
        if len(found.predictions):
            wanted[index, found.predictions] = 1.0
            judged[index, found.predictions] = 1.0
            owned.append(
                (
                    index * raw.shape[1] + found.predictions,
                    target.boxes[found.boxes],
                    target.labels[found.boxes],
                    found.iou,
                )
            )
    count = sum(len(row[0]) for row in owned)
    counts: Sequence[float] = (count, len(targets))
    norm = max(1.0, *total(counts))
    object_loss = (
        F.binary_cross_entropy_with_logits(objectness, wanted, weight=judged, reduction="sum")
        / norm
    )
    if not owned:
        return Loss(object_loss, _parts(0.0, object_loss, 0.0, 0))
    where, boxes, labels, fit = (torch.cat(column) for column in zip(*owned, strict=True))
    box_loss = (1 - iou_of(predicted.flatten(0, 1)[where], boxes).square()).sum() / norm
    aim = F.one_hot(labels, classes.shape[-1]) * fit[:, None]
    class_loss = (
        F.binary_cross_entropy_with_logits(classes.flatten(0, 1)[where], aim, reduction="sum")
        / norm
    )
    return Loss(
        _BOX_WEIGHT * box_loss + object_loss + class_loss,
        _parts(box_loss, object_loss, class_loss, count),
    )


def _parts(
    box: Tensor | float, objectness: Tensor, classes: Tensor | float, matched: int
) -> dict[str, float]:
    losses = {"box": box, "objectness": objectness, "classes": classes}
    found = {name: float(torch.as_tensor(value).detach()) for name, value in losses.items()}
    return found | {"matched": float(matched)}


def _ignored(predicted: Tensor, anchors: Anchors, regions: Tensor) -> Tensor:
    """Predictions whose cell lies in a region, or that lie in one by more than half."""
    within = inside(anchors.centres[:, None], regions)
    overlap = overlaps(predicted[:, None], regions)
    return (within | (overlap > _IGNORED * areas(predicted)[:, None])).any(1)


def distillation_loss(raw: Tensor, was: Tensor, *, total: Total = list) -> Tensor:
    """Distance of the predictions from those before the run; 0: none.

    Learning without forgetting (Li and Hoiem, arXiv:1606.09282), in the form for detectors
    (Shmelkov et al., arXiv:1708.06977): every prediction of a picture is held to what it was, not
    only the few that answer for a labelled box. Objectness: Kullback-Leibler divergence of all
    predictions. Classes: the same, and boxes: absolute difference in cells, both weighted by the
    objectness that was. All are divided by the sum of those weights, or by the number of pictures
    where that is larger.

    Args:
        raw: Output of the graph with logits in place of scores, [B, N, 5 + C].
        was: What it was, of the same shape.
        total: Sums of numbers over the processes that have a share of the batch each.
    """
    weight = was[..., 4].sigmoid()
    objectness = _divergence(raw[..., 4], was[..., 4]).sum()
    classes = (weight * _divergence(raw[..., 5:], was[..., 5:]).sum(-1)).sum()
    boxes = (weight * (raw[..., :4] - was[..., :4]).abs().sum(-1)).sum()
    counts: Sequence[float] = (float(weight.sum()), len(raw))
    norm = max(1.0, *total(counts))
    return (objectness + classes + boxes) / norm


def other_classes(was: Tensor, classes: Sequence[int]) -> Tensor:
    """Predictions that saw something of other classes than these, bool [B, N]."""
    scores = was[..., 5:].sigmoid() * was[..., 4:5].sigmoid()
    best, which = scores.max(-1)
    return (best > _SEEN) & ~torch.isin(which, torch.tensor(list(classes), device=was.device))


def _divergence(now: Tensor, was: Tensor) -> Tensor:
    """Kullback-Leibler divergence of Bernoulli variables, from their logits."""
    wanted = was.sigmoid()
    return F.binary_cross_entropy_with_logits(
        now, wanted, reduction="none"
    ) - F.binary_cross_entropy_with_logits(was, wanted, reduction="none")
