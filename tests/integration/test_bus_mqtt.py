"""The MQTT transport where the other side refuses, stalls or is no broker at all."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import (
    BrokerRefusedError,
    BrokerSettings,
    BrokerUnreachableError,
    Bus,
    BusSettings,
    ConnectOptions,
    Event,
    PublishRefusedError,
    RawMessage,
)
from edgebus.contracts import Identity, ServiceState, utc_now
from edgebus.contracts.topics import SERVICE_STATE
from edgebus.lab.broker import EmbeddedBroker
from edgebus.mqtt import MqttTransport

ME = Identity(site="t", node="n", service="s")
OPTIONS = ConnectOptions(client_id="probe", session_expiry_s=0)


class Nobody:
    """A receiver that expects nothing."""

    def received(self, message: RawMessage) -> None:
        raise AssertionError(message)

    def lost(self, loss: object) -> None:
        raise AssertionError(loss)


def state(word: str = "ready") -> ServiceState:
    return ServiceState(
        source=ME.source, state=word, session=1, instance="i", since=utc_now(), version="1"
    )


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_nobody_there(free_port: int, version: str) -> None:
    transport = MqttTransport(BrokerSettings(url=f"mqtt://127.0.0.1:{free_port}", version=version))
    with pytest.raises(BrokerUnreachableError) as error:
        await transport.connect(OPTIONS, Nobody())
    assert not error.value.hung_up
    assert str(free_port) in str(error.value)


async def test_a_name_that_does_not_resolve() -> None:
    transport = MqttTransport(BrokerSettings(url="mqtt://no-such-host.invalid"))
    with pytest.raises(BrokerUnreachableError, match="no-such-host"):
        await transport.connect(OPTIONS, Nobody())


async def serve(answer: bytes | None) -> tuple[asyncio.Server, int]:
    """A server that answers everybody the same and hangs up; None: says nothing at all."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        if answer is None:
            await reader.read(-1)
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\xff\xff\xff"])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_no_mqtt_broker(answer: bytes, version: str) -> None:
    server, port = await serve(answer)
    async with server:
        transport = MqttTransport(BrokerSettings(url=f"mqtt://127.0.0.1:{port}", version=version))
        with pytest.raises(BrokerUnreachableError, match="is it an MQTT broker"):
            await transport.connect(OPTIONS, Nobody())


async def test_a_broker_that_never_answers() -> None:
    server, port = await serve(None)
    async with server:
        settings = BrokerSettings(url=f"mqtt://127.0.0.1:{port}", connect_timeout_s=0.1)
        with pytest.raises(BrokerUnreachableError, match=r"no answer within 0\.1 s"):
            await MqttTransport(settings).connect(OPTIONS, Nobody())


async def test_the_embedded_broker_says_that_it_does_not_speak_mqtt_5(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        settings = BrokerSettings(url=broker.url, version="5")
        with pytest.raises(BrokerRefusedError, match=r"3\.1\.1"):
            await MqttTransport(settings).connect(OPTIONS, Nobody())


async def test_tls_and_none_are_told_apart(
    mosquitto: Any, certificates: tuple[Path, Path], mosquitto_factory: Callable[..., Any]
) -> None:
    url = f"mqtts://127.0.0.1:{mosquitto.port}"
    with pytest.raises(BrokerUnreachableError, match="write mqtt://"):
        await MqttTransport(BrokerSettings(url=url)).connect(OPTIONS, Nobody())
    certificate, key = certificates
    encrypted = mosquitto_factory(extra=f"certfile {certificate}\nkeyfile {key}")
    encrypted.start()
    with pytest.raises(BrokerUnreachableError, match="write mqtts://"):
        await encrypted.transport().connect(OPTIONS, Nobody())


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_wrong_password(
    tmp_path: Path, mosquitto_factory: Callable[..., Any], version: str
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "me", "right"], check=True)
    passwords.chmod(0o644)
    broker = mosquitto_factory(extra=f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    wrong = broker.transport(version=version, username="me", password="wrong")
    with pytest.raises(BrokerRefusedError, match=r"broker\.password"):
        await wrong.connect(OPTIONS, Nobody())
    right = broker.transport(version=version, username="me", password="right")
    connection = await right.connect(OPTIONS, Nobody())
    await connection.close()


async def test_a_publish_that_the_broker_does_not_allow(
    tmp_path: Path, mosquitto_factory: Callable[..., Any]
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n")
    rules.chmod(0o644)
    broker = mosquitto_factory(extra=f"acl_file {rules}")
    broker.start()
    async with Bus(broker.transport(), identity=ME) as bus:
        with pytest.raises(PublishRefusedError, match=r"[Nn]ot authorized"):
            await bus.publish(SERVICE_STATE.at(ME), state())
        assert bus.stats.outbox_messages == 0
        assert bus.stats.refused == 1


class Proxy:
    """A TCP proxy that can stop passing bytes on without closing anything."""

    def __init__(self, port: int) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for source, sink in ((reader, to_writer), (to_reader, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._tasks.add(task)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self.flowing.wait()
            sink.write(data)
        sink.close()


@pytest.mark.parametrize("client", ["native", "paho"])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_stalled_link_is_noticed_and_left(
    mosquitto: Any, version: str, client: str
) -> None:
    identity = Identity(site=f"stall-{version}-{client}", node="n", service="s")
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(mosquitto.port))
        transport = MqttTransport(
            BrokerSettings(
                url=f"mqtt://127.0.0.1:{proxy.port}",
                version=version,
                client=client,
                keepalive_s=1,
                connect_timeout_s=0.5,
            )
        )
        settings = BusSettings(backoff_first_s=0.05, backoff_max_s=0.1)
        bus = await stack.enter_async_context(Bus(transport, identity=identity, settings=settings))
        got: asyncio.Queue[Event[ServiceState]] = asyncio.Queue()

        async def handler(event: Event[ServiceState]) -> None:
            got.put_nowait(event)

        await bus.subscribe(SERVICE_STATE.any(site=identity.site), handler)
        proxy.flowing.clear()
        await asyncio.wait_for(bus.connection.down(), 10)  # keep-alive, not end of file
        own = state().model_copy(update={"source": identity.source})
        await bus.publish(SERVICE_STATE.at(identity), own)
        proxy.flowing.set()
        await bus.connected(timeout=10)
        event = await asyncio.wait_for(got.get(), 10)
        assert event.payload.state == "ready"
        assert bus.connection.connects == 2


async def test_an_idle_connection_stays(mosquitto: Any) -> None:
    identity = Identity(site="idle", node="n", service="s")
    async with Bus(mosquitto.transport(keepalive_s=1), identity=identity) as bus:
        await asyncio.sleep(3.2)  # the broker hangs up after 1.5 s without a ping
        assert bus.connection.connected
        assert bus.connection.connects == 1


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    key.chmod(0o644)
    return certificate, key


async def test_tls(certificates: tuple[Path, Path], mosquitto_factory: Callable[..., Any]) -> None:
    certificate, key = certificates
    broker = mosquitto_factory(extra=f"certfile {certificate}\nkeyfile {key}")
    broker.start()
    url = f"mqtts://127.0.0.1:{broker.port}"
    with pytest.raises(BrokerUnreachableError, match="not trusted"):
        await MqttTransport(BrokerSettings(url=url)).connect(OPTIONS, Nobody())

    trusted = MqttTransport(BrokerSettings(url=url, ca_file=certificate))
    got = asyncio.Event()

    async def handler(message: RawMessage) -> None:
        assert message.payload == large
        got.set()

    large = bytes(range(256)) * 4000
    async with Bus(trusted, identity=ME) as bus:
        await bus.tap("t/large", handler)
        await bus.publish_raw("t/large", large, qos=1)
        await asyncio.wait_for(got.wait(), 10)


def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    settings = BrokerSettings(url="mqtts://host", ca_file=tmp_path / "nowhere.pem")
    with pytest.raises(FileNotFoundError, match=r"broker\.ca_file.*nowhere\.pem"):
        MqttTransport(settings)


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(ssl.SSLError):
        MqttTransport(BrokerSettings(url="mqtts://host", ca_file=junk))
