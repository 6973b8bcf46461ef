"""Entropy: scores that say nothing either way."""

from __future__ import annotations

from math import log
from typing import Literal

from pydantic import Field

from edgebus.mining import Judgement, Policy, PolicySettings
from edgebus_detection.mining import Example

__all__ = ["EntropyPolicy", "EntropySettings"]


class EntropySettings(PolicySettings):
    """Settings of the entropy policy."""

    aggregate: Literal["max", "mean", "sum"] = Field(
        default="max", description="How the boxes' entropies become the frame's."
    )
    threshold: float = Field(default=0.9, gt=0, description="From it on a frame is hard, in bits.")


class EntropyPolicy(Policy[EntropySettings]):
    """The entropy of the boxes' scores is high.

    For the score s_i of each box, in bits::

        h_i = -s_i log2(s_i) - (1 - s_i) log2(1 - s_i)
        score = max (or mean, or sum) of h_i;  wrong iff score >= threshold

    Uncertainty sampling by Shannon entropy (Settles 2009, *Active Learning Literature Survey*,
    section 3.1), with the aggregations of Brust, Käding and Denzler 2019 (*Active Learning for
    Deep Object Detection*, section 3). One score per box has two outcomes, so a box has one bit
    at most. It shares the blindness of every rule on the output: sure mistakes are not seen.
    """

    name = "entropy"
    settings_type = EntropySettings

    def judge(self, example: Example) -> Judgement | None:
        """The frame's entropy; None where there are no boxes."""
        bits = [_bits(box.score) for box in example.prediction.boxes if box.score is not None]
        if not bits:
            return None
        aggregate = self.settings.aggregate
        total = max(bits) if aggregate == "max" else sum(bits)
        score = total / len(bits) if aggregate == "mean" else total
        return Judgement(
            wrong=score >= self.settings.threshold,
            score=score,
            reason=f"{aggregate} entropy {score:.2f} bits of {len(bits)} boxes "
            f"(threshold {self.settings.threshold:.2f})",
        )


def _bits(score: float) -> float:
    # The limit of p log p at 0 is 0; the logarithm does not know that.
    return -sum(p * log(p, 2) for p in (score, 1 - score) if p > 0)
