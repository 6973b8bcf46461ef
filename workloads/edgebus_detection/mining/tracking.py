"""Tracking of boxes from frame to frame: association by overlap.

Not a library's: of the maintained trackers, `trackers` and `supervision` bring a second OpenCV,
boxmot is under the AGPL, and norfair (which needs filterpy, unmaintained since 2018) excludes the
console library that is installed here. What a flicker needs is the assignment only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lap import lapjv

from edgebus_detection.messages import Box
from edgebus_detection.vision import corners, iou


@dataclass(slots=True, eq=False)
class Track:
    """One object over time.

    Attributes:
        box: Where it was seen last.
        seen: Frames in which it was seen.
        missing: Frames since then.
        velocity: Pixels per frame of the four sides.
    """

    box: Box
    seen: int = 1
    missing: int = 0
    velocity: tuple[float, float, float, float] = field(default=(0.0, 0.0, 0.0, 0.0))

    def expected(self, *, steps: int) -> Box:
        """Its place a number of frames after it was last seen, moving on as it did."""
        x1, y1, x2, y2 = (
            max(0.0, side + steps * speed)
            for side, speed in zip(sides(self.box), self.velocity, strict=True)
        )
        # What shrinks out of the picture stays where it was.
        if x2 <= x1 or y2 <= y1:
            return self.box
        return self.box.model_copy(update={"x1": x1, "y1": y1, "x2": x2, "y2": y2})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Changes of the tracks in one frame.

    Attributes:
        lost: Tracks that were in the frame before and are not in this one.
        relabelled: Tracks whose class is another now, with the class before.
        born: Boxes that no track explains.
    """

    lost: tuple[Track, ...]
    relabelled: tuple[tuple[Track, str], ...]
    born: tuple[Track, ...]


class Tracker:
    """Tracker of the boxes of one camera.

    Boxes and tracks are paired so that the sum of their overlaps is largest (the assignment
    problem; Jonker and Volgenant 1987, by `lap.lapjv`), a track being where constant velocity
    takes it: SORT (Bewley et al. 2016) without its Kalman filter.

    Args:
        min_iou: Pairs that overlap less are none.
        patience: Frames after which a missing object is forgotten.
    """

    def __init__(self, *, min_iou: float, patience: int) -> None:
        self._min_iou = min_iou
        self._patience = patience
        self._tracks: list[Track] = []

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Objects that are followed, those that are missing included."""
        return tuple(self._tracks)

    def step(self, boxes: Sequence[Box]) -> Step:
        """Take the boxes of the next frame."""
        pairs = self._pairs(boxes)
        lost, relabelled = [], []
        for track in self._tracks:
            box = pairs.get(id(track))
            if box is None:
                track.missing += 1
                if track.missing == 1:
                    lost.append(track)
                continue
            if box.label != track.box.label:
                relabelled.append((track, track.box.label))
            gap = track.missing + 1
            moved = zip(sides(box), sides(track.box), strict=True)
            speed = [(new - old) / gap for new, old in moved]
            # Half of the news: boxes tremble.
            mixed = [(new + old) / 2 for new, old in zip(speed, track.velocity, strict=True)]
            track.velocity = (mixed[0], mixed[1], mixed[2], mixed[3])
            track.box, track.missing, track.seen = box, 0, track.seen + 1
        taken = {id(box) for box in pairs.values()}
        born = [Track(box=box) for box in boxes if id(box) not in taken]
        self._tracks = [t for t in self._tracks if t.missing <= self._patience] + born
        return Step(lost=tuple(lost), relabelled=tuple(relabelled), born=tuple(born))

    def _pairs(self, boxes: Sequence[Box]) -> dict[int, Box]:
        """The box of each track that has one, by the track's identity."""
        if not boxes or not self._tracks:
            return {}
        places = [track.expected(steps=track.missing + 1) for track in self._tracks]
        overlap = iou(corners(places), corners(boxes))
        _, columns, _ = lapjv(1.0 - overlap, extend_cost=True)
        return {
            id(self._tracks[row]): boxes[column]
            for row, column in enumerate(columns)
            # -1: there are more tracks than boxes.
            if column >= 0 and overlap[row, column] >= self._min_iou
        }


def sides(box: Box) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2."""
    return (box.x1, box.y1, box.x2, box.y2)
