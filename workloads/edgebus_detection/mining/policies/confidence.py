"""Low confidence: the model says little of what it sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgebus.mining import Judgement, Policy, PolicySettings
from edgebus_detection.mining import Example

__all__ = ["ConfidencePolicy", "ConfidenceSettings"]


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
        scores = [box.score for box in example.prediction.boxes if box.score is not None]
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
