"""One MQTT connection on asyncio: handshake, reading, coalesced writing around a plain session."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TypeVar, cast

import structlog

from edgebus.bus.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    ConnectionLostError,
    SubscribeRefusedError,
)
from edgebus.bus.event import RawMessage
from edgebus.bus.settings import BrokerSettings
from edgebus.bus.transport import Acknowledged, ConnectOptions, Loss, Outgoing, Receiver, Will
from edgebus.contracts import Qos, utc_now
from edgebus.mqtt._decoder import Parser
from edgebus.mqtt._encoder import encode_packet
from edgebus.mqtt._packets import (
    BAD_CREDENTIALS,
    NOT_AUTHORIZED,
    TAKEN_OVER,
    UNSUPPORTED_VERSION,
    Connack,
    Connect,
    Disconnect,
    LastWill,
    Packet,
    Pingreq,
    Publish,
    reason_text,
)
from edgebus.mqtt._properties import NO_PROPERTIES, Properties
from edgebus.mqtt._session import Identifiers, KeepAlive, Limits, Memory, Session
from edgebus.mqtt._wire import MALFORMED, PROTOCOL_ERROR, ProtocolError

T = TypeVar("T")
_MOST_RECEIVED = 16 * 2**20
# A broker that does not know a version may also call its CONNECT malformed.
_NOT_UNDERSTOOD = (UNSUPPORTED_VERSION, MALFORMED, PROTOCOL_ERROR)


def connect_packet(settings: BrokerSettings, options: ConnectOptions) -> Connect:
    """The CONNECT packet for one connection."""
    v5 = settings.version != "3.1.1"
    expiry = options.session_expiry_s
    expiry_s = settings.session_expiry_s if expiry is None else expiry
    password = settings.password
    properties = NO_PROPERTIES
    if v5:
        properties = Properties(
            session_expiry_interval=expiry_s,
            receive_maximum=options.receive_maximum or settings.receive_maximum,
            # The broker leaves out what is larger: a message of 200 MB would have to fit into
            # memory before anybody could refuse it.
            maximum_packet_size=max(_MOST_RECEIVED, settings.max_packet_bytes or 0),
        )
    return Connect(
        client_id=options.client_id,
        clean_start=expiry_s == 0,
        keepalive_s=settings.keepalive_s,
        username=settings.username,
        password=None if password is None else password.get_secret_value().encode(),
        will=None if options.will is None else _last_will(options.will, v5=v5),
        properties=properties,
    )


def refusal(connack: Connack, settings: BrokerSettings) -> BrokerRefusedError:
    """The error for a refused CONNECT, with the way out."""
    reason = reason_text(connack.code, connack.properties.reason_string)
    if connack.code == UNSUPPORTED_VERSION and settings.version:
        other = "3.1.1" if settings.version == "5" else "5"
        reason += f"; it does not speak MQTT {settings.version}, try broker.version {other!r}"
    elif connack.code in (BAD_CREDENTIALS, NOT_AUTHORIZED):
        reason += "; see broker.username and broker.password"
    return BrokerRefusedError(
        url=settings.url, reason=reason, wrong_version=connack.code in _NOT_UNDERSTOOD
    )


def hung_up(loss: Loss, settings: BrokerSettings) -> BrokerUnreachableError:
    """The error for a connection that ended before CONNACK, with the ways out."""
    (address,) = settings.addresses
    reason = f"{loss.reason} before it answered; is it an MQTT broker?"
    if not address.tls:
        reason += f" Where it wants TLS, write {'wss' if address.websocket else 'mqtts'}://"
    if settings.version == "5":
        reason += "; where it speaks an older MQTT, set broker.version to '3.1.1'"
    return BrokerUnreachableError(url=address.url, reason=reason, hung_up=True)


async def answer(connack: asyncio.Future[T], settings: BrokerSettings) -> T:
    """The broker's CONNACK.

    Where no version of MQTT is set, half of the time is left for another try: amqtt says nothing
    at all to MQTT 5.

    Raises:
        BrokerUnreachableError: It does not come in time.
    """
    patience = settings.connect_timeout_s / (1 if settings.version else 2)
    try:
        return await asyncio.wait_for(asyncio.shield(connack), patience)
    except TimeoutError as error:
        reason = f"no answer within {patience:g} s"
        raise BrokerUnreachableError(url=settings.url, reason=reason, hung_up=True) from error


def _last_will(will: Will, *, v5: bool) -> LastWill:
    properties = NO_PROPERTIES
    if v5 and will.content_type:
        properties = Properties(content_type=will.content_type)
    return LastWill(
        topic=will.topic,
        payload=will.payload,
        qos=will.qos,
        retain=will.retain,
        properties=properties,
    )


# Enough for some large messages; above it publishers of QoS 0 wait.
_BUFFER_BYTES = 256 * 1024
# Most that may be published before the event loop gets its turn.
_BURST_BYTES = 64 * 1024
_BURST_MESSAGES = 64
# Up to this many packets per turn are better sent one by one.
_QUIET = 4


class Writer:
    """Collects what one turn of the event loop sends and hands it to the network in one piece.

    Where little is sent, the first packet of a turn leaves at once, for the sake of latency.

    Attributes:
        at: When bytes last left, on the loop's clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.at = loop.time()
        self._loop = loop
        self._network: asyncio.WriteTransport | None = None
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._turn = 0
        self._quiet = True
        self._writable = asyncio.Event()
        self._writable.set()

    def attach(self, network: asyncio.WriteTransport) -> None:
        """The network is there."""
        self._network = network
        network.set_write_buffer_limits(high=_BUFFER_BYTES)

    def send(self, data: bytes, more: bytes = b"") -> None:
        """Take bytes; they leave before the next turn of the event loop."""
        waiting = self._waiting
        waiting.append(data)
        if more:
            waiting.append(more)
        self._bytes += len(data) + len(more)
        self._turn += 1
        if self._turn == 1:
            self._loop.call_soon(self._next_turn)
            if self._quiet:
                self.flush()

    def flush(self) -> None:
        """Hand over what was taken."""
        waiting = self._waiting
        if waiting and self._network is not None:
            self.at = self._loop.time()
            self._network.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))
            waiting.clear()
            self._bytes = 0

    def _next_turn(self) -> None:
        self._quiet = self._turn <= _QUIET
        self._turn = 0
        self.flush()

    async def writable(self) -> None:
        """Return once the network has room, and give others a turn during a flood."""
        if self._bytes > _BURST_BYTES or len(self._waiting) > _BURST_MESSAGES:
            self.flush()
            await asyncio.sleep(0)
        if not self._writable.is_set():
            await self._writable.wait()

    def pause(self) -> None:
        """The network's buffer is full."""
        self._writable.clear()

    def resume(self) -> None:
        """It has room again, or is gone."""
        self._writable.set()


_CLOSE_S = 2.0


class MqttConnection(asyncio.BufferedProtocol):
    """A `Connection` to an MQTT broker.

    Args:
        settings: Version, credentials, limits.
        options: What this connection asks for.
        receiver: Owner of the connection.
        memory: Of the same client's last connection.
    """

    def __init__(
        self,
        *,
        settings: BrokerSettings,
        options: ConnectOptions,
        receiver: Receiver,
        memory: Memory,
    ) -> None:
        self.session_present = False
        self.packet_limit = settings.packet_limit
        self.send_window = settings.send_window
        self._settings = settings
        self._options = options
        self._receiver = receiver
        self._memory = memory
        self._v5 = settings.version != "3.1.1"
        self._loop = asyncio.get_running_loop()
        self._greedy = not isinstance(self._loop, asyncio.SelectorEventLoop)
        self._parser = Parser(v5=self._v5)
        self._session: Session | None = None
        self._connack: asyncio.Future[Connack] = self._loop.create_future()
        self._writer = Writer(self._loop)
        self._network: asyncio.Transport | None = None
        self._open = True
        self._early: deque[RawMessage] | None = deque()
        self._now = utc_now()
        self._identifiers = Identifiers()
        self._answers: set[asyncio.Future[str | None]] = set()
        self._paused = False
        self._scrap: bytearray | None = None
        self._ended = asyncio.Event()
        self._keepalive = KeepAlive(interval_s=settings.keepalive_s, now=self._loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("edgebus.bus")

    async def handshake(self) -> None:
        """Send CONNECT over the network, which is there, and wait for CONNACK.

        Raises:
            BrokerRefusedError: The broker does not want this client.
            BrokerUnreachableError: It hung up, or speaks something else.
        """
        packet = connect_packet(self._settings, self._options)
        self._writer.send(encode_packet(packet, v5=self._v5))
        connack = await answer(self._connack, self._settings)
        found = connack.properties
        if connack.code:
            raise refusal(connack, self._settings)
        limits = Limits.of(connack, v5=self._v5)
        self.session_present = connack.session_present
        known = [limits.packet_bytes, self._settings.max_packet_bytes]
        self.packet_limit = min(
            (size for size in known if size is not None), default=self.packet_limit
        )
        self.send_window = min(self.send_window, limits.receive_maximum)
        if found.server_keep_alive is not None:
            self._keepalive = KeepAlive(interval_s=found.server_keep_alive, now=self._loop.time())
        if not limits.retain or not limits.maximum_qos:
            self._log.warning(
                "the broker lacks what the bus needs",
                keeps_retained=limits.retain,
                maximum_qos=limits.maximum_qos,
            )
        self._tick()

    # What the bus calls.

    def start(self) -> None:
        """Begin to deliver, first what came since CONNACK."""
        early, self._early = self._early or (), None
        for message in early:
            self._receiver.received(message)

    def publish(self, message: Outgoing, acknowledged: Acknowledged | None = None) -> None:
        """Send a message."""
        session = self._session
        if not self._open or session is None:
            return
        refused = session.publish(message, acknowledged)
        if refused is not None and acknowledged is not None:
            self._loop.call_soon(acknowledged, refused)

    async def writable(self) -> None:
        """Return once the send buffer has room, and give others a turn during a flood."""
        await self._writer.writable()

    async def subscribe(self, filters: Sequence[tuple[str, Qos]]) -> None:
        """Subscribe and wait for the broker's answer.

        Raises:
            SubscribeRefusedError: The broker refuses one of them.
            ConnectionLostError: The connection ended meanwhile.
        """
        session = self._live_session()
        waiting: list[tuple[str, asyncio.Future[str | None]]] = []
        for text, qos in filters:
            # One packet per filter: a subscription identifier counts for its whole packet.
            answer = self._expect()
            waiting.append((text, answer))
            session.subscribe(
                text,
                qos,
                identifier=self._identifiers.number(text),
                answered=partial(self._answered, answer),
            )
        refusals = await asyncio.gather(*(answer for _, answer in waiting))
        for (text, _), reason in zip(waiting, refusals, strict=True):
            if reason is not None:
                raise SubscribeRefusedError(filter=text, reason=reason)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe and wait for the broker's answer.

        Raises:
            ConnectionLostError: The connection ended meanwhile.
        """
        session = self._live_session()
        answer = self._expect()
        session.unsubscribe(tuple(filters), answered=partial(self._answered, answer))
        await answer

    def acknowledge(self, token: int) -> None:
        """Send PUBACK."""
        if self._open and self._session is not None:
            self._session.acknowledge(token)

    def pause_reading(self) -> None:
        """Stop reading from the network."""
        self._paused = True
        if self._network is not None:
            self._network.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._paused = False
        if self._network is not None:
            self._network.resume_reading()

    async def close(self) -> None:
        """Send DISCONNECT and close; what was published before goes out first."""
        if not self._open:
            return
        if self._session is not None:
            self._session.disconnect()
        self._stop()
        if self._network is None:
            return
        self._writer.flush()
        self._hang_up(self._network)
        try:
            await asyncio.wait_for(self._ended.wait(), _CLOSE_S)
        except TimeoutError:
            self._network.abort()

    def abort(self) -> None:
        """Cut the connection without a word."""
        self._stop()
        if self._network is not None:
            self._network.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The network is there."""
        self._network = cast("asyncio.Transport", transport)
        self._writer.attach(self._network)
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # Without it QoS 1 costs tens of milliseconds each way (Nagle and delayed ACK).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Buffer for the next bytes."""
        return self._parser.room() if self._scrap is None else memoryview(self._scrap)

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came in."""
        if self._scrap is not None:
            return
        parser = self._parser
        self._now = utc_now()
        self._keepalive.received = self._loop.time()
        try:
            packets = parser.advance(nbytes)
            if self._greedy and len(packets) > 1:
                self._breathe()
            for packet in packets:
                if not self._open:
                    return
                session = self._session
                if session is not None:
                    session.receive(packet)
                else:
                    self._first(packet)
            if parser.failure is not None:
                raise parser.failure
        except ProtocolError as error:
            self._reject(error)

    def pause_writing(self) -> None:
        """The send buffer is full."""
        self._writer.pause()

    def resume_writing(self) -> None:
        """The send buffer has room."""
        self._writer.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """The network is gone."""
        reason = "the broker closed the connection" if exc is None else str(exc)
        self._ended.set()
        self._over(Loss("closed", reason))

    # What the session calls.

    def message(self, packet: Publish) -> None:
        """A message came."""
        topic, payload, qos, retain, duplicate, packet_id, properties = packet
        raw = RawMessage(
            topic,
            payload,
            1 if qos else 0,
            retain,
            duplicate,
            self._now,
            properties.content_type,
            packet_id,
            self._identifiers.filters(properties.subscription_identifiers),
        )
        if self._early is None:
            self._receiver.received(raw)
        else:
            self._early.append(raw)

    def disconnected(self, packet: Disconnect) -> None:
        """The broker ends the connection, with a reason."""
        reason = reason_text(packet.code, packet.properties.reason_string)
        self._over(Loss("taken_over" if packet.code == TAKEN_OVER else "failed", reason))

    # Inside.

    def _hang_up(self, network: asyncio.Transport) -> None:
        """Announce the end of the data, and let the broker close.

        A socket that is closed while the broker still sends is reset, and with it the DISCONNECT
        may be lost on its side: it would publish the will of a client that left cleanly.
        """
        if not network.can_write_eof():  # TLS
            network.close()
            return
        self._scrap = bytearray(65536)
        if self._paused:
            self.resume_reading()
        network.write_eof()

    def _breathe(self) -> None:
        """Read on only after handlers had a turn; other loops than asyncio's read on and on."""
        if self._network is not None and not self._paused:
            self._network.pause_reading()
            self._loop.call_soon(self._breathed)

    def _breathed(self) -> None:
        if self._network is not None and not self._paused:
            self._network.resume_reading()

    def _first(self, packet: Packet) -> None:
        """The broker's first packet."""
        if not isinstance(packet, Connack):
            what = type(packet).__name__.upper()
            raise ProtocolError(f"{what} instead of CONNACK", section="3.2", code=PROTOCOL_ERROR)
        if not packet.code:
            self._session = Session(
                owner=self,
                send=self._writer.send,
                memory=self._memory,
                limits=Limits.of(packet, v5=self._v5),
                window=self._settings.send_window,
                session_present=packet.session_present,
                v5=self._v5,
            )
        if not self._connack.done():
            self._connack.set_result(packet)

    def _reject(self, error: ProtocolError) -> None:
        """The broker's bytes make no sense: report it, where MQTT 5 can, and leave."""
        if self._open and self._network is not None:
            if self._session is not None and self._v5:
                self._session.disconnect(error.code)
            self._writer.flush()
            self._network.close()
            self._loop.call_later(_CLOSE_S, self._network.abort)
        self._over(Loss("failed", str(error)))

    def _tick(self) -> None:
        if not self._open:
            return
        self._keepalive.sent = self._writer.at
        what = self._keepalive.tick(self._loop.time(), reading=not self._paused)
        if what == "ask":
            self._writer.send(encode_packet(Pingreq(), v5=self._v5))
        elif what == "dead":
            self._over(Loss("failed", "the broker does not answer (keep-alive)"))
            self.abort()
            return
        self._timer = self._loop.call_later(self._keepalive.pause_s, self._tick)

    def _over(self, loss: Loss) -> None:
        """The connection ended, and not by our will."""
        if not self._open:
            return
        self._stop()
        if self._network is not None:
            self._network.close()
        if not self._connack.done():
            self._connack.set_exception(hung_up(loss, self._settings))
        elif self._session is not None:
            self._receiver.lost(loss)

    def _stop(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._writer.resume()
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(ConnectionLostError(reason="the connection is gone"))
        self._answers.clear()

    def _expect(self) -> asyncio.Future[str | None]:
        answer: asyncio.Future[str | None] = self._loop.create_future()
        self._answers.add(answer)
        return answer

    def _answered(self, answer: asyncio.Future[str | None], reason: str | None) -> None:
        self._answers.discard(answer)
        if not answer.done():
            answer.set_result(reason)

    def _live_session(self) -> Session:
        if not self._open or self._session is None:
            raise ConnectionLostError(reason="the connection is gone")
        return self._session
