"""The interface of picture sources, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edgebus_detection.datasets import SourceError
from edgebus_detection.emulation.street import Lights
from edgebus_detection.messages import Box
from edgebus_detection.vision import Image

__all__ = [
    "PASS_PERIOD",
    "PictureSkippedError",
    "Source",
    "SourceError",
    "SourceFrame",
    "SourceLostError",
]

PASS_PERIOD: Final = 80
"""Frame numbers of a repeated pass begin at a multiple of this.

`split_of` holds out frames by their number, with this period. So a picture that was held out in the
first pass is held out in every later one, and nothing leaks into training when a video loops.
"""


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One picture.

    Attributes:
        image: ``[h, w, 3]`` uint8 BGR; the receiver may not write into it.
        boxes: Ground truth; None where the source has none.
        index: Frame number of this camera; grows, but not always by one.
        condition: Light and weather, one word.
        lights: Draws the lights of a dark scene, for sources that know them.
        at_s: Its time in the recording, in seconds from its beginning, over all passes.
    """

    image: Image
    boxes: Sequence[Box] | None
    index: int
    condition: str = "normal"
    lights: Callable[[], Lights] | None = None
    at_s: float | None = None


class Source(Protocol):
    """Pictures on demand. All methods block and are called from one thread at a time.

    Attributes:
        fps: Its own frame rate, or None where it has none.
        length: Pictures in one pass, or None for endless ones and where it is unknown.
        live: It has its own clock: a picture that is not taken is lost.
        trouble: What of it is missing or damaged; empty while nothing is.
    """

    @property
    def fps(self) -> float | None: ...  # noqa: D102

    @property
    def length(self) -> int | None: ...  # noqa: D102

    @property
    def live(self) -> bool: ...  # noqa: D102

    @property
    def trouble(self) -> str: ...  # noqa: D102

    def read(self, slot: int) -> SourceFrame | None:
        """The picture of a time slot.

        Args:
            slot: From 0, always larger than before; slots that are left out were too late.

        Returns:
            The picture, or None when there are no more.

        Raises:
            PictureSkippedError: This picture is damaged; there may be others.
            SourceLostError: A live camera is gone; `read` may be tried again later.
            SourceError: There will never be a picture again.
        """
        ...

    def close(self) -> None:
        """Let go of files and devices."""
        ...


class SourceLostError(SourceError):
    """A live camera is lost; it may come back."""


class PictureSkippedError(SourceError):
    """One picture of many cannot be read."""
