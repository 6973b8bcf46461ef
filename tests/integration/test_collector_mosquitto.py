"""Detector and collector on a real Mosquitto: a camera's pictures change, and a person speaks."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from edgebus.bus import Bus, BusSettings
from edgebus.contracts import Identity, topics, utc_now
from edgebus.contracts.topics import DRIFT
from edgebus.service import NodeSettings, Runtime, Service, ServiceSettings
from edgebus.serving import EngineSettings
from edgebus_collector import Collector, CollectorSettings
from edgebus_detection.messages import CAMERA_FRAME, DETECTIONS, SAMPLES, Frame, FrameRecord
from edgebus_detection.models import add_novelty
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import decode_picture, encode_jpeg
from edgebus_detector import Detector
from edgebus_detector.service import DetectorSettings

CALM = 40


@asynccontextmanager
async def running(
    kind: type[Service], settings: ServiceSettings, *, broker, data: Path
) -> AsyncIterator[None]:
    """A service on the broker, as its process would run it."""
    node = NodeSettings(site="lab", node="pi-01", data_dir=data, heartbeat_s=60)
    runtime = Runtime(kind, node=node, settings=settings, transport=broker.transport())
    stop = asyncio.Event()
    life = asyncio.create_task(runtime.run(stop, look_first=False))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(life, 60)


class Street:
    """A camera of the test's own: it sends a frame when the last one has been answered."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._rng = np.random.default_rng(8)
        self._index = 0
        self._me = Identity(site="lab", node="pi-01", service="camera")
        self.answers: asyncio.Queue = asyncio.Queue()

    async def film(self, *, tint=(0, 0, 0)):
        """Send a frame and wait for its detections."""
        record = FrameRecord(
            source=self._me.source,
            camera="front",
            index=self._index,
            captured=utc_now(),
            width=64,
            height=48,
        )
        self._index += 1
        frame = Frame.build(self.shoot(tint), record)
        await self._bus.publish(CAMERA_FRAME.at(self._me, camera="front"), frame)
        async with asyncio.timeout(60):
            while (said := await self.answers.get()).frame != record.id:
                pass
        return said

    def shoot(self, tint=(0, 0, 0)) -> bytes:
        """A picture, as JPEG."""
        picture = tiny_picture().astype(np.int16)
        picture += self._rng.integers(-20, 20, (1, 1, 3)) + np.array(tint)
        picture += self._rng.integers(-9, 9, picture.shape)
        return encode_jpeg(np.clip(picture, 0, 255).astype(np.uint8), quality=95)


async def listen(mosquitto, name: str, count: int) -> asyncio.subprocess.Process:
    """Somebody else's subscriber; returns when it has subscribed."""
    # Its output goes line by line, so that it can be seen to have subscribed.
    process = await asyncio.create_subprocess_exec(
        *("stdbuf", "-oL", "mosquitto_sub", "-d", "-p", str(mosquitto.port)),
        *("-q", "1", "-C", str(count), "-t", name),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"SUBACK" not in await process.stdout.readline():
            pass
    return process


async def heard(process: asyncio.subprocess.Process) -> list[dict]:
    """The JSON messages that it got."""
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]


async def test_a_camera_that_changes_is_told_to_anybody_and_a_person_can_answer(
    mosquitto, tmp_path
):
    if shutil.which("mosquitto_pub") is None:
        pytest.fail("mosquitto_pub is not installed: apt-get install mosquitto-clients")
    samples: asyncio.Queue = asyncio.Queue()
    drifts: asyncio.Queue = asyncio.Queue()
    me = Identity(site="lab", node="test", service="test")
    bus = Bus(mosquitto.transport(), identity=me, settings=BusSettings(ephemeral=True))
    street = Street(bus)
    known = [decode_picture(street.shoot()) for _ in range(60)]
    plain = tiny_bundle(tmp_path / "plain")
    bundle = await asyncio.to_thread(add_novelty, plain, known, out=tmp_path / "bundle")
    detector = DetectorSettings(bundle=bundle.path, engine=EngineSettings(threads=1))
    collector = CollectorSettings(
        policies={"novelty": {"threshold": 1e6}},
        receiver=None,
        holdout_share=0,
        feedback_from=("home-assistant",),
        drift={"calibration": CALM, "statistics": ["novelty"]},
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bus)
        await bus.subscribe(SAMPLES.any(site="lab"), lambda event: samples.put(event.payload))
        await bus.subscribe(DRIFT.any(site="lab"), drifts.put)
        await bus.subscribe(
            DETECTIONS.any(site="lab"), lambda event: street.answers.put(event.payload)
        )
        states: asyncio.Queue = asyncio.Queue()
        await bus.subscribe(topics.SERVICE_STATE.any(site="lab"), states.put)
        for kind, settings in ((Detector, detector), (Collector, collector)):
            await stack.enter_async_context(
                running(kind, settings, broker=mosquitto, data=tmp_path / "data")
            )
        # Two services start in this process; on a busy machine that alone takes half a minute.
        async with asyncio.timeout(120):
            ready: set[str] = set()
            while len(ready) < 2:
                state = (await states.get()).payload
                if state.state == "ready":
                    ready.add(state.source)
        stranger = await listen(mosquitto, "edgebus/lab/pi-01/collector/front/drift", 1)
        calm = [await street.film() for _ in range(CALM + 10)]
        assert np.median([said.novelty for said in calm]) < 1.5
        said = calm[-1]
        while drifts.empty() and said.index < CALM + 60:
            said = await street.film(tint=(90, -40, -40))
            assert said.novelty > 1.8
        # The collector may be some of these fifty behind the detector.
        await asyncio.wait_for(drifts.get(), 60)
        [drift] = await heard(stranger)
        assert (drift["stream"], drift["statistic"], drift["returned"]) == (
            "front",
            "novelty",
            False,
        )
        assert drift["after"] > 1.8 > drift["before"]
        assert drift["model"]["digest"] == bundle.digest
        # Home Assistant would send this, of a frame that the collector has long seen.
        words = {"camera": "front", "verdict": "missed", "label": "person", "frame": calm[-1].frame}
        said_so = await asyncio.create_subprocess_exec(
            *("mosquitto_pub", "-p", str(mosquitto.port), "-q", "1", "-m", json.dumps(words)),
            *("-t", "edgebus/lab/home-assistant/operator/feedback"),
        )
        assert await said_so.wait() == 0
        record = (await asyncio.wait_for(samples.get(), 60)).record
        assert (record.policy, record.input) == ("feedback", calm[-1].frame)
        assert [(one.verdict, one.label) for one in record.feedback] == [("missed", "person")]
        assert record.drift.drifted == ("novelty",)
        assert record.novelty == pytest.approx(calm[-1].novelty)
