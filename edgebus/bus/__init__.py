"""The bus: typed messages over MQTT, delivered as `docs/delivery.md` promises."""

from edgebus.bus._calls import is_ours
from edgebus.bus._router import TopicTrie, check_filter
from edgebus.bus.bus import Bus, IdentityCheck, WillFactory
from edgebus.bus.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    BusClosedError,
    BusError,
    CommandFailedError,
    ConnectionLostError,
    DrainTimeoutError,
    IdentityTakenError,
    MessageTooLargeError,
    OutboxFileError,
    OutboxFullError,
    PublishRefusedError,
    RequestTimeoutError,
    SubscribeRefusedError,
)
from edgebus.bus.event import Cleared, ClearedHandler, Event, Handler, RawHandler, RawMessage
from edgebus.bus.memory import BrokerFaults, MemoryBroker, MemoryTransport
from edgebus.bus.queues import DropOldest, Latest, QueuePolicy, Wait
from edgebus.bus.settings import (
    BrokerAddress,
    BrokerSettings,
    BusSettings,
    InboxSettings,
    OutboxSettings,
    RetryPolicy,
)
from edgebus.bus.state import (
    BusStats,
    ConnectionChange,
    ConnectionListener,
    ConnectionState,
    OutboxState,
    SubscriptionStats,
)
from edgebus.bus.subscription import Subscription
from edgebus.bus.transport import Connection, ConnectOptions, Loss, Outgoing, Receiver, Transport

__all__ = [
    "BrokerAddress",
    "BrokerFaults",
    "BrokerRefusedError",
    "BrokerSettings",
    "BrokerUnreachableError",
    "Bus",
    "BusClosedError",
    "BusError",
    "BusSettings",
    "BusStats",
    "Cleared",
    "ClearedHandler",
    "CommandFailedError",
    "ConnectOptions",
    "Connection",
    "ConnectionChange",
    "ConnectionListener",
    "ConnectionLostError",
    "ConnectionState",
    "DrainTimeoutError",
    "DropOldest",
    "Event",
    "Handler",
    "IdentityCheck",
    "IdentityTakenError",
    "InboxSettings",
    "Latest",
    "Loss",
    "MemoryBroker",
    "MemoryTransport",
    "MessageTooLargeError",
    "OutboxFileError",
    "OutboxFullError",
    "OutboxSettings",
    "OutboxState",
    "Outgoing",
    "PublishRefusedError",
    "QueuePolicy",
    "RawHandler",
    "RawMessage",
    "Receiver",
    "RequestTimeoutError",
    "RetryPolicy",
    "SubscribeRefusedError",
    "Subscription",
    "SubscriptionStats",
    "TopicTrie",
    "Transport",
    "Wait",
    "WillFactory",
    "check_filter",
    "is_ours",
]
