"""Flicker: objects that vanish, change their class or appear where nothing comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cachetools import LRUCache
from pydantic import Field

from edgebus.mining import Judgement, Policy, PolicySettings
from edgebus_detection.messages import Box
from edgebus_detection.mining import Example, boxes_of
from edgebus_detection.mining.tracking import Track, Tracker

_MAX_CAMERAS = 256

Kind = Literal["vanished", "relabelled", "appeared"]


class TemporalSettings(PolicySettings):
    """Settings of the temporal policy."""

    score_threshold: float = Field(
        default=0.3, ge=0, le=1, description="Detections below this score do not count."
    )
    min_iou: float = Field(
        default=0.3, gt=0, le=1, description="Overlap of one object in neighbouring frames."
    )
    min_seen: int = Field(
        default=3, ge=1, description="Frames after which an object is taken for real."
    )
    patience: int = Field(
        default=5, ge=0, description="Frames for which a missing object is waited for."
    )
    border: float = Field(
        default=0.05,
        ge=0,
        lt=0.5,
        description="Share of the picture at each edge where objects come and go.",
    )
    max_gap: int = Field(
        default=5, ge=1, description="Tracks start anew after a gap of more frames than this."
    )
    kinds: tuple[Kind, ...] = Field(
        default=("vanished", "relabelled"), min_length=1, description="What counts."
    )
    min_events: int = Field(default=1, ge=1, description="Number of events that make a frame hard.")


@dataclass(slots=True)
class _Camera:
    tracker: Tracker
    index: int
    model: str


class TemporalPolicy(Policy[TemporalSettings]):
    """A track flickers.

    Of the tracks t of a camera::

        vanished:   t was seen at least min_seen times, is missing now, should not be at the
                    picture's edge, and no other object hides it
        relabelled: t was seen at least min_seen times and has another class now
        appeared:   a box that continues no track, away from the edge
        score = number of these events;  wrong iff score >= min_events

    An object does not cease to exist for one frame: the isolated gaps and islands in tracks are
    mostly the detector's mistakes (Jin et al. 2018, *Unsupervised Hard Example Mining from Videos
    for Improved Object Detection*, section 3). The frame is judged as it comes, so it is the gap
    itself that is collected.
    """

    name = "temporal"
    settings_type = TemporalSettings

    def __init__(self, settings: TemporalSettings) -> None:
        super().__init__(settings)
        self._cameras: LRUCache[str, _Camera] = LRUCache(_MAX_CAMERAS)

    def judge(self, example: Example) -> Judgement | None:
        """What happened to the tracks; None for the first frame, and after a gap."""
        boxes = boxes_of(example.prediction.boxes, least=self.settings.score_threshold)
        camera, fresh = self._camera(example)
        step = camera.tracker.step(boxes)
        if fresh:
            return None
        width, height = example.prediction.width, example.prediction.height
        least = self.settings.min_seen
        events: dict[Kind, list[str]] = {
            "vanished": [
                t.box.label
                for t in step.lost
                if t.seen >= least
                and self._inside(t.expected(steps=1), width, height)
                and not _hidden(t, boxes)
            ],
            "relabelled": [
                f"{before} to {t.box.label}" for t, before in step.relabelled if t.seen > least
            ],
            "appeared": [t.box.label for t in step.born if self._inside(t.box, width, height)],
        }
        counted = {kind: events[kind] for kind in self.settings.kinds if events[kind]}
        score = sum(len(names) for names in counted.values())
        words = [f"{kind}: {', '.join(names)}" for kind, names in counted.items()]
        return Judgement(
            wrong=score >= self.settings.min_events,
            score=float(score),
            reason="; ".join(words) or "every track goes on",
        )

    def _camera(self, example: Example) -> tuple[_Camera, bool]:
        """A camera's tracks, and whether they begin with this frame."""
        known = self._cameras.get(example.stream)
        model = example.prediction.model.digest
        fresh = (
            known is None
            or known.model != model  # another model sees other boxes
            or not 0 < example.index - known.index <= self.settings.max_gap
        )
        if known is None or fresh:
            tracker = Tracker(min_iou=self.settings.min_iou, patience=self.settings.patience)
            known = self._cameras[example.stream] = _Camera(tracker, example.index, model)
        known.index = example.index
        return known, fresh

    def _inside(self, box: Box, width: int, height: int) -> bool:
        """Whether a box keeps clear of the picture's edge."""
        edge = self.settings.border
        return (
            box.x1 > edge * width
            and box.y1 > edge * height
            and box.x2 < (1 - edge) * width
            and box.y2 < (1 - edge) * height
        )


def _hidden(track: Track, boxes: list[Box]) -> bool:
    """Whether another object covers much of where a track should be."""
    place = track.expected(steps=1)
    area = (place.x2 - place.x1) * (place.y2 - place.y1)
    for box in boxes:
        width = min(place.x2, box.x2) - max(place.x1, box.x1)
        height = min(place.y2, box.y2) - max(place.y1, box.y1)
        if width > 0 and height > 0 and width * height > 0.3 * area:
            return True
    return False
