"""`edgebus record`, `replay` and `topics stats` as programs, with a real broker and detector."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edgebus.bus import Bus, BusSettings, Event
from edgebus.contracts import Identity, Metrics, ServiceState, topics, utc_now
from edgebus.recording import Recording
from edgebus.service import NodeSettings, Runtime
from edgebus.serving import EngineSettings
from edgebus_detection.messages import CAMERA_FRAME, DETECTIONS, Detections, Frame, FrameRecord
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg
from edgebus_detector import Detector, DetectorSettings
from program import run_edgebus, start_edgebus

FRAMES = 12


class Program:
    """The program `edgebus`, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *arguments: str, prefix: tuple[str, ...] = ()) -> Program:
        return cls(await start_edgebus(*arguments, prefix=prefix))

    async def end(self) -> tuple[int, str, str]:
        out, err = await asyncio.wait_for(self.process.communicate(), 60)
        return self.process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def listener(mosquitto: Any, site: str) -> AsyncIterator[Bus]:
    identity = Identity(site=site, node="test", service="test")
    async with Bus(
        mosquitto.transport(), identity=identity, settings=BusSettings(ephemeral=True)
    ) as bus:
        yield bus


@asynccontextmanager
async def detector(mosquitto: Any, site: str, folder: Path, bundle: Path) -> AsyncIterator[None]:
    """A detector with a model of its own, ready."""
    node = NodeSettings(site=site, node="pi-01", data_dir=folder)
    settings = DetectorSettings(model="tiny", bundle=bundle, engine=EngineSettings(threads=1))
    runtime = Runtime(Detector, node=node, settings=settings, transport=mosquitto.transport())
    stop, ready = asyncio.Event(), asyncio.Event()

    async def see(event: Event[ServiceState]) -> None:
        if event.payload.state == "ready":
            ready.set()

    async with listener(mosquitto, site) as bus:
        await bus.subscribe(topics.SERVICE_STATE.any(site=site), see)
        life = asyncio.create_task(runtime.run(stop, look_first=False))
        try:
            await asyncio.wait_for(ready.wait(), 30)
            yield
        finally:
            stop.set()
            await life


def camera(site: str) -> Identity:
    return Identity(site=site, node="pi-01", service="camera")


def picture(site: str, index: int) -> Frame:
    record = FrameRecord(
        source=camera(site).source,
        camera="front",
        index=index,
        captured=utc_now(),
        width=64,
        height=48,
    )
    image = tiny_picture()
    image[:, : index * 2] = 0  # each frame hides a little more
    return Frame.build(encode_jpeg(image, quality=98), record)


async def until(path: Path, count: int) -> list[Any]:
    """The messages of a recording in progress, once there are as many."""
    async with asyncio.timeout(30):
        while True:
            found = list(Recording(path)) if path.exists() and path.stat().st_size else []
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)


async def film(bus: Bus, site: str, *, answers: asyncio.Queue[Detections]) -> dict[int, Any]:
    """Show frames one after the other; what the detector saw in each."""
    seen: dict[int, Any] = {}
    address = CAMERA_FRAME.at(camera(site), camera="front")
    for index in range(FRAMES):
        await bus.publish(address, picture(site, index))
        said = await asyncio.wait_for(answers.get(), 20)
        seen[said.index] = said.boxes
        await asyncio.sleep(0.05)  # the pace of the recording
    return seen


async def test_a_recording_replayed_gives_the_same_detections(
    mosquitto: Any, tmp_path: Path
) -> None:
    site = "rec-same"
    tiny_bundle(tmp_path / "bundle")
    path = tmp_path / "street.mcap"
    where = ("--broker", mosquitto.url)
    answers: asyncio.Queue[Detections] = asyncio.Queue()

    async def answer(event: Event[Detections]) -> None:
        answers.put_nowait(event.payload)

    async with listener(mosquitto, site) as bus:
        await bus.subscribe(DETECTIONS.any(site=site), answer)
        recorder = await Program.start("record", str(path), "-f", f"edgebus/{site}/#", *where)
        async with detector(mosquitto, site, tmp_path / "one", tmp_path / "bundle"):
            # The recorder has the detector's state: it listens.
            await until(path, 1)
            first = await film(bus, site, answers=answers)
            await until(path, 2 * FRAMES)
        recorder.process.send_signal(signal.SIGINT)
        code, out, err = await recorder.end()
        assert (code, err) == (0, "")
        assert "messages on" in out
        assert len({tuple(boxes) for boxes in first.values()}) > 3

        # A detector that has seen nothing of this.
        async with detector(mosquitto, site, tmp_path / "two", tmp_path / "bundle"):
            code, out, err = await run_edgebus(
                "replay", str(path), "-f", "edgebus/+/+/camera/#", "--fresh", *where
            )
            assert (code, err) == (0, "")
            assert f"{FRAMES} messages published" in out
            second: dict[int, Any] = {}
            while FRAMES - 1 not in second:
                said = await asyncio.wait_for(answers.get(), 20)
                second[said.index] = said.boxes
    # A detector may leave a frame out for a newer one; what it says of a frame is the same.
    assert len(second) > FRAMES / 2
    assert second == {index: first[index] for index in second}


async def test_a_recorder_that_is_killed_leaves_what_it_had(mosquitto: Any, tmp_path: Path) -> None:
    path = tmp_path / "killed.mcap"
    recorder = await Program.start("record", str(path), "-f", "killed/#", "--broker", mosquitto.url)
    async with listener(mosquitto, "rec-kill") as bus:
        await bus.publish_raw("killed/kept", b"first", qos=1, retain=True)
        [found] = await until(path, 1)
        assert (found.topic, found.payload, found.retain) == ("killed/kept", b"first", True)
        recorder.process.kill()
        await recorder.end()
        await bus.publish_raw("killed/kept", b"", qos=1, retain=True)
        code, out, err = await run_edgebus(
            "replay", str(path), "--map", "killed=risen", "--broker", mosquitto.url
        )
    assert code == 0
    assert "1 messages published" in out
    assert "1 retained topics put back" in out
    assert "cut off" in err


async def test_a_disk_that_is_full_is_told_and_what_fitted_can_be_read(
    mosquitto: Any, tmp_path: Path
) -> None:
    path = tmp_path / "full.mcap"
    # As a full disk does: the system refuses what goes beyond 64 kB.
    recorder = await Program.start(
        "record",
        str(path),
        "-f",
        "full/#",
        "--broker",
        mosquitto.url,
        prefix=("prlimit", "--fsize=65536"),
    )
    async with listener(mosquitto, "rec-full") as bus:
        await bus.publish_raw("full/first", b"here", qos=1, retain=True)
        await until(path, 1)
        while recorder.process.returncode is None:
            await bus.publish_raw("full/noise", os.urandom(10_000), qos=1)
            await asyncio.sleep(0.01)
        await bus.publish_raw("full/first", b"", qos=1, retain=True)
    code, _, err = await recorder.end()
    assert code == 1
    assert "cannot write" in err
    assert "--exclude" in err
    assert "dead letter" not in err
    assert path.stat().st_size <= 65536
    assert next(iter(Recording(path))).payload == b"here"


async def test_errors_in_one_line(mosquitto: Any, tmp_path: Path) -> None:
    where = ("--broker", mosquitto.url)
    nothing = tmp_path / "no.mcap"
    nothing.write_bytes(b"no MCAP at all")
    there = tmp_path / "there.mcap"
    there.write_bytes(b"precious")
    for arguments, said, wanted in (
        (("replay", str(nothing), *where), "no readable MCAP file", 2),
        (("replay", str(tmp_path / "missing.mcap"), *where), "No such file", 2),
        (("record", str(there), *where), "--force", 2),
        (("record", str(tmp_path / "x.mcap"), "-f", "a/#/b", *where), "'#' stands alone", 1),
        (
            ("record", str(tmp_path / "y.mcap"), "--broker", "mqtt://127.0.0.1:9"),
            "no broker at",
            1,
        ),
    ):
        code, _, err = await run_edgebus(*arguments)
        assert said in err
        assert code == wanted
        assert len(err.strip().splitlines()) == 1
    assert there.read_bytes() == b"precious"
    assert not (tmp_path / "y.mcap").exists()


async def test_figures_of_the_traffic(mosquitto: Any) -> None:
    site = "rec-stats"
    run = await Program.start(
        "topics",
        "stats",
        f"edgebus/{site}/#",
        "--seconds",
        "4",
        "--every",
        "60",
        "--broker",
        mosquitto.url,
    )
    identity = Identity(site=site, node="pi-01", service="detector")
    address = topics.SERVICE_METRICS.at(identity)
    async with listener(mosquitto, site) as bus:
        while run.process.returncode is None:
            said = Metrics(source=identity.source, session=1, uptime_s=1.0)
            await bus.publish(address, said)
            await bus.publish_raw(f"edgebus/{site}/own", b"x" * 2000)
            await asyncio.sleep(0.02)
    code, out, err = await run.end()
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert set(lines) == {topics.SERVICE_METRICS.address, f"edgebus/{site}/own"}
    assert " ms" in lines[topics.SERVICE_METRICS.address]
    assert "2.0 kB" in lines[f"edgebus/{site}/own"]
    assert lines[f"edgebus/{site}/own"].rstrip().endswith("-")


async def test_tools_of_mqtt_5_see_the_trace(mosquitto: Any) -> None:
    place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with listener(mosquitto, "rec-trace") as bus:
        said = ServiceState(
            source=bus.identity.source,
            traceparent=place,
            state="ready",
            session=1,
            instance="one",
            since=utc_now(),
            version="0.1.0",
        )
        await bus.publish(topics.SERVICE_STATE.at(bus.identity), said)
        tool = await asyncio.create_subprocess_exec(
            "mosquitto_sub",
            *("-h", mosquitto.host, "-p", str(mosquitto.port), "-V", "5", "-F", "%C %P"),
            *("-t", "edgebus/rec-trace/#", "-C", "1", "-W", "30"),
            stdout=subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(tool.communicate(), 40)
        await bus.clear(topics.SERVICE_STATE.at(bus.identity))
    assert out.decode() == f"application/json traceparent:{place}\n"
