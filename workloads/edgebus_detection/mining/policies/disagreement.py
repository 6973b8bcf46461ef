"""Disagreement: a reference model sees something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgebus.mining import Judgement, Policy, PolicySettings
from edgebus_detection.mining import Example, boxes_of
from edgebus_detection.vision import certainty, match_boxes, to_boxes

if TYPE_CHECKING:
    from edgebus_detection.models import Prediction


class DisagreementSettings(PolicySettings):
    """Settings of the disagreement policy."""

    score_threshold: float = Field(
        default=0.3, ge=0, le=1, description="Detections below this score do not count."
    )
    accept: float = Field(
        default=0.5, ge=0, le=1, description="Reference boxes from this score on are there."
    )
    reject: float = Field(
        default=0.15, ge=0, le=1, description="Reference boxes below this score are not there."
    )
    min_iou: float = Field(default=0.5, gt=0, le=1, description="Overlap of the same object.")
    classes: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Classes that count; all where there are none."
    )
    min_score: float = Field(
        default=0.25, ge=0, lt=1, description="More disagreement than this makes a frame hard."
    )


class DisagreementPolicy(Policy[DisagreementSettings]):
    """The model and a reference model do not see the same.

    Of the reference model's boxes those of at least `accept` are sure, those below `reject`
    nothing, and those between neither confirm nor deny. With hits H, misses M (sure boxes that the
    model has not) and false alarms F (detections that no box of at least `reject` confirms)::

        score = 1 - |H| / (|H| + |M| + |F|);  wrong iff score > min_score

    Query by committee (Seung, Opper and Sompolinsky 1992) with a committee of two, one of them
    better or at least different. The collector asks the reference model about a share of the
    frames only (`reference_model.share`); about the others this policy cannot tell.
    """

    name = "disagreement"
    settings_type = DisagreementSettings
    needs_reference = True

    def judge(self, example: Example) -> Judgement | None:
        """How much they differ; None where the reference model was not asked."""
        if example.reference is None:
            return None
        settings = self.settings
        classes = settings.classes
        said = boxes_of(example.prediction.boxes, least=settings.score_threshold, classes=classes)
        answer: Prediction = example.reference
        seen = to_boxes(answer.found, answer.classes)
        reference = boxes_of(seen, least=settings.reject, classes=classes)
        sure = boxes_of(reference, least=settings.accept)
        perhaps = [box for box in reference if certainty(box) < settings.accept]
        matching = match_boxes(said, sure, min_iou=settings.min_iou)
        denied = match_boxes(matching.false_alarms, perhaps, min_iou=settings.min_iou).false_alarms
        errors = len(matching.misses) + len(denied)
        score = errors / (len(matching.hits) + errors) if errors else 0.0
        return Judgement(
            wrong=score > settings.min_score,
            score=score,
            reason=f"the reference model sees {len(matching.misses)} more and "
            f"denies {len(denied)} of {len(said)}",
        )
