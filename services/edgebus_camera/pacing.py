"""Pacing of frames on a grid that never drifts."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slot:
    """One place on the grid.

    Attributes:
        number: From 0.
        due: When the frame leaves, on the caller's clock, in seconds.
        skipped: Places before it that were already too late.
    """

    number: int
    due: float
    skipped: int


class Pacer:
    """Frame k leaves at ``start + k / fps``.

    Sleeping ``1 / fps`` between frames drifts by the work that each frame takes, and catching up
    sends frames in bunches, which no camera does. Here a frame that is too late is left out, and
    the next one is on time.

    Args:
        fps: Frames per second.
        start: When frame 0 leaves, on the caller's clock, in seconds; it may have passed.
        grace: How late a frame may leave, as a part of the interval. Two frames are never closer
            than ``1 - grace`` intervals.

    Raises:
        ValueError: A frame rate that is no positive number.
    """

    def __init__(self, *, fps: float, start: float, grace: float = 0.5) -> None:
        if not (math.isfinite(fps) and fps > 0):
            msg = f"fps is {fps}; a camera needs a positive number of frames per second"
            raise ValueError(msg)
        self._fps, self._start, self._grace = fps, start, grace
        self._last: int | None = None

    def next(self, now: float, *, lead: float = 0.0) -> Slot:
        """The next frame that can still leave in time.

        Args:
            now: The time.
            lead: How long it takes to get the frame ready.

        Returns:
            Its place. Places before the very first one do not count as skipped: a camera that
            starts late joins the grid where it is.
        """
        reach = (now + lead - self._start) * self._fps - self._grace
        # A hair: a time that is exactly on the grid must not fall off by rounding.
        possible = max(0, math.ceil(reach - 1e-6))
        if self._last is None:
            number, skipped = possible, 0
        else:
            number = max(self._last + 1, possible)
            skipped = number - self._last - 1
        self._last = number
        return Slot(number, self._start + number / self._fps, skipped)
