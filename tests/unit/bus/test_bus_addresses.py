"""Several addresses of one broker: how they are written, and which one is used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from edgebus.bus import (
    BrokerRefusedError,
    BrokerSettings,
    BrokerUnreachableError,
    Bus,
    BusSettings,
    ConnectOptions,
    Loss,
    RawMessage,
)
from edgebus.contracts import Identity
from edgebus.mqtt import MqttTransport
from edgebus.service import NodeSettings, SettingsError, load_node

CONNACK = b"\x20\x02\x00\x00"
CONNACK_PRESENT = b"\x20\x02\x01\x00"
BAD_USER = b"\x20\x02\x00\x04"
DEADLINE_S = 10.0


def test_addresses_are_read_in_their_order_with_their_default_ports() -> None:
    settings = BrokerSettings(url="mqtt://a:1884, mqtt://b ,mqtt://[::1]:7")
    assert settings.url == "mqtt://a:1884,mqtt://b,mqtt://[::1]:7"
    assert [(each.host, each.port) for each in settings.addresses] == [
        ("a", 1884),
        ("b", 1883),
        ("::1", 7),
    ]
    assert (settings.host, settings.port, settings.tls) == ("a", 1884, False)
    encrypted = BrokerSettings(url="mqtts://a,mqtts://b:1")
    assert encrypted.tls
    assert [each.port for each in encrypted.addresses] == [8883, 1]


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://ann:hunter,2%40@a,mqtt://b",
        "mqtt://a,mqtt://ann:hunter,2%40@b",
        "mqtt://ann:hunter,2%40@a,mqtt://ann:hunter,2%40@b",
    ],
)
def test_credentials_are_said_once_or_alike_and_taken_out(url: str) -> None:
    settings = BrokerSettings(url=url)
    assert settings.url == "mqtt://a,mqtt://b"
    assert settings.username == "ann"
    assert settings.password is not None
    assert settings.password.get_secret_value() == "hunter,2@"
    assert BrokerSettings(url=url, username="bob").username == "bob"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mqtt://a,mqtts://b", "mqtt://a and mqtts://b: one with TLS and one without"),
        ("mqtt://a:1883,mqtt://b,mqtt://a", "mqtt://a is there twice"),
        ("mqtt://a:1883,b:1883", "comma that no address follows.*mqtt://second:1883"),
        ("mqtt://a,", "comma that no address follows"),
        (",mqtt://a", "no broker address"),
        ("mqtt://a,http://b", "'http://b' is no broker address"),
        ("mqtt://a,mqtt://:1", "'mqtt://:1' names no host"),
        ("mqtt://a,mqtt://b/c", "'mqtt://b/c' has a path"),
        ("mqtt://a,mqtt://b:0", "nobody listens on port 0"),
        ("mqtt://a,mqtt://b:70000", "out of range"),
        ("", "no broker address"),
    ],
)
def test_what_is_no_list_of_addresses_is_refused_with_the_way_out(url: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        BrokerSettings(url=url)


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://ann:hunter2@a,mqtt://bob:hunter2@b",
        "mqtt://ann:hunter2@a,mqtt://ann:hunter22@b",
        "mqtt://ann:hunter2@a,mqtts://b",
        "mqtt://ann:hunter2@[a,mqtt://b",
    ],
)
def test_no_error_shows_a_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as error:
        BrokerSettings(url=url)
    assert "hunter" not in str(error.value)
    with pytest.raises(SettingsError) as problems:
        load_node(overrides=[f"broker.url={url}"], environment={})
    assert "hunter" not in str(problems.value)


def test_one_string_in_the_environment_is_enough() -> None:
    node: NodeSettings = load_node(
        environment={"EDGEBUS_BROKER__URL": "mqtt://ann:hunter2@a,mqtt://b:2"}
    )
    assert [each.url for each in node.broker.addresses] == ["mqtt://a", "mqtt://b:2"]
    assert "hunter2" not in repr(node)


class Node:
    """A broker on a port of its own that answers CONNECT as it is told to.

    Attributes:
        answer: Its CONNACK; None: it says nothing.
        asked: How many connections came.
    """

    def __init__(self, answer: bytes | None = CONNACK) -> None:
        self.answer = answer
        self.asked = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        self._writers.append(writer)
        with suppress(OSError):
            await reader.read(1024)
            if self.answer is not None:
                writer.write(self.answer)
                await writer.drain()
            while await reader.read(1024):
                pass
        writer.close()


class Ear:
    """A receiver that keeps how the connection ended."""

    def __init__(self) -> None:
        self.loss: asyncio.Future[Loss] = asyncio.get_running_loop().create_future()

    def received(self, message: RawMessage, /) -> None:
        raise AssertionError(message)

    def lost(self, loss: Loss, /) -> None:
        self.loss.set_result(loss)


@pytest.fixture
async def nodes() -> Any:
    """Starts nodes that end with the test."""
    async with AsyncExitStack() as stack:

        async def make(*answers: bytes | None) -> list[Node]:
            made = [Node(answer) for answer in answers]
            for node in made:
                await node.start()
                stack.push_async_callback(node.stop)
            return made

        yield make


Nodes = Callable[..., Awaitable[list[Node]]]
OPTIONS = ConnectOptions(client_id="c", session_expiry_s=60)


def transport(nodes: list[Node], **settings: Any) -> MqttTransport:
    url = ",".join(node.url for node in nodes)
    return MqttTransport(BrokerSettings(url=url, version="3.1.1", **settings))


async def test_the_next_address_is_tried_at_once_and_stays(nodes: Nodes) -> None:
    first, second, third = await nodes(CONNACK, CONNACK_PRESENT, CONNACK)
    them = transport([first, second, third])
    ear = Ear()
    connection = await them.connect(OPTIONS, ear)
    assert them.connected_url == first.url
    assert not connection.session_present
    await first.stop()
    await asyncio.wait_for(ear.loss, DEADLINE_S)
    with capture_logs() as logs:
        connection = await them.connect(OPTIONS, Ear())
        assert them.connected_url == second.url
        assert connection.session_present
        connection.abort()
        # Back again, it is not gone back to.
        await first.start()
        connection = await them.connect(OPTIONS, Ear())
        connection.abort()
    assert (first.asked, second.asked, third.asked) == (1, 2, 0)
    assert [(line["broker"], line["before"]) for line in logs] == [(second.url, first.url)]
    # From the last one it goes round to the first.
    await second.stop()
    await third.stop()
    connection = await them.connect(OPTIONS, Ear())
    assert them.connected_url == first.url
    connection.abort()


async def test_an_error_names_every_address_with_its_reason(nodes: Nodes) -> None:
    gone, silent = await nodes(CONNACK, None)
    await gone.stop()
    them = transport([gone, silent], connect_timeout_s=0.05)
    with pytest.raises(BrokerUnreachableError) as error:
        await them.connect(OPTIONS, Ear())
    assert error.value.url == f"{gone.url},{silent.url}"
    assert f"{gone.url}: Connect" in error.value.reason
    assert f"{silent.url}: no answer within 0.05 s" in error.value.reason
    with pytest.raises(BrokerUnreachableError) as again:
        await them.connect(OPTIONS, Ear())
    assert again.value.reason == error.value.reason  # logged once for as long as it lasts


async def test_a_refusal_by_one_does_not_hide_another_one(nodes: Nodes) -> None:
    strict, open_, gone = await nodes(BAD_USER, CONNACK, CONNACK)
    connection = await transport([strict, open_]).connect(OPTIONS, Ear())
    connection.abort()
    await gone.stop()
    with pytest.raises(BrokerRefusedError) as error:
        await transport([gone, strict]).connect(OPTIONS, Ear())
    assert f"{gone.url}: Connect" in error.value.reason
    assert f"{strict.url}: " in error.value.reason
    assert "broker.password" in error.value.reason


async def test_a_bus_fails_over_without_a_back_off(nodes: Nodes) -> None:
    gone, alive = await nodes(CONNACK, CONNACK)
    await gone.stop()
    # The first pause alone would take up to an hour.
    settings = BusSettings(backoff_first_s=3600, backoff_max_s=3600, connect_wait_s=DEADLINE_S)
    identity = Identity(site="s", node="n", service="svc")
    async with Bus(transport([gone, alive]), identity=identity, settings=settings) as bus:
        assert bus.connection.connects == 1
    assert alive.asked == 1
