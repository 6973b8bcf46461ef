from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path

import pytest

from edgebus.contracts import Identity, Metrics, topics
from edgebus.service.testing import ServiceHarness
from edgebus_detection.messages import DETECTIONS
from edgebus_telemetry import Telemetry, TelemetrySettings
from edgebus_telemetry.settings import CsvSettings, InfluxSettings
from lab_story import answer, status


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


async def test_writes_what_two_nodes_say_and_is_complete_after_a_stop(tmp_path: Path) -> None:
    settings = TelemetrySettings(csv=CsvSettings(folder=tmp_path / "csv"), flush_s=60)
    async with ServiceHarness(Telemetry, settings, data_dir=tmp_path, site="demo") as harness:
        for node in ("edge-1", "edge-2"):
            identity = Identity(site="demo", node=node, service="detector")
            for index in range(3):
                await harness.publish(
                    DETECTIONS.at(identity, camera="north"),
                    answer("north", index, node=node),
                )
            await harness.publish(topics.MODEL_STATUS.at(identity), status(1, node=node))
        await harness.expect(
            topics.MODEL_STATUS, where=lambda event: event.names["node"] == "edge-2"
        )
    found = read(tmp_path / "csv" / "detections.csv")
    assert {row["node"] for row in found} == {"edge-1", "edge-2"}
    assert len(found) == 6
    for row in found:
        stamps = [row[name] for name in ("captured", "sent", "received", "detected", "heard")]
        assert stamps == sorted(stamps)
    states = read(tmp_path / "csv" / "states.csv")
    assert [row["state"] for row in states if row["service"] == "telemetry"][:2] == [
        "starting",
        "ready",
    ]


async def test_without_csv_and_influx_it_only_listens(tmp_path: Path) -> None:
    async with ServiceHarness(Telemetry, TelemetrySettings(csv=None), data_dir=tmp_path):
        pass
    assert not list(tmp_path.rglob("*.csv"))


async def test_influx_away_degrades_and_does_not_stop_it(tmp_path: Path) -> None:
    pytest.importorskip("influxdb_client")
    influx = InfluxSettings(url="http://127.0.0.1:9", bucket="b", timeout_s=1)
    settings = TelemetrySettings(influx=influx, flush_s=0.05)
    async with ServiceHarness(Telemetry, settings, data_dir=tmp_path) as harness:
        identity = harness.node("edge-1", "detector")
        await harness.publish(topics.MODEL_STATUS.at(identity), status(1))
        state = await harness.wait_for_state("degraded")
        assert "InfluxDB does not answer" in state.reason
    assert read(tmp_path / "telemetry" / "csv" / "models.csv")


async def test_a_folder_that_cannot_be_written_degrades_and_counts(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    settings = TelemetrySettings(csv=CsvSettings(folder=blocked), flush_s=0.05)
    async with ServiceHarness(Telemetry, settings, data_dir=tmp_path / "data") as harness:
        state = await harness.wait_for_state("degraded")
        assert str(blocked) in state.reason


async def test_a_device_pushes_nobody_elses_history_out(tmp_path: Path) -> None:
    settings = TelemetrySettings(csv=CsvSettings(max_bytes=2_000_000, keep=3))
    async with ServiceHarness(Telemetry, settings, data_dir=tmp_path) as harness:
        honest, evil = harness.node("pi-07", "camera"), harness.node("pi-evil", "camera")
        figures = {"session": 1, "uptime_s": 1.0, "counters": {"frames.sent": 1.0}}
        await harness.publish(topics.SERVICE_METRICS.at(honest), Metrics(**figures))
        await asyncio.sleep(0.2)
        for n in range(100):
            names = {f"{n}.{k}": 1.0 for k in range(2000)}
            flood = Metrics(session=1, uptime_s=1.0, counters=names)
            await harness.publish(topics.SERVICE_METRICS.at(evil), flood)
        # Heartbeats are of QoS 0: what comes too fast is dropped before anybody reads it.
        await asyncio.sleep(0.5)
        await harness.publish(topics.SERVICE_METRICS.at(honest), Metrics(**figures))
        too_many = {str(n): 1 for n in range(200_000)}
        body = {"counters": too_many, "session": 1, "uptime_s": 1, "source": evil.source}
        await harness.bus.publish_raw(
            topics.SERVICE_METRICS.at(evil).name, json.dumps(body).encode(), qos=1
        )
        letter = await harness.expect(topics.DEAD_LETTER)
        assert "counters" in letter.payload.error
    rows = [row for path in tmp_path.rglob("metrics*.csv") for row in read(path)]
    assert sum(row["node"] == "pi-07" for row in rows) == 2
    assert len({row["name"] for row in rows if row["node"] == "pi-evil"} - {""}) == 2000
