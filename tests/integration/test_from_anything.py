"""The guide for other people's clients: each block runs against a real broker and real services."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import Bus, BusSettings, Event
from edgebus.contracts import CaptureCommand, Identity, ModelRef, RawBytes, Reply, Topic, utc_now
from edgebus.contracts.topics import CMD_CAPTURE
from edgebus.service import NodeSettings, Service, ServiceSettings, command
from edgebus.service.runtime import Runtime
from edgebus_detection.messages import DETECTIONS, Box, Detections
from program import clean_environment
from tests.conftest import find_free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/guides/from-anything.md").read_text()
BLOCKS = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', PAGE, re.M | re.S)
SHELL = [text for language, _, text in BLOCKS if language == "sh"]
FILES = {title: text for _, title, text in BLOCKS if title}
FRAME = Topic("{node}/{service}/{camera}/frame", RawBytes, qos=0, doc="A frame, as bytes.")
JPEG = b"\xff\xd8\xff\xe0 not much of a picture \xff\xd9"
TIMEOUT_S = 60


class Collector(Service[ServiceSettings]):
    """Takes the command to capture."""

    name = "collector"

    @command(CMD_CAPTURE)
    async def capture(self, event: Event[CaptureCommand]) -> Reply:
        """Do it."""
        return Reply(ok=True, detail=f"captured {event.payload.stream}")


def detections() -> Detections:
    now = utc_now()
    return Detections(
        frame="f",
        camera="front",
        index=7,
        width=640,
        height=480,
        boxes=(Box(label="person", x1=1, y1=2, x2=30, y2=40, score=0.5),),
        model=ModelRef(name="street", version=1, digest="ab" * 32),
        captured=now,
        sent=now,
        received=now,
        detected=now,
    )


@pytest.fixture
async def port(mosquitto_factory: Callable[..., Any], tmp_path: Path) -> AsyncIterator[int]:
    """Port of a broker with a camera, a detector and a collector."""
    broker = mosquitto_factory()
    broker.start()
    async with AsyncExitStack() as stack:
        ends = asyncio.Event()
        runtime = Runtime(
            Collector,
            node=NodeSettings(site="lab", node="pi-01", data_dir=tmp_path),
            settings=ServiceSettings(),
            transport=broker.transport(),
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(runtime.run(ends, look_first=False))
        identity = Identity(site="lab", node="pi-01", service="detector")
        ephemeral = BusSettings(ephemeral=True)
        bus = await stack.enter_async_context(
            Bus(broker.transport(), identity=identity, settings=ephemeral)
        )

        async def film() -> None:
            while not ends.is_set():
                await bus.publish(DETECTIONS.at(identity, camera="front"), detections())
                await bus.publish(
                    FRAME.at(identity, service="camera", camera="front"), RawBytes(JPEG)
                )
                await asyncio.sleep(0.1)

        group.create_task(film())
        while runtime.presence.state != "ready":
            await asyncio.sleep(0.02)
        yield broker.port
        ends.set()


async def run(*words: str, folder: Path, until: str = "") -> str:
    """Output of a program: until its end, or until a line of it holds some words."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=folder,
        env=clean_environment() | {"NODE_PATH": node_path(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    seen = ""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while line := await process.stdout.readline():
                seen += line.decode()
                if until and until in line.decode():
                    return seen
            await process.wait()
    except TimeoutError:
        pytest.fail(f"{words} has printed: {seen}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert not until, f"{until!r} is not in: {seen}"
    return seen


def node_path() -> str:
    """Where packages of Node.js may be: installed for everybody, or where NODE_PATH says."""
    if not shutil.which("npm"):
        return ""
    root = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True, check=False)
    return os.pathsep.join(filter(None, [os.environ.get("NODE_PATH", ""), root.stdout.strip()]))


def at(port: int, text: str) -> str:
    """A block of the guide, for the broker of the test."""
    assert "1883" in text
    return text.replace("1883", str(port)).replace("localhost", "127.0.0.1")


async def test_the_shell_blocks(port: int, tmp_path: Path) -> None:
    found = [await run("sh", "-c", at(port, text), folder=tmp_path) for text in SHELL]
    detected, _, states, sent, answer, letters = found
    assert json.loads(detected)["boxes"][0]["label"] == "person"
    assert (tmp_path / "frame.jpg").read_bytes() == JPEG
    assert '"state":"ready"' in states
    assert sent == ""
    reply = json.loads(answer)
    assert (reply["ok"], reply["detail"]) == (True, "captured front")
    assert reply["source"] == "lab/pi-01/collector"
    assert "{" not in letters  # both commands were understood


async def test_a_command_that_is_none_leaves_a_letter(port: int, tmp_path: Path) -> None:
    wrong = SHELL[3].replace("stream", "streem")
    await run("sh", "-c", at(port, wrong), folder=tmp_path)
    letters = await run("sh", "-c", at(port, SHELL[-1]), folder=tmp_path)
    assert "stream: Field required" in letters


@pytest.mark.parametrize("file", [name for name in FILES if name.endswith(".py")])
async def test_the_python_blocks(port: int, tmp_path: Path, file: str) -> None:
    pytest.importorskip(file.partition("_")[0] if file.startswith("aiomqtt") else "paho.mqtt")
    (tmp_path / file).write_text(at(port, FILES[file]))
    await run(sys.executable, file, folder=tmp_path, until="front ['person']")


def package_of_node(name: str) -> Path:
    """Folder of an installed package of Node.js; skips where it is not there."""
    for root in filter(None, node_path().split(os.pathsep)):
        if (folder := Path(root) / name).is_dir():
            return folder
    pytest.skip(f"{name} is not installed: npm install -g {name}, or set NODE_PATH")


async def test_the_javascript_block(port: int, tmp_path: Path) -> None:
    package_of_node("mqtt")
    (tmp_path / "reader.js").write_text(at(port, FILES["reader.js"]))
    await run("node", "reader.js", folder=tmp_path, until="front [ 'person' ]")


async def test_the_flow_of_node_red(port: int, tmp_path: Path) -> None:
    program = package_of_node("node-red") / "red.js"
    (tmp_path / "flow.json").write_text(at(port, FILES["flow.json"]))
    editor = ["-u", str(tmp_path), "-p", str(find_free_port())]
    await run("node", str(program), *editor, "flow.json", folder=tmp_path, until="[ 'person' ]")
