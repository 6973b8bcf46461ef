"""The detector as its own process on a real Mosquitto: swapped, killed, restarted, cut off."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgebus.artifacts import Bundle, Store
from edgebus.bus import Bus, BusSettings, Event
from edgebus.contracts import Identity, ModelStatus, Release, ServiceState, topics, utc_now
from edgebus.transfer import ArtifactProvider, reference
from edgebus_detection.messages import CAMERA_FRAME, DETECTIONS, Detections, Frame, FrameRecord
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg

_RUN = """
import json, sys
from edgebus.service import NodeSettings, run_service
from edgebus_detector import Detector, DetectorSettings
node, settings = json.loads(sys.argv[1])
sys.exit(run_service(Detector, NodeSettings(**node), DetectorSettings(**settings)))
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[int, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: tiny_bundle(folder / f"v{n}", version=n, gain=0.2 + n / 50) for n in (1, 2)}


class Site:
    """One edge node as a process, and the test as its camera, its cloud and its observer."""

    def __init__(self, broker: Any, folder: Path, bundles: dict[int, Bundle]) -> None:
        self.broker, self.folder, self.bundles = broker, folder, bundles
        self.cloud = Identity(site="lab", node="cloud", service="distributor")
        self.camera = Identity(site="lab", node="pi-01", service="camera")
        self.answers: list[Detections] = []
        self.statuses: list[ModelStatus] = []
        self.states: list[ServiceState] = []
        self._news = asyncio.Event()
        self._stack = AsyncExitStack()
        self._index = 0
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Site:
        self.bus = await self._stack.enter_async_context(
            Bus(
                self.broker.transport(),
                identity=self.cloud,
                settings=BusSettings(ephemeral=True, backoff_max_s=0.5),
            )
        )
        for topic, kept in (
            (DETECTIONS, self.answers),
            (topics.MODEL_STATUS, self.statuses),
            (topics.SERVICE_STATE, self.states),
        ):
            await self.bus.subscribe(topic.any(), self._keep(kept), deduplicate=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await self._stack.aclose()

    def _keep(self, kept: list[Any]) -> Callable[[Event[Any]], Any]:
        async def keep(event: Event[Any]) -> None:
            kept.append(event.payload)
            self._news.set()

        return keep

    async def start(self) -> None:
        """Start the detector and wait until it answers."""
        node = {
            "node": "pi-01",
            "broker": {"url": self.broker.url},
            "data_dir": str(self.folder / "edge"),
            "heartbeat_s": 1,
        }
        settings = {"bundle": str(self.bundles[1].path), "engine": {"threads": 1}}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _RUN, json.dumps([node, settings])
        )
        await self.answer()

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End the detector and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return await self.process.wait()

    async def until(self, look: Callable[[], Any]) -> Any:
        """Wait until something that was heard fits."""
        async with asyncio.timeout(30):
            while not (found := look()):
                self._news.clear()
                await self._news.wait()
            return found

    async def answer(self) -> Detections:
        """Send frames until one sent from now on is answered."""
        first = self._index
        async with asyncio.timeout(30):
            while True:
                await self._film()
                try:
                    async with asyncio.timeout(0.1):
                        found = await self.until(
                            lambda: [a for a in self.answers if a.index >= first]
                        )
                except TimeoutError:
                    continue
                return found[0]

    async def _film(self) -> None:
        now = utc_now()
        record = FrameRecord(
            source=self.camera.source,
            camera="front",
            index=self._index,
            captured=now - timedelta(milliseconds=1),
            time=now,
            width=64,
            height=48,
        )
        self._index += 1
        frame = Frame.build(encode_jpeg(tiny_picture(), quality=98), record)
        await self.bus.publish(CAMERA_FRAME.at(self.camera, camera="front"), frame)

    def store(self) -> Store:
        """What the cloud has."""
        store = Store(self.folder / "cloud")
        for bundle in self.bundles.values():
            store.put_bundle(bundle)
        return store

    async def release(self, version: int, sequence: int) -> None:
        """Release a version."""
        bundle = reference(self.store(), self.bundles[version].digest, provider=self.cloud)
        await self.bus.publish(
            topics.RELEASE.at(self.cloud, model="tiny", channel="stable"),
            Release(source=self.cloud.source, channel="stable", bundle=bundle, sequence=sequence),
        )

    def serving(self) -> asyncio.Task[None]:
        """The cloud serves blocks until cancelled."""
        provider = ArtifactProvider(self.bus, self.cloud, self.store())
        task = asyncio.create_task(provider.run())
        self._stack.callback(task.cancel)
        return task

    async def status(self, state: str, sequence: int) -> ModelStatus:
        """Wait for the edge's word on a release."""
        found = await self.until(
            lambda: [s for s in self.statuses if (s.state, s.sequence) == (state, sequence)]
        )
        return found[-1]


async def test_a_release_is_served_and_survives_a_kill(
    mosquitto_factory, tmp_path, bundles
) -> None:
    broker = mosquitto_factory()
    broker.start()
    async with Site(broker, tmp_path, bundles) as site:
        await site.start()
        assert site.answers[-1].model.version == 1
        assert all(a.captured <= a.sent <= a.received <= a.detected for a in site.answers)
        site.serving()
        await site.release(2, 1)
        done = await site.status("updated", 1)
        assert done.serving.digest == bundles[2].digest
        assert done.previous.version == 1
        assert (await site.answer()).model.version == 2
        await site.kill()
        await site.until(lambda: site.states and site.states[-1].state == "offline")
        await site.start()
        assert site.answers[-1].model.version == 2
        assert await site.kill(signal.SIGTERM) == 0
        await site.until(lambda: site.states and site.states[-1].state == "stopped")


async def test_a_kill_in_the_middle_of_a_delivery(mosquitto_factory, tmp_path, bundles) -> None:
    broker = mosquitto_factory()
    broker.start()
    async with Site(broker, tmp_path, bundles) as site:
        await site.start()
        await site.release(2, 1)  # nobody serves its blocks
        await site.until(lambda: [s for s in site.statuses if s.state == "downloading"])
        assert (await site.answer()).model.version == 1
        await site.kill()
        await site.start()
        assert site.answers[-1].model.version == 1
        site.serving()
        done = await site.status("updated", 1)
        assert done.serving.version == 2
        assert (await site.answer()).model.version == 2


async def test_a_broker_that_dies_only_pauses_it(mosquitto_factory, tmp_path, bundles) -> None:
    broker = mosquitto_factory()
    broker.start()
    async with Site(broker, tmp_path, bundles) as site:
        await site.start()
        broker.kill()
        site.statuses.clear()
        broker.start()
        assert (await site.answer()).model.version == 1
        # the new broker knows nothing; the edge tells it again
        await site.until(lambda: [s for s in site.statuses if s.serving])
        site.serving()
        await site.release(2, 1)
        await site.status("updated", 1)
        assert (await site.answer()).model.version == 2
