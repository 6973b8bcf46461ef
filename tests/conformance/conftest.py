"""The brokers that every requirement of docs/delivery.md is tested on."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import (
    BrokerUnderTest,
    ClusterUnderTest,
    MemoryUnderTest,
    MosquittoUnderTest,
    NatsUnderTest,
    Site,
)

from edgebus.lab import EmbeddedBroker
from relays import gateway_in_thread
from tests.soak.nats_cluster import EmbeddedCluster

KINDS = [
    *("memory", "memory-copies", "mosquitto-5", "mosquitto-3.1.1", "nats"),
    # Through paho-mqtt: on MQTT 5 over a WebSocket.
    *("paho-5", "paho-3.1.1"),
]


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """The embedded broker, for the whole session.

    It sends what is not acknowledged again after a fixed time, not at the next connection; the
    tests shorten that time.
    """
    with asyncio.Runner() as runner:
        broker = EmbeddedBroker(tmp_path_factory.mktemp("nats"), ack_wait_s=2)
        runner.run(broker.start())
        yield broker
        runner.run(broker.stop())


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """Three brokers that are one, for the whole session."""
    with asyncio.Runner() as runner:
        cluster = EmbeddedCluster(tmp_path_factory.mktemp("cluster"), ack_wait_s=2)
        runner.run(cluster.start_all())
        yield cluster
        runner.run(cluster.stop())


@pytest.fixture(params=[*KINDS, "cluster"])
def broker(request: pytest.FixtureRequest) -> BrokerUnderTest:
    """A running broker, shared with other tests."""
    kind = request.param
    if kind.startswith("memory"):
        return MemoryUnderTest(copies="each" if kind == "memory-copies" else "one")
    if kind == "nats":
        return NatsUnderTest(request.getfixturevalue("nats"))
    if kind == "cluster":
        return ClusterUnderTest(request.getfixturevalue("cluster"))
    client, _, version = kind.partition("-")
    if client == "paho":
        gateway = request.getfixturevalue("gateway")
        return paho_under_test(request.getfixturevalue("mosquitto"), gateway, version=version)
    return MosquittoUnderTest(request.getfixturevalue("mosquitto"), version=version)


def paho_under_test(broker: Any, gateway: int, *, version: str) -> MosquittoUnderTest:
    """A Mosquitto spoken to by paho-mqtt."""
    more = {"url": f"ws://127.0.0.1:{gateway}/mqtt"} if version == "5" else {"client": "paho"}
    return MosquittoUnderTest(broker, version=version, **more)


@pytest.fixture(scope="session")
def gateway(mosquitto: Any) -> Iterator[int]:
    """Port for WebSockets of the session's Mosquitto.

    Mosquitto's own listener for them (2.0.11) stalls for seconds at a burst of large messages,
    whatever the client.
    """
    with gateway_in_thread(mosquitto.port) as port:
        yield port


@pytest.fixture(params=KINDS)
def own_broker(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    mosquitto_factory: Callable[..., Any],
    free_port: int,
) -> Iterator[BrokerUnderTest]:
    """A broker of the test's own, not started: it may be killed."""
    kind = request.param
    if kind.startswith("memory"):
        yield MemoryUnderTest(copies="each" if kind == "memory-copies" else "one", running=False)
        return
    if kind == "nats":
        yield NatsUnderTest(EmbeddedBroker(tmp_path / "nats", port=free_port))
        return
    client, _, version = kind.partition("-")
    own = mosquitto_factory()
    if client == "paho":
        with gateway_in_thread(own.port) as gateway:
            yield paho_under_test(own, gateway, version=version)
    else:
        yield MosquittoUnderTest(own, version=version)


@pytest.fixture
async def site(broker: BrokerUnderTest) -> Any:
    """A site of the test's own on the shared broker; its buses are closed at the end."""
    async with AsyncExitStack() as stack:
        yield Site(broker, name=f"s{uuid.uuid4().hex[:12]}", stack=stack)


@pytest.fixture
async def own_site(own_broker: BrokerUnderTest) -> Any:
    """A site on a broker of the test's own, which is not started yet."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(own_broker.stop)
        yield Site(own_broker, name=f"s{uuid.uuid4().hex[:12]}", stack=stack)
