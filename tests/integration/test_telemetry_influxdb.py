"""Telemetry against a real InfluxDB.

Debian has InfluxDB 1.6.7, which knows neither `/api/v2/write` nor tokens; a proxy of a few lines
turns the one request that influxdb-client makes into the one that it understands.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgebus.contracts import Identity, Metrics, topics, utc_now
from edgebus.service.testing import ServiceHarness
from edgebus_telemetry import Telemetry, TelemetrySettings
from edgebus_telemetry.settings import InfluxSettings

pytest.importorskip("influxdb_client")

CONFIG = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
[monitor]
  store-enabled = false
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Influx:
    """A running InfluxDB and the proxy before it."""

    port: int
    url: str = ""
    paths: list[str] = field(default_factory=list)

    def query(self, text: str, *, db: str = "edgebus") -> list[dict[str, object]]:
        form = urllib.parse.urlencode({"db": db, "q": text}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/query", form, 10) as answer:
            series = json.load(answer)["results"][0].get("series", [])
        return [
            dict(zip(one["columns"], values, strict=True)) | one.get("tags", {})
            for one in series
            for values in one["values"]
        ]


async def relay(influx: Influx, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request per connection: rewrite its path, pass it on, pass the answer back."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = request.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        sizes = [v for k, v in headers.items() if k.lower() == "content-length"]
        body = await reader.readexactly(int(sizes[0])) if sizes else b""
        parts = urllib.parse.urlsplit(target)
        influx.paths.append(parts.path)
        given = dict(urllib.parse.parse_qsl(parts.query))
        precision = {"us": "u"}.get(given.get("precision", "ns"), given.get("precision", "ns"))
        query = urllib.parse.urlencode({"db": given.get("bucket", ""), "precision": precision})
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", influx.port)
        kept = [
            f"{name}: {value}"
            for name, value in headers.items()
            if name.lower() not in {"authorization", "connection", "host"}
        ]
        lines = [f"{method} /write?{query} HTTP/1.1", "Host: influx", "Connection: close", *kept]
        up_writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        writer.write(await up_reader.read())
        await writer.drain()
        up_writer.close()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


@asynccontextmanager
async def running(folder: Path, *, port: int) -> AsyncIterator[None]:
    """An influxd on that port."""
    config = folder / "influxdb.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, rpc=free_port()))
    with (folder / "influxd.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            "influxd", "-config", str(config), stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def proxied(influx: Influx) -> AsyncIterator[Influx]:
    server = await asyncio.start_server(
        lambda reader, writer: relay(influx, reader, writer), "127.0.0.1", 0
    )
    influx.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield influx


@pytest.fixture(autouse=True)
def _influxd() -> None:
    if shutil.which("influxd") is None:
        pytest.fail("influxd is not installed: apt-get install influxdb")


def metrics(cpu: float) -> Metrics:
    return Metrics(
        source="lab/edge-1/camera",
        session=1,
        uptime_s=3.0,
        cpu_percent=cpu,
        rss_bytes=123_000,
        host_cpu_percent=50.0,
        counters={"frames": 7.0},
    )


async def eventually(influx: Influx, query: str, *, rows: int) -> list[dict[str, object]]:
    async with asyncio.timeout(20):
        while len(found := await asyncio.to_thread(influx.query, query)) < rows:
            await asyncio.sleep(0.05)
    return found


def settings(influx: Influx) -> TelemetrySettings:
    return TelemetrySettings(
        csv=None,
        flush_s=0.05,
        influx=InfluxSettings(url=influx.url, token="t", org="o", batch=2, retry_cap_s=0.2),
    )


async def test_what_is_said_on_the_bus_is_found_by_a_query(tmp_path: Path) -> None:
    influx = Influx(free_port())
    camera = Identity(site="lab", node="edge-1", service="camera")
    async with running(tmp_path, port=influx.port), proxied(influx):
        await asyncio.to_thread(influx.query, "CREATE DATABASE edgebus")
        async with ServiceHarness(Telemetry, settings(influx), data_dir=tmp_path / "d") as harness:
            sent = [metrics(float(value)) for value in (10, 20, 30)]
            for message in sent:
                await harness.publish(topics.SERVICE_METRICS.at(camera), message)
            found = await eventually(
                influx,
                "SELECT cpu_percent, rss_bytes, frames FROM services "
                "WHERE service = 'camera' GROUP BY node",
                rows=3,
            )
    assert [row["cpu_percent"] for row in found] == [10, 20, 30]
    assert {row["node"] for row in found} == {"edge-1"}
    assert {row["frames"] for row in found} == {7}
    # Microseconds survive the way: the points are where their messages' clocks put them.
    assert found[0]["time"] == sent[0].time.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0") + "Z"
    assert set(influx.paths) == {"/api/v2/write"}


async def test_points_wait_while_influxdb_is_away_and_none_is_lost(tmp_path: Path) -> None:
    influx = Influx(free_port())
    camera = Identity(site="lab", node="edge-1", service="camera")
    folder = tmp_path / "influx"
    folder.mkdir()
    async with (
        proxied(influx),
        ServiceHarness(Telemetry, settings(influx), data_dir=tmp_path / "d") as harness,
    ):
        await harness.publish(topics.SERVICE_METRICS.at(camera), metrics(1.0))
        away = await harness.wait_for_state("degraded")
        assert "InfluxDB" in away.reason
        await harness.publish(topics.SERVICE_METRICS.at(camera), metrics(2.0))
        async with running(folder, port=influx.port):
            await asyncio.to_thread(influx.query, "CREATE DATABASE edgebus")
            await harness.wait_for_state("ready")
            found = await eventually(
                influx,
                "SELECT cpu_percent FROM services WHERE service = 'camera'",
                rows=2,
            )
            assert [row["cpu_percent"] for row in found] == [1, 2]
            states = await eventually(
                influx,
                "SELECT state FROM states WHERE service = 'telemetry' AND state = 'degraded'",
                rows=1,
            )
            assert str(states[0]["time"]) < utc_now().isoformat()


async def test_a_field_of_another_type_is_refused_counted_and_told(tmp_path: Path) -> None:
    influx = Influx(free_port())
    camera = Identity(site="lab", node="edge-1", service="camera")
    async with running(tmp_path, port=influx.port), proxied(influx):
        await asyncio.to_thread(influx.query, "CREATE DATABASE edgebus")
        line = b'services,service=camera cpu_percent="text"'
        url = f"http://127.0.0.1:{influx.port}/write?db=edgebus"
        await asyncio.to_thread(lambda: urllib.request.urlopen(url, line, 10).close())
        async with ServiceHarness(Telemetry, settings(influx), data_dir=tmp_path / "d") as harness:
            await harness.publish(topics.SERVICE_METRICS.at(camera), metrics(1.0))
            state = await harness.wait_for_state("degraded")
            assert "field type conflict" in state.reason
