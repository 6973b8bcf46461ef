"""WebSockets and proxies: the client that paho-mqtt makes, where the native one does not go."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

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
from edgebus.lab import EmbeddedBroker
from edgebus.mqtt import MqttTransport
from edgebus.mqtt._paho import PahoConnection, PahoRetainRepair
from relays import Proxy, websocket_gateway
from tests.conftest import find_free_port

ME = Identity(site="lab", node="n", service="s")
OPTIONS = ConnectOptions(client_id="probe", session_expiry_s=0)
LARGE = bytes(range(256)) * 2000


class Nobody:
    """A receiver that expects nothing."""

    def received(self, message: RawMessage, /) -> None:
        raise AssertionError(message)

    def lost(self, loss: Loss, /) -> None:
        raise AssertionError(loss)


async def round_trip(*, connections: int = 1, **settings: Any) -> None:
    """Publish something large and get it back."""
    transport = MqttTransport(BrokerSettings(**settings))
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(message: RawMessage) -> None:
        got.put_nowait(message.payload)

    async with Bus(transport, identity=ME, settings=BusSettings(ephemeral=True)) as bus:
        await bus.connected(20)
        await bus.tap("t/large", hear, qos=1)
        for _ in range(connections):
            await bus.publish_raw("t/large", LARGE, qos=1)
            assert await asyncio.wait_for(got.get(), 20) == LARGE


async def refused(**settings: Any) -> str:
    """Reason of a connection that cannot be had."""
    with pytest.raises((BrokerUnreachableError, BrokerRefusedError)) as error:
        await MqttTransport(BrokerSettings(**settings)).connect(OPTIONS, Nobody())
    return str(error.value)


@pytest.mark.parametrize("login", ["", "me:se%cret"])
@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_through_a_proxy_to_a_name_that_only_it_knows(
    mosquitto: Any, kind: str, login: str
) -> None:
    async with Proxy(kind, login=login) as proxy:
        written = f"{login.replace('%', '%25')}@" if login else ""
        address = f"{kind}://{written}127.0.0.1:{proxy.port}"
        await round_trip(url=f"mqtt://broker.only-there:{mosquitto.port}", proxy=address)
        assert proxy.wanted == [f"broker.only-there:{mosquitto.port}"]
        if login:
            wrong = address.replace("25cret", "25cre")
            reason = await refused(url=mosquitto.url, proxy=wrong)
            assert "cre" not in reason
            assert str(proxy.port) in reason or "uthentication" in reason


async def test_through_a_socks4_proxy(mosquitto: Any) -> None:
    async with Proxy("socks4") as proxy:
        await round_trip(url=mosquitto.url, proxy=f"socks4://127.0.0.1:{proxy.port}")
        assert proxy.wanted == [f"127.0.0.1:{mosquitto.port}"]


async def test_a_proxy_that_is_not_there(mosquitto: Any, free_port: int) -> None:
    proxy = f"http://127.0.0.1:{free_port}"
    assert str(free_port) in await refused(url=mosquitto.url, proxy=proxy)


async def test_mosquittos_own_websockets(mosquitto_factory: Callable[..., Any]) -> None:
    port = find_free_port()
    broker = mosquitto_factory(
        extra=f"listener {port} 127.0.0.1\nprotocol websockets\nallow_anonymous true"
    )
    broker.start()
    await round_trip(url=f"ws://127.0.0.1:{port}")


async def test_a_path_that_leads_nowhere_and_a_port_without_websockets(mosquitto: Any) -> None:
    async with websocket_gateway(mosquitto.port, path="/there") as port:
        await round_trip(url=f"ws://127.0.0.1:{port}/there", connections=3)
        assert "is it an MQTT broker" in await refused(url=f"ws://127.0.0.1:{port}/elsewhere")
    reason = await refused(url=f"ws://127.0.0.1:{mosquitto.port}", connect_timeout_s=3)
    assert "WebSocket" in reason


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for 127.0.0.1, and a server's context with it."""
    file, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext"
    command = ["openssl", *words.split(), "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return file, context


async def test_wss_with_and_without_trust_and_through_a_proxy(
    mosquitto: Any, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    file, context = certificate
    async with websocket_gateway(mosquitto.port, tls=context) as port:
        url = f"wss://127.0.0.1:{port}"
        assert "see broker.ca_file" in await refused(url=url)
        await round_trip(url=url, ca_file=file)
        async with Proxy("http") as proxy:
            address = f"http://127.0.0.1:{proxy.port}"
            await round_trip(url=url, ca_file=file, proxy=address)
            assert proxy.wanted == [f"127.0.0.1:{port}"]


async def test_a_broker_that_speaks_no_mqtt_5_gets_its_version_and_repairs(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path / "nats") as broker:
        settings = BrokerSettings(url=broker.url, client="paho")
        connection = await MqttTransport(settings).connect(OPTIONS, Nobody())
        assert type(connection) is PahoRetainRepair
        await connection.close()
        await round_trip(url=broker.url, client="paho")


async def test_a_wrong_password_names_the_settings(
    tmp_path: Path, mosquitto_factory: Callable[..., Any]
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "me", "right"], check=True)
    passwords.chmod(0o644)
    broker = mosquitto_factory(extra=f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    for version in ("5", "3.1.1"):
        both = {"url": broker.url, "client": "paho", "username": "me", "version": version}
        assert "broker.password" in await refused(**both, password="wrong")
        connection = await MqttTransport(BrokerSettings(**both, password="right")).connect(
            OPTIONS, Nobody()
        )
        assert type(connection) is PahoConnection
        await connection.close()


async def test_giving_up_in_the_middle_leaves_nothing_open() -> None:
    """A server that takes the connection and says nothing, on TCP and before a WebSocket."""
    left: list[bytes] = []
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            left.append(data)
        writer.close()
        gone.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for url in (f"mqtt://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"):
            gone.clear()
            reason = await refused(url=url, client="paho", connect_timeout_s=0.5)
            assert "0.5 s" in reason or "timed out" in reason
            await asyncio.wait_for(gone.wait(), 10)
    assert len(left) >= 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "ws://host", "client": "native"}, "client native cannot use ws://host"),
        ({"proxy": "http://p:1", "client": "native"}, "client native cannot use http://p:1"),
        ({"url": "mqtt://host/path"}, "has a path"),
        ({"url": "wss://host/mqtt?token=hunter2"}, "no query"),
        ({"url": "http://host"}, "ws://host:port/path"),
        ({"url": "mqtt://a,wss://b"}, "one with TLS and one without"),
        ({"proxy": "ftp://p"}, "no proxy address"),
        ({"proxy": "p:8080"}, "no proxy address"),
        ({"proxy": "socks5://"}, "no proxy address"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as error:
        BrokerSettings(**settings)
    assert "hunter2" not in str(error.value)


def test_which_client_makes_the_connection() -> None:
    assert not BrokerSettings().uses_paho
    assert BrokerSettings(client="paho").uses_paho
    assert BrokerSettings(url="ws://host").uses_paho
    settings = BrokerSettings(proxy="socks5://ann:hunter2@p")
    assert settings.uses_paho
    assert settings.proxy == "socks5://p"
    assert settings.proxy_address.port == 1080
    assert "hunter2" not in repr(settings)
