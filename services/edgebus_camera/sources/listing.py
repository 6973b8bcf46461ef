"""A list of videos, folders and pictures that are played one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgebus_camera.sources.base import (
    PASS_PERIOD,
    PictureSkippedError,
    SourceError,
    SourceFrame,
)
from edgebus_camera.sources.folder import load_picture
from edgebus_camera.sources.video import VideoSource
from edgebus_detection.datasets.files import pictures_below, read_text
from edgebus_detection.datasets.picture import PICTURES


class ListSource:
    """The entries of a text file, in their order: a camera whose view changes.

    A line is a video, a folder of pictures (in order of their names) or a picture, relative to the
    list's folder; the image lists of YOLO data sets are such files. An entry may
    come again. Empty lines and those that begin with ``#`` are skipped. Labels beside the pictures
    are not read.

    Frame numbers of a part begin at a multiple of `PASS_PERIOD`, so a picture that was held out in
    one pass is held out in every later one; pictures on neighbouring lines are one part.

    Args:
        path: The text file.
        loop: Begin again after the last line.
        stride: Take one picture in this many of each part.

    Raises:
        SourceError: The list cannot be read or is empty, or a line cannot be played.
    """

    live = False
    trouble = ""
    length = None

    def __init__(self, path: Path, *, loop: bool, stride: int = 1) -> None:
        self._path, self._loop, self._stride = path, loop, stride
        self._plan = _plan(path)
        # A bad entry is found now, not when its turn comes after hours.
        opened = {entry: self._open(entry) for entry in dict.fromkeys(self._plan)}
        for part in opened.values():
            part.close()
        videos = any(isinstance(part, VideoSource) for part in opened.values())
        pictures = sum(part.length or 0 for part in opened.values())
        self._hopeless: int | None = None if videos else pictures
        first = self._open(self._plan[0])
        self.fps: float | None = first.fps if isinstance(first, VideoSource) else None
        self._part = first
        self._place = 0
        self._first_slot = 0
        self._first_index = 0
        self._taken = 0  # frame numbers of this part that are used up
        self._failed_in_a_row = 0

    @property
    def entry(self) -> int:
        """Number of the entry that is played, from 0."""
        return self._place

    def read(self, slot: int) -> SourceFrame | None:
        """The picture of a slot; None at the end of the last line."""
        for _ in range(len(self._plan) + 1):
            frame = self._read(slot)
            if frame is not None:
                return frame
            if self._place + 1 == len(self._plan) and not self._loop:
                return None
            self._turn(slot)
        reason = "no line of it gives a picture any more; were its files replaced?"
        raise SourceError(source=str(self._path), reason=reason)

    def close(self) -> None:
        """Close the present entry."""
        self._part.close()

    def _read(self, slot: int) -> SourceFrame | None:
        try:
            frame = self._part.read(slot - self._first_slot)
        except PictureSkippedError as error:
            self._taken = slot - self._first_slot + 1
            self._failed_in_a_row += 1
            if self._failed_in_a_row == self._hopeless:
                reason = f"none of its pictures can be read, last {error}"
                raise SourceError(source=str(self._path), reason=reason) from error
            raise
        if frame is None:
            # One of its videos; each is named once, in the first pass.
            if isinstance(self._part, VideoSource) and self._part.trouble not in self.trouble:
                self.trouble = "; ".join(filter(None, (self.trouble, self._part.trouble)))
            return None
        self._failed_in_a_row = 0
        self._taken = frame.index + 1
        return SourceFrame(frame.image, None, self._first_index + frame.index)

    def _turn(self, slot: int) -> None:
        """Go on with the next line."""
        self._part.close()
        self._place = (self._place + 1) % len(self._plan)
        self._first_index += max(1, -(-self._taken // PASS_PERIOD)) * PASS_PERIOD
        self._first_slot, self._taken = slot, 0
        self._part = self._open(self._plan[self._place])

    def _open(self, entry: tuple[Path, ...]) -> VideoSource | _Pictures:
        if len(entry) == 1 and entry[0].is_file() and entry[0].suffix.lower() not in PICTURES:
            return VideoSource(entry[0], loop=False, stride=self._stride)
        paths = [
            picture
            for path in entry
            for picture in (pictures_below(path) if path.is_dir() else [path])
        ]
        return _Pictures(paths[:: self._stride])


class _Pictures:
    """Pictures in a given order, once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.length = len(paths)

    def read(self, slot: int) -> SourceFrame | None:
        if slot >= len(self._paths):
            return None
        return SourceFrame(load_picture(self._paths[slot]), None, slot)

    def close(self) -> None:
        """Nothing to let go of."""


def _plan(path: Path) -> list[tuple[Path, ...]]:
    """The parts: one video, one folder, or pictures of neighbouring lines."""
    lines = read_text(path).splitlines()
    plan: list[tuple[Path, ...]] = []
    pictures: list[Path] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        entry = path.parent / Path(text).expanduser()
        if not entry.exists():
            reason = f"line {number} names {text}, which is not in {path.parent}; check the path"
            raise SourceError(source=str(path), reason=reason)
        if entry.is_file() and entry.suffix.lower() in PICTURES:
            pictures.append(entry)
            continue
        if pictures:
            plan.append(tuple(pictures))
            pictures = []
        plan.append((entry,))
    if pictures:
        plan.append(tuple(pictures))
    if not plan:
        reason = "names nothing; give one video, folder or picture per line"
        raise SourceError(source=str(path), reason=reason)
    return plan
