"""Self-test at the start of a service: what brokers do not report and a service can see for itself.

On MQTT 3.1.1 a broker confirms what its access rules make it drop; some brokers give no retained
value to a filter with a wildcard. In both cases a service would be *ready* and nothing would
arrive. Its own state, which is published and retained anyway, shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edgebus.bus import Bus, ConnectionLostError, RawMessage, SubscribeRefusedError
from edgebus.contracts import Identity, PayloadError, ServiceState
from edgebus.contracts.topics import SERVICE_STATE

# Brokers of a cluster, and a busy NATS, find a retained value some moments later.
_TRIES = 3
_PATIENCE_S = 4.0
# Access rules may be mended while the service runs.
AGAIN_S = 60.0


class SelfTest:
    """Whether a service's own state comes back, live and by a filter with a wildcard.

    Args:
        identity: The service.
        instance: Its process, as its states name it.
        publish: Publishes the state once more.
        patience_s: Seconds to wait for each message.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        instance: str,
        publish: Callable[[], Awaitable[None]],
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._identity = identity
        self._instance = instance
        self._publish = publish
        self._patience_s = patience_s
        self._echo = asyncio.Event()

    def heard(self, state: ServiceState) -> None:
        """A state came in on the service's own topic."""
        if state.instance == self._instance:
            self._echo.set()

    async def trouble(self, bus: Bus) -> str:
        """What the broker does not do, and what to look at; empty where all is well.

        Raises:
            ConnectionLostError: The connection ended meanwhile.
        """
        topic = SERVICE_STATE.at(self._identity).name
        for number in range(_TRIES):
            if number:
                await self._publish()
            if await self._within(self._echo):
                break
        else:
            return (
                f"what is published on {topic} does not come back: may this service write and read "
                "there? MQTT 3.1.1 brokers confirm what they drop; see docs/connecting.md, access "
                "rules"
            )
        for _ in range(_TRIES):
            try:
                if await self._retained(bus, topic):
                    return ""
            except SubscribeRefusedError as error:
                return f"the broker refuses {error.filter}: {error.reason}; see docs/brokers.md"
        return (
            "the broker gives no retained value to a filter with a wildcard: what was published "
            "before, such as a released model, is never seen; see docs/brokers.md"
        )

    async def _retained(self, bus: Bus, topic: str) -> bool:
        seen = asyncio.Event()

        async def hear(message: RawMessage) -> None:
            if message.topic != topic or not message.retained:
                return
            try:
                state = ServiceState.decode(message.payload)
            except PayloadError:
                return
            if state.instance == self._instance:
                seen.set()

        tapped = await bus.tap(f"{self._identity.prefix}/+", hear, name="self-test")
        try:
            return await self._within(seen)
        finally:
            await tapped.unsubscribe()

    async def _within(self, event: asyncio.Event) -> bool:
        try:
            async with asyncio.timeout(self._patience_s):
                await event.wait()
        except TimeoutError:
            return False
        return True


async def watch_broker(
    bus: Bus, test: SelfTest, report: Callable[[str], None], *, again_s: float = AGAIN_S
) -> None:
    """Test until all is well, and report each change: the trouble, or empty words.

    Args:
        bus: Of the service.
        test: The test.
        report: Called with what is wrong, and with empty words once it is not.
        again_s: Seconds until the next try while something is wrong.
    """
    found, cuts = "", 0
    while True:
        await bus.connection.up()
        connects = bus.connection.connects
        try:
            trouble = await test.trouble(bus)
        except ConnectionLostError:
            trouble = ""
        if not bus.connection.connected or bus.connection.connects != connects:
            # Cut in the middle, which says nothing about the broker, unless it goes on: some hang
            # up on who publishes what the rules deny.
            cuts += 1
            if not trouble or cuts < _TRIES:
                continue
        if trouble != found:
            report(trouble)
        found = trouble
        if not trouble:
            return
        await asyncio.sleep(again_s)
