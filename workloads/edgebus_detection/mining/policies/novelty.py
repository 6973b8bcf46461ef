"""Novelty: pictures that look unlike those that the model knows."""

from __future__ import annotations

from typing import ClassVar

from edgebus.mining import ScorePolicy
from edgebus_detection.mining import Example


class NoveltyPolicy(ScorePolicy):
    """The picture's first-layer statistics are far from the reference.

    With x the mean and deviation of every channel of an early layer, m and C their mean and
    covariance on the bundle's reference pictures::

        d = sqrt((x - m)^T C^-1 (x - m));  score = d / d95;  wrong iff score > threshold

    where d95 is the 95th percentile of d on the reference. The Mahalanobis distance of Lee et al.
    2018 (*A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks*), here on the first layers, which see a change of light, sensor or weather whatever
    the outputs say. The detector computes it; a bundle without a reference has no such score.
    """

    name = "novelty"
    threshold: ClassVar[float] = 1.5

    def score(self, example: Example) -> float | None:
        """The picture's novelty; None where the detector reports none."""
        return example.prediction.novelty
