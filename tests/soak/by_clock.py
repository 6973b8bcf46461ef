"""The wall clock is set forward and back by a day while events are on their way."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AsyncExitStack

from edgebus.bus import Bus, BusSettings, Event, MemoryBroker
from edgebus.contracts import Identity, ServiceState, topics
from edgebus.service.identity import IdentityGuard
from edgebus.service.presence import Presence
from tests.soak.brokers import Mosquitto
from tests.soak.field import Field, Outcome, Scene
from tests.soak.proxy import Proxy
from tests.soak.traffic import EVENT, SENDER, Numbered, numbered
from tests.soak.virtual import Wall, wall_clock

__all__ = ["clock_set"]

_DAY_S = 86_400.0
_LATE = Identity(site="soak", node="pi-02", service="late")
_SOON_S = 10.0


async def clock_set(scene: Scene) -> Outcome:
    """Traffic with connections that come and go while the clock jumps; then what counts time."""
    with wall_clock(Wall()) as wall:
        outcome = await _traffic(scene, wall)
        await _expiry(outcome, wall)
        await _presence(outcome, wall)
    return outcome


async def _traffic(scene: Scene, wall: Wall) -> Outcome:
    share = scene.events // (scene.faults + 1)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(scene.folder, persistence=False))
        link = await stack.enter_async_context(Proxy(broker.host, broker.port))
        settings = broker.settings(link.url)
        field = await stack.enter_async_context(Field(scene, sender=settings, reader=settings))
        for number in range(scene.faults):
            end = (number + 1) * share
            field.load.allow(end)
            await field.reached(number * share + share // 4)
            field.note_flight(end)
            wall.offset_s += (_DAY_S, -_DAY_S, -_DAY_S, _DAY_S)[number % 4]
            link.cut()
        await field.settle(total=scene.events, patience_s=10.0)
        outcome = field.outcome(faults=scene.faults)
    grows = all(one < other for one, other in itertools.pairwise(field.sessions))
    outcome.expect(grows, f"session numbers do not grow: {field.sessions}")
    wall.offset_s = 0.0
    return outcome


async def _expiry(outcome: Outcome, wall: Wall) -> None:
    """What may wait a minute does so, whatever the clock says; what may not, does not."""
    broker = MemoryBroker()
    got: list[int] = []
    last = asyncio.Event()

    async def handle(event: Event[Numbered]) -> None:
        got.append(event.payload.n)
        if event.payload.n == 9:
            last.set()

    settings = BusSettings(connect_wait_s=0.0, backoff_first_s=0.02, backoff_max_s=0.1)
    late = Bus(broker.transport(), identity=_LATE, settings=settings)
    bus = Bus(broker.transport(), identity=SENDER, settings=settings)
    async with late, bus:
        await late.subscribe(EVENT.any(site="soak"), handle)
        await late.connected(_SOON_S)
        broker.stop(forget=False)
        await bus.connection.down()
        for n, lifetime_s in ((1, 60.0), (2, 0.05)):
            await bus.publish(
                EVENT.at(SENDER, origin="x"), numbered("x", n), expires_in_s=lifetime_s
            )
        wall.offset_s = _DAY_S  # the first must not be taken for a day old
        await bus.publish(EVENT.at(SENDER, origin="x"), numbered("x", 3), expires_in_s=0.05)
        wall.offset_s = -_DAY_S  # the third must not get a day more
        await asyncio.sleep(0.1)
        broker.start()
        await late.connected(_SOON_S)
        await bus.publish(EVENT.at(SENDER, origin="x"), numbered("x", 9))
        await asyncio.wait_for(last.wait(), _SOON_S)
    wall.offset_s = 0.0
    outcome.expect(got == [1, 9], f"of 1 (60 s), 2 and 3 (expired) and 9 there came {got}")


async def _presence(outcome: Outcome, wall: Wall) -> None:
    """A service dies while its clock runs a day ahead; the next one has the right time."""
    broker = MemoryBroker()
    said: list[ServiceState] = []
    news = asyncio.Event()

    async def see(event: Event[ServiceState]) -> None:
        said.append(event.payload)
        news.set()

    async def births(count: int) -> None:
        async with asyncio.timeout(_SOON_S):
            while [one.state for one in said].count("ready") < count:
                news.clear()
                await news.wait()

    watcher = Bus(broker.transport(), identity=_LATE)
    async with watcher:
        await watcher.subscribe(topics.SERVICE_STATE.any(site="soak"), see, deduplicate=False)
        wall.offset_s = _DAY_S
        async with _living(broker) as bus:
            await births(1)
            await bus.crash()
        wall.offset_s = 0.0
        async with _living(broker) as bus:
            await births(2)
            # Back by a day while it lives, and its connection is cut: it stays who it is.
            wall.offset_s = -_DAY_S
            before = bus.connection.session
            broker.cut(next(name for name in broker.clients() if SENDER.service in name))
            await births(3)
            outcome.expect(bus.connection.session > before, "the session number does not grow")
    wall.offset_s = 0.0
    outcome.expect(time.time() < said[0].time.timestamp(), "the clock was not set")


def _living(broker: MemoryBroker) -> Bus:
    """A bus with birth and will, as a service has it."""
    presence = Presence(identity=SENDER, version="1", state="ready")
    address = topics.SERVICE_STATE.at(SENDER)

    async def born(change: object) -> None:
        if bus.connection.connected:
            presence.session = bus.connection.session
            await bus.publish(address, presence.message())

    bus = Bus(
        broker.transport(),
        identity=SENDER,
        settings=BusSettings(backoff_first_s=0.02, backoff_max_s=0.1),
        will=lambda session: (address, presence.will(session)),
        on_connection=born,
        identity_check=IdentityGuard().check,
    )
    return bus
