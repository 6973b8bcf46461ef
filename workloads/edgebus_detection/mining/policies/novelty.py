"""Novelty: pictures that look unlike those that the model knows."""

from __future__ import annotations

from pydantic import Field

from edgebus.mining import Judgement, Policy, PolicySettings
from edgebus_detection.mining import Example

__all__ = ["NoveltyPolicy", "NoveltySettings"]


class NoveltySettings(PolicySettings):
    """Settings of the novelty policy."""

    threshold: float = Field(
        default=1.5,
        gt=0,
        description="Novelty of a strange picture; 1: the 95th percentile of the reference.",
    )


class NoveltyPolicy(Policy[NoveltySettings]):
    """The picture's first-layer statistics are far from the reference.

    With x the mean and deviation of every channel of an early layer, m and C their mean and
    covariance on the bundle's reference pictures::

        d = sqrt((x - m)^T C^-1 (x - m));  score = d / d95;  wrong iff score >= threshold

    where d95 is the 95th percentile of d on the reference. The Mahalanobis distance of Lee et al.
    2018 (*A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks*), here on the first layers, which see a change of light, sensor or weather whatever
    the outputs say. The detector computes it; a bundle without a reference has no such score.
    """

    name = "novelty"
    settings_type = NoveltySettings

    def judge(self, example: Example) -> Judgement | None:
        """Compare the picture's novelty; None where the detector reports none."""
        score = example.prediction.novelty
        if score is None:
            return None
        return Judgement(
            wrong=score >= self.settings.threshold,
            score=score,
            reason=f"looks {score:.2f} times as far from the reference as its 95th percentile "
            f"(threshold {self.settings.threshold:.2f})",
        )
