"""One MQTT connection: paho-mqtt as the state machine, asyncio as the network.

Each connection has a paho client of its own. What paho would carry from one connection to the
next (unacknowledged publishes, a stale packet, its own idea of reconnecting) is the bus's business
here, so none of it can leak.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgebus.bus._paho import PahoClient, PublishProperties, properties, refusal
from edgebus.bus._pipe import Pipe
from edgebus.bus.errors import (
    BrokerUnreachableError,
    ConnectionLostError,
    SubscribeRefusedError,
)
from edgebus.bus.event import RawMessage
from edgebus.bus.settings import BrokerSettings
from edgebus.bus.transport import Acknowledged, ConnectOptions, Loss, Outgoing, Receiver
from edgebus.contracts import Qos, utc_now

__all__ = ["MqttConnection"]

_TAKEN_OVER = 0x8E
_MAX_IDENTIFIER = 0x0FFFFFFF
_CLOSE_S = 2.0
# So much of QoS 0 may be published before the event loop gets its turn.
_BURST_BYTES = 64 * 1024
_BURST_MESSAGES = 64


class MqttConnection:
    """A `Connection` to an MQTT broker."""

    def __init__(
        self, *, settings: BrokerSettings, options: ConnectOptions, receiver: Receiver
    ) -> None:
        self.session_present = False
        self.packet_limit = settings.packet_limit
        self.send_window = settings.send_window
        self.pipe = Pipe(on_data=self._readable, on_end=self._ended)
        self._settings = settings
        self._options = options
        self._receiver = receiver
        self._v5 = settings.version == "5"
        expiry = options.session_expiry_s
        self._expiry_s = settings.session_expiry_s if expiry is None else expiry
        self._loop = asyncio.get_running_loop()
        self._connack: asyncio.Future[None] = self._loop.create_future()
        self._open = True
        self._early: deque[RawMessage] | None = deque()
        self._acknowledged: dict[int, Acknowledged] = {}
        self._granted: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._identifiers: dict[int, str] = {}
        self._identify = self._v5
        self._properties = PublishProperties()
        self._flush_due = False
        self._burst_bytes = 0
        self._burst_messages = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pinged = 0.0
        self._log = structlog.get_logger("edgebus.bus")
        self._paho = PahoClient(
            pipe=self.pipe,
            settings=settings,
            client_id=options.client_id,
            clean=self._expiry_s == 0,
            will=options.will,
        )
        self._paho.on_connect = self._on_connect
        self._paho.on_message = self._on_message
        self._paho.on_publish = self._on_publish
        self._paho.on_subscribe = self._on_answer
        self._paho.on_unsubscribe = self._on_answer
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_socket_register_write = self._on_register_write

    async def handshake(self) -> None:
        """Send CONNECT over the pipe, which is connected, and wait for CONNACK.

        Raises:
            BrokerRefusedError: The broker does not want this client.
            BrokerUnreachableError: It hung up.
        """
        extra: dict[str, Any] = {}
        if self._v5:
            wanted = properties(
                PacketTypes.CONNECT,
                SessionExpiryInterval=self._expiry_s,
                ReceiveMaximum=self._options.receive_maximum or self._settings.receive_maximum,
            )
            extra = {"clean_start": self._expiry_s == 0, "properties": wanted}
        settings = self._settings
        self._paho.connect(settings.host, settings.port, settings.keepalive_s, **extra)
        await self._connack
        self._tick()

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
        self._burst_bytes += len(message.payload)
        self._burst_messages += 1

    async def writable(self) -> None:
        """Return once the send buffer has room, and give others a turn during a flood."""
        if self._burst_bytes > _BURST_BYTES or self._burst_messages > _BURST_MESSAGES:
            self._flush()
            await asyncio.sleep(0)
        if self.pipe.congested:
            await self.pipe.writable()

    async def subscribe(self, filters: Sequence[tuple[str, Qos]]) -> None:
        """Subscribe and wait for the broker's word.

        Raises:
            SubscribeRefusedError: The broker refuses one of them.
            ConnectionLostError: The connection ended meanwhile.
        """
        self._check()
        # One packet per filter: a subscription identifier counts for its whole packet.
        waiting = [(text, self._subscribe_one(text, qos)) for text, qos in filters]
        codes = await asyncio.gather(*(future for _, future in waiting))
        for (text, _), (code, *_rest) in zip(waiting, codes, strict=True):
            if code.value >= 0x80:
                raise SubscribeRefusedError(filter=text, reason=str(code))

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe and wait for the broker's word.

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
        self.pipe.pause()

    def resume_reading(self) -> None:
        """Read on, first what was read already."""
        self.pipe.resume()
        self._loop.call_soon(self._readable)

    async def close(self) -> None:
        """Send DISCONNECT and close; what was published before goes out first."""
        if not self._open:
            return
        self._open = False
        self._paho.disconnect()
        self._flush()
        self._stop()
        try:
            await asyncio.wait_for(self.pipe.ended(), _CLOSE_S)
        except TimeoutError:
            self.pipe.abort()

    def abort(self) -> None:
        """Cut the connection without a word."""
        self._open = False
        self._stop()
        self.pipe.abort()

    # What the pipe calls.

    def _readable(self) -> None:
        while self.pipe.has_data and not self.pipe.paused and self._open:
            self._paho.loop_read()

    def _ended(self, error: Exception | None) -> None:
        reason = "the broker closed the connection" if error is None else str(error)
        self._over(Loss("closed", reason))

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
            self._connack.set_exception(refusal(code, self._settings))
            return
        self.session_present = flags.session_present
        if found is not None:
            limit = getattr(found, "MaximumPacketSize", None)
            known = [size for size in (limit, self._settings.max_packet_bytes) if size is not None]
            if known:
                self.packet_limit = min(known)
            window = getattr(found, "ReceiveMaximum", 65535)
            self.send_window = min(self.send_window, window)
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
            identifiers = getattr(found, "SubscriptionIdentifier", None)
            if identifiers:
                known = self._identifiers
                via = tuple(known[number] for number in identifiers if number in known)
        raw = RawMessage(
            topic,
            bytes(message.payload),
            message.qos,
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
            self._loop.call_soon(acknowledged, str(code) if code.is_failure else None)

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
        if flags.is_disconnect_packet_from_server and code.value == _TAKEN_OVER:
            self._over(Loss("taken_over", str(code)))
        else:
            self._over(Loss("failed", str(code)))

    def _on_register_write(self, _client: Client, _userdata: object, _socket: object) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    # Inside.

    def _subscribe_one(self, text: str, qos: Qos) -> asyncio.Future[list[ReasonCode]]:
        extra = None
        if self._identify:
            # Made from the filter, so that copies queued for an earlier process mean the same.
            number = zlib.crc32(text.encode()) & _MAX_IDENTIFIER or 1
            if self._identifiers.setdefault(number, text) == text:
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

    def _flush(self) -> None:
        self._flush_due = False
        self._burst_bytes = self._burst_messages = 0
        self._paho.loop_write()
        self.pipe.flush()

    def _tick(self) -> None:
        """Keep-alive. While reading is paused the broker's answer cannot be seen, so only ask."""
        if not self._open:
            return
        now = time.monotonic()
        if not self.pipe.paused:
            self._paho.loop_misc()
        elif now - self._pinged > self._settings.keepalive_s / 2:
            self._pinged = now
            self._paho._send_pingreq()  # paho has no public way to only ask
        if self._open:
            self._timer = self._loop.call_later(
                min(1.0, self._settings.keepalive_s / 4), self._tick
            )

    def _over(self, loss: Loss) -> None:
        """The connection ended, and not by our will."""
        if not self._open:
            return
        self._open = False
        self._stop()
        self.pipe.abort()
        if not self._connack.done():
            url = self._settings.url
            reason = f"{loss.reason} before it answered; is it an MQTT broker?"
            self._connack.set_exception(
                BrokerUnreachableError(url=url, reason=reason, hung_up=True)
            )
            return
        if self._connack.exception() is None:
            self._receiver.lost(loss)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future in self._granted.values():
            if not future.done():
                future.set_exception(ConnectionLostError(reason="the connection is gone"))
        self._granted.clear()
        self._acknowledged.clear()

    def _check(self) -> None:
        if not self._open:
            raise ConnectionLostError(reason="the connection is gone")
