"""Passwords in addresses: nowhere in logs, states, lists of processes and what a run leaves."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgebus.bus import Bus, BusSettings, Event
from edgebus.contracts import Identity, ServiceState, topics
from program import start_edgebus

_SECRET = "S3cret"


@asynccontextmanager
async def _states(broker: Any, site: str) -> AsyncIterator[asyncio.Queue[ServiceState]]:
    """The states of a site's services, as they come."""
    seen: asyncio.Queue[ServiceState] = asyncio.Queue()

    async def see(event: Event[ServiceState]) -> None:
        seen.put_nowait(event.payload)

    identity = Identity(base="edgebus", site=site, node="test", service="test")
    async with Bus(
        broker.transport(), identity=identity, settings=BusSettings(ephemeral=True)
    ) as bus:
        await bus.subscribe(topics.SERVICE_STATE.any(base="edgebus", site=site), see)
        yield seen


async def _until_degraded(states: asyncio.Queue[ServiceState]) -> list[ServiceState]:
    seen: list[ServiceState] = []
    async with asyncio.timeout(30):
        while not seen or seen[-1].state != "degraded":
            seen.append(await states.get())
    return seen


@pytest.mark.parametrize(
    "source",
    [
        "rtsp://admin:S3cret@127.0.0.1:9/s",
        "rtsp://admin:a/S3cret@127.0.0.1:9/s",
        "http://127.0.0.1:9/snap.jpg?user=admin&pwd=S3cret",
    ],
)
async def test_a_service_never_shows_the_password_of_a_source_or_broker(
    mosquitto: Any, tmp_path: Path, source: str
) -> None:
    site = f"secret-{abs(hash(source))}"
    async with _states(mosquitto, site) as states:
        process = await start_edgebus(
            *("run", "camera", "-s", f"site={site}", "-s", "node=pi", "-s", f"data_dir={tmp_path}"),
            *("--broker", f"mqtt://me:S3cret/@{mosquitto.host}:{mosquitto.port}"),
            *("-s", f"camera.cameras.front.source={source}"),
        )
        try:
            seen = await _until_degraded(states)
            line = " ".join(psutil.Process(process.pid).cmdline())
        finally:
            process.terminate()
            out, err = await asyncio.wait_for(process.communicate(), 20)
    assert "127.0.0.1:9" in seen[-1].reason
    assert "run camera" in line
    everything = [line, out.decode(), err.decode(), *(state.reason for state in seen)]
    everything += [file.read_bytes().decode("latin-1") for file in tmp_path.rglob("*.*")]
    for text in everything:
        assert _SECRET not in text


async def test_a_run_leaves_no_password_behind(mosquitto: Any, tmp_path: Path) -> None:
    tree = {
        "name": "secret",
        "site": "secret-run",
        "broker": {"url": f"mqtt://me:S3cret@{mosquitto.host}:{mosquitto.port}"},
        "nodes": {
            "pi": {
                "camera": {"cameras": {"front": {"source": "rtsp://a:S3/S3cret@127.0.0.1:9/s"}}},
                "telemetry": {"influx": {"url": "http://u:S3cret@127.0.0.1:9", "token": "S3cret2"}},
            }
        },
    }
    topology = tmp_path / "t.yaml"
    topology.write_text(json.dumps(tree))
    async with _states(mosquitto, "secret-run") as states:
        process = await start_edgebus(
            "up", topology, "--out", tmp_path / "runs", "--plain", "--seconds", "60"
        )
        try:
            seen = await _until_degraded(states)
            running = psutil.Process(process.pid).children(recursive=True)
            lines = [" ".join(child.cmdline()) for child in running]
        finally:
            process.terminate()
            out, err = await asyncio.wait_for(process.communicate(), 30)
    assert any("run camera" in line for line in lines)
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    config = next(file for file in files if file.name == "pi.yaml")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    everything = [*lines, out.decode(), err.decode(), *(state.reason for state in seen)]
    everything += [file.read_bytes().decode("latin-1") for file in files]
    for text in everything:
        assert _SECRET not in text
