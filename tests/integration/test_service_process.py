"""Services as processes on a real Mosquitto: the guide's own, from its entry point."""

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import BrokerSettings, Bus, BusSettings, Event
from edgebus.contracts import (
    Identity,
    ModelRef,
    RawBytes,
    Reply,
    RetrainCommand,
    ServiceState,
    Topic,
    topics,
    utc_now,
)
from edgebus.lab.broker import EmbeddedBroker
from edgebus.mqtt import MqttTransport
from edgebus_detection.messages import DETECTIONS, Box, Detections
from program import EDGEBUS, clean_environment

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs/guides/write-a-service.md"
PERSONS = Topic("{node}/person-counter/{camera}/persons", RawBytes, qos=1, doc="As raw bytes.")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's package as pip would install it."""
    folder = tmp_path_factory.mktemp("site-packages")
    blocks = dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)^```', GUIDE.read_text(), re.M | re.S))
    (folder / "person_counter.py").write_text(blocks["person_counter.py"])
    entry = re.search(r"^person-counter = \"(.+)\"$", blocks["pyproject.toml"], re.M)
    assert entry is not None
    info = folder / "person_counter-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: person-counter\nVersion: 1.0.0\n")
    (info / "entry_points.txt").write_text(f"[edgebus.services]\nperson-counter = {entry[1]}\n")
    (folder / "pi-01.yaml").write_text(blocks["pi-01.yaml"])
    return folder


class Processes:
    """Starts `edgebus …` as processes; what still runs in the end is killed."""

    def __init__(self, package: Path, folder: Path, url: str) -> None:
        self.url = url
        self._package = package
        self._folder = folder
        self._running: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str, data: str = "data", **settings: Any) -> subprocess.Popen[str]:
        """Start the guide's service."""
        pairs = {"broker.url": self.url, "data_dir": self._folder / data} | {
            key.replace("__", "."): value for key, value in settings.items()
        }
        sets = [word for key, value in pairs.items() for word in ("--set", f"{key}={value}")]
        config = str(self._package / "pi-01.yaml")
        return self.edgebus("run", "person-counter", "--config", config, *sets, *arguments)

    def edgebus(self, *arguments: str) -> subprocess.Popen[str]:
        """Start any command."""
        environment = clean_environment()
        environment["PYTHONPATH"] += f"{os.pathsep}{self._package}"
        process = subprocess.Popen(
            [*EDGEBUS, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.append(process)
        return process

    def kill_all(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


async def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = await asyncio.to_thread(process.communicate, timeout=30)
    return process.returncode, out, err


@pytest.fixture
def processes(package: Path, tmp_path: Path, mosquitto: Any) -> Any:
    made = Processes(package, tmp_path, mosquitto.url)
    yield made
    made.kill_all()


class Ear:
    """What was said of the service's state."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.states: list[ServiceState] = []
        self._news = asyncio.Condition()

    async def hear(self, event: Event[ServiceState]) -> None:
        async with self._news:
            self.states.append(event.payload)
            self._news.notify_all()

    async def wait(self, wanted: Callable[[ServiceState], bool]) -> ServiceState:
        async with asyncio.timeout(30), self._news:
            while True:
                for state in self.states:
                    if wanted(state):
                        return state
                await self._news.wait()

    async def state(self, name: str, *, after: int = 0) -> ServiceState:
        return await self.wait(lambda s: s.state == name and s.session > after)


@asynccontextmanager
async def listening(mosquitto: Any, node: str) -> AsyncIterator[Ear]:
    """A bus of the test's own, and an ear on the states of one node."""
    identity = Identity(site="lab", node=node, service="test")
    settings = BusSettings(ephemeral=True)
    async with Bus(mosquitto.transport(), identity=identity, settings=settings) as bus:
        ear = Ear(bus)
        await bus.subscribe(topics.SERVICE_STATE.any(node=node), ear.hear)
        yield ear


def detections(node: str, persons: int) -> Detections:
    now = utc_now()
    return Detections(
        source=f"lab/{node}/detector",
        frame="0",
        camera="front",
        index=0,
        width=640,
        height=480,
        boxes=(Box(label="person", x1=0, y1=0, x2=9, y2=9, score=0.9),) * persons,
        model=ModelRef(name="yolox", version=1, digest="0" * 64),
        captured=now,
        sent=now,
        received=now,
        detected=now,
    )


async def test_the_guides_service_runs_and_stops(mosquitto: Any, processes: Processes) -> None:
    async with listening(mosquitto, "pi-a") as ear:
        counts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def take(event: Event[RawBytes]) -> None:
            counts.put_nowait(json.loads(event.payload.data))

        await ear.bus.subscribe(PERSONS.any(node="pi-a"), take)
        process = processes.run(node="pi-a")
        born = await ear.state("ready")
        assert born.version == "1.0.0"
        assert born.pid == process.pid
        detector = Identity(site="lab", node="pi-a", service="detector")
        await ear.bus.publish(DETECTIONS.at(detector, camera="front"), detections("pi-a", 2))
        count = await asyncio.wait_for(counts.get(), 10)
        assert (count["persons"], count["camera"]) == (2, "front")
        assert count["source"] == "lab/pi-a/person-counter"
        process.send_signal(signal.SIGTERM)
        code, _, log = await ended(process)
        assert code == 0
        assert [state.state for state in ear.states if state.instance == born.instance][-3:] == [
            "ready",
            "draining",
            "stopped",
        ]
        events = [json.loads(line)["event"] for line in log.splitlines()]
        assert [e for e in events if e in ("ready", "draining", "stopped")] == [
            "ready",
            "draining",
            "stopped",
        ]


async def test_a_killed_one_is_offline_and_comes_back_at_once(
    mosquitto: Any, processes: Processes
) -> None:
    async with listening(mosquitto, "pi-b") as ear:
        first = processes.run(node="pi-b", heartbeat_s=60)
        born = await ear.state("ready")
        first.kill()
        will = await ear.state("offline")
        assert (will.session, will.instance) == (born.session, born.instance)
        processes.run(node="pi-b", heartbeat_s=60)
        again = await ear.state("ready", after=born.session)
        assert again.instance != born.instance


async def test_a_second_one_goes_and_the_first_stays(mosquitto: Any, processes: Processes) -> None:
    async with listening(mosquitto, "pi-c") as ear:
        first = processes.run(node="pi-c", heartbeat_s=0.2)
        born = await ear.state("ready")
        # The same data folder: known at once.
        code, _, log = await ended(processes.run(node="pi-c"))
        assert code == 3
        assert f"process {first.pid} holds" in log
        # Another folder, as on another host: known from the bus.
        code, _, log = await ended(processes.run(node="pi-c", data="other", heartbeat_s=0.2))
        assert code == 3
        assert f"lab/pi-c/person-counter already runs (process {first.pid} on" in log
        assert first.poll() is None
        assert {state.instance for state in ear.states} == {born.instance}
        assert {state.state for state in ear.states} <= {"starting", "ready"}


async def test_a_broker_that_comes_later_is_waited_for(
    package: Path, tmp_path: Path, mosquitto_factory: Any
) -> None:
    broker = mosquitto_factory()
    processes = Processes(package, tmp_path, broker.url)
    try:
        process = processes.run(node="pi-d")
        assert process.stderr is not None
        line = await asyncio.to_thread(process.stderr.readline)
        assert "no connection, trying on" in line
        broker.start()
        async with listening(broker, "pi-d") as ear:
            await ear.state("ready")
        process.send_signal(signal.SIGTERM)
        assert (await ended(process))[0] == 0
    finally:
        processes.kill_all()


async def test_sigterm_while_waiting_for_the_broker(
    package: Path, tmp_path: Path, free_port: int
) -> None:
    processes = Processes(package, tmp_path, f"mqtt://127.0.0.1:{free_port}")
    try:
        process = processes.run(node="pi-e")
        assert process.stderr is not None
        await asyncio.to_thread(process.stderr.readline)
        process.send_signal(signal.SIGTERM)
        assert (await ended(process))[0] == 0
    finally:
        processes.kill_all()


async def test_wrong_settings_are_told_before_anything_starts(processes: Processes) -> None:
    code, out, err = await ended(processes.run(**{"person-counter__min_scor": "0.1"}))
    assert code == 2
    assert out == ""
    assert err == (
        "edgebus: person-counter.min_scor (command line): unknown key; did you mean min_score?\n"
    )


async def test_topics_watch_shows_what_is_said(mosquitto: Any, processes: Processes) -> None:
    async with listening(mosquitto, "pi-f") as ear:
        state = ServiceState(
            source="lab/pi-f/test",
            state="ready",
            session=1,
            instance="i",
            since=utc_now(),
            version="1",
        )
        await ear.bus.publish(topics.SERVICE_STATE.at(ear.bus.identity), state)
        name = "edgebus/lab/pi-f/+/state"
        watch = ["topics", "watch", name, "--broker", mosquitto.url, "-n", "1"]
        code, out, err = await ended(processes.edgebus(*watch, "--json"))
        assert (code, err) == (0, "")
        body = json.loads(out)
        assert body["topic"] == "edgebus/lab/pi-f/test/state"
        assert body["retained"] is True
        assert body["payload"]["id"] == state.id
        code, out, _ = await ended(processes.edgebus(*watch))
        assert code == 0
        assert "edgebus/lab/pi-f/test/state (retained) state/1 state=ready" in out
        code, out, _ = await ended(processes.edgebus(*watch, "--raw"))
        assert ServiceState.decode(out.strip().encode()) == state
        silent = ["topics", "watch", "else/#", "--broker", mosquitto.url, "--for", "0.1"]
        assert (await ended(processes.edgebus(*silent)))[:2] == (0, "")


async def test_a_command_finds_its_service_and_hears_yes_and_no(
    mosquitto: Any, processes: Processes
) -> None:
    retrainer = Identity(site="plant", node="gpu", service="retrainer")
    ask = ["retrain", "--broker", mosquitto.url, "--set", "site=plant", "--timeout", "5"]
    code, _, err = await ended(processes.edgebus(*ask))
    assert code == 1
    assert "no retrainer is ready at site plant" in err
    asked = 0
    async with Bus(
        mosquitto.transport(), identity=retrainer, settings=BusSettings(ephemeral=True)
    ) as bus:

        async def answer(event: Event[RetrainCommand]) -> None:
            nonlocal asked
            asked += 1
            reply = Reply(
                source=retrainer.source,
                request=event.payload.id,
                ok=asked == 1,
                detail="job 7 started" if asked == 1 else "job 7 runs already",
            )
            await bus.reply(event, reply)

        await bus.subscribe(topics.CMD_RETRAIN.any(site="plant", node="gpu"), answer)
        state = ServiceState(
            source=retrainer.source,
            state="ready",
            session=1,
            instance="i",
            since=utc_now(),
            version="1",
        )
        address = topics.SERVICE_STATE.at(retrainer)
        await bus.publish(address, state)
        code, out, _ = await ended(processes.edgebus(*ask))
        assert (code, out) == (0, "job 7 started\n")
        code, out, err = await ended(processes.edgebus(*ask))
        assert (code, out) == (1, "")
        assert err == "edgebus: retrainer on gpu refuses: job 7 runs already\n"
        await bus.clear(address)


class Embedded:
    """The embedded broker, with the face of the Mosquitto fixture."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.url = broker.url

    def transport(self) -> MqttTransport:
        return MqttTransport(BrokerSettings(url=self.url, version="3.1.1"))


async def test_the_same_life_on_the_embedded_broker(package: Path, tmp_path: Path) -> None:
    """MQTT 3.1.1: a will, a second process, a broker that is killed and comes back."""
    async with EmbeddedBroker(tmp_path / "broker") as broker:
        embedded = Embedded(broker)
        processes = Processes(package, tmp_path, broker.url)
        life = {"node": "pi-n", "heartbeat_s": 0.2, "broker__version": "3.1.1"}
        try:
            async with listening(embedded, "pi-n") as ear:
                killed = processes.run(**life)
                born = await ear.state("ready")
                killed.kill()
                assert (await ear.state("offline")).session == born.session
                process = processes.run(**life)
                again = await ear.state("ready", after=born.session)
                code, _, log = await ended(processes.run(data="other", **life))
                assert code == 3
                assert "already runs" in log
                await broker.kill()
                await broker.start()
                back = await ear.state("ready", after=again.session)
                assert back.instance == again.instance
                process.send_signal(signal.SIGTERM)
                assert (await ended(process))[0] == 0
                await ear.wait(lambda s: s.state == "stopped" and s.instance == again.instance)
        finally:
            processes.kill_all()
