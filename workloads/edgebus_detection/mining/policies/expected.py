"""Expected errors: how much of a frame is probably wrong, and whether that is worth sending now."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from cachetools import LRUCache
from pydantic import Field, model_validator

from edgebus.mining import Judgement, Policy, PolicySettings
from edgebus_detection.messages import Detections
from edgebus_detection.mining import Example, boxes_of
from edgebus_detection.vision import certainty

_MAX_CAMERAS = 256
_USUAL_FRAMES = 10_000


class ExpectedSettings(PolicySettings):
    """Settings of the policy of expected errors."""

    score_threshold: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Boxes from this score on count as found, from half of it on as doubts.",
    )
    unseen: float = Field(
        default=1.0, ge=0, description="Objects, at most, that may be there without any box."
    )
    share: float = Field(
        default=0.05, gt=0, le=1, description="Share of a camera's frames that may be sent."
    )
    saved: float = Field(
        default=100.0, ge=1, description="Most of these that can be saved up for worse days."
    )
    low: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Error from which on a frame is wrong when all is saved up.",
    )
    high: float = Field(
        default=0.8, ge=0, le=1, description="Error of a wrong frame when nothing is."
    )

    @model_validator(mode="after")
    def _bar_falls(self) -> Self:
        if self.low > self.high:
            msg = f"low {self.low:g} is above high {self.high:g}; the bar falls from high to low"
            raise ValueError(msg)
        return self


@dataclass(slots=True)
class _Camera:
    tokens: float = 0.0
    objects: float = 1.0  # usually seen; one, until more is known
    frames: int = 1


class ExpectedPolicy(Policy[ExpectedSettings]):
    """The error that the model's own scores let expect clears a bar that falls as budget is saved.

    Take scores for probabilities. Of n boxes with scores s_i of at least `score_threshold`,
    H = sum of s_i are expected to be right; of the doubts, the boxes between half of that and it,
    L = sum of s_j are expected to be there and missed; and u objects more have no box. Then::

        e = 1 - H / (n + L + u)               with n > 0
        e = 1 - exp(-(L + u))                 without boxes: some object is there (Poisson)
        u = min(unseen, mean of H of this camera, over some 10,000 frames)

    which estimates the score of the truth policy, 1 - hits / (hits + misses + false alarms),
    without truth, as a ratio of means (the expected-error criterion of Roy and McCallum 2001,
    *Toward Optimal Active Learning through Sampling Estimation of Error Reduction*, for this
    loss). Unlike a mean of scores it also counts what was nearly said, and tells of frames without
    boxes: much where the camera usually sees objects, little where it hardly does.

    Each frame of a camera earns `share` of a token, up to `saved`; a frame that is sent costs
    one (a token bucket). With t tokens of T = `saved`::

        wrong iff t >= 1 and e >= high - (high - low) sqrt(t / T);  score = e

    So a quiet camera keeps its budget for the day when it is wrong, is picky when little is left,
    and sends its `share` of worst frames where every day is bad. Below `low`, more right than
    wrong, nothing is sent however much is saved. The square root was chosen by measuring
    (`benchmarks/learning.py`).
    """

    name = "expected"
    settings_type = ExpectedSettings

    def __init__(self, settings: ExpectedSettings) -> None:
        super().__init__(settings)
        self._cameras: LRUCache[str, _Camera] = LRUCache(_MAX_CAMERAS)

    def judge(self, example: Example) -> Judgement:
        """How much is expected to be wrong; of any frame it can tell."""
        settings = self.settings
        camera = self._camera(example.stream)
        camera.tokens = min(settings.saved, camera.tokens + settings.share)
        error = expected_error(
            example.prediction,
            score_threshold=settings.score_threshold,
            unseen=min(settings.unseen, camera.objects),
        )
        said = boxes_of(example.prediction.boxes, least=settings.score_threshold)
        camera.frames = min(camera.frames + 1, _USUAL_FRAMES)
        camera.objects += (sum(map(certainty, said)) - camera.objects) / camera.frames
        bar = settings.high - (settings.high - settings.low) * math.sqrt(
            camera.tokens / settings.saved
        )
        return Judgement(
            # Shares of a token do not add up to exactly one.
            wrong=camera.tokens >= 1 - 1e-9 and error >= bar,
            score=error,
            reason=f"{error:.0%} is expected to be wrong (at least {bar:.0%} with "
            f"{camera.tokens:.0f} samples saved up)",
        )

    def taken(self, example: Example) -> None:
        """A sample costs a token, whichever policy chose it."""
        camera = self._camera(example.stream)
        camera.tokens = max(0.0, camera.tokens - 1)

    def _camera(self, name: str) -> _Camera:
        return self._cameras.setdefault(name, _Camera())


def expected_error(detections: Detections, *, score_threshold: float, unseen: float) -> float:
    """Share of what is said or there that is expected to be wrong, 0 to 1; see `ExpectedPolicy`.

    Args:
        detections: What the model saw. The lower its own threshold, the more it tells of doubts.
        score_threshold: Boxes from it on are said; those from half of it on are doubts.
        unseen: Objects that are expected to be there without any box.
    """
    scores = [certainty(box) for box in detections.boxes]
    said = [score for score in scores if score >= score_threshold]
    doubts = [score for score in scores if score_threshold / 2 <= score < score_threshold]
    missed = sum(doubts) + unseen
    if not said:
        return 1 - math.exp(-missed)
    return 1 - sum(said) / (len(said) + missed)
