from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebus.service.testing import ServiceHarness
from edgebus_camera import Camera, CameraSettings
from edgebus_detection.messages import CAMERA_FRAME, CAMERA_TRUTH, Frame, GroundTruth
from edgebus_detection.vision import decode_picture, encode_jpeg

ROOT = Path(__file__).parents[2]


class _MotionJpeg(BaseHTTPRequestHandler):
    """What a cheap network camera does: JPEG after JPEG in one HTTP answer."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        picture = encode_jpeg(np.full((120, 160, 3), 120, np.uint8))
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
        try:
            while not self.server.unplugged.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(head.encode() + picture + b"\r\n")
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Tests read no access log."""


class NetworkCamera:
    """A network camera with a plug."""

    def __init__(self) -> None:
        self.port = 0

    def plug_in(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _MotionJpeg)
        self._server.unplugged = threading.Event()  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def unplug(self) -> None:
        self._server.unplugged.set()  # type: ignore[attr-defined]
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


async def test_a_network_camera_may_vanish_and_come_back() -> None:
    camera = NetworkCamera()
    camera.plug_in()
    address = f"http://127.0.0.1:{camera.port}/cam.mjpg"
    settings = CameraSettings.model_validate(
        {"cameras": {"net": {"source": address}}, "retry_first_s": 0.1, "retry_cap_s": 0.2}
    )
    try:
        async with ServiceHarness(Camera, settings) as harness:
            first = await harness.expect(CAMERA_FRAME)
            assert decode_picture(first.payload.jpeg).shape == (120, 160, 3)
            await asyncio.to_thread(camera.unplug)
            lost = await harness.wait_for_state("degraded", timeout=30)
            assert f"camera net: http://127.0.0.1:{camera.port}/…" in lost.reason
            camera.plug_in()
            back = await harness.wait_for_state("ready", timeout=30)
            assert back.reason == ""
            again = await harness.expect(
                CAMERA_FRAME, where=lambda event: event.payload.record.captured > lost.time
            )
            assert again.payload.record.index > first.payload.record.index
            assert harness.received(CAMERA_TRUTH) == []
    finally:
        camera.unplug()


async def test_other_tools_see_plain_jpeg_and_plain_json(
    mosquitto_factory: Callable[[], Any], tmp_path: Path
) -> None:
    if shutil.which("mosquitto_sub") is None:
        pytest.fail("mosquitto_sub is not installed: apt-get install mosquitto-clients")
    broker = mosquitto_factory()
    broker.start()
    port = str(broker.port)
    listen = ("mosquitto_sub", "-p", port, "-W", "30", "-N", "-t")
    frame_topic, truth_topic = (f"edgebus/lab/pi-01/camera/front/{it}" for it in ("frame", "truth"))
    hearing = [
        await asyncio.create_subprocess_exec(
            *listen, topic, "-C", "1", stdout=asyncio.subprocess.PIPE
        )
        for topic in (frame_topic, truth_topic)
    ]
    program = (
        "import sys; from pathlib import Path; from edgebus.bus import BrokerSettings;"
        "from edgebus.service import NodeSettings, run_service;"
        "from edgebus_camera import Camera, CameraSettings;"
        f"node = NodeSettings(node='pi-01', data_dir=Path({str(tmp_path)!r}),"
        f" broker=BrokerSettings(url={broker.url!r}));"
        "sys.exit(run_service(Camera, node, CameraSettings()))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "services")])
    camera = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={**os.environ, "PYTHONPATH": path},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        jpeg, truth = [(await one.communicate())[0] for one in hearing]
    finally:
        camera.send_signal(signal.SIGTERM)
        _, log = await camera.communicate()
    assert camera.returncode == 0, log.decode()
    (tmp_path / "frame.jpg").write_bytes(jpeg)
    frame = Frame.decode(jpeg)
    assert decode_picture(jpeg).shape == (frame.record.height, frame.record.width, 3)
    assert json.loads(truth)["schema"] == "truth/1"
    assert GroundTruth.decode(truth).camera == "front"
