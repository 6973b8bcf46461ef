"""Ground truth: the model is wrong where it differs from what is really there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from edgebus.mining import Judgement, Policy, PolicySettings
from edgebus_detection.messages import Box
from edgebus_detection.mining import Example, boxes_of
from edgebus_detection.vision import match_boxes, outside_of


class TruthSettings(PolicySettings):
    """Settings of the truth policy."""

    rule: Literal["match", "multiset"] = Field(
        default="match",
        description="match: overlap and class must be right; multiset: only the class names.",
    )
    score_threshold: float = Field(
        default=0.3, ge=0, le=1, description="Detections below this score do not count."
    )
    min_iou: float = Field(default=0.5, gt=0, le=1, description="Overlap of a right detection.")
    classes: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Classes that count: what a model cannot know is no mistake of it. All where "
        "there are none.",
    )
    min_score: float = Field(
        default=0.0, ge=0, lt=1, description="Frames that are not more wrong than this are right."
    )


class TruthPolicy(Policy[TruthSettings]):
    """Compares with ground truth, where the camera knows it.

    With hits H, misses M and false alarms F among the detections of at least `score_threshold`,
    matched greedily by class and IoU >= `min_iou`::

        score = 1 - |H| / (|H| + |M| + |F|)

    one minus the critical success index (Schaefer 1990, *Weather and Forecasting* 5). A frame is
    wrong where the score exceeds `min_score`. With `rule: multiset` a frame is wrong where the
    sorted class names differ, whatever the boxes do, and H, M and F count names: the rule of
    ACAI_Emulator (CMU 2023), the first loop of this kind.
    """

    name = "truth"
    settings_type = TruthSettings

    def judge(self, example: Example) -> Judgement | None:
        """Misses and false alarms; None without ground truth."""
        if example.truth is None:
            return None
        settings = self.settings
        said = boxes_of(
            example.prediction.boxes, least=settings.score_threshold, classes=settings.classes
        )
        regions = [box for box in example.truth.boxes if box.ignore]
        true = boxes_of(
            [box for box in example.truth.boxes if not box.ignore], classes=settings.classes
        )
        if settings.rule == "multiset":
            names, true_names = _names(outside_of(regions, said)), _names(true)
            hits = (names & true_names).total()
            misses, alarms = true_names - names, names - true_names
        else:
            matching = match_boxes(said, [*true, *regions], min_iou=settings.min_iou)
            hits = len(matching.hits)
            misses, alarms = _names(matching.misses), _names(matching.false_alarms)
        errors = misses.total() + alarms.total()
        score = errors / (hits + errors) if errors else 0.0
        return Judgement(
            wrong=score > settings.min_score,
            score=score,
            reason=_words(misses, alarms, len(true)),
        )


def _names(boxes: Iterable[Box]) -> Counter[str]:
    return Counter(box.label for box in boxes)


def _words(misses: Counter[str], alarms: Counter[str], true: int) -> str:
    parts = []
    if misses:
        parts.append(f"{misses.total()} of {true} missed ({_list(misses)})")
    if alarms:
        parts.append(f"{alarms.total()} false alarm{'s'[: alarms.total() != 1]} ({_list(alarms)})")
    return ", ".join(parts) or f"all {true} right"


def _list(names: Counter[str]) -> str:
    return ", ".join(
        name if count == 1 else f"{count} {name}" for name, count in sorted(names.items())
    )
