"""A video as a source, once or over and over: a file, or an address that ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from edgebus.addresses import public_address
from edgebus_camera.sources.base import PASS_PERIOD, SourceError, SourceFrame, SourceLostError
from edgebus_detection.messages import Box
from edgebus_detection.vision import Image

_TRIES: Final = 300
"""Reads in a row that may fail, beyond the frames that are left: a failed read costs little."""
_MISSING: Final = 0.02
"""Share of a video that a wrong header may promise too much."""
_EVEN: Final = 0.2
"""Share by which a step between two frames may differ from the frame rate's."""
_STEADY: Final = 0.9
"""Share of even steps of a video whose frames can be counted by its length."""


class VideoSource:
    """The frames of a video.

    Slots are frames of the file: when slots are left out, so are their frames, and what is seen
    keeps its speed. What cannot be decoded is left out, and read on behind it.

    Args:
        path: The file, or the address of one.
        loop: Begin again at its end.
        stride: Take one frame in this many.
        truth: Boxes by frame number of the file, in pixels of the file.

    Attributes:
        trouble: What of it cannot be decoded, once its end was reached; empty while all can.

    Raises:
        SourceError: It does not exist, or is no video that OpenCV can decode.
    """

    live = False

    def __init__(
        self,
        path: Path | str,
        *,
        loop: bool,
        stride: int = 1,
        truth: Mapping[int, tuple[Box, ...]] | None = None,
    ) -> None:
        if isinstance(path, Path) and not path.is_file():
            reason = "is a folder" if path.is_dir() else "there is no such file; check the path"
            raise SourceError(source=str(path), reason=reason)
        self._path, self._loop, self._stride, self._truth = path, loop, stride, truth
        self._name = public_address(str(path))
        self.trouble = ""
        self._capture = self._open()
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        # Broken headers say 0, NaN or the time base (90000).
        self._rate: float | None = rate if 0 < rate <= 1000 else None
        self.fps: float | None = None if self._rate is None else self._rate / stride
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._count: int | None = int(count) if 0 < count < 2**40 else None
        self.length: int | None = None if self._count is None else -(-self._count // stride)
        self._next = 0  # frame of the file that the decoder gives next
        self._first_slot = 0  # of this pass
        self._first_index = 0
        self._first_s = 0.0
        self._failed = False  # a read, in this pass
        self._stamp_s: float | None = None  # of the frame that was decoded last
        self._step_s = 0.0
        self._steps = self._even_steps = 0
        self._stamped = True
        self._gap: tuple[int, int] | None = None  # first frame that was left out, and how many were

    def read(self, slot: int) -> SourceFrame | None:
        """The frame of a slot; at the end of the video, the first one again, or None."""
        frame = self._seek(slot)
        if frame is None:
            self._find_trouble()
        if frame is None and self._loop:
            self._rewind(slot)
            frame = self._seek(slot)
            if frame is None:
                reason = "no frame of it can be decoded any more; it is damaged or was replaced"
                raise SourceError(source=self._name, reason=reason)
        if frame is None:
            return None
        number = self._next - 1
        boxes = None if self._truth is None else self._truth.get(number)
        index = self._first_index + number // self._stride
        at_s = (
            self._first_s + self._stamp_s if self._stamped and self._stamp_s is not None else None
        )
        return SourceFrame(frame, boxes, index, at_s=at_s)

    def close(self) -> None:
        """Close it."""
        self._capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        # Not the first frame alone: a damaged beginning is no reason to refuse the rest.
        if not capture.isOpened() or not any(capture.grab() for _ in range(_TRIES)):
            capture.release()
            raise self._undecodable()
        capture.release()
        return cv2.VideoCapture(str(self._path))

    def _undecodable(self) -> SourceError:
        if isinstance(self._path, str):
            reason = "no video can be read from it; check the address"
            return SourceLostError(source=self._name, reason=reason)
        size = self._path.stat().st_size
        reason = (
            "it has no bytes"
            if size == 0
            else f"OpenCV cannot decode it as a video ({size} bytes); is it complete? "
            "H.264 in MP4, or Motion JPEG in AVI, works everywhere"
        )
        return SourceError(source=self._name, reason=reason)

    def _seek(self, slot: int) -> Image | None:
        target = (slot - self._first_slot) * self._stride
        # Decoding on is exact; jumping by frame number is not, for many files.
        while True:
            if not self._grab():
                return None
            if self._next > target and (self._next - 1) % self._stride == 0:
                break
        good, frame = self._capture.retrieve()
        return np.asarray(frame, np.uint8) if good and frame is not None else None

    def _grab(self) -> bool:
        """Decode the next frame that can be decoded; False at the end."""
        left = 0 if self._count is None else max(0, self._count - self._next)
        for _ in range(min(left, 3000) + _TRIES):
            if not self._capture.grab():
                self._failed = True
                continue
            stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # About a damage, a decoder gives frames again that it held back: they are too late.
            if self._failed and self._stamp_s is not None and stamp_s < self._stamp_s:
                continue
            self._place(stamp_s)
            return True
        return False

    def _place(self, stamp: float) -> None:
        """Count a frame; behind some that failed, by its time stamp.

        A decoder gives frames later than it reads them: the gap need not be where reading failed.
        """
        before = self._stamp_s
        if self._failed and self._rate is not None and stamp > (before or 0.0):
            # Frame -1 is one step before the first.
            since = -1 / self._rate if before is None else before
            lost = round((stamp - since) * self._rate) - 1
            if lost > 0 and self._next + lost < (self._count or 0):
                first, more = self._gap or (self._next, 0)
                self._gap = first, more + lost
                self._next += lost
        # Some containers have none, and give 0 or what they gave before.
        self._stamped = self._stamped and (before is None or stamp > before)
        self._step_s = stamp - before if before is not None else 0.0
        if self._rate is not None and before is not None:
            self._steps += 1
            self._even_steps += abs(self._step_s * self._rate - 1) < _EVEN
        self._stamp_s = stamp
        self._next += 1

    def _find_trouble(self) -> None:
        """What was missing in the first pass."""
        if self.trouble or self._first_index or self._count is None:
            return
        allowed = max(2, _MISSING * self._count)
        short = self._count - self._next > allowed
        if short and self._rate is not None and self._stamp_s:
            # A container that knows its length in time only, at a rate that changes, counts wrong.
            length_s = self._count / self._rate
            short = length_s - self._stamp_s - self._step_s > _MISSING * length_s
        missing = self._count - self._next
        parts = []
        if self._gap is not None:
            first, lost = self._gap
            parts.append(f"{lost} of {self._count} frames cannot be decoded, from {first} on")
        if short:
            parts.append(f"ended at frame {self._next} of {self._count}")
        elif missing > allowed and self._even_steps > _STEADY * self._steps:
            # No read has failed: a decoder that finds its way again leaves out silently.
            parts.append(f"{missing} of {self._count} frames are missing")
        if parts:
            self.trouble = f"{self._name}: {'; '.join(parts)}; is the file damaged or cut off?"

    def _rewind(self, slot: int) -> None:
        taken = -(-self._next // self._stride)
        self._first_index += max(1, -(-taken // PASS_PERIOD)) * PASS_PERIOD
        self._first_slot = slot
        self._first_s += (self._stamp_s or 0.0) + self._step_s
        self._next, self._stamp_s, self._failed = 0, None, False
        self._capture.release()
        self._capture = self._open()
