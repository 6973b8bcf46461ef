"""`edgebus deadletter` against a real broker, while a service that failed lives on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import Bus, Event, RetryPolicy
from edgebus.contracts import Identity, Metrics, Topic
from program import run_edgebus

BASE = "letters-cli"
SERVICE = Identity(base=BASE, site="lab", node="pi", service="svc")
EVENTS = Topic("{node}/{service}/events", Metrics, qos=1, doc="What the service listens to.")


async def deadletter(mosquitto: Any, *arguments: str) -> tuple[int, str, str]:
    here = ("--broker", mosquitto.url, "--set", f"base={BASE}")
    return await run_edgebus("deadletter", *arguments, *here)


async def test_list_show_replay_and_discard(
    mosquitto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgebus.bus._consumer._AGAIN_S", 0.0)
    healed = False
    handled: asyncio.Queue[Metrics] = asyncio.Queue()

    async def handle(event: Event[Metrics]) -> None:
        if not healed:
            msg = "[/bold] the disk is full"
            raise OSError(msg)
        handled.put_nowait(event.payload)

    sender = Identity(base=BASE, site="lab", node="pc", service="sender")
    async with (
        Bus(mosquitto.transport(), identity=SERVICE) as bus,
        Bus(mosquitto.transport(), identity=sender) as other,
    ):
        subscription = await bus.subscribe(
            EVENTS.any(base=BASE), handle, retry=RetryPolicy(attempts=1)
        )
        said = Metrics(source=SERVICE.source, session=1, uptime_s=1.0)
        address = EVENTS.at(SERVICE)
        await other.publish(address, said)
        await other.publish_raw(address.name, b"\x00\xff poison", qos=1)
        async with asyncio.timeout(10):
            while bus.stats.dead_letters < 2 or bus.stats.subscriptions[subscription.name].active:
                await asyncio.sleep(0.01)
        await bus.drain(5)

    # Nobody of them is connected any more.
    code, out, err = await deadletter(mosquitto, "list")
    assert (code, err) == (0, "")
    assert "[/bold] the disk is full" in out
    assert out.count("lab/pi/svc/events") == 2
    code, out, _ = await deadletter(mosquitto, "list", "--json")
    failed, invalid = sorted(map(json.loads, out.splitlines()), key=lambda r: r["reason"])
    assert (failed["reason"], invalid["reason"]) == ("failed", "invalid")

    code, out, _ = await deadletter(mosquitto, "show", invalid["id"][-8:])
    assert "00 ff 20 70" in out
    saved = tmp_path / "payload"
    code, out, _ = await deadletter(mosquitto, "show", failed["id"], "--out", str(saved))
    assert Metrics.decode(saved.read_bytes()) == said

    healed = True
    async with Bus(mosquitto.transport(), identity=SERVICE) as bus:
        await bus.subscribe(EVENTS.any(base=BASE), handle)
        code, out, err = await deadletter(mosquitto, "replay", failed["id"][-8:])
        assert (code, err) == (0, "")
        assert "published on" in out
        assert await asyncio.wait_for(handled.get(), 10) == said
    code, out, _ = await deadletter(mosquitto, "list", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [invalid["id"]]

    code, _, err = await deadletter(mosquitto, "replay", "nothing")
    assert (code, "no dead letter has the id 'nothing'" in err) == (2, True)
    code, _, err = await deadletter(mosquitto, "discard")
    assert code == 2
    code, out, _ = await deadletter(mosquitto, "discard", "--all")
    assert out == "1 dead letters discarded\n"
    code, out, _ = await deadletter(mosquitto, "list")
    assert out == "no dead letters\n"
