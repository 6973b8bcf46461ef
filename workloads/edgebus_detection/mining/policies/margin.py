"""Uncertain scores: boxes so close to the threshold that they could as well be absent."""

from __future__ import annotations

from pydantic import Field

from edgebus.mining import Judgement, Policy, PolicySettings
from edgebus_detection.mining import Example

__all__ = ["MarginPolicy", "MarginSettings"]


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
        scores = [box.score for box in example.prediction.boxes if box.score is not None]
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
