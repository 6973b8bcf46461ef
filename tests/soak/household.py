"""A small site with all of its services as processes of their own, and a test as camera and person.

One edge with a detector and a collector, and a host with a retrainer and a distributor, on a
Mosquitto. The test films, publishes model versions, and hears everything.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from edgebus.artifacts import Bundle, Store
from edgebus.bus import BrokerSettings, Bus, BusError, BusSettings, Event
from edgebus.contracts import (
    Identity,
    ModelListCommand,
    ModelStatus,
    PublishCommand,
    ServiceState,
    topics,
    utc_now,
)
from edgebus.lab.process import dying_with_parent
from edgebus.mqtt import MqttTransport
from edgebus.transfer import ArtifactProvider, reference
from edgebus_detection.messages import (
    CAMERA_FRAME,
    DETECTIONS,
    SAMPLES,
    Detections,
    Frame,
    FrameRecord,
    Sample,
)
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg

__all__ = ["SERVICES", "Household", "Member"]

MODEL = "tiny"
EDGE, HOST = "pi-01", "gpu-01"
SERVICES = {"detector": EDGE, "collector": EDGE, "retrainer": HOST, "distributor": HOST}
_RUN = """
import sys
from contextlib import ExitStack
offset = float(sys.argv.pop(1))
with ExitStack() as stack:
    if offset:
        from tests.soak.virtual import Wall, wall_clock
        stack.enter_context(wall_clock(Wall())).offset_s = offset
    from edgebus.cli import main
    main()
"""
_PATIENCE_S = 120.0
_ROOT = Path(__file__).parents[2]


class Member:
    """One service of the household, as a process that can be killed and started again."""

    def __init__(self, name: str, *, folder: Path, url: str, settings: dict[str, Any]) -> None:
        self.name = name
        self.node = SERVICES[name]
        self.data = folder / "data" / self.node / name
        self.log = folder / f"{name}.log"
        self.clock_s = 0.0
        self.starts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._config = folder / f"{name}.yaml"
        node = {
            "site": "soak",
            "node": self.node,
            "data_dir": str(folder / "data" / self.node),
            "broker": {"url": url, "keepalive_s": 5},
            "bus": {"backoff_max_s": 1.0},
            "heartbeat_s": 1,
            "log": {"format": "json"},
        }
        self._config.write_text(json.dumps(node | {name: settings}))

    @property
    def pid(self) -> int:
        """Of the process that lives."""
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code of the last process; None while it lives."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start a process."""
        self.starts += 1
        path = [str(_ROOT), *(str(_ROOT / part) for part in ("services", "workloads")), *sys.path]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *dying_with_parent(sys.executable, "-c", _RUN, str(self.clock_s)),
                *("run", self.name, "-c", str(self._config)),
                stdout=log,
                stderr=log,
                env={"PYTHONPATH": ":".join(filter(None, path)), "OMP_NUM_THREADS": "1"},
            )

    def send(self, number: int) -> None:
        """Send the process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self, number: int = signal.SIGKILL) -> int:
        """End the process; its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await asyncio.wait_for(self._process.wait(), _PATIENCE_S)

    def lines(self, text: str) -> list[str]:
        """Lines of its log with a text in them."""
        return [line for line in self.log.read_text(errors="replace").split("\n") if text in line]


class Household:
    """All services, and the test among them.

    Args:
        folder: Where everything lies.
        broker: How to reach the broker.
        more: Further settings, by service.

    Attributes:
        members: The services, by name.
        states: The last state of each.
        answered: Frames that the detector answered, by index.
        sampled: Ids of the samples that passed the broker.
        status: What the edge last said of its model.
    """

    def __init__(
        self,
        folder: Path,
        broker: BrokerSettings,
        *,
        more: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self.states: dict[str, ServiceState] = {}
        self.answered: dict[int, str] = {}
        self.sampled: set[str] = set()
        self.status: ModelStatus | None = None
        self.filmed = 0
        self.version = 1
        self._broker = broker
        self._stack = AsyncExitStack()
        self._news = asyncio.Event()
        first = tiny_bundle(folder / "v1", name=MODEL)
        settings: dict[str, dict[str, Any]] = {
            "detector": {"bundle": str(first.path), "engine": {"threads": 1}},
            "collector": {
                "audit_share": 1.0,
                "duplicate_distance": -1,
                "budget": {"samples_per_minute": 100_000.0, "bytes_per_hour": 1e12},
            },
            "retrainer": {"bundle": str(first.path), "trigger": {"min_samples": 100_000}},
            "distributor": {"publish": [str(first.path)], "fetch_timeout_s": 20.0},
        }
        self.members = {
            name: Member(
                name, folder=folder, url=broker.url, settings=own | (more or {}).get(name, {})
            )
            for name, own in settings.items()
        }

    async def __aenter__(self) -> Self:
        person = Identity(site="soak", node="laptop", service="cli")
        self.person = person
        settings = BusSettings(ephemeral=True, backoff_max_s=0.5)
        bus = Bus(MqttTransport(self._broker), identity=person, settings=settings)
        self.bus = await self._stack.enter_async_context(bus)
        self._store = Store(self.folder / "laptop")
        provider = ArtifactProvider(self.bus, person, self._store, settle=0.02)
        serving = asyncio.create_task(provider.run(), name="provider")
        self._stack.callback(serving.cancel)
        await self.bus.subscribe(topics.SERVICE_STATE.any(site="soak"), self._on_state)
        await self.bus.subscribe(topics.MODEL_STATUS.any(site="soak"), self._on_status)
        await self.bus.subscribe(DETECTIONS.any(site="soak"), self._on_answer)
        await self.bus.subscribe(SAMPLES.any(site="soak"), self._on_sample)
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members.values():
            if member.starts and member.code is None:
                await member.kill()
        await self._stack.aclose()

    async def start(self) -> None:
        """Start everybody, and wait until all are ready."""
        for member in self.members.values():
            await member.start()
        for name in self.members:
            await self.ready(name)

    async def ready(self, name: str, *, patience_s: float = _PATIENCE_S) -> ServiceState:
        """Wait until a service's present process is ready or degraded."""
        member = self.members[name]

        def lives() -> ServiceState | None:
            state = self.states.get(name)
            alive = state is not None and state.state in ("ready", "degraded")
            return state if alive and state and state.pid == member.pid else None

        state: ServiceState = await self.until(lives, f"{name} is ready", patience_s=patience_s)
        return state

    async def until(self, look: Any, what: str, *, patience_s: float = _PATIENCE_S) -> Any:
        """Wait until something fits that was heard.

        Raises:
            AssertionError: It does not.
        """
        try:
            async with asyncio.timeout(patience_s):
                while not (found := look()):
                    self._news.clear()
                    with_news = asyncio.create_task(self._news.wait())
                    await asyncio.wait([with_news], timeout=0.5)
                    with_news.cancel()
                return found
        except TimeoutError:
            said = {name: f"{one.state} {one.reason}" for name, one in self.states.items()}
            raise AssertionError(f"not within {patience_s:g} s: {what}; {said}") from None

    async def film(self, *, every_s: float) -> None:
        """Publish frames, for ever."""
        camera = Identity(site="soak", node=EDGE, service="camera")
        while True:
            self.filmed += 1
            row, column = self.filmed % 6, self.filmed % 8
            record = FrameRecord(
                source=camera.source,
                camera="front",
                index=self.filmed,
                captured=utc_now(),
                width=64,
                height=48,
            )
            data = encode_jpeg(tiny_picture(red=(row, column)))
            frame = Frame.build(data, record)
            await self.bus.publish(CAMERA_FRAME.at(camera, camera="front"), frame)
            await asyncio.sleep(every_s)

    async def answers(self) -> None:
        """Wait until a frame that is filmed from now on is answered."""
        first = self.filmed + 1
        await self.until(lambda: any(n >= first for n in self.answered), "an answer")

    async def publish(self) -> str:
        """Publish the next version of the model as a person does; what the distributor says."""
        self.version += 1
        number = self.version
        bundle = tiny_bundle(
            self.folder / f"v{number}", name=MODEL, version=number, gain=0.2 + number / 1000
        )
        self._store.put_bundle(bundle)
        ref = reference(self._store, bundle.digest, provider=self.person)
        order = PublishCommand(bundle=ref)
        address = topics.CMD_PUBLISH.at(self.identity("distributor"))
        try:
            reply = await self.bus.request(address, order, timeout=10.0)
        except BusError as error:
            return f"{type(error).__name__}"
        return "ok" if reply.ok else reply.detail

    async def versions(self) -> list[int]:
        """The versions that the distributor has, oldest first."""
        address = topics.CMD_MODELS.at(self.identity("distributor"))
        reply = await self.bus.request(address, ModelListCommand(), timeout=_PATIENCE_S)
        return sorted(entry.bundle.model.version for entry in reply.models)

    def identity(self, name: str) -> Identity:
        """Of a service."""
        return Identity(site="soak", node=SERVICES[name], service=name)

    def bundle(self, number: int) -> Bundle:
        """A version that was published."""
        return Bundle.open(self.folder / f"v{number}")

    async def _on_state(self, event: Event[ServiceState]) -> None:
        self.states[event.names["service"]] = event.payload
        self._news.set()

    async def _on_status(self, event: Event[ModelStatus]) -> None:
        self.status = event.payload
        self._news.set()

    async def _on_answer(self, event: Event[Detections]) -> None:
        self.answered[event.payload.index] = event.payload.model.digest
        self._news.set()

    async def _on_sample(self, event: Event[Sample]) -> None:
        self.sampled.add(event.payload.record.id)
