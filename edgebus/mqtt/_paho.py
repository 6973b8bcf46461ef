"""One MQTT connection by paho-mqtt: over WebSockets and through proxies, driven from asyncio.

paho makes the connection, in a thread because it blocks, and is the state machine for packets
after that; `docs/adr/0017-paho-for-websockets-and-proxies.md` says why. Each connection has
a client of its own. What paho would carry from one to the next (unacknowledged publishes, its own
reconnecting) is the bus's business here, so none of it can leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgebus.bus.errors import ConnectionLostError, SubscribeRefusedError
from edgebus.bus.event import RawMessage
from edgebus.bus.settings import BrokerSettings
from edgebus.bus.transport import Acknowledged, ConnectOptions, Loss, Outgoing, Receiver
from edgebus.contracts import Qos, utc_now
from edgebus.mqtt._connection import answer, connect_packet, hung_up, refusal
from edgebus.mqtt._packets import TAKEN_OVER, Connack
from edgebus.mqtt._paho_client import CHUNK, BufferedSocket, PahoClient, properties
from edgebus.mqtt._retain_repair import Repairs
from edgebus.mqtt._session import Identifiers

_FAILURE = 0x80
_CLOSE_S = 2.0
# Most that may be published before the event loop gets its turn.
_BURST_MESSAGES = 64
_CACHED = 1000
# RFC 6455, 5.5.1: final, opcode 8, masked by zeros, no reason.
_WEBSOCKET_CLOSE = b"\x88\x80\x00\x00\x00\x00"


class PahoConnection:
    """A `Connection` to an MQTT broker.

    Args:
        settings: Address, version, credentials, limits.
        options: What this connection asks for.
        receiver: Owner of the connection.
        tls: For an encrypted connection.
    """

    def __init__(
        self,
        *,
        settings: BrokerSettings,
        options: ConnectOptions,
        receiver: Receiver,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.session_present = False
        self.packet_limit = settings.packet_limit
        self.send_window = settings.send_window
        self._settings = settings
        (self._address,) = settings.addresses
        self._receiver = receiver
        self._v5 = settings.version != "3.1.1"
        self._connect = connect_packet(settings, options)
        self._loop = asyncio.get_running_loop()
        self._connack: asyncio.Future[None] = self._loop.create_future()
        self._open = True
        self._paused = False
        self._early: deque[RawMessage] | None = deque()
        self._acknowledged: dict[int, Acknowledged] = {}
        self._granted: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._identifiers = Identifiers()
        self._identify = self._v5
        self._properties = PublishProperties()
        self._flush_due = False
        self._burst_messages = 0
        self._room = asyncio.Event()
        self._room.set()
        self._ended = asyncio.Event()
        self._pinged = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("edgebus.bus")
        self._paho = PahoClient(settings=settings, connect=self._connect, tls=tls)
        self._paho.on_connect = self._on_connect
        self._paho.on_message = self._on_message
        self._paho.on_publish = self._on_publish
        self._paho.on_subscribe = self._on_answer
        self._paho.on_unsubscribe = self._on_answer
        self._paho.on_disconnect = self._on_disconnect

    async def handshake(self) -> None:
        """Connect, send CONNECT and wait for CONNACK.

        Raises:
            OSError: The network, the proxy, TLS or the WebSocket could not be had.
            BrokerRefusedError: The broker does not want this client.
            BrokerUnreachableError: It hung up.
        """
        extra: dict[str, Any] = {}
        if self._v5:
            asked = self._connect.properties
            wanted = properties(
                PacketTypes.CONNECT,
                SessionExpiryInterval=asked.session_expiry_interval,
                ReceiveMaximum=asked.receive_maximum,
                MaximumPacketSize=asked.maximum_packet_size,
            )
            extra = {"clean_start": self._connect.clean_start, "properties": wanted}
        address = self._address
        await self._in_thread(
            lambda: self._paho.connect(
                address.host, address.port, self._settings.keepalive_s, **extra
            )
        )
        self._paho.on_socket_register_write = self._on_register_write
        self._loop.add_reader(self._buffer.network, self._readable)
        self._flush()
        await answer(self._connack, self._settings)
        self._tick()

    async def _in_thread(self, work: Callable[[], object]) -> None:
        """Run what blocks in a thread that nobody waits for at the end of the process."""
        done: asyncio.Future[None] = self._loop.create_future()

        def settle(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def run() -> None:
            failure: BaseException | None = None
            try:
                work()
            except (OSError, ValueError) as error:
                failure = error
                traceback.clear_frames(error.__traceback__)  # they hold the socket open
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(settle, failure)

        threading.Thread(target=run, name="edgebus-paho-connect", daemon=True).start()
        await done

    # What the bus calls.

    def start(self) -> None:
        """Begin to deliver, first what came since CONNACK."""
        early, self._early = self._early or (), None
        for message in early:
            self._receiver.received(message)

    def publish(self, message: Outgoing, acknowledged: Acknowledged | None = None) -> None:
        """Send a message."""
        if not self._open:
            return
        while True:
            info = self._paho.publish(
                message.topic,
                message.payload,
                message.qos,
                message.retain,
                self._properties.of(message) if self._v5 else None,
            )
            # paho's ids wrap around, and it refuses one that is still in flight: take the next.
            if info.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                break
        if message.qos and acknowledged is not None:
            self._acknowledged[info.mid] = acknowledged
        self._burst_messages += 1

    async def writable(self) -> None:
        """Return once the send buffer has room, and give others a turn during a flood."""
        if self._burst_messages > _BURST_MESSAGES:
            self._flush()
            await asyncio.sleep(0)
        await self._room.wait()

    async def subscribe(self, filters: Sequence[tuple[str, Qos]]) -> None:
        """Subscribe and wait for the broker's answer.

        Raises:
            SubscribeRefusedError: The broker refuses one of them.
            ConnectionLostError: The connection ended meanwhile.
        """
        self._check()
        # One packet per filter: a subscription identifier counts for its whole packet.
        waiting = [(text, self._subscribe_one(text, qos)) for text, qos in filters]
        codes = await asyncio.gather(*(future for _, future in waiting))
        for (text, _), (code, *_rest) in zip(waiting, codes, strict=True):
            if code.value >= _FAILURE:
                raise SubscribeRefusedError(filter=text, reason=_words(code))

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe and wait for the broker's answer.

        Raises:
            ConnectionLostError: The connection ended meanwhile.
        """
        self._check()
        _, mid = self._paho.unsubscribe(list(filters))
        await self._expect(mid)

    def acknowledge(self, token: int) -> None:
        """Send PUBACK."""
        if self._open:
            self._paho.ack(token, 1)

    def pause_reading(self) -> None:
        """Stop reading from the network."""
        if self._open and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._buffer.network)

    def resume_reading(self) -> None:
        """Read on, first what was read already."""
        if self._open and self._paused:
            self._paused = False
            self._loop.add_reader(self._buffer.network, self._readable)
            self._loop.call_soon(self._readable)

    async def close(self) -> None:
        """Send DISCONNECT and close; what was published before goes out first."""
        if not self._open:
            return
        self._paho.disconnect()
        self.resume_reading()
        self._open = False
        self._stop()
        self._paho.loop_write()
        if self._address.websocket:
            self._buffer.send(_WEBSOCKET_CLOSE)
        self._flush()
        # The broker closes once it has the DISCONNECT; a socket that is closed while it still
        # sends is reset, and it would publish the will of a client that left cleanly.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _CLOSE_S)
        self._cut()

    def abort(self) -> None:
        """Cut the connection without a word."""
        self._open = False
        self._stop()
        self._cut()

    # What the network calls.

    def _readable(self) -> None:
        if self._paused or self._ended.is_set():
            return
        buffer = self._buffer
        error = "the broker closed the connection"
        try:
            goes_on = buffer.fill()
        except OSError as problem:
            goes_on, error = False, problem.strerror or str(problem)
        while buffer.has_data and self._open and not self._paused:
            self._paho.loop_read()
        if buffer.outgoing:  # a WebSocket's own answers, to a ping or a close
            self._flush()
        if not goes_on and not self._paused:
            self._end()
            self._over(Loss("closed", error))

    def _flush(self) -> None:
        self._flush_due = False
        self._burst_messages = 0
        if self._ended.is_set():
            return
        buffer = self._buffer
        self._paho.loop_write()
        try:
            buffer.flush()
        except OSError as problem:
            self._end()
            self._over(Loss("closed", problem.strerror or str(problem)))
            return
        if buffer.outgoing:
            self._loop.add_writer(buffer.network, self._flush)
        else:
            self._loop.remove_writer(buffer.network)
        if len(buffer.outgoing) > CHUNK:
            self._room.clear()
        else:
            self._room.set()

    # What paho calls.

    def _on_connect(
        self,
        _client: Client,
        _userdata: object,
        flags: ConnectFlags,
        code: ReasonCode,
        found: Properties | None,
    ) -> None:
        if self._connack.done():
            return
        if code.is_failure:
            self._connack.set_exception(refusal(Connack(code=code.value), self._settings))
            return
        self.session_present = flags.session_present
        if found is not None:
            limit = getattr(found, "MaximumPacketSize", None)
            known = [size for size in (limit, self._settings.max_packet_bytes) if size is not None]
            self.packet_limit = min(known, default=self.packet_limit)
            self.send_window = min(self.send_window, getattr(found, "ReceiveMaximum", 65535))
            self._identify &= getattr(found, "SubscriptionIdentifierAvailable", 1) == 1
        self._connack.set_result(None)

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # MQTT-1.5.4-1 forbids it and no filter of ours can mean it.
            self._paho.ack(message.mid, message.qos)
            return
        content_type = None
        via: tuple[str, ...] = ()
        found = message.properties
        if found is not None:
            content_type = getattr(found, "ContentType", None)
            numbers = getattr(found, "SubscriptionIdentifier", None)
            if numbers:
                via = self._identifiers.filters(tuple(numbers))
        raw = RawMessage(
            topic,
            bytes(message.payload),
            1 if message.qos else 0,
            message.retain,
            message.dup,
            utc_now(),
            content_type,
            message.mid,
            via,
        )
        if self._early is not None:
            self._early.append(raw)
        else:
            self._receiver.received(raw)

    def _on_publish(
        self,
        _client: Client,
        _userdata: object,
        mid: int,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        acknowledged = self._acknowledged.pop(mid, None)
        if acknowledged is not None:
            # Soon, not now: paho still holds the message under this id.
            self._loop.call_soon(acknowledged, _words(code) if code.is_failure else None)

    def _on_answer(
        self,
        _client: Client,
        _userdata: object,
        mid: int,
        codes: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        """SUBACK and UNSUBACK."""
        future = self._granted.pop(mid, None)
        if future is not None and not future.done():
            future.set_result(codes)

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: object,
        flags: DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        by_broker = flags.is_disconnect_packet_from_server
        taken = by_broker and code.value == TAKEN_OVER
        self._over(Loss("taken_over" if taken else "failed", _words(code)))

    def _on_register_write(self, _client: Client, _userdata: object, _socket: object) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    # Inside.

    @property
    def _buffer(self) -> BufferedSocket:
        buffer = self._paho.buffer
        if buffer is None:
            raise ConnectionLostError(reason="there is no connection yet")
        return buffer

    def _subscribe_one(self, text: str, qos: Qos) -> asyncio.Future[list[ReasonCode]]:
        extra = None
        if self._identify and (number := self._identifiers.number(text)) is not None:
            extra = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=number)
        _, mid = self._paho.subscribe(text, qos, properties=extra)
        return self._expect(mid)

    def _expect(self, mid: int | None) -> asyncio.Future[list[ReasonCode]]:
        future: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        if mid is None:
            future.set_exception(ConnectionLostError(reason="the connection is gone"))
        else:
            self._granted[mid] = future
        return future

    def _tick(self) -> None:
        """Keep-alive. While reading is paused the broker's answer cannot be seen, so only ask."""
        if not self._open:
            return
        now = self._loop.time()
        if not self._paused:
            self._paho.loop_misc()
        elif now - self._pinged > self._settings.keepalive_s / 2:
            self._pinged = now
            self._paho.ask()
        if self._open:
            pause = min(1.0, self._settings.keepalive_s / 4)
            self._timer = self._loop.call_later(pause, self._tick)

    def _over(self, loss: Loss) -> None:
        """The connection ended, and not by our will."""
        if not self._open:
            return
        self._open = False
        self._stop()
        self._cut()
        if not self._connack.done():
            self._connack.set_exception(hung_up(loss, self._settings))
        elif self._connack.exception() is None:
            self._receiver.lost(loss)

    def _end(self) -> None:
        """The network gives and takes nothing more."""
        self._ended.set()
        self._room.set()
        buffer = self._paho.buffer
        if buffer is not None and buffer.network.fileno() >= 0:
            self._loop.remove_reader(buffer.network)
            self._loop.remove_writer(buffer.network)

    def _cut(self) -> None:
        self._end()
        self._paho.abandon()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._room.set()
        for future in self._granted.values():
            if not future.done():
                future.set_exception(ConnectionLostError(reason="the connection is gone"))
        self._granted.clear()
        self._acknowledged.clear()

    def _check(self) -> None:
        if not self._open:
            raise ConnectionLostError(reason="the connection is gone")


class PahoRetainRepair(Repairs, PahoConnection):  # type: ignore[misc]
    """A connection to a NATS server; see `Repairs`."""


class PublishProperties:
    """The MQTT 5 properties of publishes; they repeat, and paho's are slow to build."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int | None], Properties] = {}

    def of(self, message: Outgoing) -> Properties | None:
        """Content type, payload format, expiry and trace of a message."""
        key = (message.content_type, message.expiry_s)
        if message.traceparent is not None:
            made = self._make(*key)
            made.UserProperty = ("traceparent", message.traceparent)
            return made
        if key == ("", None):
            return None
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            found = self._known[key] = self._make(*key)
        return found

    def _make(self, content_type: str, expiry_s: int | None) -> Properties:
        text = int(content_type == "application/json") if content_type else None
        return properties(
            PacketTypes.PUBLISH,
            PayloadFormatIndicator=text,
            ContentType=content_type or None,
            MessageExpiryInterval=expiry_s,
        )


def _words(code: ReasonCode) -> str:
    """A reason in the words of the native client."""
    return str(code).lower()
