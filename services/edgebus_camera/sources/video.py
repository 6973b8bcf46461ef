"""A video file as a source, once or over and over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from edgebus_camera.sources.base import PASS_PERIOD, SourceError, SourceFrame
from edgebus_detection.messages import Box


class VideoSource:
    """The frames of a video file.

    Slots are frames of the file: when slots are left out, so are their frames, and what is seen
    keeps its speed.

    Args:
        path: The file.
        loop: Begin again at its end.
        stride: Take one frame in this many.
        truth: Boxes by frame number of the file, in pixels of the file.

    Raises:
        SourceError: It does not exist, or is no video that OpenCV can decode.
    """

    live = False

    def __init__(
        self,
        path: Path,
        *,
        loop: bool,
        stride: int = 1,
        truth: Mapping[int, tuple[Box, ...]] | None = None,
    ) -> None:
        if not path.is_file():
            reason = "is a folder" if path.is_dir() else "there is no such file; check the path"
            raise SourceError(source=str(path), reason=reason)
        self._path, self._loop, self._stride, self._truth = path, loop, stride, truth
        self._capture = self._open()
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        # Broken headers say 0, NaN or the time base (90000).
        self.fps: float | None = rate / stride if 0 < rate <= 1000 else None
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length: int | None = -(-int(count) // stride) if 0 < count < 2**40 else None
        self._next = 0  # frame of the file that the decoder gives next
        self._first_slot = 0  # of this pass
        self._first_index = 0

    def read(self, slot: int) -> SourceFrame | None:
        """The frame of a slot; at the end of the file, the first one again, or None."""
        frame = self._seek(slot)
        if frame is None and self._loop:
            self._rewind(slot)
            frame = self._seek(slot)
            if frame is None:
                reason = "no frame of it can be decoded any more; it is damaged or was replaced"
                raise SourceError(source=str(self._path), reason=reason)
        if frame is None:
            return None
        boxes = None if self._truth is None else self._truth.get(self._next - 1)
        return SourceFrame(frame, boxes, self._first_index + slot - self._first_slot)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened() or not capture.grab():
            capture.release()
            size = self._path.stat().st_size
            reason = (
                "it has no bytes"
                if size == 0
                else f"OpenCV cannot decode it as a video ({size} bytes); is it complete? "
                "H.264 in MP4, or Motion JPEG in AVI, works everywhere"
            )
            raise SourceError(source=str(self._path), reason=reason)
        capture.release()
        return cv2.VideoCapture(str(self._path))

    def _seek(self, slot: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
        target = (slot - self._first_slot) * self._stride
        # Decoding on is exact; jumping by frame number is not, for many files.
        while self._next < target:
            if not self._capture.grab():
                return None
            self._next += 1
        good, frame = self._capture.read()
        if not good or frame is None:
            return None
        self._next += 1
        return np.asarray(frame, np.uint8)

    def _rewind(self, slot: int) -> None:
        taken = -(-self._next // self._stride)
        self._first_index += max(1, -(-taken // PASS_PERIOD)) * PASS_PERIOD
        self._first_slot = slot
        self._next = 0
        self._capture.release()
        self._capture = self._open()
