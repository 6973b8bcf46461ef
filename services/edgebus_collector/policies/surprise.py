"""Surprise: how unlike a camera's own first frames, by everything that the policies say."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Surprise", "fisher"]

_MAX_CAMERAS = 256


@dataclass(slots=True)
class _Camera:
    model: str
    frames: int = 0
    reference: dict[str, list[float]] = field(default_factory=dict)


class Surprise:
    """A p-value for the score of each policy.

    The first `calibration` frames of a camera are its reference, anew for each model. For a
    score s of a policy whose n reference scores are r_j::

        p = (1 + #{r_j >= s}) / (1 + n)

    a conformal p-value (Laxhammar and Falkman 2011, *Sequential Conformal Anomaly Detection in
    Trajectories*). Unlike a rank among the last frames, it is against frames that stay: while
    nothing changes hardly a frame is surprising, and the budget is saved for when something does.
    Of more than 256 cameras, the one that was silent longest is forgotten.

    Args:
        calibration: Frames of each camera that are its reference.
    """

    def __init__(self, *, calibration: int) -> None:
        self._calibration = calibration
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()

    def p_values(self, camera: str, model: str, scores: Mapping[str, float]) -> dict[str, float]:
        """How unusual each score is, 0 (very) to 1; empty while the camera is being calibrated.

        Args:
            camera: Its name.
            model: Digest of the model that answered.
            scores: Of the policies that can tell, by name; higher is worse.
        """
        known = self._cameras.get(camera)
        if known is None or known.model != model:
            known = self._cameras[camera] = _Camera(model)
        self._cameras.move_to_end(camera)
        if len(self._cameras) > _MAX_CAMERAS:
            self._cameras.popitem(last=False)
        if known.frames < self._calibration:
            known.frames += 1
            for name, score in scores.items():
                insort(known.reference.setdefault(name, []), score)
            return {}
        return {
            name: (1 + len(reference) - bisect_left(reference, score)) / (1 + len(reference))
            for name, score in scores.items()
            if (reference := known.reference.get(name))
        }


def fisher(values: Sequence[float]) -> float:
    """One p-value for several (Fisher 1932, *Statistical Methods for Research Workers*, §21.1).

    The survival function of chi-square with 2 k degrees of freedom at -2 sum of ln p_i, which has
    a closed form since these are even. The policies of one frame are not independent, so it orders
    frames rather than being a probability.

    Args:
        values: At least one, each above 0 and at most 1.
    """
    half = -sum(math.log(value) for value in values)
    return math.exp(-half) * sum(half**i / math.factorial(i) for i in range(len(values)))
