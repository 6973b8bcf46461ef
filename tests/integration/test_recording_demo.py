"""A recording of the demo: opens with the plain MCAP library, replays, gives the same detections.

The demo's own camera and detector, with dusk falling early, run under `edgebus up`; `edgebus
record` listens at their broker. Replayed into another broker, a detector that has seen nothing of
it says the same of every frame.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from mcap.reader import make_reader

from edgebus.bus import BrokerSettings, Bus, BusSettings, Event
from edgebus.contracts import Identity, ServiceState, topics
from edgebus.mqtt import MqttTransport
from edgebus.service import NodeSettings, Runtime
from edgebus.serving import EngineSettings
from edgebus_detection.messages import DETECTIONS, Detections, Frame
from edgebus_detector import Detector, DetectorSettings
from program import start_edgebus

MODEL = Path(str(resources.files("edgebus_detection.lab"))) / "assets" / "street-day"
FRAMES = 32
THRESHOLD = 0.05
TOPOLOGY = """\
name: recorded
site: demo
broker: {embedded: true}
environment: {OMP_NUM_THREADS: "1", OPENBLAS_NUM_THREADS: "1"}
nodes:
  edge-1:
    camera:
      cameras:
        north:
          source: scene
          seed: 21
          fps: 8
          start_at: "{start}"
          drift: [{effect: dusk, start_s: 2, ramp_s: 2, to: 0.8}]
    detector: {bundle: "{assets}/street-day", threshold: 0.05, engine: {threads: 1}}
"""


async def program(*arguments: str, folder: Path) -> asyncio.subprocess.Process:
    """`edgebus …`, running."""
    return await start_edgebus(*arguments, cwd=folder, stderr=subprocess.STDOUT)


async def lines_until(process: asyncio.subprocess.Process, pattern: str) -> str:
    """What a pattern's group matches in the output, once it does."""
    said = ""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while line := await process.stdout.readline():
            said += line.decode()
            if match := re.search(pattern, line.decode()):
                return match[1]
    raise AssertionError(f"ended without {pattern!r}:\n{said}")


async def end(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Ctrl-C, and what it said."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode()


async def record_the_demo(path: Path, folder: Path) -> dict[str, Detections]:
    """Record until enough frames are answered; what was said of each frame, by its id."""
    (folder / "topology.yaml").write_text(TOPOLOGY)
    up = await program(
        *("up", "topology.yaml", "--plain", "--out", "runs", "--seconds", "120"), folder=folder
    )
    said: dict[str, Detections] = {}
    enough = asyncio.Event()

    async def see(event: Event[Detections]) -> None:
        said[event.payload.frame] = event.payload
        if len(said) >= FRAMES:
            enough.set()

    try:
        url = await lines_until(up, r"broker (mqtt://\S+:\d+)")
        draining = asyncio.create_task(up.communicate())
        recorder = await program("record", str(path), "--broker", url, folder=folder)
        async with listener(url) as bus:
            await bus.subscribe(DETECTIONS.any(), see)
            await asyncio.wait_for(enough.wait(), 60)
        code, out = await end(recorder)
        assert (code, "messages on" in out) == (0, True), out
    finally:
        with suppress(ProcessLookupError):
            up.send_signal(signal.SIGINT)
        await asyncio.wait_for(draining, 60)
    return said


def listener(url: str) -> Bus:
    transport = MqttTransport(BrokerSettings(url=url))
    identity = Identity(site="demo", node="test", service="test")
    return Bus(transport, identity=identity, settings=BusSettings(ephemeral=True))


def read_with_mcap(path: Path) -> tuple[Counter[str], dict[str, Detections], dict[str, bytes]]:
    """Topics, detections by frame and pictures by frame, without a line of our recording code."""
    counts: Counter[str] = Counter()
    said: dict[str, Detections] = {}
    pictures: dict[str, bytes] = {}
    with path.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None
        for schema, channel, message in reader.iter_messages():
            counts[channel.topic] += 1
            if channel.message_encoding == "json" and schema is not None:
                assert schema.encoding == "jsonschema"
                jsonschema.validate(json.loads(message.data), json.loads(schema.data))
            if schema is not None and schema.name == "foxglove.CompressedImage":
                assert (schema.encoding, channel.message_encoding) == ("protobuf", "protobuf")
                image = CompressedImage.FromString(message.data)
                assert image.format == "jpeg"
                pictures[Frame.decode(image.data).record.id] = image.data
            if channel.topic.endswith("/detections"):
                assert schema is not None
                assert schema.name == "detections/1"
                found = Detections.decode(message.data)
                said[found.frame] = found
        assert summary.statistics is not None
        assert summary.statistics.message_count == counts.total()
    return counts, said, pictures


async def test_a_recording_of_the_demo_gives_the_same_detections(
    mosquitto_factory: Any, tmp_path: Path
) -> None:
    path = tmp_path / "demo.mcap"
    live = await record_the_demo(path, tmp_path)

    counts, recorded, pictures = await asyncio.to_thread(read_with_mcap, path)
    base = "edgebus/demo/edge-1"
    assert counts[f"{base}/camera/north/frame"] == len(pictures) >= FRAMES - 2
    assert counts[f"{base}/camera/north/truth"] > 0
    assert counts[f"{base}/detector/model"] > 0
    assert counts[f"{base}/detector/state"] > 0
    # The recorder and this test heard the same.
    both = recorded.keys() & live.keys()
    assert len(both) > FRAMES / 2
    assert all(recorded[frame].boxes == live[frame].boxes for frame in both)
    # Day and dusk are in it: the answers differ, and there are some.
    answers = {tuple(item.boxes) for item in recorded.values()}
    assert len(answers) > FRAMES / 4

    again = await replay(path, recorded.keys() & pictures.keys(), mosquitto_factory(), tmp_path)
    assert len(again) > len(recorded) / 2  # a busy detector leaves frames out for newer ones
    for frame, found in again.items():
        assert found.boxes == recorded[frame].boxes
        assert found.model == recorded[frame].model
        assert found.index == recorded[frame].index


async def replay(path: Path, wanted: set[str], broker: Any, folder: Path) -> dict[str, Detections]:
    """Show the recorded frames to a fresh detector at a fresh broker; what it says of them."""
    broker.start()
    said: dict[str, Detections] = {}
    ready = asyncio.Event()

    async def see(event: Event[Detections]) -> None:
        if event.payload.frame in wanted:
            said[event.payload.frame] = event.payload

    async def state(event: Event[ServiceState]) -> None:
        if event.payload.state == "ready":
            ready.set()

    node = NodeSettings(site="demo", node="edge-1", data_dir=folder / "fresh")
    settings = DetectorSettings(bundle=MODEL, threshold=THRESHOLD, engine=EngineSettings(threads=1))
    runtime = Runtime(Detector, node=node, settings=settings, transport=broker.transport())
    stop = asyncio.Event()
    async with listener(broker.url) as bus:
        await bus.subscribe(topics.SERVICE_STATE.any(), state)
        await bus.subscribe(DETECTIONS.any(), see)
        life = asyncio.create_task(runtime.run(stop, look_first=False))
        try:
            await asyncio.wait_for(ready.wait(), 30)
            tool = await program(
                *("replay", str(path), "-f", "edgebus/+/+/camera/#", "--broker", broker.url),
                folder=folder,
            )
            out, _ = await asyncio.wait_for(tool.communicate(), 60)
            assert tool.returncode == 0, out.decode()
            assert "messages published" in out.decode()
        finally:
            stop.set()  # the detector answers what it has before it ends
            await life
    return said
