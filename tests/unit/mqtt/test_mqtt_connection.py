"""The network shell against a scripted broker: what only a broken or strange one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edgebus.bus import (
    BrokerRefusedError,
    BrokerSettings,
    BrokerUnreachableError,
    ConnectionLostError,
    ConnectOptions,
    Loss,
    Outgoing,
    RawMessage,
    SubscribeRefusedError,
)
from edgebus.mqtt import (
    Ack,
    Connack,
    Connect,
    Disconnect,
    Kind,
    MqttTransport,
    Packet,
    Parser,
    Pingreq,
    Properties,
    Publish,
    Suback,
    Subscribe,
    encode_packet,
)
from edgebus.mqtt._connection import Writer, connect_packet

DEADLINE_S = 10.0


class Peer:
    """The broker's end of one connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, v5: bool
    ) -> None:
        self.v5 = v5
        self.writer = writer
        self._reader = reader
        self._parser = Parser(v5=v5)
        self._packets: list[Packet] = []

    async def expect(self, kind: type[Any]) -> Any:
        """The next packet, which is of this type."""
        while not self._packets:
            data = await self._reader.read(65_536)
            if not data:
                raise EOFError
            self._packets += self._parser.feed(data)
            assert self._parser.failure is None
        packet = self._packets.pop(0)
        assert isinstance(packet, kind), packet
        return packet

    async def send(self, *packets: Packet) -> None:
        await self.send_raw(b"".join(encode_packet(packet, v5=self.v5) for packet in packets))

    async def send_raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def accept(self, connack: Connack | None = None) -> Connect:
        connect: Connect = await self.expect(Connect)
        await self.send(connack or Connack())
        return connect

    async def closed(self) -> None:
        """Return when the client has hung up."""
        while await self._reader.read(65_536):
            pass


class Ear:
    """A receiver that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[RawMessage] = asyncio.Queue()
        self.loss: asyncio.Future[Loss] = asyncio.get_running_loop().create_future()

    def received(self, message: RawMessage, /) -> None:
        self.messages.put_nowait(message)

    def lost(self, loss: Loss, /) -> None:
        self.loss.set_result(loss)


class Scene:
    """A client and the script of its broker."""

    def __init__(self, port: int, settings: dict[str, Any]) -> None:
        url = f"mqtt://127.0.0.1:{port}"
        self.ear = Ear()
        self.transport = MqttTransport(BrokerSettings(url=url, **settings))
        self.options = ConnectOptions(client_id="c", session_expiry_s=60)

    async def connect(self) -> Any:
        connection = await self.transport.connect(self.options, self.ear)
        connection.start()
        return connection


@asynccontextmanager
async def scene(script: Callable[[Peer], Awaitable[None]], **settings: Any) -> AsyncIterator[Scene]:
    """A scripted broker; an error in the script fails the test."""
    v5 = settings.setdefault("version", "5") == "5"
    played: list[asyncio.Future[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        played.append(asyncio.get_running_loop().create_future())
        done = played[-1]
        try:
            await script(Peer(reader, writer, v5))
        except BaseException as error:
            done.set_exception(error)
            raise
        else:
            done.set_result(None)
        finally:
            writer.close()

    async with asyncio.timeout(DEADLINE_S):
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            yield Scene(server.sockets[0].getsockname()[1], settings)
            for done in played:
                await done


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_whole_conversation(version: str) -> None:
    v5 = version == "5"

    async def script(peer: Peer) -> None:
        connect = await peer.accept()
        assert connect.client_id == "c"
        assert not connect.clean_start
        assert (connect.username, connect.password) == ("u", b"p")
        if v5:
            assert connect.properties.session_expiry_interval == 60
        subscribe = await peer.expect(Subscribe)
        numbers = subscribe.properties.subscription_identifiers
        assert len(numbers) == v5
        await peer.send(
            Publish(
                "a/b",
                b"1",
                qos=1,
                packet_id=3,
                properties=Properties(subscription_identifiers=numbers, content_type="text/plain")
                if v5
                else Properties(),
            ),
            Suback(packet_id=subscribe.packet_id, codes=(1,)),
        )
        assert await peer.expect(Ack) == Ack(Kind.PUBACK, 3)
        published = await peer.expect(Publish)
        await peer.send(Ack(Kind.PUBACK, published.packet_id))
        await peer.expect(Disconnect)
        await peer.closed()

    async with scene(script, version=version, username="u", password="p") as here:
        connection = await here.connect()
        await connection.subscribe([("a/+", 1)])
        message = await here.ear.messages.get()
        assert (message.topic, message.payload, message.qos, message.token) == ("a/b", b"1", 1, 3)
        assert message.content_type == ("text/plain" if v5 else None)
        assert message.via == (("a/+",) if v5 else ())
        connection.acknowledge(message.token)
        done = asyncio.get_running_loop().create_future()
        connection.publish(Outgoing(topic="x", payload=b"y", qos=1), done.set_result)
        assert await done is None
        await connection.close()
        assert not here.ear.loss.done()


async def test_limits_of_the_broker_are_taken_over() -> None:
    async def script(peer: Peer) -> None:
        properties = Properties(maximum_packet_size=5000, receive_maximum=7, server_keep_alive=3)
        await peer.accept(Connack(session_present=True, properties=properties))
        await peer.closed()

    async with scene(script, max_packet_bytes=9000) as here:
        connection = await here.connect()
        assert connection.session_present
        assert connection.packet_limit == 5000
        assert connection.send_window == 7
        assert connection._keepalive.pause_s == 0.75
        connection.abort()


@pytest.mark.parametrize(
    ("code", "words"),
    [(0x84, "try broker.version '3.1.1'"), (0x87, "broker.username"), (0x8A, "banned")],
)
async def test_a_refusal_tells_the_way_out(code: int, words: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept(Connack(code=code))

    async with scene(script) as here:
        with pytest.raises(BrokerRefusedError, match=words):
            await here.connect()


async def test_a_broker_of_version_3_refuses_version_5_in_its_own_way() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(Connect)
        await peer.send_raw(b"\x20\x02\x00\x01")

    async with scene(script) as here:
        with pytest.raises(BrokerRefusedError, match=r"try broker\.version '3\.1\.1'"):
            await here.connect()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\xd0\x00", b""]
)
async def test_what_answers_is_no_broker(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(Connect)
        await peer.send_raw(answer)

    async with scene(script) as here:
        with pytest.raises(BrokerUnreachableError, match="is it an MQTT broker"):
            await here.connect()


async def test_a_broker_that_never_answers() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(Connect)
        await peer.closed()

    async with scene(script, connect_timeout_s=0.05) as here:
        with pytest.raises(BrokerUnreachableError, match=r"no answer within 0\.05 s"):
            await here.connect()


async def test_malformed_bytes_end_the_connection_with_a_reason() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(Publish("a", b"good"))
        await peer.send_raw(b"\x36\x07\x00\x03a/b\x00\x01")  # QoS 3
        assert (await peer.expect(Disconnect)).code == 0x81
        await peer.closed()

    async with scene(script) as here:
        await here.connect()
        assert (await here.ear.messages.get()).payload == b"good"
        loss = await here.ear.loss
        assert loss.kind == "failed"
        assert "QoS 3" in loss.reason


@pytest.mark.parametrize(("code", "kind"), [(0x8E, "taken_over"), (0x8B, "failed")])
async def test_the_broker_says_why_it_leaves(code: int, kind: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(Disconnect(code=code, properties=Properties(reason_string="because")))
        await peer.closed()

    async with scene(script) as here:
        connection = await here.connect()
        loss = await here.ear.loss
        assert loss.kind == kind
        assert "because" in loss.reason
        # Afterwards nothing works and nothing hangs.
        connection.publish(Outgoing(topic="x", payload=b"", qos=0))
        connection.acknowledge(1)
        await connection.writable()
        await connection.close()
        with pytest.raises(ConnectionLostError):
            await connection.subscribe([("a", 0)])


async def test_a_loss_ends_what_waits_for_an_answer() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(Subscribe)

    async with scene(script) as here:
        connection = await here.connect()
        with pytest.raises(ConnectionLostError):
            await connection.subscribe([("a", 0), ("b", 1)])
        assert (await here.ear.loss).kind == "closed"


async def test_a_refused_subscription_names_its_filter() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        for code in (1, 0x87):
            subscribe = await peer.expect(Subscribe)
            await peer.send(Suback(packet_id=subscribe.packet_id, codes=(code,)))
        await peer.closed()

    async with scene(script) as here:
        connection = await here.connect()
        with pytest.raises(SubscribeRefusedError) as caught:
            await connection.subscribe([("open", 1), ("secret", 1)])
        assert caught.value.filter == "secret"
        assert caught.value.reason == "not authorized"
        connection.abort()


async def test_a_broker_that_falls_silent_is_given_up() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(Pingreq)
        with pytest.raises((EOFError, ConnectionError)):
            await peer.expect(Pingreq)

    async with scene(script, keepalive_s=1) as here:
        await here.connect()
        loss = await here.ear.loss
        assert loss.kind == "failed"
        assert "keep-alive" in loss.reason


async def test_publishers_wait_for_a_broker_that_does_not_read() -> None:
    may_read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.accept()
        await may_read.wait()
        received = [await peer.expect(Publish) for _ in range(sent)]
        assert [int(packet.payload[:6]) for packet in received] == list(range(sent))

    sent = 0
    async with scene(script) as here:
        connection = await here.connect()

        async def flood() -> None:
            nonlocal sent
            while True:
                payload = b"%06d" % sent + bytes(100_000)
                connection.publish(Outgoing(topic="x", payload=payload, qos=0))
                sent += 1
                await connection.writable()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await flood()
        # Held up by the network, not by us running out of time.
        assert connection._network.get_write_buffer_size() > 256 * 1024
        assert connection._network.get_write_buffer_size() < 1024 * 1024
        may_read.set()
        await connection.writable()
        while connection._network.get_write_buffer_size():
            await asyncio.sleep(0.001)
        connection.abort()


async def test_nothing_is_delivered_before_the_start_and_nothing_is_lost() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(Connect)
        await peer.send(Connack(session_present=True), Publish("a", b"1", qos=1, packet_id=1))
        await peer.expect(Ack)

    async with scene(script) as here:
        connection = await here.transport.connect(here.options, here.ear)
        while not connection._early:
            await asyncio.sleep(0)
        assert here.ear.messages.empty()
        connection.start()
        message = await here.ear.messages.get()
        connection.acknowledge(message.token)
        await here.ear.loss


async def test_reading_can_pause() -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.expect(Publish)
        await peer.send(Publish("a", b"1"))
        await peer.closed()

    async with scene(script) as here:
        connection = await here.connect()
        connection.pause_reading()
        connection.publish(Outgoing(topic="x", payload=b"", qos=0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(here.ear.messages.get(), 0.1)
        connection.resume_reading()
        assert (await here.ear.messages.get()).payload == b"1"
        connection.abort()


async def test_an_event_goes_again_under_its_identifier_over_the_next_connection() -> None:
    seen: list[tuple[int, bool]] = []

    async def script(peer: Peer) -> None:
        await peer.accept(Connack(session_present=bool(seen)))
        for _ in range(2):
            packet = await peer.expect(Publish)
            seen.append((packet.packet_id, packet.duplicate))

    messages = [Outgoing(topic="x", payload=b"%d" % n, qos=1) for n in range(2)]
    async with scene(script) as here:
        for _ in range(2):
            here.ear = Ear()
            connection = await here.connect()
            for message in messages:
                connection.publish(message)
            await here.ear.loss
    assert seen == [(1, False), (2, False), (1, True), (2, True)]


async def test_the_first_packet_of_a_quiet_turn_leaves_at_once_a_flood_in_one_piece() -> None:
    writes: list[bytes] = []

    class Network(asyncio.Transport):
        def write(self, data: Any) -> None:
            writes.append(bytes(data))

        def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
            pass

    writer = Writer(asyncio.get_running_loop())
    writer.attach(Network())
    writer.send(b"1")
    assert writes == [b"1"]
    for n in range(2, 8):
        writer.send(b"%d" % n)
    await asyncio.sleep(0)
    assert writes == [b"1", b"234567"]
    # That was a busy turn: the next one collects from its start.
    writer.send(b"a", b"b")
    assert len(writes) == 2
    await asyncio.sleep(0)
    assert writes[2:] == [b"ab"]
    writer.send(b"c")
    assert writes[3:] == [b"c"]


def test_a_burst_fills_no_queue_before_its_handler_has_a_turn_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.send(*(Publish("t", b"x" * 250) for _ in range(20_000)))
        await peer.closed()

    async def play() -> int:
        async with scene(script) as here:
            connection = await here.connect()
            received = most = 0
            while received < 20_000:
                await here.ear.messages.get()
                most = max(most, here.ear.messages.qsize())
                received += 1
            connection.abort()
            return most

    assert uvloop.run(play()) < 1000


@pytest.mark.parametrize(("sends", "receives"), [(None, 16 * 2**20), (2**26, 2**26), (1000, 2**24)])
def test_the_broker_is_told_how_much_fits(sends, receives):
    """A message of 200 MB would have to fit into memory before anybody could refuse it."""
    settings = BrokerSettings(max_packet_bytes=sends)
    options = ConnectOptions(client_id="x")
    assert connect_packet(settings, options).properties.maximum_packet_size == receives
    old = settings.model_copy(update={"version": "3.1.1"})
    assert connect_packet(old, options).properties.maximum_packet_size is None
