"""One round of the loop: how many bytes go up, and how long it takes beside the training.

*Upload*: a camera, a detector and a collector as processes of their own; what the collector's
connection carries to a Mosquitto is counted between the two, until 50 samples are there.

*Rounds*: a retrainer, a distributor and five detectors as processes, on one Mosquitto. Samples of a
street at dusk come in as a collector sends them; the last one that is needed starts the clock, and
the last detector that says it serves the new digest stops it. The training itself is taken off.
In every second round the last sample comes at once behind the others, so that the job's process has
not started yet; in the others five seconds later. After each round the first version is released
again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import yaml

import edgebus_detection.lab
from benchmarks._learning_round_report import EDGES, PACES, SAMPLES, LoopRound, Upload
from edgebus.artifacts import Bundle
from edgebus.bus import Bus, BusSettings
from edgebus.contracts import Identity, RollbackCommand, new_id, topics, utc_now
from edgebus.lab import Lab, Round, RunState
from edgebus.mqtt import MqttTransport
from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources import StreetSource
from edgebus_camera.view import View
from edgebus_detection.emulation.drift import DriftStep
from edgebus_detection.emulation.street import Scene
from edgebus_detection.messages import SAMPLES as SAMPLE_TOPIC
from edgebus_detection.messages import Sample, SampleRecord
from edgebus_detection.models import import_onnx
from tests.soak.brokers import Mosquitto

__all__ = ["measure_rounds", "measure_uploads"]

_SITE = "round"
_STREET = Path(edgebus_detection.lab.__file__).parent / "assets" / "street-day"
_DEADLINE_S = 180.0
_HELD_OUT = 16


class _Tap:
    """Stands between a client and a broker and counts what goes up."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.up = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection("127.0.0.1", self._target)

        async def move(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool
        ) -> None:
            while data := await source.read(65536):
                self.up += len(data) if counted else 0
                sink.write(data)
                await sink.drain()
            sink.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(move(reader, to_broker, counted=True))
            group.create_task(move(from_broker, writer, counted=False))


class _World:
    """Services as processes on one broker, and what is heard of them."""

    def __init__(self, folder: Path, broker: Mosquitto, bus: Bus, state: RunState) -> None:
        self.folder, self.broker, self.bus, self.state = folder, broker, bus, state
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(
        self, node: str, services: dict[str, Any], *, port: dict[str, int] | None = None
    ) -> None:
        """Start the services of a node, each in a process; returns at once."""
        for service, settings in services.items():
            url = f"mqtt://127.0.0.1:{(port or {}).get(service, self.broker.port)}"
            config = {
                "site": _SITE,
                "node": node,
                "broker": {"url": url, "version": "5"},
                "data_dir": str(self.folder / node),
                "heartbeat_s": 2,
                service: settings,
            }
            file = self.folder / f"{node}-{service}.yaml"
            file.write_text(yaml.safe_dump(config))
            log = (self.folder / f"{node}-{service}.log").open("wb")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edgebus.cli", "run", service, "--config", str(file),
                stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            log.close()
            self._processes[f"{node}-{service}"] = process

    async def until(self, look: Callable[[], bool], what: str) -> float:
        """Wait for something that is heard; when it was, on the steady clock."""
        began = time.monotonic()
        while not look():
            ended = [name for name, p in self._processes.items() if p.returncode is not None]
            if ended or time.monotonic() - began > _DEADLINE_S:
                waits = self.state.store and self.state.store.trigger
                logs = [(self.folder / f"{name}.log").read_text()[-500:] for name in ended]
                raise RuntimeError(f"no {what}; {waits}; ended: {ended} {logs}")
            await asyncio.sleep(0.002)
        return time.monotonic()

    async def stop(self) -> None:
        """End what was started."""
        for process in self._processes.values():
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(process.wait() for process in self._processes.values()))


@asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[_World]:
    lab = Lab()
    identity = Identity(site=_SITE, node="street", service="collector")
    async with Mosquitto(folder / "broker", persistence=False) as broker:
        settings = broker.settings(max_packet_bytes=8 * 2**20)
        async with Bus(
            MqttTransport(settings), identity=identity, settings=BusSettings(ephemeral=True)
        ) as bus:
            await bus.connected(10)
            await lab.observe(bus, site=_SITE)
            world = _World(folder, broker, bus, lab.state)
            try:
                yield world
            finally:
                await world.stop()


# Bytes.


async def _upload(script: str, source: dict[str, Any], bundle: Path, folder: Path) -> Upload:
    found: list[Sample] = []
    async with _world(folder) as world, _Tap(world.broker.port) as tap:

        async def hear(event: Any) -> None:
            found.append(event.payload)

        await world.bus.subscribe(SAMPLE_TOPIC.any(site=_SITE), hear, name="counted")
        services = {
            "collector": {
                "receiver": None,
                "audit_share": 1.0,
                "holdout_share": 1.0,
                "duplicate_distance": -1,
                "budget": {"samples_per_minute": 6000},
            },
            "detector": {"bundle": str(bundle), "engine": {"threads": 1}},
        }
        await world.start("edge", services, port={"collector": tap.port})
        ready = world.state.services
        await world.until(
            lambda: all(
                f"edge/{name}" in ready and ready[f"edge/{name}"][-1].state == "ready"
                for name in services
            ),
            "edge that is ready",
        )
        camera = {"cameras": {"one": {"height": 224, "fps": 10, **source}}}
        await world.start("edge", {"camera": camera})
        await world.until(lambda: len(found) >= SAMPLES, f"{SAMPLES} samples")
        wire, counted = tap.up, found[:SAMPLES]
    return Upload(
        script=script,
        width=counted[0].record.width,
        height=counted[0].record.height,
        samples=len(counted),
        wire=wire,
        payload=sum(len(sample.encode()) for sample in counted),
        records=sum(len(sample.record.encode()) for sample in counted),
    )


def measure_uploads(data: Path | None) -> list[Upload]:
    """Bytes for 50 samples of 224 px: the street, and real recordings where they are there."""
    dusk = {"effect": "dusk", "start_s": 0, "ramp_s": 1, "to": 0.8}
    with tempfile.TemporaryDirectory(prefix="edgebus-round-") as work:
        scripts: list[tuple[str, dict[str, Any], Path]] = [
            ("street, day", {"source": "scene", "seed": 21}, _STREET),
            ("street, dusk", {"source": "scene", "seed": 21, "drift": [dusk]}, _STREET),
        ]
        if data is not None:
            nano = Path(work) / "nano"
            import_onnx(data / "models" / "yolox_nano_416.onnx", name="yolox-nano", out=nano)
            night: dict[str, Any] = {"classes": ["person"]}
            pictures = data / "datasets" / "llvip-night" / "images"
            video = data / "videos" / "person-bicycle-car-detection.mp4"
            scripts += [
                ("LLVIP, visible", night | {"source": str(pictures / "visible")}, nano),
                (
                    "LLVIP, infrared",
                    night | {"source": str(pictures / "infrared")},
                    nano,
                ),
                ("car park", {"source": str(video), "stride": 3}, nano),
            ]
        return [
            asyncio.run(_upload(name, source, bundle, _made(Path(work) / f"world-{number}")))
            for number, (name, source, bundle) in enumerate(scripts)
        ]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# Seconds.


def _samples(bundle: Bundle, *, seed: int) -> Iterator[Sample]:
    """Samples of a street at dusk, without end; each captured when it is asked for."""
    fps = 2.0
    step = DriftStep(effect="dusk", start_s=0, ramp_s=0.1, to=0.8)
    view = View(ViewSettings(source="scene", seed=seed, fps=fps, drift=(step,)))
    source = StreetSource(Scene(seed=700 + seed, width=298, height=224, fps=fps))
    for slot in range(1, 10_000):
        shot = view.encode(source.read(slot), time_s=slot)
        now = utc_now()
        record = SampleRecord(
            id=new_id(), time=now, source=f"{_SITE}/street/collector", width=shot.width,
            height=shot.height, input=new_id(), stream="one", index=slot, captured=now,
            split="train", policy="truth", reason="missed some", score=0.8, model=bundle.ref,
            detections=(), truth=shot.boxes or (),
        )  # fmt: skip
        yield Sample.build(shot.jpeg, record)


async def _send(world: _World, sample: Sample, *, split: str) -> float:
    now = utc_now()
    record = sample.record.model_copy(update={"split": split, "captured": now, "time": now})
    address = SAMPLE_TOPIC.at(world.bus.identity)
    began = time.monotonic()
    await world.bus.publish(address, Sample.build(sample.jpeg, record))
    return began


async def _round(world: _World, samples: Iterator[Sample], pace: str) -> LoopRound:
    state = world.state
    known = len(state.results)
    batch = [next(samples) for _ in range(SAMPLES + _HELD_OUT)]
    for number, sample in enumerate(batch[:-1]):
        # Held-out ones come in between, as from a camera.
        held_out = number and number % 4 == 0 and number // 4 <= _HELD_OUT
        await _send(world, sample, split="holdout" if held_out else "train")
    await world.until(
        lambda: state.store is not None and state.store.untrained == SAMPLES - 1,
        "all samples but one in the store",
    )
    await asyncio.sleep(PACES[pace])
    began = await _send(world, batch[-1], split="train")
    await world.until(lambda: len(state.results) > known, "result")
    result = list(state.results.values())[-1]
    if result.candidate is None:
        raise RuntimeError(f"the job was {result.outcome}: {result.reason}; see {world.folder}")
    digest = result.candidate.digest
    ended = await world.until(lambda: _serving(state, digest) == EDGES, "new version at all edges")
    (found,) = (one for one in state.rounds.all() if one.job == result.job)
    phases = ("preparing", "training", "evaluating", "publishing")
    return LoopRound(
        pace=pace,
        whole_s=ended - began,
        training_s=result.seconds["training"],
        job_s=sum(result.seconds[phase] for phase in phases),
        stages=_of_path(found, lambda stage: stage.seconds),
        told=_of_path(found, lambda stage: stage.measured_s),
    )


def _of_path(found: Round, value: Callable[[Any], float | None]) -> dict[str, float]:
    """Of each stage from the last needed sample on."""
    path = [stage for stage in found.path() if stage.name not in ("collecting", "choosing")]
    return {stage.name: v for stage in path if (v := value(stage)) is not None}


def _serving(state: RunState, digest: str) -> int:
    return sum(
        edge.now.serving is not None and edge.now.serving.digest == digest
        for edge in state.edges.values()
    )


async def _rounds(count: int, folder: Path, say: Callable[[str], None]) -> list[LoopRound]:
    first = Bundle.open(_STREET)
    day = folder / "day"
    exporting = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgebus_camera", "export", "--out", str(day), "--seed", "900",
        "--cameras", "4", "--frames", "20", "--every", "24", "--fps", "8",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if await exporting.wait() != 0:
        raise RuntimeError("edgebus_camera export failed")
    async with _world(folder) as world:
        street = str(_STREET)
        await world.start(
            "cloud",
            {
                "distributor": {"publish": [street]},
                "retrainer": {
                    "model": "street",
                    "bundle": street,
                    "replay": str(day),
                    "new_domain": "everything",
                    "trigger": {"min_samples": SAMPLES},
                    "train": {"steps": 10, "learning_rate": 0.03, "threads": 1},
                    # What is measured is the way, not the model: any gain will do.
                    "gate": {
                        "require_significant_gain": False, "min_items": 5, "tolerance": 1.0,
                        "group_tolerance": 1.0, "max_slowdown": None,
                    },
                    "options": {"leak_distance": -1},
                },
            },
        )  # fmt: skip
        for number in range(EDGES):
            detector = {"bundle": street, "engine": {"threads": 1}}
            await world.start(f"edge-{number + 1}", {"detector": detector})
        await world.until(
            lambda: _serving(world.state, first.digest) == EDGES and world.state.store is not None,
            "five edges on the first version",
        )
        rounds: list[LoopRound] = []
        samples = _samples(first, seed=1)
        for number in range(count):
            for pace in PACES:
                rounds.append(await _round(world, samples, pace))
                seconds = rounds[-1].overhead_s
                say(f"round {number + 1}, {pace}: {seconds:.2f} s beside the training")
                await _back(world, first)
        return rounds


async def _back(world: _World, first: Bundle) -> None:
    """Release the first version again, and wait until the retrainer trains that further."""
    cloud = Identity(site=_SITE, node="cloud", service="distributor")
    order = RollbackCommand(source=world.bus.identity.source, model="street", version=1)
    answer = await world.bus.request(topics.CMD_ROLLBACK.at(cloud), order, timeout=20)
    if not answer.ok:
        raise RuntimeError(f"rollback refused: {answer.detail}")
    await world.until(
        lambda: _serving(world.state, first.digest) == EDGES, "first version at all edges"
    )
    # The job's process and the edges' loading are over; what follows is not to wait for them.
    await asyncio.sleep(2)


def measure_rounds(count: int, *, say: Callable[[str], None]) -> list[LoopRound]:
    """So many rounds of each pace, one after the other."""
    with tempfile.TemporaryDirectory(prefix="edgebus-round-") as work:
        return asyncio.run(_rounds(count, Path(work), say))
