"""A command at a broker that speaks MQTT 3.1.1 only, with and without a word about it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from edgebus.bus import BrokerSettings, Bus
from edgebus.contracts import Identity, ServiceState, utc_now
from edgebus.contracts.topics import SERVICE_STATE
from edgebus.lab import EmbeddedBroker
from edgebus.mqtt import MqttTransport

ME = Identity(site="lab", node="pi-01", service="thing")


async def watch(url: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgebus.cli", "topics", "watch", "--broker", url]
    command += ["--for", "3", *more]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
    )


async def test_a_tool_speaks_what_the_broker_speaks(tmp_path: Path) -> None:
    async with (
        EmbeddedBroker(tmp_path / "nats") as broker,
        Bus(MqttTransport(BrokerSettings(url=broker.url)), identity=ME) as bus,
    ):
        state = ServiceState(state="ready", session=1, instance="i", since=utc_now(), version="1")
        await bus.publish(SERVICE_STATE.at(ME), state)
        done = await watch(broker.url)
    assert done.returncode == 0, done.stderr
    assert "lab/pi-01/thing" in done.stdout


async def test_the_error_names_the_setting(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path / "nats") as broker:
        done = await watch(broker.url, "--set", "broker.version=5")
    assert done.returncode == 1
    assert "try broker.version '3.1.1'" in " ".join(done.stderr.split())
