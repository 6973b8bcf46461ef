from __future__ import annotations

import csv
from pathlib import Path

import pytest

from edgebus.contracts import Identity, topics
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
