"""Ensemble of teachers: what enough of them agree on is a label, the rest is uncertain."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgebus.contracts import teacher
from edgebus.serving import EngineSettings
from edgebus_detection.labels.settings import LabelSettings
from edgebus_detection.labels.teacher import Answer, CachingLabeller, Labeller, Teacher, open_model
from edgebus_detection.messages import Box
from edgebus_detection.vision import corners, iou


class Ensemble(CachingLabeller):
    """Teachers that vote. Its answers are kept on disk as those of one teacher.

    Args:
        members: The teachers, at least two.
        min_agreeing: Members that must have found an object.
        threshold: The members' threshold.
        cache: Folder of the answers.
    """

    def __init__(
        self, members: Sequence[Labeller], *, min_agreeing: int, threshold: float, cache: Path
    ) -> None:
        self._members = tuple(members)
        self._min_agreeing = min_agreeing
        names = "\n".join([*sorted(member.by for member in members), str(min_agreeing)])
        by = teacher(hashlib.sha256(names.encode()).hexdigest())
        super().__init__(by=by, threshold=threshold, cache=cache)

    def _ask(self, jpeg: bytes, *, key: str) -> Answer:
        answers = [member.answer(jpeg, key=key).boxes for member in self._members]
        return fuse(answers, min_agreeing=self._min_agreeing)


@dataclass(slots=True)
class _Cluster:
    """Boxes of one class at one place, at most one of each teacher."""

    label: str
    boxes: dict[int, Box] = field(default_factory=dict)

    def fused(self) -> Box:
        """Corners weighted by score; the score is the members' mean."""
        scores = np.array([box.score or 0.0 for box in self.boxes.values()])
        weights = (scores + 1e-6) / (scores + 1e-6).sum()
        places = corners(list(self.boxes.values())).astype(np.float64)
        x1, y1, x2, y2 = np.round((places * weights[:, None]).sum(axis=0), 2).tolist()
        score = round(float(scores.mean()), 4)
        return Box(label=self.label, x1=x1, y1=y1, x2=x2, y2=y2, score=score)


def fuse(answers: Sequence[Sequence[Box]], *, min_agreeing: int, min_iou: float = 0.5) -> Answer:
    """One answer of several.

    The boxes of a class that overlap are taken for one object; its box is their mean, weighted
    by score (weighted boxes fusion, Solovyev et al. 2021, arXiv:1910.13302, without its penalty:
    here too few votes make a box uncertain, not its score low).

    Args:
        answers: Boxes of each teacher, with scores.
        min_agreeing: Teachers that must have found an object.
        min_iou: Least overlap of two boxes of the same object.

    Returns:
        Objects that enough agree on. What too few have found is unsure, unless they were outvoted
        at that place.
    """
    every = sorted(
        ((number, box) for number, boxes in enumerate(answers) for box in boxes),
        key=lambda item: -(item[1].score or 0.0),
    )
    places = corners([box for _, box in every])
    overlaps = iou(places, places)
    clusters: dict[int, _Cluster] = {}  # by the place of their first box, which scores best
    for place, (number, box) in enumerate(every):
        fitting = [
            seed
            for seed, cluster in clusters.items()
            if overlaps[seed, place] >= min_iou
            and cluster.label == box.label
            and number not in cluster.boxes
        ]
        nearest = max(fitting, key=lambda seed: float(overlaps[seed, place]), default=place)
        clusters.setdefault(nearest, _Cluster(label=box.label)).boxes[number] = box
    agreed: list[Box] = []
    doubtful: list[Box] = []
    for cluster in clusters.values():
        (agreed if len(cluster.boxes) >= min_agreeing else doubtful).append(cluster.fused())
    if agreed and doubtful:
        overlap = iou(corners(doubtful), corners(agreed)).max(axis=1)
        doubtful = [box for box, most in zip(doubtful, overlap, strict=True) if most < min_iou]
    return Answer(boxes=tuple(agreed), unsure=tuple(doubtful))


def open_teacher(
    settings: LabelSettings, *, cache: Path, engine: EngineSettings
) -> Labeller | None:
    """The teacher or the ensemble of the settings; None where there is none.

    Raises:
        BundleError, OSError, ImportRefusedError, EngineError: See `open_model`.
    """
    if settings.teacher is None or settings.source == "truth":
        return None
    members = [
        Teacher(
            open_model(path, imports=cache / "models", settings=engine),
            threshold=settings.reject,
            cache=cache,
        )
        for path in (settings.teacher, *settings.teachers)
    ]
    if len(members) == 1:
        return members[0]
    min_agreeing = settings.min_agreeing or len(members) // 2 + 1
    return Ensemble(members, min_agreeing=min_agreeing, threshold=settings.reject, cache=cache)
