"""A broker inside the process, with the semantics of MQTT, for tests.

It keeps sessions, retained values, wills, take-over and flow control, and can be stopped and
started, so that what passes with it passes with a real broker; the conformance suite runs on it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgebus.bus._router import TopicTrie
from edgebus.bus.errors import (
    BrokerUnreachableError,
    ConnectionLostError,
    SubscribeRefusedError,
)
from edgebus.bus.event import RawMessage
from edgebus.bus.transport import (
    Acknowledged,
    ConnectOptions,
    Loss,
    Outgoing,
    Receiver,
    Will,
)
from edgebus.contracts import Qos, utc_now

_DEFAULT_EXPIRY_S = 86_400
_DEFAULT_RECEIVE_MAXIMUM = 1024


@dataclass(slots=True, eq=False)
class _Session:
    """The broker's session of one client id."""

    client_id: str
    persistent: bool
    filters: dict[str, Qos] = field(default_factory=dict)
    queue: deque[Outgoing] = field(default_factory=deque)
    in_flight: dict[int, Outgoing] = field(default_factory=dict)
    connection: _MemoryConnection | None = None
    window: int = _DEFAULT_RECEIVE_MAXIMUM
    token: int = 0


def _granted(_filter: str) -> str | None:
    return None


@dataclass(slots=True)
class BrokerFaults:
    """Faults of a `MemoryBroker`, to be set and unset at any time; by default it has none.

    Attributes:
        stalled: Messages are neither taken nor acknowledged, while connections stay, as on a link
            that hangs; what was published meanwhile is lost with its connection.
        refuse: Called with the filter of each subscription; the reason for which it is refused, or
            None to grant it.
    """

    stalled: bool = False
    refuse: Callable[[str], str | None] = _granted


class MemoryBroker:
    """An MQTT broker in memory.

    Args:
        max_packet_bytes: Larger packets are refused.
        copies: ``one``: a client with overlapping filters gets one copy of a message, as from
            Mosquitto on MQTT 3.1.1; ``each``: one per filter, as from NATS.

    Attributes:
        running: Whether it takes connections.
        faults: Faults of the broker, for tests.
    """

    def __init__(self, *, max_packet_bytes: int = 8 * 1024 * 1024, copies: str = "one") -> None:
        self.max_packet_bytes = max_packet_bytes
        self.running = True
        self.faults = BrokerFaults()
        self._copies = copies
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, Outgoing] = {}
        self._subscriptions: TopicTrie[tuple[_Session, str]] = TopicTrie()

    @property
    def retained(self) -> dict[str, bytes]:
        """Retained payloads by topic."""
        return {topic: message.payload for topic, message in self._retained.items()}

    def transport(self) -> MemoryTransport:
        """A transport to this broker."""
        return MemoryTransport(self)

    def stop(self, *, forget: bool = True) -> None:
        """Go away as a killed broker does.

        Args:
            forget: Lose sessions and retained values, as without persistence.
        """
        self.running = False
        for session in list(self._sessions.values()):
            if session.connection is not None:
                session.connection.end(Loss("closed", "the broker is gone"), will=False)
        if forget:
            self._sessions.clear()
            self._retained.clear()
            self._subscriptions = TopicTrie()

    def start(self) -> None:
        """Come back."""
        self.running = True

    def cut(self, client_id: str) -> None:
        """Cut a client's connection, as a broken network does; its will is sent."""
        connection = self._sessions[client_id].connection
        if connection is not None:
            connection.end(Loss("failed", "the connection was cut"), will=True)

    def clients(self) -> list[str]:
        """Ids of connected clients."""
        return [s.client_id for s in self._sessions.values() if s.connection is not None]

    # What connections call.

    def admit(self, options: ConnectOptions, receiver: Receiver) -> _MemoryConnection:
        """Let a client in; one with the same id is thrown out."""
        session = self._sessions.get(options.client_id)
        if session is not None and session.connection is not None:
            session.connection.end(
                Loss("taken_over", "another client connected with this id"), will=True
            )
        expiry = options.session_expiry_s
        persistent = (_DEFAULT_EXPIRY_S if expiry is None else expiry) > 0
        session = self._sessions.get(options.client_id)
        present = session is not None and persistent
        if session is not None and not present:
            self._drop(session)
        if session is None or not present:
            session = _Session(options.client_id, persistent)
            self._sessions[options.client_id] = session
        session.window = options.receive_maximum or _DEFAULT_RECEIVE_MAXIMUM
        connection = _MemoryConnection(
            self, session, receiver, will=options.will, session_present=present
        )
        session.connection = connection
        return connection

    def leave(self, connection: _MemoryConnection, *, will: Will | None) -> None:
        """A client is gone."""
        session = connection.session
        session.connection = None
        if not session.persistent:
            self._drop(session)
        # What was sent and not acknowledged is sent again over the next connection, in order.
        session.queue.extendleft(reversed(session.in_flight.values()))
        session.in_flight.clear()
        if will is not None:
            self.publish(
                Outgoing(
                    topic=will.topic,
                    payload=will.payload,
                    qos=will.qos,
                    retain=will.retain,
                    content_type=will.content_type,
                )
            )

    def publish(self, message: Outgoing) -> None:
        """Give a message to everybody who wants it."""
        if message.retain:
            self._retained.pop(message.topic, None)
            if message.payload:
                self._retained[message.topic] = message
        granted: dict[_Session, list[Qos]] = {}
        for session, text in self._subscriptions.match(message.topic):
            granted.setdefault(session, []).append(session.filters[text])
        for session, levels in granted.items():
            for qos in levels if self._copies == "each" else [max(levels)]:
                self._give(session, message, qos, retained=False)

    def subscribe(self, session: _Session, text: str, qos: Qos) -> None:
        """Add a subscription, and give its retained values."""
        if text not in session.filters:
            self._subscriptions.add(text, (session, text))
        session.filters[text] = qos
        alone: TopicTrie[bool] = TopicTrie()
        alone.add(text, True)
        for topic, message in self._retained.items():
            if alone.match(topic):
                self._give(session, message, qos, retained=True)

    def unsubscribe(self, session: _Session, text: str) -> None:
        """Remove a subscription."""
        if session.filters.pop(text, None) is not None:
            self._subscriptions.remove(text, (session, text))

    def pump(self, session: _Session) -> None:
        """Send what waits, as far as the client's window goes."""
        connection = session.connection
        while connection and session.queue and len(session.in_flight) < session.window:
            message = session.queue.popleft()
            session.token = session.token % 65535 + 1
            session.in_flight[session.token] = message
            connection.deliver(message, 1, retained=message.retain, token=session.token)

    def _give(self, session: _Session, message: Outgoing, qos: Qos, *, retained: bool) -> None:
        if min(qos, message.qos) == 0:
            if session.connection is not None:
                session.connection.deliver(message, 0, retained=retained, token=0)
            return
        # `retain` of a queued message is the mark that it is delivered with.
        session.queue.append(
            Outgoing(
                topic=message.topic,
                payload=message.payload,
                qos=1,
                retain=retained,
                content_type=message.content_type,
            )
        )
        self.pump(session)

    def _drop(self, session: _Session) -> None:
        for text in list(session.filters):
            self.unsubscribe(session, text)
        self._sessions.pop(session.client_id, None)


class _MemoryConnection:
    """A `Connection` to a `MemoryBroker`."""

    packet_limit: int | None
    send_window = 100

    def __init__(
        self,
        broker: MemoryBroker,
        session: _Session,
        receiver: Receiver,
        *,
        will: Will | None,
        session_present: bool,
    ) -> None:
        self.session = session
        self.session_present = session_present
        self.packet_limit = broker.max_packet_bytes
        self._broker = broker
        self._receiver = receiver
        self._will = will
        self._open = True
        self._started = False
        self._paused = False
        self._inbox: deque[RawMessage] = deque()

    # What the bus calls.

    def start(self) -> None:
        """Begin to deliver."""
        self._started = True
        self._broker.pump(self.session)
        self._soon(self._flush)

    def publish(self, message: Outgoing, acknowledged: Acknowledged | None = None) -> None:
        """Send a message."""
        self._soon(lambda: self._arrive(message, acknowledged))

    async def writable(self) -> None:
        """Let the others run: a flood of messages must not starve them."""
        await asyncio.sleep(0)

    async def subscribe(self, filters: Sequence[tuple[str, Qos]]) -> None:
        """Subscribe.

        Raises:
            SubscribeRefusedError: `MemoryBroker.faults` refuses one of them.
            ConnectionLostError: The connection ended meanwhile.
        """
        await asyncio.sleep(0)
        self._check()
        for text, qos in filters:
            reason = self._broker.faults.refuse(text)
            if reason is not None:
                raise SubscribeRefusedError(filter=text, reason=reason)
            self._broker.subscribe(self.session, text, qos)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe."""
        await asyncio.sleep(0)
        self._check()
        for text in filters:
            self._broker.unsubscribe(self.session, text)

    def acknowledge(self, token: int) -> None:
        """A message is done."""
        if self._open:
            self._soon(lambda: self._acknowledged(token))

    def pause_reading(self) -> None:
        """Stop delivering."""
        self._paused = True

    def resume_reading(self) -> None:
        """Deliver on."""
        self._paused = False
        self._soon(self._flush)

    async def close(self) -> None:
        """Leave; what was published before is taken first."""
        await asyncio.sleep(0)
        if self._open:
            self._open = False
            self._broker.leave(self, will=None)

    def abort(self) -> None:
        """Vanish: the broker sends the will."""
        if self._open:
            self._open = False
            self._broker.leave(self, will=self._will)

    # What the broker calls.

    def deliver(self, message: Outgoing, qos: Qos, *, retained: bool, token: int) -> None:
        """Give the client a message."""
        self._inbox.append(
            RawMessage(
                topic=message.topic,
                payload=message.payload,
                qos=qos,
                retained=retained,
                duplicate=False,
                received=utc_now(),
                content_type=message.content_type or None,
                token=token,
            )
        )
        self._soon(self._flush)

    def end(self, loss: Loss, *, will: bool) -> None:
        """Throw the client out."""
        if not self._open:
            return
        self._open = False
        self._broker.leave(self, will=self._will if will else None)
        asyncio.get_running_loop().call_soon(self._receiver.lost, loss)

    def _arrive(self, message: Outgoing, acknowledged: Acknowledged | None) -> None:
        if self._broker.faults.stalled:
            return
        if message.packet_bytes > self._broker.max_packet_bytes:
            self.end(Loss("failed", "packet too large"), will=True)
            return
        self._broker.publish(message)
        if message.qos and acknowledged is not None:
            self._soon(lambda: acknowledged(None))

    def _acknowledged(self, token: int) -> None:
        if self.session.in_flight.pop(token, None) is not None:
            self._broker.pump(self.session)

    def _flush(self) -> None:
        while self._started and not self._paused and self._inbox:
            self._receiver.received(self._inbox.popleft())

    def _check(self) -> None:
        if not self._open:
            raise ConnectionLostError(reason="the connection is gone")

    def _soon(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(self._if_open, call)

    def _if_open(self, call: Callable[[], None]) -> None:
        if self._open:
            call()


class MemoryTransport:
    """A `Transport` to a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    @property
    def url(self) -> str:
        """A stand-in for an address."""
        return "memory://"

    @property
    def packet_limit(self) -> int | None:
        """Known once connected."""
        return None

    async def connect(self, options: ConnectOptions, receiver: Receiver) -> _MemoryConnection:
        """Connect.

        Raises:
            BrokerUnreachableError: The broker is stopped.
        """
        await asyncio.sleep(0)
        if not self._broker.running:
            raise BrokerUnreachableError(url=self.url, reason="the broker is stopped")
        return self._broker.admit(options, receiver)
