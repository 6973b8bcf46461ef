"""Repair of retained values that NATS acknowledges and does not keep, or not at once or everywhere.

Used with `broker.profile: nats` only; no other broker is known to need it.

NATS stores a retained event twice: for those who are subscribed, and for those who come later.
While the store for the latter has no leader (some seconds after a node's death), that half fails
after the server's time-out, is written to its log, and the event is acknowledged nevertheless
(nats-server 2.15.1, `mqttHandlePubRetain`). Likewise a subscription: when the retained values that
match it cannot be loaded in time, that is written to the log, and the subscription is acknowledged
without them. Both show in the time until the acknowledgement.

A third delay shows nowhere: what NATS has acknowledged is found by a subscription only some
moments later, on a single node too (one of about 3,000 subscriptions that followed at once missed
the value). So each subscription is asked for once more, a second later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from edgebus.bus.errors import ConnectionLostError, SubscribeRefusedError
from edgebus.bus.transport import Acknowledged, Outgoing
from edgebus.contracts import Qos
from edgebus.mqtt._connection import MqttConnection

# Less than the time-out after which NATS gives up (`js_api_timeout`, 5 s unless it is set).
_DOUBTFUL_S = 1.0
# Each one takes a time-out, so these outlast an election. On a link that is as slow as that, one
# message more than needed is what it costs; ten are the end of it.
_TRIES = 10
# After this long what was acknowledged before a subscription is found by it.
_SETTLED_S = 1.0


# It is mixed into a connection, whichever client makes that.
if TYPE_CHECKING:
    _Base = MqttConnection
else:
    _Base = object


class Repairs(_Base):
    """Repeats retained events acknowledged late, and every subscription.

    The publisher gets the acknowledgement of the last one. Readers know copies by their id. What
    a newer value of the same topic has followed is not sent again. A repeated subscription brings
    the retained values once more, and changes nothing else (MQTT 3.1.1, 3.8.4); the bus drops
    those that a handler has had.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._newest: dict[str, Outgoing] = {}
        self._doubting = False
        self._subscribed: set[str] = set()
        self._again: set[asyncio.Task[None]] = set()

    def publish(self, message: Outgoing, acknowledged: Acknowledged | None = None) -> None:
        """Send a message."""
        if message.retain and message.qos:
            self._newest[message.topic] = message
            acknowledged = partial(self._weigh, message, acknowledged, self._loop.time(), 1)
        super().publish(message, acknowledged)

    async def subscribe(self, filters: Sequence[tuple[str, Qos]]) -> None:
        """Subscribe and wait for the broker's answer, until one comes in time; then once more."""
        self._subscribed.update(text for text, _ in filters)
        await self._subscribe_in_time(filters)
        again = self._loop.create_task(self._subscribe_later(filters))
        self._again.add(again)
        again.add_done_callback(self._again.discard)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe and wait for the broker's answer."""
        self._subscribed.difference_update(filters)
        await super().unsubscribe(filters)

    async def _subscribe_later(self, filters: Sequence[tuple[str, Qos]]) -> None:
        await asyncio.sleep(_SETTLED_S)
        wanted = [each for each in filters if each[0] in self._subscribed]
        # The bus asks anew on the next connection, and for what is refused.
        with contextlib.suppress(ConnectionLostError, SubscribeRefusedError):
            await super().subscribe(wanted)

    async def _subscribe_in_time(self, filters: Sequence[tuple[str, Qos]]) -> None:
        for tries in range(_TRIES):
            asked = self._loop.time()
            await super().subscribe(filters)
            took = self._loop.time() - asked
            if took <= _DOUBTFUL_S:
                return
            if tries == 0:
                self._log.warning(
                    "a subscription was acknowledged late, asking for its retained values again",
                    filters=[text for text, _ in filters],
                    after_s=round(took, 1),
                )

    def _stop(self) -> None:
        super()._stop()
        for task in self._again:
            task.cancel()

    def _weigh(
        self,
        message: Outgoing,
        acknowledged: Acknowledged | None,
        sent: float,
        tries: int,
        refused: str | None,
    ) -> None:
        """An acknowledgement came: believe it, or send the message again."""
        now = self._loop.time()
        doubtful = refused is None and now - sent > _DOUBTFUL_S
        if doubtful != self._doubting:
            self._doubting = doubtful
            if doubtful:
                self._log.warning(
                    "a retained value was acknowledged late, sending it again",
                    topic=message.topic,
                    after_s=round(now - sent, 1),
                )
        newest = self._newest.get(message.topic) is message
        if doubtful and newest and tries < _TRIES:
            super().publish(message, partial(self._weigh, message, acknowledged, now, tries + 1))
            return
        if newest:
            del self._newest[message.topic]
        if acknowledged is not None:
            acknowledged(refused)


class RetainRepair(Repairs, MqttConnection):
    """A connection to a NATS server."""
