"""HTTP addresses: snapshots are polled, what ends has an end, and errors say what to do."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebus.contracts import topics
from edgebus.service.testing import ServiceHarness
from edgebus_camera import Camera, CameraSettings
from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources import LiveSource, SourceLostError, VideoSource, open_source
from edgebus_camera.sources.http import HttpSource, SnapshotSource
from edgebus_detection.messages import CAMERA_FRAME

VIDEO = Path(__file__).parents[2] / "support" / "videos" / "fast.mp4"
_WANTED = "Basic " + base64.b64encode(b"ann:S3/cr@et").decode()


def _picture(suffix: str = ".jpg") -> bytes:
    return cv2.imencode(suffix, np.full((48, 64, 3), 90, np.uint8))[1].tobytes()


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)  # type: ignore[attr-defined]
        if path == "/auth.jpg" and self.headers.get("Authorization") != _WANTED:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="cam"')
            self.end_headers()
            return
        pages = {
            "/snap.jpg": ("image/jpeg", _picture()),
            "/auth.jpg": ("image/jpeg", _picture()),
            "/cgi": ("application/octet-stream", _picture(".png")),
            "/webp": ("text/plain", _picture(".webp")),
            "/half.jpg": ("image/jpeg", _picture()[:200]),
            "/login": ("text/html", b"<html>"),
            "/video.mp4": ("video/mp4", VIDEO.read_bytes()),
            "/file": ("application/octet-stream", VIDEO.read_bytes()),
            "/stream": ("multipart/x-mixed-replace; boundary=b", b"--b\r\n"),
            "/text": ("text/plain", b"nothing to see here"),
        }
        if path not in pages:
            self.send_error(404)
            return
        kind, body = pages[path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests read no access log."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    web = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    web.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=web.serve_forever, args=(0.05,))
    thread.start()
    yield web
    web.shutdown()
    web.server_close()
    thread.join()


def connect(server: ThreadingHTTPServer, path: str, user: str = ""):
    address = f"http://{user}127.0.0.1:{server.server_address[1]}{path}"
    source = open_source(ViewSettings(source=address, loop=False))
    assert isinstance(source, HttpSource)
    return source.connect()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/snap.jpg", SnapshotSource),
        ("/cgi?channel=1", SnapshotSource),
        ("/webp", SnapshotSource),
        ("/video.mp4", VideoSource),
        ("/file", VideoSource),
        ("/stream", LiveSource),
    ],
)
def test_the_server_says_what_an_address_is(
    server: ThreadingHTTPServer, path: str, kind: type
) -> None:
    assert isinstance(connect(server, path), kind)


def test_a_video_over_http_has_its_rate_and_an_end(server: ThreadingHTTPServer) -> None:
    source = connect(server, "/video.mp4")
    assert (source.fps, source.length, source.live) == (10, 60, False)
    seen = [source.read(slot) for slot in range(61)]
    assert all(seen[:60])
    assert seen[60] is None
    assert source.trouble == ""


def test_a_snapshot_may_need_a_user_and_password(server: ThreadingHTTPServer) -> None:
    frame = connect(server, "/auth.jpg", "ann:S3/cr@et@").read(0)
    assert frame.image.shape == (48, 64, 3)
    with pytest.raises(SourceLostError, match=r"wants a user and password \(HTTP 401\)"):
        connect(server, "/auth.jpg")
    with pytest.raises(SourceLostError, match="refuses the user and password") as refused:
        connect(server, "/auth.jpg", "ann:S3crets@")
    assert "S3" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/login", "answers with text/html, which is no picture and no video"),
        ("/gone.jpg", "answers with HTTP 404 .*check the path"),
        ("/text", "no video can be read"),
    ],
)
def test_what_shows_nothing_is_named(server: ThreadingHTTPServer, path: str, words: str) -> None:
    with pytest.raises(SourceLostError, match=words):
        connect(server, path)


def test_half_a_snapshot_is_no_picture(server: ThreadingHTTPServer) -> None:
    with pytest.raises(SourceLostError, match="truncated"):
        connect(server, "/half.jpg").read(0)


def test_nobody_there_is_a_camera_that_may_come(free_port: int) -> None:
    source = open_source(ViewSettings(source=f"http://127.0.0.1:{free_port}/snap.jpg"))
    with pytest.raises(SourceLostError, match="does not answer: Connection refused"):
        source.connect()  # type: ignore[attr-defined]


async def test_a_snapshot_is_polled_at_the_rate_that_was_asked_for(
    server: ThreadingHTTPServer,
) -> None:
    address = f"http://127.0.0.1:{server.server_address[1]}/snap.jpg"
    cameras = {"net": {"source": address, "fps": 5, "frames": 11}}
    settings = CameraSettings.model_validate({"cameras": cameras})
    async with ServiceHarness(Camera, settings) as harness:
        await harness.expect(
            topics.SERVICE_STATE, 20, where=lambda event: "net ended" in event.payload.reason
        )
        frames = [event.payload.record for event in harness.received(CAMERA_FRAME)]
        states = [event.payload.state for event in harness.received(topics.SERVICE_STATE)]
    assert "degraded" not in states
    assert 5 <= len(frames) <= 11
    passed = (frames[-1].captured - frames[0].captured).total_seconds()
    assert passed == pytest.approx((frames[-1].index - frames[0].index) / 5, abs=0.3)
