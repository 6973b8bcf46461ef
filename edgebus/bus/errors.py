"""Errors of the bus. Each one carries its data and names the way out."""

from __future__ import annotations

from pathlib import Path


class BusError(Exception):
    """The base of every error of this package."""


class BrokerUnreachableError(BusError):
    """Nobody answers at the broker's address.

    Attributes:
        url: The address, without credentials.
        reason: What the attempt ended with.
        hung_up: Somebody took the connection and closed it, or gave no answer.
    """

    def __init__(self, *, url: str, reason: str, hung_up: bool = False) -> None:
        super().__init__(f"no broker at {url}: {reason}; check the address and that it runs")
        self.url = url
        self.reason = reason
        self.hung_up = hung_up


class BrokerRefusedError(BusError):
    """The broker answered and does not want this client.

    Attributes:
        url: The address, without credentials.
        reason: The broker's reason, in words.
        wrong_version: It does not speak the version of MQTT that it was asked in.
    """

    def __init__(self, *, url: str, reason: str, wrong_version: bool = False) -> None:
        super().__init__(f"the broker at {url} refuses the connection: {reason}")
        self.url = url
        self.reason = reason
        self.wrong_version = wrong_version


class CommandFailedError(BusError):
    """A service answered a command with a plain no, where a typed answer was asked for.

    Attributes:
        topic: Topic of the command.
        detail: The service's reason.
    """

    def __init__(self, *, topic: str, detail: str) -> None:
        super().__init__(f"{topic} failed: {detail}")
        self.topic = topic
        self.detail = detail


class ConnectionLostError(BusError):
    """The connection went away during an operation; it is taken up again after the reconnect.

    Attributes:
        reason: What the connection ended with.
    """

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"connection lost: {reason}")
        self.reason = reason


class IdentityTakenError(BusError):
    """Another process uses the same identity on this broker.

    Attributes:
        client_id: The MQTT client id that both use.
        detail: What was observed.
    """

    def __init__(self, *, client_id: str, detail: str) -> None:
        super().__init__(
            f"another process is connected as {client_id} ({detail}); "
            "stop it, or give one of the two another site, node or service name"
        )
        self.client_id = client_id
        self.detail = detail


class MessageTooLargeError(BusError):
    """A message is larger than the broker takes; nothing was sent.

    Attributes:
        topic: Where it should have gone.
        size: Bytes of the MQTT packet.
        limit: Bytes that the broker takes, or that the settings allow.
    """

    def __init__(self, *, topic: str, size: int, limit: int) -> None:
        super().__init__(
            f"message for {topic} makes a packet of {size} bytes, the limit is {limit}; "
            "send it in blocks, or raise the limit on the broker and in broker.max_packet_bytes"
        )
        self.topic = topic
        self.size = size
        self.limit = limit


class PublishRefusedError(BusError):
    """The broker took the packet and refused the message (MQTT 5 PUBACK reason code).

    Attributes:
        topic: Where it should have gone.
        reason: The broker's reason.
    """

    def __init__(self, *, topic: str, reason: str) -> None:
        super().__init__(f"the broker refuses the message for {topic}: {reason}")
        self.topic = topic
        self.reason = reason


class SubscribeRefusedError(BusError):
    """A subscription cannot be had.

    Attributes:
        filter: The topic filter.
        reason: Why not.
    """

    def __init__(self, *, filter: str, reason: str) -> None:  # noqa: A002 MQTT's word for it
        super().__init__(f"cannot subscribe to {filter}: {reason}")
        self.filter = filter
        self.reason = reason


class OutboxFileError(BusError):
    """The outbox's or inbox's file cannot be used; events that wait are in memory only.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, *, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}; events that wait would not outlive this process. Make room "
            "on the disk; a damaged or foreign file can be moved away, and is left as it is"
        )
        self.path = path
        self.reason = reason


class OutboxFullError(BusError):
    """The broker is away and the outbox holds all that it may; the message was not accepted.

    Attributes:
        messages: Messages waiting.
        size: Bytes waiting.
        max_messages: Limit on messages.
        max_bytes: Limit on bytes.
    """

    def __init__(self, *, messages: int, size: int, max_messages: int, max_bytes: int) -> None:
        super().__init__(
            f"the broker is away and the outbox is full: {messages} of {max_messages} messages, "
            f"{size} of {max_bytes} bytes; publish less, or raise bus.outbox.max_messages/max_bytes"
        )
        self.messages = messages
        self.size = size
        self.max_messages = max_messages
        self.max_bytes = max_bytes


class RequestTimeoutError(BusError, TimeoutError):
    """A command was not answered in time. It may have been carried out nevertheless.

    Attributes:
        topic: Topic of the command.
        timeout: Seconds waited.
    """

    def __init__(self, *, topic: str, timeout: float) -> None:
        super().__init__(
            f"no answer to {topic} within {timeout:g} s; is the service running and connected?"
        )
        self.topic = topic
        self.timeout = timeout


class DrainTimeoutError(BusError, TimeoutError):
    """Not all that was accepted could be finished in time.

    Attributes:
        timeout: Seconds waited.
        unfinished: Messages accepted and not handled, by subscription.
        outbox: Messages that the broker has not taken.
    """

    def __init__(self, *, timeout: float, unfinished: dict[str, int], outbox: int) -> None:
        waiting = ", ".join(f"{name}: {count}" for name, count in unfinished.items()) or "none"
        super().__init__(
            f"not drained within {timeout:g} s: messages in handlers and queues: {waiting}; "
            f"in the outbox: {outbox}"
        )
        self.timeout = timeout
        self.unfinished = unfinished
        self.outbox = outbox


class BusClosedError(BusError):
    """The bus was used before it was opened or after it was closed."""

    def __init__(self) -> None:
        super().__init__("the bus is not open; use it inside `async with Bus(...)`")
