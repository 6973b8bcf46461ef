"""Counters of the bus and of its subscriptions."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["BusStats", "SubscriptionStats"]


@dataclass(slots=True)
class SubscriptionStats:
    """What became of a subscription's messages. Counters only grow.

    Attributes:
        received: Messages that reached the subscription.
        handled: Handler calls that succeeded.
        failed: Messages whose handler failed for good; they are dead letters.
        retried: Further calls after a failed one.
        invalid: Messages that did not validate; they are dead letters.
        dropped: Messages dropped by the overflow policy.
        duplicates: Messages not handled because their id was handled before.
        expired: Commands not acted upon because they came too late.
        queued: Messages waiting now.
        queued_bytes: Bytes waiting now.
        active: Handler calls running now.
    """

    received: int = 0
    handled: int = 0
    failed: int = 0
    retried: int = 0
    invalid: int = 0
    dropped: int = 0
    duplicates: int = 0
    expired: int = 0
    queued: int = 0
    queued_bytes: int = 0
    active: int = 0


@dataclass(slots=True)
class BusStats:
    """What went through the bus. Counters only grow.

    Attributes:
        published: Messages given to the network or, for events, acknowledged by the broker.
        published_bytes: Their payload bytes.
        received: Messages that came in.
        received_bytes: Their payload bytes.
        offline_dropped: QoS 0 messages published while the broker was away.
        refused: Events that expired in the outbox, were too large for the broker or refused by it.
        outbox_dropped: Events that gave way to newer ones in a full outbox.
        unrouted: Events that no handler wanted.
        dead_letters: Dead letters published.
        dead_letters_suppressed: Dead letters beyond what a subscription may write per second.
        connects: Connections made, the first included.
        outbox_messages: Events waiting for the broker now.
        outbox_bytes: Their payload bytes.
        subscriptions: By the subscription's name.
    """

    published: int = 0
    published_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    offline_dropped: int = 0
    refused: int = 0
    outbox_dropped: int = 0
    unrouted: int = 0
    dead_letters: int = 0
    dead_letters_suppressed: int = 0
    connects: int = 0
    outbox_messages: int = 0
    outbox_bytes: int = 0
    subscriptions: dict[str, SubscriptionStats] = field(default_factory=dict)
