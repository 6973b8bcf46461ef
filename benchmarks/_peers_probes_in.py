"""Probes of what comes in: routing, acknowledgement, queues, failure (R, A, Q, F)."""

from __future__ import annotations

import asyncio

from benchmarks._peers_driver import Got, Listen, Outcome, Probe, Seen, Stage, topic
from benchmarks._peers_stage import eventually

__all__ = ["PROBES"]

_SETTLE_S = 0.5  # for what must not come


async def overlapping(stage: Stage) -> Outcome:
    narrow, middle, wide = Seen(), Seen(), Seen()
    await stage.peer(
        Listen(handler=narrow, node="b", kind="x"),
        Listen(handler=middle, kind="x"),
        Listen(handler=wide),
    )
    await stage.say(*range(20))
    await stage.say(20, kind="y")
    await asyncio.gather(wide.has(21), narrow.has(20), middle.has(20))
    await asyncio.sleep(_SETTLE_S)
    exact = [seen.numbers for seen in (narrow, middle, wide)]
    said = "handlers of b/x, +/x and +/+ were called {}, {} and {} times for 20, 20 and 21 messages"
    return Outcome(
        exact == [list(range(20)), list(range(20)), list(range(21))],
        said.format(*map(len, exact)),
    )


async def same_filter(stage: Stage) -> Outcome:
    first, second = Seen(), Seen()
    await stage.peer(Listen(handler=first), Listen(handler=second))
    await stage.say(*range(5))
    await asyncio.gather(first.has(5), second.has(5))
    both = [first.numbers, second.numbers]
    return Outcome(
        both == [list(range(5))] * 2, f"calls for 5 messages: {len(both[0])} and {len(both[1])}"
    )


async def names(stage: Stage) -> Outcome:
    seen = Seen()
    await stage.peer(Listen(handler=seen))
    await stage.say(7, kind="door")
    await seen.has(1)
    return Outcome(seen.got == [Got(7, "b", "door")], f"the handler got {seen.got}")


async def retained_late(stage: Stage) -> Outcome:
    peer = await stage.peer()
    await stage.say(1, group="status", retain=True)
    late = Seen()
    await peer.listen(Listen(handler=late, group="status"))
    await late.has(1)
    return Outcome(late.numbers == [1], f"the late handler got {late.numbers}")


async def retained_late_overlap(stage: Stage) -> Outcome:
    early, late = Seen(), Seen()
    peer = await stage.peer(Listen(handler=early, group="status"))
    await stage.say(1, group="status", retain=True)
    await early.has(1)
    await peer.listen(Listen(handler=late, group="status", node="b"))
    await late.has(1)
    await asyncio.sleep(_SETTLE_S)
    seen = f"the late handler got {late.numbers}, the one that was there {early.numbers}"
    return Outcome((early.numbers, late.numbers) == ([1], [1]), seen)


async def cleared(stage: Stage) -> Outcome:
    seen, gone = Seen(), asyncio.Event()

    async def clear() -> None:
        gone.set()

    await stage.peer(Listen(handler=seen, group="status", cleared=clear))
    await stage.say(1, group="status", retain=True)
    await seen.has(1)
    await stage.stranger.say(topic("status", "x"), b"", retain=True)
    told = await eventually(gone.is_set, 3)
    return Outcome(
        told and seen.numbers == [1],
        "told that the value is gone" if told else "nothing tells that the value is gone",
    )


async def bad_filter(stage: Stage) -> Outcome:
    peer = await stage.peer()
    try:
        await asyncio.wait_for(peer.listen_badly(), 5)
    except TimeoutError:
        return Outcome(False, "hangs")
    except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
        return Outcome("#" in str(error), f"{type(error).__name__}: {str(error)[:70]}")
    return Outcome(False, "a/#/b is accepted")


async def template(stage: Stage) -> Outcome:
    peer = await stage.peer()
    try:
        await asyncio.wait_for(peer.publish_template(), 5)
    except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
        return Outcome(True, f"{type(error).__name__}: {str(error)[:70]}")
    await asyncio.sleep(_SETTLE_S)
    wire = sorted({name for name, _, _ in stage.stranger.heard})
    return Outcome(False, f"published on {', '.join(wire) or 'nothing'}")


async def crash(stage: Stage) -> Outcome:
    begun, stuck, again, link = asyncio.Event(), asyncio.Event(), Seen(), await stage.link()

    async def die(_: Got) -> None:
        begun.set()
        await stuck.wait()

    await stage.peer(Listen(handler=die), port=link.port, persistent=True)
    await stage.say(1)
    await asyncio.wait_for(begun.wait(), 6)
    early = list(link.acknowledged)
    link.cut(for_good=True)
    await stage.peer(Listen(handler=again), persistent=True)
    await again.has(1)
    what = f"{len(early)} acknowledged in the handler, then the next process got {again.numbers}"
    return Outcome(again.numbers == [1] and not early, what)


async def crash_order(stage: Stage) -> Outcome:
    begun, stuck, again, link = asyncio.Event(), asyncio.Event(), Seen(), await stage.link()

    async def die(_: Got) -> None:
        begun.set()
        await stuck.wait()

    await stage.peer(Listen(handler=die), port=link.port, persistent=True)
    await stage.say(*range(5))
    await asyncio.wait_for(begun.wait(), 6)
    link.cut(for_good=True)
    await stage.say(*range(5, 8))
    await stage.peer(Listen(handler=again), persistent=True)
    await again.has(8)
    return Outcome(again.numbers == list(range(8)), f"the next process got {again.numbers}")


async def ack_order(stage: Stage) -> Outcome:
    link = await stage.link()

    async def work(got: Got) -> None:
        await asyncio.sleep(0.1 * (5 - got.n))

    seen = Seen(work)
    await stage.peer(Listen(handler=seen, workers=5), port=link.port)
    await stage.say(*range(5))
    await seen.has(5)
    await eventually(lambda: len(link.acknowledged) == 5, 3)
    order = [link.delivered.index(token) for token in link.acknowledged]
    return Outcome(
        order == list(range(5)) and seen.numbers != list(range(5)),
        f"handlers finished {seen.numbers}, acknowledgements left {order}",
    )


async def same_id(stage: Stage) -> Outcome:
    seen, data = Seen(), stage.driver.note(1)
    await stage.peer(Listen(handler=seen))
    await stage.stranger.say(topic("events", "x"), data, data)
    await stage.say(2)
    await eventually(lambda: 2 in seen.numbers, 6)
    return Outcome(seen.numbers == [1, 2], f"the same message twice, then another: {seen.numbers}")


async def slow_beside_fast(stage: Stage) -> Outcome:
    gate, link = asyncio.Event(), await stage.link()

    async def wait(_: Got) -> None:
        await gate.wait()

    fast = Seen()
    peer = await stage.peer(
        Listen(handler=wait, group="readings", kind="slow"),
        Listen(handler=fast, group="events", kind="fast"),
        port=link.port,
    )
    await stage.say(*range(3000), group="readings", kind="slow")
    await stage.say(*range(10), kind="fast")
    await fast.has(10)
    answered = True
    try:
        await asyncio.wait_for(peer.publish("events", "own", 1), 3)
    except Exception:  # noqa: BLE001 whatever it is, it did not work
        answered = False
    return Outcome(
        fast.numbers == list(range(10)) and answered,
        f"3,000 readings behind a stuck handler: another one got {len(fast.numbers)} of 10 events, "
        f"publishing an event {'works' if answered else 'hangs'}",
    )


async def latest(stage: Stage) -> Outcome:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def wait(_: Got) -> None:
        begun.set()
        await gate.wait()

    seen = Seen(wait)
    peer = await stage.peer(Listen(handler=seen, group="readings", queue="latest"))
    await stage.say(0, group="readings")
    await asyncio.wait_for(begun.wait(), 6)
    await stage.say(*range(1, 50), group="readings")
    await asyncio.sleep(_SETTLE_S)
    gate.set()
    await seen.has(2)
    await asyncio.sleep(_SETTLE_S)
    return Outcome(
        seen.numbers == [0, 49] and peer.lost_count == 48,
        f"a busy handler was then called for {len(seen.numbers) - 1} of 49, "
        f"{peer.lost_count} counted as dropped",
    )


async def drop_oldest(stage: Stage) -> Outcome:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def wait(_: Got) -> None:
        begun.set()
        await gate.wait()

    seen = Seen(wait)
    peer = await stage.peer(Listen(handler=seen, group="readings", queue="drop_oldest"))
    await stage.say(0, group="readings")
    await asyncio.wait_for(begun.wait(), 6)
    await stage.say(*range(1, 40), group="readings")
    await asyncio.sleep(_SETTLE_S)
    gate.set()
    await seen.has(6)
    await asyncio.sleep(_SETTLE_S)
    return Outcome(
        seen.numbers == [0, 35, 36, 37, 38, 39] and peer.lost_count == 34,
        f"queue of 5, 39 messages: {len(seen.numbers) - 1} handled, {peer.lost_count} counted",
    )


async def waits(stage: Stage) -> Outcome:
    gate = asyncio.Event()

    async def wait(_: Got) -> None:
        await gate.wait()

    seen = Seen(wait)
    await stage.peer(Listen(handler=seen))
    await stage.say(*range(2500))
    gate.set()
    await seen.has(2500)
    return Outcome(
        seen.numbers == list(range(2500)),
        f"{len(seen.numbers)} of 2,500 events that waited for a stuck handler",
    )


async def apart(stage: Stage) -> Outcome:
    gate = asyncio.Event()

    async def wait(_: Got) -> None:
        await gate.wait()

    slow, other = Seen(wait), Seen()
    await stage.peer(
        Listen(handler=slow, kind="slow", apart=True), Listen(handler=other, kind="other")
    )
    await stage.say(*range(200), kind="slow")
    await stage.say(*range(200), kind="other")
    await other.has(200)
    meanwhile = len(other.numbers)
    gate.set()
    await slow.has(200)
    return Outcome(
        meanwhile == 200 and slow.numbers == list(range(200)),
        f"200 events behind a stuck handler: another got {meanwhile} of 200",
    )


async def invalid_kept(stage: Stage) -> Outcome:
    seen, bad = Seen(), b'{"n": "many"}'
    await stage.peer(Listen(handler=seen))
    await stage.stranger.say(topic("events", "x"), bad)
    await stage.say(5)
    await seen.has(1)
    part = stage.driver.letters

    def kept() -> bool:
        heard = stage.stranger.heard
        return part is not None and any(part in name and data == bad for name, data, _ in heard)

    found = await eventually(kept, 3 if part else 0)
    where = "its bytes are on the dead-letter topic" if found else "its bytes are nowhere"
    return Outcome(
        found and seen.numbers == [5],
        f"the next message got {seen.numbers}; of the bad one {where}",
    )


async def poison(stage: Stage) -> Outcome:
    seen = Seen()
    await stage.peer(Listen(handler=seen))
    await stage.stranger.say(topic("events", "x"), *[b"no"] * 100)
    await stage.say(*range(10))
    await seen.has(10)
    return Outcome(
        seen.numbers == list(range(10)), f"{len(seen.numbers)} of 10 good ones behind 100 bad ones"
    )


async def retried(stage: Stage) -> Outcome:
    calls: list[int] = []

    async def flaky(got: Got) -> None:
        calls.append(got.n)
        if calls.count(got.n) < 3:
            raise OSError("not yet")

    seen = Seen(flaky)
    await stage.peer(Listen(handler=seen, retry=True), persistent=True)
    await stage.say(*range(3))
    await seen.has(3)
    return Outcome(
        seen.numbers == [0, 1, 2],
        f"handlers that fail twice: {len(calls)} calls, handled {seen.numbers} of [0, 1, 2]",
    )


async def given_up(stage: Stage) -> Outcome:
    async def broken(got: Got) -> None:
        if got.n < 50:
            raise RuntimeError("disk on fire")

    seen, part = Seen(broken), stage.driver.letters
    await stage.peer(Listen(handler=seen, retry=True), persistent=True)
    await stage.say(*range(55))
    await seen.has(5, within=20 if part else 6)

    def kept() -> int:
        heard = (name for name, data, _ in stage.stranger.heard if b'"n":' in data)
        return sum(part is not None and part in name for name in heard)

    await eventually(lambda: kept() >= 50, 3 if part else 0)
    return Outcome(
        seen.numbers == list(range(50, 55)) and kept() >= 50,
        f"50 messages whose handler always fails, then 5 good ones: {len(seen.numbers)} of 5 "
        f"handled, {min(kept(), 50)} of 50 kept",
    )


PROBES = [
    Probe("R1", "overlapping filters", overlapping),
    Probe("R2", "two handlers on one filter", same_filter),
    Probe("R3", "names of the topic, typed payload", names),
    Probe("R4", "retained value for a late handler", retained_late),
    Probe("R4", "the same beside an overlapping filter", retained_late_overlap),
    Probe("R5", "a retained value is cleared", cleared),
    Probe("R6", "what is no filter is refused", bad_filter),
    Probe("R6", "a placeholder that nobody filled in", template),
    Probe("A1", "crash before the handler is done", crash),
    Probe("A2", "acknowledgements in order of arrival", ack_order),
    Probe("A3", "the same message twice", same_id),
    Probe("A4", "redelivery in the old order", crash_order),
    Probe("Q1", "a stuck handler beside others", slow_beside_fast),
    Probe("Q2", "only the newest waits", latest),
    Probe("Q3", "a bounded queue, drops counted", drop_oldest),
    Probe("Q4", "no event dropped behind a stuck handler", waits),
    Probe("Q5", "a connection of its own", apart),
    Probe("F1", "an invalid payload is kept", invalid_kept),
    Probe("F2", "invalid payloads stop nothing", poison),
    Probe("F3", "a handler that fails is called again", retried),
    Probe("F4", "messages that always fail", given_up),
]
