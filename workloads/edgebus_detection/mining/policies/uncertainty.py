"""Uncertainty of the scores: low confidence, nearness to a threshold, entropy."""

from __future__ import annotations

from math import log
from typing import Literal

from pydantic import Field

from edgebus.mining import Judgement, Policy, PolicySettings
from edgebus_detection.messages import Detections
from edgebus_detection.mining import Example


def _scores(detections: Detections) -> list[float]:
    return [box.score for box in detections.boxes if box.score is not None]


class ConfidenceSettings(PolicySettings):
    """Settings of the confidence policy."""

    statistic: Literal["mean", "max", "min"] = Field(
        default="mean", description="Which confidence of the frame's boxes counts."
    )
    threshold: float = Field(default=0.5, gt=0, le=1, description="Below it a frame is hard.")
    empty: bool = Field(
        default=False, description="Whether a frame without any box counts as confidence 0."
    )


class ConfidencePolicy(Policy[ConfidenceSettings]):
    """The frame's confidence is below a threshold.

    With the scores s_i of the frame's boxes and c their mean (or maximum, or minimum)::

        wrong iff c < threshold;  score = 1 - c

    The mean is the `Threshold` rule of KubeEdge Sedna, whose flaw is kept visible here: a frame
    in which everything was missed has no boxes, and so no confidence. Such a frame is "cannot
    tell", or confidence 0 with `empty`. Confidence hardly notices covariate shift; prefer truth
    or a teacher where there is one.
    """

    name = "confidence"
    settings_type = ConfidenceSettings

    def judge(self, example: Example) -> Judgement | None:
        """The frame's confidence; None where there are no boxes, unless `empty`."""
        scores = _scores(example.prediction)
        statistic = self.settings.statistic
        if not scores:
            if not self.settings.empty:
                return None
            confidence = 0.0
        elif statistic == "mean":
            confidence = sum(scores) / len(scores)
        else:
            confidence = max(scores) if statistic == "max" else min(scores)
        return Judgement(
            wrong=confidence < self.settings.threshold,
            score=1 - confidence,
            reason=f"{statistic} confidence {confidence:.2f} of {len(scores)} boxes "
            f"(threshold {self.settings.threshold:.2f})",
        )


class MarginSettings(PolicySettings):
    """Settings of the margin policy."""

    threshold: float = Field(
        default=0.4, gt=0, lt=1, description="The score at which a box is acted on."
    )
    margin: float = Field(
        default=0.1, gt=0, lt=1, description="Boxes closer to the threshold are uncertain."
    )
    min_boxes: int = Field(default=1, ge=1, description="Uncertain boxes of a hard frame.")


class MarginPolicy(Policy[MarginSettings]):
    """Boxes whose score lies near the decision threshold.

    For the score s_i of each box::

        u_i = max(0, 1 - |s_i - threshold| / margin)
        wrong iff at least min_boxes have u_i > 0;  score = sum of u_i

    Margin sampling (Scheffer et al. 2001; Settles 2009, *Active Learning Literature Survey*,
    section 3.1) with "act on it or not" as the two classes: the detector reports one score per
    box, not a distribution. Detections below the detector's own threshold never arrive, so that
    threshold has to be lower than this one for both sides to be seen.
    """

    name = "margin"
    settings_type = MarginSettings

    def judge(self, example: Example) -> Judgement | None:
        """How many boxes are uncertain; None where there are no boxes."""
        scores = _scores(example.prediction)
        if not scores:
            return None
        settings = self.settings
        uncertain = [
            near
            for score in scores
            if (near := 1 - abs(score - settings.threshold) / settings.margin) > 0
        ]
        return Judgement(
            wrong=len(uncertain) >= settings.min_boxes,
            score=sum(uncertain),
            reason=f"{len(uncertain)} of {len(scores)} boxes score "
            f"{settings.threshold:.2f} +/- {settings.margin:.2f}",
        )


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
        bits = [_bits(score) for score in _scores(example.prediction)]
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
