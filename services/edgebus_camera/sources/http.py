"""HTTP addresses: a snapshot to poll, a live stream, or a video that ends."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Final

import cv2

from edgebus.addresses import public_address, read_address
from edgebus_camera.sources.base import Source, SourceFrame, SourceLostError
from edgebus_camera.sources.live import LiveSource
from edgebus_camera.sources.video import VideoSource
from edgebus_detection.vision import Image, ImageError, decode_picture

SNAPSHOT_FPS: Final = 1.0
"""Frames per second of a snapshot address by default."""

_PATIENCE_S: Final = 5.0
_MOST_BYTES: Final = 32 * 2**20
_PICTURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM")
_FEW: Final = 12  # bytes that tell a picture


class HttpSource:
    """An address that was not asked yet what it has; `connect` gives the source.

    Args:
        address: The address, http or https.
        loop: Begin again at the end of a video.
        stride: Take one frame of a video in this many.
    """

    live = True
    fps = None
    length = None
    trouble = ""

    def __init__(self, address: str, *, loop: bool, stride: int) -> None:
        self._address, self._loop, self._stride = address, loop, stride

    def connect(self) -> Source:
        """Ask it.

        Raises:
            SourceLostError: It does not answer, or with something that shows nothing.
        """
        kind, begin = _Web(self._address).look()
        if kind.startswith("image/") or begin.startswith(_PICTURES) or begin[8:] == b"WEBP":
            return SnapshotSource(self._address)
        if kind.startswith("text/html") or kind == "application/json":
            reason = f"answers with {kind}, which is no picture and no video; is it a login page?"
            raise SourceLostError(source=public_address(self._address), reason=reason)
        if kind.startswith("multipart/") or not _ends(self._address):
            return LiveSource(self._address)
        return VideoSource(self._address, loop=self._loop, stride=self._stride)

    def read(self, slot: int) -> SourceFrame | None:
        """Nothing: `connect` gives what can be read."""
        raise SourceLostError(source=public_address(self._address), reason="is not connected")

    def close(self) -> None:
        """Nothing to let go of."""


class SnapshotSource:
    """A picture that the server takes anew each time it is asked."""

    live = True
    fps = SNAPSHOT_FPS
    length = None
    trouble = ""

    def __init__(self, address: str) -> None:
        self._name = public_address(address)
        self._web = _Web(address)

    def read(self, slot: int) -> SourceFrame:
        """The picture of now.

        Raises:
            SourceLostError: The server does not answer, or with no picture.
        """
        return SourceFrame(self._picture(), None, slot)

    def close(self) -> None:
        """Nothing to let go of: each picture has a connection of its own."""

    def _picture(self) -> Image:
        try:
            return decode_picture(self._web.picture())
        except ImageError as error:
            raise SourceLostError(source=self._name, reason=error.reason) from error


class _Web:
    """GET of one address, with its user and password."""

    def __init__(self, address: str) -> None:
        parts = read_address(address)
        self._name, self._url = public_address(address), parts.bare.partition("#")[0]
        self._named = parts.username is not None
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        if parts.username is not None:
            passwords.add_password(None, self._url, parts.username, parts.password or "")
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPDigestAuthHandler(passwords),
            urllib.request.HTTPBasicAuthHandler(passwords),
        )

    def look(self) -> tuple[str, bytes]:
        """Content type and first bytes of the answer.

        Raises:
            SourceLostError: There is none, or an error.
        """
        return self._get(_FEW)

    def picture(self) -> bytes:
        """The whole answer, up to a bound.

        Raises:
            SourceLostError: There is none, or an error.
        """
        return self._get(_MOST_BYTES)[1]

    def _get(self, most: int) -> tuple[str, bytes]:
        try:
            with self._opener.open(self._url, timeout=_PATIENCE_S) as answer:
                kind = answer.headers.get_content_type()
                # A stream has no end, and no beginning that tells more.
                return kind, b"" if kind.startswith("multipart/") else answer.read(most)
        except urllib.error.HTTPError as error:
            with error:
                raise SourceLostError(source=self._name, reason=self._refusal(error)) from None
        # A server that speaks something else, or hangs up.
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceLostError(
                source=self._name, reason=f"does not answer: {_why(error)}"
            ) from None

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        if error.code in (401, 403):
            if self._named:
                return f"refuses the user and password (HTTP {error.code})"
            return f"wants a user and password (HTTP {error.code}): http://user:password@host/…"
        return f"answers with HTTP {error.code} {error.reason}; check the path"


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(error).__name__


def _ends(address: str) -> bool:
    """Whether the video at an address has a length."""
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            reason = "no video can be read from it; check the address"
            raise SourceLostError(source=public_address(address), reason=reason)
        return 0 < capture.get(cv2.CAP_PROP_FRAME_COUNT) < 2**40
    finally:
        capture.release()
