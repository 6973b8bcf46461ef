"""A live camera through OpenCV: RTSP, HTTP and USB. It may vanish, and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from edgebus.addresses import public_address
from edgebus_camera.sources.base import SourceFrame, SourceLostError
from edgebus_detection.vision import Image

_OPEN_MS: Final = 5_000
_READ_MS: Final = 5_000


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that is used."""

    def isOpened(self) -> bool: ...  # noqa: D102
    def read(self) -> tuple[bool, npt.NDArray[Any] | None]: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


def open_capture(address: str | int) -> Capture:
    """Open a camera within seconds; `isOpened` is false where it failed.

    Args:
        address: A URL, or the number of a USB device.
    """
    if isinstance(address, int):
        capture = cv2.VideoCapture(address)
        # Otherwise a slow reader sees pictures that are seconds old.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)


class LiveSource:
    """The newest picture of a live camera.

    A thread of its own reads as fast as the camera sends, so that `read` never gives a picture
    from a buffer. When the camera fails, `read` raises; the next `read` connects anew.

    Args:
        address: A URL, or the number of a USB device.
        connect: Opens it.
        patience_s: Seconds without a picture after which a camera counts as lost.
    """

    live = True
    fps = None
    length = None
    trouble = ""

    def __init__(
        self,
        address: str | int,
        *,
        connect: Callable[[str | int], Capture] = open_capture,
        patience_s: float = 10.0,
    ) -> None:
        self._address, self._connect, self._patience_s = address, connect, patience_s
        self._session: _Session | None = None
        self._closed = False

    def read(self, slot: int) -> SourceFrame:
        """The next picture that the camera sends.

        Args:
            slot: Becomes the picture's number.

        Raises:
            SourceLostError: The camera cannot be opened, has ended, or sends nothing.
        """
        session = self._session
        if session is None:
            session = self._session = self._start()
            if self._closed:  # meanwhile
                self._drop()
        try:
            return SourceFrame(session.take(self._patience_s), None, slot)
        except SourceLostError:
            self._drop()
            raise

    def close(self) -> None:
        """Let go of the camera; from any thread, also while `read` waits in another."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.stop()

    def _start(self) -> _Session:
        capture = self._connect(self._address)
        if not capture.isOpened():
            capture.release()
            kind = "device" if isinstance(self._address, int) else "address"
            reason = f"cannot be opened; check the {kind}, the cable and the permissions"
            raise SourceLostError(source=_public(self._address), reason=reason)
        return _Session(capture, name=_public(self._address))


class _Session:
    """One connection to a camera, and the thread that empties it."""

    def __init__(self, capture: Capture, *, name: str) -> None:
        self._capture, self._name = capture, name
        self._change = threading.Condition()
        self._newest: Image | None = None
        self._ended = self._stopping = False
        # A daemon: a driver that hangs in `read` must not keep the process from ending.
        self._thread = threading.Thread(target=self._pump, name=f"camera {name}", daemon=True)
        self._thread.start()

    def take(self, patience_s: float) -> Image:
        """Wait for a picture that was not taken yet."""
        deadline = time.monotonic() + patience_s
        with self._change:
            while self._newest is None:
                if self._ended:
                    raise SourceLostError(
                        source=self._name, reason="the camera has stopped sending"
                    )
                left = deadline - time.monotonic()
                if left <= 0:
                    reason = f"the camera has sent nothing for {patience_s:g} s"
                    raise SourceLostError(source=self._name, reason=reason)
                self._change.wait(left)
                if self._stopping:
                    raise SourceLostError(source=self._name, reason="closed")
            image, self._newest = self._newest, None
            return image

    def stop(self) -> None:
        """End the thread; it releases the camera itself, because `release` under `read` crashes."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        self._thread.join(timeout=1.0)

    def _pump(self) -> None:
        try:
            while not self._stopping:
                good, image = self._capture.read()
                if not good or image is None:
                    return
                with self._change:
                    self._newest = np.asarray(image, np.uint8)
                    self._change.notify()
        finally:
            with self._change:
                self._ended = True
                self._change.notify()
            self._capture.release()


def _public(address: str | int) -> str:
    """The address without its secrets, for logs and states."""
    return f"USB camera {address}" if isinstance(address, int) else public_address(address)
