"""Distillation: predictions on earlier pictures are held to those from before the run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgebus.training.finetune import Total

_SEEN = 0.1  # a score from which the graph is taken to have seen something


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
