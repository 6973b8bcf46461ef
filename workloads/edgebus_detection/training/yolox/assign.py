"""SimOTA: which predictions answer for which box.

Simplified optimal transport assignment of YOLOX (arXiv:2107.08430, section 2.1), after OTA
(arXiv:2103.14259): each box takes the k predictions that cost least, k from how many fit it well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgebus_detection.training.yolox.head import Anchors

_CENTRE_CELLS = 2.5  # a cell this near to the middle of a box may answer for it
_MOST = 10  # predictions per box at most
_IOU_WEIGHT = 3.0
_FAR = 1e5  # cost of a prediction that is not both in the box and near to its middle


@dataclass(frozen=True, slots=True)
class Assignment:
    """Assignment of the predictions of one picture.

    Attributes:
        predictions: Indices of the predictions that answer for a box, [M].
        boxes: Index of the box of each, [M].
        iou: How well each fits its box already, [M].
    """

    predictions: Tensor
    boxes: Tensor
    iou: Tensor


def areas(boxes: Tensor) -> Tensor:
    """[..., 4] gives [...]."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Area that both have, of boxes whose shapes broadcast: [..., 4] give [...]."""
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    return (bottom_right - top_left).clamp(min=0).prod(-1)


def iou_of(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes whose shapes broadcast: [..., 4] give [...]."""
    overlap = overlaps(first, second)
    return overlap / (areas(first) + areas(second) - overlap + 1e-9)


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Points, [..., 2], that lie in boxes, [..., 4]: bool [...]."""
    return ((points > boxes[..., :2]) & (points < boxes[..., 2:])).all(-1)


@torch.no_grad()
def assign(
    *,
    predicted: Tensor,
    objectness: Tensor,
    classes: Tensor,
    anchors: Anchors,
    boxes: Tensor,
    labels: Tensor,
) -> Assignment:
    """Assign the predictions of one picture to its boxes.

    Args:
        predicted: Predicted boxes in pixels, [N, 4].
        objectness: Logits, [N].
        classes: Logits, [N, C].
        anchors: The cells.
        boxes: True boxes in pixels, [G, 4].
        labels: Their classes, [G].
    """
    centres = anchors.centres
    none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    if len(boxes) == 0:
        return Assignment(none, none, predicted.new_zeros(0))
    within = inside(centres[None], boxes[:, None])
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (centres[None] - middles[:, None]).abs().amax(-1)
    near = distance < _CENTRE_CELLS * anchors.strides[None, :, 0]
    candidates = (within | near).any(0).nonzero()[:, 0]
    if len(candidates) == 0:
        return Assignment(none, none, predicted.new_zeros(0))

    iou = iou_of(boxes[:, None], predicted[candidates])
    # Binary cross-entropy of the joint score against the one-hot class, without a [G, A, C] tensor.
    score = (classes[candidates].sigmoid() * objectness[candidates, None].sigmoid()).sqrt()
    score = score.clamp(1e-6, 1 - 1e-6)
    off = -torch.log1p(-score)
    own_off, own_on = off[:, labels].T, -score[:, labels].log().T
    class_cost = off.sum(1)[None] - own_off + own_on
    both = (within & near)[:, candidates]
    cost = class_cost - _IOU_WEIGHT * (iou + 1e-8).log() + _FAR * (~both)

    most = min(_MOST, len(candidates))
    wanted = iou.topk(most, 1).values.sum(1).to(torch.int64).clamp(min=1)
    order = cost.topk(most, 1, largest=False).indices
    chosen = torch.arange(most, device=boxes.device)[None] < wanted[:, None]
    taken = torch.zeros_like(both).scatter_(1, order, chosen)
    # A prediction that several boxes want goes to the one it costs least.
    best = cost.masked_fill(~taken, float("inf")).argmin(0)
    used = taken.any(0)
    owner = best[used]
    position = used.nonzero()[:, 0]
    return Assignment(candidates[position], owner, iou[owner, position])
