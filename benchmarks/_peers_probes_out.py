"""Probes of connection, publishing, commands and stopping (C, P, M, D)."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress

from benchmarks._peers_driver import Got, Listen, Outcome, Probe, Seen, Stage
from benchmarks._peers_stage import eventually

__all__ = ["PROBES"]

_OUTAGE_S = 35.0
_BULK = 300_000


async def no_broker(stage: Stage) -> Outcome:
    stage.broker.kill()
    seen = Seen()
    peer = stage.make(Listen(handler=seen))
    starting = asyncio.create_task(peer.start())
    done, _ = await asyncio.wait({starting}, timeout=1.5)
    if done and starting.exception() is not None:
        return Outcome(False, f"start fails: {starting.exception()!r}"[:90])
    await stage.broker.start()
    await asyncio.wait_for(starting, 8)
    await stage.say(1)
    await seen.has(1)
    return Outcome(seen.numbers == [1], f"started 1.5 s before the broker, then got {seen.numbers}")


async def kills(stage: Stage) -> Outcome:
    seen = Seen()
    await stage.peer(Listen(handler=seen))
    for n in range(3):
        stage.broker.kill()
        await asyncio.sleep(1)
        await stage.broker.start()
        until = time.monotonic() + 8
        while n not in seen.numbers and time.monotonic() < until:
            await stage.say(n)
            await asyncio.sleep(0.3)
    back = sorted(set(seen.numbers))
    return Outcome(back == [0, 1, 2], f"hears again after {len(back)} of 3 kills of the broker")


async def outage(stage: Stage) -> Outcome:
    seen = Seen()
    peer = await stage.peer(Listen(handler=seen), defaults=True)
    stage.broker.kill()
    await asyncio.sleep(_OUTAGE_S)
    await stage.broker.start()
    back, since = False, time.monotonic()
    while not back and time.monotonic() < since + 35:
        await stage.say(1)
        back = await seen.has(1, within=0.5)
    if back:
        what = f"hears again {time.monotonic() - since:.0f} s after it"
    else:
        what = "deaf for good; the application " + ("ended" if peer.ended else "runs on as if well")
    return Outcome(back, f"default settings, broker away for {_OUTAGE_S:.0f} s: {what}")


async def session_told(stage: Stage) -> Outcome:
    link, seen = await stage.link(), Seen()
    peer = await stage.peer(Listen(handler=seen), port=link.port, persistent=True)
    link.cut()
    await eventually(lambda: link.connects == 2 and link.alive, 6)
    await asyncio.sleep(0.5)
    kept = peer.session_lost
    stage.broker.kill()
    await stage.broker.start()
    await eventually(lambda: link.connects >= 3, 6)
    lost = await eventually(lambda: peer.session_lost, 2)
    words = {True: "lost", False: "kept"}
    return Outcome(
        lost and not kept, f"a cut link: {words[kept]}; a broker that forgot: {words[lost]}"
    )


async def state_again(stage: Stage) -> Outcome:
    link = await stage.link()
    peer = await stage.peer(port=link.port)
    await peer.publish("status", "x", 1)
    stage.broker.kill()
    await stage.broker.start()
    await eventually(lambda: link.connects >= 2, 6)
    await asyncio.sleep(1.5)
    late = Seen()
    await stage.peer(Listen(handler=late, group="status"), name="late")
    await late.has(1, within=2)
    return Outcome(
        late.numbers == [1], f"retained value at a broker that forgot: {late.numbers or 'none'}"
    )


def _wills(stage: Stage) -> list[bytes]:
    return [data for name, data, _ in stage.stranger.heard if "/a/" in name and b"offline" in data]


async def will(stage: Stage) -> Outcome:
    link = await stage.link()
    await stage.peer(port=link.port, presence=True)
    link.cut(for_good=True)
    await eventually(lambda: bool(_wills(stage)), 4)
    died = len(_wills(stage))
    peer = await stage.peer(presence=True)
    await peer.stop()
    await asyncio.sleep(0.5)
    clean = len(_wills(stage)) - died
    return Outcome((died, clean) == (1, 0), f"{died} will after a crash, {clean} after a clean end")


async def late_will(stage: Stage) -> Outcome:
    link = await stage.link()
    await stage.peer(port=link.port, presence=True)
    for n in (1, 2):
        link.cut()
        await eventually(lambda n=n: len(_wills(stage)) >= n, 4)  # type: ignore[misc]
        await eventually(lambda n=n: link.connects == n + 1, 4)  # type: ignore[misc]
    wills = _wills(stage)
    return Outcome(
        len(wills) == 2 and len(set(wills)) == 2 and _grows(wills),
        f"wills of two connections are {'told apart' if len(set(wills)) > 1 else 'the same bytes'}",
    )


def _grows(wills: list[bytes]) -> bool:
    with suppress(ValueError, KeyError):
        first, second = (json.loads(data)["session"] for data in wills)
        return bool(first < second)
    return False


async def twins(stage: Stage) -> Outcome:
    links = [await stage.link(), await stage.link()]
    for link in links:
        peer = stage.make(port=link.port, presence=True)
        with suppress(Exception):
            await asyncio.wait_for(peer.start(), 5)
    await asyncio.sleep(6)
    before = sum(link.connects for link in links)
    await asyncio.sleep(3)
    more = sum(link.connects for link in links) - before
    alive = sum(link.alive for link in links)
    return Outcome(
        alive == 1 and not more,
        f"after 6 s: {more} connections in 3 s more, {alive} of the two connected",
    )


async def away(stage: Stage) -> Outcome:
    first, second = Seen(), Seen()
    peer = await stage.peer(Listen(handler=first), persistent=True)
    await peer.stop()
    await stage.say(1, 2, 3)
    await stage.peer(Listen(handler=second), persistent=True)
    await second.has(3, within=4)
    return Outcome(
        second.numbers == [1, 2, 3],
        f"events published while it was stopped: got {second.numbers} of [1, 2, 3]",
    )


async def offline_events(stage: Stage) -> Outcome:
    link = await stage.link()
    peer = await stage.peer(port=link.port)
    link.cut(for_good=True)
    await asyncio.sleep(0.5)
    sent, problem = await _try_publish(peer, range(50))
    link.restore()
    await eventually(lambda: len(stage.numbers("events")) >= 50, 6)
    got = stage.numbers("events")
    what = f"{sent} of 50 publishes accepted{problem}, {len(got)} arrived"
    return Outcome(got == list(range(50)), what)


async def _try_publish(peer: object, numbers: range, group: str = "events") -> tuple[int, str]:
    sent, problem = 0, ""
    for n in numbers:
        try:
            await asyncio.wait_for(peer.publish(group, "x", n), 1)  # type: ignore[attr-defined]
            sent += 1
        except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
            problem = f" ({type(error).__name__})"
            if isinstance(error, TimeoutError):
                break
    return sent, problem


async def offline_readings(stage: Stage) -> Outcome:
    link = await stage.link()
    peer = await stage.peer(port=link.port)
    link.cut(for_good=True)
    await asyncio.sleep(0.5)
    await _try_publish(peer, range(10), "readings")
    return Outcome(peer.lost_count == 10, f"the application knows of {peer.lost_count} of 10 lost")


async def disk(stage: Stage) -> Outcome:
    link = await stage.link()
    options = {"persistent": True, "disk": stage.folder / "outbox"}
    peer = await stage.peer(port=link.port, **options)
    link.cut(for_good=True)
    await asyncio.sleep(0.5)
    sent, problem = await _try_publish(peer, range(20))
    with suppress(Exception):
        await asyncio.wait_for(peer.stop(), 8)
    await stage.peer(**options)
    await eventually(lambda: len(stage.numbers("events")) >= 20, 4)
    got = stage.numbers("events")
    return Outcome(
        got == list(range(20)),
        f"{sent} of 20 publishes accepted while offline{problem}; the next process sent {len(got)}",
    )


async def too_large(stage: Stage) -> Outcome:
    link = await stage.link()
    peer = await stage.peer(port=link.port)
    found, both = "", False
    try:
        await asyncio.wait_for(peer.publish_bytes("x", bytes(1_500_000)), 4)
    except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
        found = f"{type(error).__name__}: {str(error)[:50]}"
        both = all(size in str(error).replace(",", "") for size in ("15000", "1000000"))
    await asyncio.sleep(0.3)
    kept = link.connects == 1 and link.alive
    what = found or "publish returns as if it were sent"
    return Outcome(
        kept and both,
        f"{what}; {'both sizes' if both else 'no sizes'} in the error; "
        f"the connection {'stays' if kept else 'is lost'}",
    )


async def priority(stage: Stage) -> Outcome:
    peer = await stage.peer()
    data = bytes(_BULK)
    bulk = [asyncio.create_task(peer.publish_bytes("x", data)) for _ in range(60)]
    await asyncio.sleep(0)
    await peer.publish("events", "x", 1)
    await asyncio.gather(*bulk)
    await eventually(lambda: len(stage.stranger.heard) == 61, 6)
    names = [name.split("/")[-2] for name, _, _ in stage.stranger.heard]
    place = names.index("events") if "events" in names else 60
    return Outcome(
        place <= 10, f"an event published behind 60 blocks of 300 kB came as no. {place}"
    )


async def order(stage: Stage) -> Outcome:
    peer = await stage.peer()
    await asyncio.gather(*(peer.publish("events", "x", n) for n in range(500)))
    await eventually(lambda: len(stage.numbers("events")) == 500, 6)
    got = stage.numbers("events")
    return Outcome(got == list(range(500)), f"{len(got)} of 500, in order: {got == sorted(got)}")


async def expiry(stage: Stage) -> Outcome:
    seen, link = Seen(), await stage.link()
    await stage.peer(Listen(handler=seen), name="r", persistent=True, port=link.port)
    link.cut(for_good=True)
    sender = await stage.peer()
    await sender.publish("events", "x", 1, expires_in_s=1)
    await sender.publish("events", "x", 2)
    await asyncio.sleep(2.5)
    late = Seen()
    await stage.peer(Listen(handler=late), name="r", persistent=True)
    await eventually(lambda: 2 in late.numbers, 4)
    return Outcome(
        late.numbers == [2], f"2.5 s later its reader got {late.numbers}; 1 was valid for 1 s"
    )


async def _double(n: int) -> int:
    return 2 * n


async def answers(stage: Stage) -> Outcome:
    await stage.peer(name="b", answer=_double)
    asking = await stage.peer()
    try:
        got = await asyncio.gather(*(asking.request("b", n, timeout=6) for n in range(20)))
    except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
        return Outcome(False, f"{type(error).__name__}: {str(error)[:70]}")
    own = sum(n * 2 == answer for n, answer in enumerate(got))
    return Outcome(own == 20, f"{own} of 20 at once got their own answer")


async def no_answer(stage: Stage) -> Outcome:
    asking = await stage.peer()
    begun = time.monotonic()
    try:
        await asyncio.wait_for(asking.request("nobody", 1, timeout=0.5), 5)
    except Exception as error:  # noqa: BLE001 whatever it is, it is the answer
        took = time.monotonic() - begun
        return Outcome(took < 1.5, f"{type(error).__name__} after {took:.1f} s, 0.5 s asked for")
    return Outcome(False, "no error")


async def late_command(stage: Stage) -> Outcome:
    acted: list[int] = []

    async def act(n: int) -> int:
        acted.append(n)
        await asyncio.sleep(1.0)
        return n

    await stage.peer(name="b", answer=act)
    asking = await stage.peer()
    first = asyncio.create_task(asking.request("b", 1, timeout=4))
    await eventually(lambda: acted == [1], 4)
    with suppress(Exception):
        await asking.request("b", 2, timeout=0.3)
    await asyncio.wait({first})
    await asyncio.sleep(0.5)
    return Outcome(acted == [1], f"acted upon {acted}; command 2 was given up 0.7 s before")


async def drain(stage: Stage) -> Outcome:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def wait(_: Got) -> None:
        begun.set()
        await gate.wait()

    first, second = Seen(wait), Seen()
    peer = await stage.peer(Listen(handler=first), persistent=True)
    await stage.say(*range(10))
    await asyncio.wait_for(begun.wait(), 6)
    stopping = asyncio.create_task(peer.stop())
    await asyncio.sleep(0.3)
    gate.set()
    await asyncio.wait({stopping}, timeout=8)
    await stage.peer(Listen(handler=second), persistent=True)
    await eventually(lambda: len({*first.numbers, *second.numbers}) == 10, 4)
    lost = set(range(10)) - {*first.numbers, *second.numbers}
    twice = {*first.numbers} & {*second.numbers}
    return Outcome(
        not lost and not twice,
        f"{len(first.numbers)} handled before the end, {len(second.numbers)} by the next process, "
        f"{len(lost)} lost, {len(twice)} twice",
    )


PROBES = [
    Probe("C1", "started before the broker", no_broker),
    Probe("C2", "broker killed three times", kills),
    Probe("C2", "broker away longer than patience", outage, long=True),
    Probe("C3", "a lost session is told", session_told),
    Probe("C4", "retained state said again", state_again),
    Probe("C5", "a will after a crash only", will),
    Probe("C5", "an old will is told from a new one", late_will),
    Probe("C6", "two processes with one identity", twins),
    Probe("C7", "events while it is stopped", away),
    Probe("P1", "events published while offline", offline_events),
    Probe("P2", "readings published while offline", offline_readings),
    Probe("P4", "larger than the broker takes", too_large),
    Probe("P5", "an event behind bulk", priority),
    Probe("P6", "order of 500 publishes at once", order),
    Probe("P7", "an event that expired", expiry),
    Probe("P8", "events outlive the process", disk),
    Probe("M1", "requests get their own answers", answers),
    Probe("M2", "no answer is an error in time", no_answer),
    Probe("M4", "a command that was given up", late_command),
    Probe("D1", "a clean stop under load", drain),
]
