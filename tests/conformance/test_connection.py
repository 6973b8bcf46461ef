"""Requirements C1 to C8: connections that come and go."""

from __future__ import annotations

import asyncio
import time

import pytest
from harness import (
    EVENT,
    STATUS,
    Changes,
    ClusterUnderTest,
    Note,
    Recorder,
    Site,
    SpyTransport,
    eventually,
)

from edgebus.bus import (
    BrokerUnreachableError,
    Bus,
    BusClosedError,
    BusSettings,
    Cleared,
    ConnectionChange,
    Event,
    IdentityTakenError,
)
from edgebus.contracts import ServiceState, utc_now
from edgebus.contracts.topics import SERVICE_STATE
from edgebus.service.identity import IdentityGuard

IMPATIENT = {"connect_wait_s": 0.05}


def state(site: Site, node: str, word: str, session: int, instance: str = "one") -> ServiceState:
    return ServiceState(
        source=site.identity(node).source,
        state=word,  # type: ignore[arg-type]
        session=session,
        instance=instance,
        since=utc_now(),
        version="1",
    )


async def test_c1_a_broker_that_is_not_there_is_waited_for(own_site: Site) -> None:
    site = own_site
    changes, got = Changes(), Recorder()
    bus = await site.bus("a", settings=IMPATIENT, on_connection=changes)
    assert not bus.connection.connected
    with pytest.raises(BrokerUnreachableError):
        await bus.connected(timeout=0.05)
    await bus.subscribe(EVENT.any(site=site.name), got)
    await bus.publish(EVENT.at(bus.identity, kind="x"), site.note(1))

    await site.broker.start()
    await bus.connected(timeout=20)
    assert await got.has(1) == [1]
    assert changes.kinds == ["connected"]


async def test_c2_kill_and_restart_of_the_broker(own_site: Site) -> None:
    site = own_site
    await site.broker.start()
    changes, got = Changes(), Recorder()
    bus = await site.bus("a", on_connection=changes)
    sender = await site.bus("b")
    await bus.subscribe(EVENT.any(site=site.name), got)
    await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(0))
    await got.has(1)

    for n in range(1, 3):
        await site.broker.stop()
        await changes.has("lost", n)
        await sender.connection.down()
        for _ in range(3):
            await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
        await site.broker.start()
        await changes.has("connected", n + 1)
    # The receiver may come back after the sender: then a broker without memory has nobody to
    # give the events to. What is sent once both are there arrives.
    await sender.connected(timeout=20)
    await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(9))
    await eventually(lambda: 9 in got.numbers)
    sessions = [change.session for change in changes.seen if change.kind == "connected"]
    assert sessions == sorted(set(sessions))
    assert bus.stats.connects == 3


async def test_c2_a_hundred_failed_attempts_are_no_reason_to_stop(own_site: Site) -> None:
    site = own_site
    transport, got = SpyTransport(site.broker.transport()), Recorder()
    quick = {"backoff_first_s": 0.001, "backoff_max_s": 0.01}
    bus = await site.bus("a", transport=transport, settings=IMPATIENT | quick)
    await bus.subscribe(EVENT.any(site=site.name), got)
    await eventually(lambda: transport.attempts >= 100, say=lambda: transport.attempts)
    assert not bus.connection.connected
    await site.broker.start()
    await bus.connected(timeout=20)
    await bus.publish(EVENT.at(bus.identity, kind="x"), site.note(1))
    assert await got.has(1) == [1]


async def test_c3_a_lost_session_is_told_a_kept_one_is_not(own_site: Site) -> None:
    site = own_site
    await site.broker.start()
    changes = Changes()
    spy = SpyTransport(site.broker.transport())
    bus = await site.bus("a", transport=spy, on_connection=changes)
    await bus.subscribe(EVENT.any(site=site.name), Recorder())
    assert changes.kinds == ["connected"]  # a first connection loses nothing

    await site.broker.stop()
    await changes.has("lost")
    await site.broker.start()
    up = await changes.has("connected", 2)
    assert up.session_present is not site.broker.forgets
    assert ("session_lost" in changes.kinds) is site.broker.forgets
    if site.broker.forgets:
        assert changes.kinds == ["connected", "lost", "session_lost", "connected"]


async def test_c4_retained_state_is_said_again_to_a_broker_that_forgot(own_site: Site) -> None:
    site = own_site
    await site.broker.start()
    changes = Changes()
    bus = await site.bus("a", on_connection=changes)
    for n in range(3):
        await bus.publish(STATUS.at(bus.identity, kind=f"k{n}"), site.note(n))
    await bus.publish(STATUS.at(bus.identity, kind="k1"), site.note(11))
    await bus.clear(STATUS.at(bus.identity, kind="k2"))
    await site.broker.stop()
    await changes.has("lost")
    await site.broker.start()
    await changes.has("connected", 2)

    # NATS may have back for a moment what was cleared before the kill; the bus clears it again.
    values: dict[str, int] = {}

    async def on_cleared(cleared: Cleared) -> None:
        values.pop(cleared.names["kind"], None)

    async def got(event: Event[Note]) -> None:
        values[event.names["kind"]] = event.payload.n

    other = await site.bus("b")
    await other.subscribe(STATUS.any(site=site.name), got, on_cleared=on_cleared)
    await eventually(lambda: values == {"k0": 0, "k1": 11})


async def test_c5_will_birth_and_session_numbers(site: Site) -> None:
    watcher = await site.bus("w")
    seen: list[tuple[str, int]] = []

    async def watch(event: Event[ServiceState]) -> None:
        seen.append((event.payload.state, event.payload.session))

    await watcher.subscribe(SERVICE_STATE.any(site=site.name, node="a"), watch)
    identity = site.identity("a")
    before = time.time_ns() // 1_000_000
    first = service(site, "one")
    await first.__aenter__()
    await eventually(lambda: len(seen) == 1)
    await first.crash()
    await eventually(lambda: len(seen) == 2, say=lambda: seen)
    second = service(site, "one")
    await second.__aenter__()
    await eventually(lambda: len(seen) == 3, say=lambda: seen)
    await second.publish(
        SERVICE_STATE.at(identity), state(site, "a", "stopped", second.connection.session)
    )
    await second.__aexit__(None, None, None)
    await eventually(lambda: len(seen) == 4, say=lambda: seen)
    third = service(site, "one")
    async with third:
        await eventually(lambda: len(seen) == 5, say=lambda: seen)

    # A clean end says no will; an old will is told from a new birth by its session.
    assert [word for word, _ in seen] == ["ready", "offline", "ready", "stopped", "ready"]
    sessions = [session for _, session in seen]
    assert sessions[0] == sessions[1] < sessions[2] == sessions[3] < sessions[4]
    assert sessions[0] >= before


def service(site: Site, instance: str) -> Bus:
    """A bus for node a that says birth and will, as services do."""
    identity = site.identity("a")
    address = SERVICE_STATE.at(identity)

    async def birth(change: ConnectionChange) -> None:
        if change.kind == "connected":
            await bus.publish(address, state(site, "a", "ready", change.session, instance))

    bus = site.make(
        "a",
        will=lambda session: (address, state(site, "a", "offline", session, instance)),
        on_connection=birth,
        identity_check=IdentityGuard().check,
    )
    return bus


async def test_c6_of_two_with_one_identity_the_older_one_stays(site: Site) -> None:
    older, younger = service(site, "1"), service(site, "2")
    async with older:
        with pytest.raises(IdentityTakenError) as taken:
            async with younger:
                await asyncio.wait_for(younger.watch(), 20)
        assert taken.value.client_id == f"edgebus:{site.name}:a:svc"
        assert "another site, node or service name" in str(taken.value)

        await older.connected(timeout=20)
        sender, got = await site.bus("b"), Recorder()
        await older.subscribe(EVENT.any(site=site.name), got)
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(1))
        assert await got.has(1) == [1]
        said: list[ServiceState] = []

        async def hear(event: Event[ServiceState]) -> None:
            said.append(event.payload)

        await sender.subscribe(SERVICE_STATE.any(site=site.name, node="a"), hear)
        await eventually(lambda: bool(said))
        assert (said[-1].state, said[-1].instance) == ("ready", "1")


async def test_c6_without_births_the_broker_has_to_say_it(site: Site) -> None:
    if not site.broker.says_takeover:
        pytest.skip("this broker hangs up without a reason")
    first, second = await site.bus("a"), await site.bus("a")
    with pytest.raises(IdentityTakenError):
        await asyncio.wait_for(first.watch(), 20)
    assert second.connection.connected


async def test_c6_a_process_that_comes_after_a_dead_one_is_welcome(site: Site) -> None:
    dead = service(site, "1")
    await dead.__aenter__()
    await dead.crash()
    async with service(site, "2") as bus:
        await asyncio.sleep(0.2)
        assert bus.connection.connected
        assert bus.connection.connects == 1


async def test_c6_a_link_that_is_cut_again_and_again_loses_nothing(site: Site) -> None:
    to_receiver = SpyTransport(site.broker.transport())
    to_sender = SpyTransport(site.broker.transport())
    quick = {"backoff_first_s": 0.005, "backoff_max_s": 0.02}
    receiver = await site.bus("a", transport=to_receiver, settings=quick)
    sender = await site.bus("b", transport=to_sender, settings=quick)
    got = Recorder()
    subscription = await receiver.subscribe(EVENT.any(site=site.name), got)
    for n in range(600):
        sending = asyncio.create_task(
            sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
        )
        await asyncio.sleep(0)
        if n % 30 == 10:
            to_sender.cut()
        if n % 30 == 25:
            to_receiver.cut()
        if n % 30 in (14, 29):
            await receiver.connected(timeout=10)
            await sender.connected(timeout=10)
        await sending
    await eventually(lambda: len(set(got.numbers)) == 600, say=lambda: len(set(got.numbers)))
    assert len(got.numbers) == 600  # and none twice
    if site.broker.redelivers_in_order:
        assert got.numbers == list(range(600))
    assert subscription.stats.dropped == 0
    assert receiver.stats.connects >= 20


async def test_c7_events_wait_for_a_service_that_is_away(site: Site) -> None:
    sender = await site.bus("b")
    async with site.make("a") as bus:
        await bus.subscribe(EVENT.any(site=site.name), Recorder())
    for n in range(20):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))

    # The next process connects first and subscribes afterwards; nothing may be lost in between.
    back = await site.bus("a")
    await asyncio.sleep(0.1)  # let what the broker kept come in before the handler is there
    got = Recorder()
    await back.subscribe(EVENT.any(site=site.name), got)
    numbers = await got.has(20)
    # A cluster may send the first ones to the node that the client has left; they come again late.
    if isinstance(site.broker, ClusterUnderTest):
        numbers = sorted(numbers)
    assert numbers == list(range(20))


async def test_c7_events_of_an_old_session_that_nobody_wants_do_not_stay_for_ever(
    site: Site,
) -> None:
    sender = await site.bus("b")
    async with site.make("a") as bus:
        await bus.subscribe(EVENT.any(site=site.name, kind="old"), Recorder())
    for n in range(5):
        await sender.publish(EVENT.at(sender.identity, kind="old"), site.note(n))
    back = await site.bus("a", settings={"orphan_grace_s": 0.2})
    await eventually(lambda: back.stats.unrouted == 5)


async def test_c8_a_failing_listener_is_seen(site: Site) -> None:
    async def listener(_change: ConnectionChange) -> None:
        msg = "birth certificate lost"
        raise RuntimeError(msg)

    bus = site.make("a", on_connection=listener)
    with pytest.raises(RuntimeError, match="birth certificate"):
        async with bus:
            await bus.watch()


async def test_c8_a_closed_bus_says_so(site: Site) -> None:
    bus = site.make("a")
    note = site.note(1)
    with pytest.raises(BusClosedError):
        await bus.publish(EVENT.at(bus.identity, kind="x"), note)
    async with bus:
        pass
    with pytest.raises(BusClosedError):
        await bus.publish(EVENT.at(bus.identity, kind="x"), note)
    with pytest.raises(BusClosedError):
        await bus.subscribe(EVENT.any(), Recorder())
    await bus.watch()  # returns: it is closed


async def test_c8_tools_leave_no_session_and_share_an_identity(site: Site) -> None:
    ephemeral = {"ephemeral": True}
    sender = await site.bus("b")
    one, two = await site.bus("a", settings=ephemeral), await site.bus("a", settings=ephemeral)
    first, second = Recorder(), Recorder()
    await one.subscribe(EVENT.any(site=site.name), first)
    await two.subscribe(EVENT.any(site=site.name), second)
    await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(1))
    assert await first.has(1) == await second.has(1) == [1]


def test_settings_are_closed() -> None:
    with pytest.raises(ValueError, match="connect_wait"):
        BusSettings.model_validate({"connect_wait": 1})
    assert Note(n=1).schema_id() == "note/1"
