"""Repair of retained values that a NATS cluster acknowledges and does not keep, or not everywhere.

Used with `broker.profile: nats` only; no other broker is known to need it.

NATS stores a retained event twice: for those who are subscribed, and for those who come later.
While the store for the latter has no leader (some seconds after a node's death), that half fails
after the server's time-out, is written to its log, and the event is acknowledged nevertheless
(nats-server 2.15.1, `mqttHandlePubRetain`). Likewise a subscription: when the retained values that
match it cannot be loaded in time, that is written to the log, and the subscription is acknowledged
without them. Both show in the time until the acknowledgement.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from edgebus.bus.transport import Acknowledged, Outgoing
from edgebus.contracts import Qos
from edgebus.mqtt._connection import MqttConnection

# Less than the time-out after which NATS gives up (`js_api_timeout`, 5 s unless it is set).
_DOUBTFUL_S = 1.0
# Each one takes a time-out, so these outlast an election. On a link that is as slow as that, one
# message more than needed is what it costs; ten are the end of it.
_TRIES = 10


class RetainRepair(MqttConnection):
    """A connection that repeats what was acknowledged late: retained events and subscriptions.

    The publisher gets the acknowledgement of the last one. Readers know copies by their id. What
    a newer value of the same topic has followed is not sent again. A repeated subscription brings
    the retained values once more, and changes nothing else (MQTT 3.1.1, 3.8.4).
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._newest: dict[str, Outgoing] = {}
        self._doubting = False

    def publish(self, message: Outgoing, acknowledged: Acknowledged | None = None) -> None:
        """Send a message."""
        if message.retain and message.qos:
            self._newest[message.topic] = message
            acknowledged = partial(self._weigh, message, acknowledged, self._loop.time(), 1)
        super().publish(message, acknowledged)

    async def subscribe(self, filters: Sequence[tuple[str, Qos]]) -> None:
        """Subscribe and wait for the broker's answer, until one comes in time."""
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
