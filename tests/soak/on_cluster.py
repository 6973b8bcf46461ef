"""A cluster of brokers whose nodes are killed in turn, under load."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edgebus.bus import BrokerSettings, Bus, BusSettings, ConnectionChange, Event
from edgebus.contracts import Identity, Message, Topic
from edgebus.mqtt import MqttTransport
from tests.soak.nats_cluster import EmbeddedCluster

__all__ = ["ClusterPlan", "ClusterResult", "report_cluster", "soak_cluster", "write_cluster"]

_SITE = "cluster"
_MAX_IN_FLIGHT = 50
# The longest that NATS takes to elect a leader: 9 s, and what a second try adds.
_ELECTION_S = 20.0
_PATIENCE_S = 10.0


class Numbered(Message, version=1):
    """An event with its number."""

    n: int


_TOPIC = Topic("{node}/{service}/numbered", Numbered, qos=1, doc="A numbered event.")
_STATE = Topic("{node}/{service}/state/{kind}", Numbered, qos=1, retain=True, doc="A state.")
# One event of so many is followed by a new value of one of so many retained topics.
_STATE_EACH = 10
_STATES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """What to do.

    Attributes:
        events: At least so many in total.
        kills: How often a node is killed; the nodes take turns.
        publishers: How many send at the same time.
        rate: Events per second, all publishers together.
        ack_wait_s: Of the brokers.
        rest_s: Between a node that is back and the next kill.
        patience_s: How long nothing new may come at the end before the rest counts as lost.
    """

    events: int = 10_000
    kills: int = 6
    publishers: int = 3
    rate: float = 300.0
    ack_wait_s: float = 10.0
    rest_s: float = 1.0
    patience_s: float = 60.0

    @property
    def dedup_ids(self) -> int:
        """Ids to remember: a copy comes up to `ack_wait_s` after it, or after an election."""
        return max(4096, round(self.rate * (self.ack_wait_s + _ELECTION_S)))


@dataclass(slots=True, kw_only=True)
class ClusterResult:
    """What came of it.

    Attributes:
        published: Events that `publish` has accepted.
        handled: Different ones that the subscriber's handler saw.
        lost: Accepted and never handled.
        twice: Handler calls for one that was handled before.
        copies: Copies that the bus left out by their id.
        late: First handled after a newer one of the same source.
        late_calm: Those of them that were sent and handled while no node was missing.
        longest_late_s: The longest that a late one came after a newer one of its source.
        retained: Retained topics; their values changed all the time.
        retained_wrong: Those of them that have not their last value, at any of the nodes.
        sessions_lost: How often a broker had forgotten a session.
        reconnects_s: How long each client was without a connection, each time.
        silences_s: The longest time without an event at the subscriber, after each kill.
        back_s: How long each node took to be back in step.
        seconds: The whole run.
    """

    published: int = 0
    handled: int = 0
    lost: int = 0
    twice: int = 0
    copies: int = 0
    late: int = 0
    late_calm: int = 0
    longest_late_s: float = 0.0
    retained: int = 0
    retained_wrong: int = 0
    sessions_lost: int = 0
    reconnects_s: list[float] = field(default_factory=list)
    silences_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        """What breaks a promise."""
        return self.lost + self.twice + self.late_calm + self.retained_wrong + self.sessions_lost


class _Clock:
    """How long a client is away, each time."""

    def __init__(self, result: ClusterResult) -> None:
        self._result = result
        self._since: float | None = None
        self.up = asyncio.Event()

    async def __call__(self, change: ConnectionChange) -> None:
        if change.kind == "lost":
            self.up.clear()
            self._since = time.monotonic()
        elif change.kind == "session_lost":
            self._result.sessions_lost += 1
        else:
            self.up.set()
            if self._since is not None:
                self._result.reconnects_s.append(time.monotonic() - self._since)
                self._since = None


class _Tally:
    """Which events were sent and handled, when and in which order."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, int], float] = {}
        self.handled: dict[tuple[str, int], float] = {}
        self.late: list[tuple[str, int]] = []
        self.states: dict[str, int] = {}
        self.twice = 0
        self.last = time.monotonic()
        self.silence = 0.0
        self._highest: dict[str, int] = {}
        self.news = asyncio.Event()

    async def __call__(self, event: Event[Numbered]) -> None:
        now = time.monotonic()
        source, n = event.topic, event.payload.n
        self.silence = max(self.silence, now - self.last)
        self.last = now
        if (source, n) in self.handled:
            self.twice += 1
            return
        self.handled[source, n] = now
        if n < self._highest.get(source, -1):
            self.late.append((source, n))
        else:
            self._highest[source] = n
        self.news.set()

    def late_by(self, source: str, n: int) -> float:
        """Seconds from the first newer event of the source to this one."""
        newer = [at for (name, m), at in self.handled.items() if name == source and m > n]
        return self.handled[source, n] - min(newer)

    def missing(self) -> list[tuple[str, int]]:
        return [key for key in self.sent if key not in self.handled]

    async def complete(self, patience_s: float) -> None:
        """Return when all that was sent was handled, or nothing came for so long."""
        try:
            while len(self.handled) < len(self.sent):
                self.news.clear()
                async with asyncio.timeout(patience_s):
                    await self.news.wait()
        except TimeoutError:
            return


async def soak_cluster(
    plan: ClusterPlan, *, folder: Path, say: Callable[[str], None] = lambda _text: None
) -> ClusterResult:
    """Kill one node after the other while publishers send and one subscriber listens.

    Raises:
        BrokerStartError: A node does not come back.
    """
    result = ClusterResult()
    tally = _Tally()
    calm: list[tuple[float, float]] = []
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            EmbeddedCluster(folder, ack_wait_s=plan.ack_wait_s)
        )
        say(f"cluster of {len(cluster.nodes)} at {cluster.url}")
        clocks: list[_Clock] = []

        async def client(name: str, first: int) -> Bus:
            clock = _Clock(result)
            clocks.append(clock)
            url = cluster.url_from(first % len(cluster.nodes))
            bus = Bus(
                MqttTransport(BrokerSettings(url=url, version="3.1.1", profile="nats")),
                identity=Identity(site=_SITE, node=name, service="soak"),
                settings=BusSettings(
                    connect_wait_s=30.0, backoff_max_s=2.0, dedup_ids=plan.dedup_ids
                ),
                on_connection=clock,
            )
            return await stack.enter_async_context(bus)

        subscriber = await client("subscriber", 0)
        subscription = await subscriber.subscribe(_TOPIC.any(site=_SITE), tally)
        publishers = [await client(f"publisher-{n}", n + 1) for n in range(plan.publishers)]
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for bus in publishers:
                group.create_task(_publish(bus, plan, tally, stop), name=bus.identity.node)
            calm_from = time.monotonic()
            for number in range(plan.kills):
                await asyncio.sleep(plan.rest_s)
                node = number % len(cluster.nodes)
                leads = await cluster.leader() == node
                tally.silence, tally.last = 0.0, time.monotonic()
                count = len(result.reconnects_s)
                calm.append((calm_from, time.monotonic()))
                await cluster.kill(node)
                at = time.monotonic()
                await asyncio.sleep(0.5)  # those that the node had notice it
                for clock in clocks:
                    await clock.up.wait()
                await cluster.start(node)
                result.back_s.append(time.monotonic() - at)
                for clock in clocks:
                    await clock.up.wait()
                await _fresh(tally)
                result.silences_s.append(tally.silence)
                calm_from = time.monotonic()
                times = ", ".join(f"{each:.1f}" for each in result.reconnects_s[count:])
                say(
                    f"node {node} killed{' (the leader)' if leads else ''}: reconnected in "
                    f"[{times}] s, silence {tally.silence:.1f} s, back in "
                    f"{result.back_s[-1]:.1f} s; handled {len(tally.handled)} of {len(tally.sent)}"
                )
            stop.set()
        calm.append((calm_from, time.monotonic()))
        for bus in publishers:
            await bus.drain(timeout=plan.patience_s)
        await tally.complete(plan.patience_s)
        result.copies = subscription.stats.duplicates
        result.retained = len(tally.states)
        for node in range(len(cluster.nodes)):
            result.retained_wrong += await _wrong_states(await client(f"late-{node}", node), tally)
    missing = tally.missing()
    for key in tally.late[:10]:
        say(f"late: {key}, by {tally.late_by(*key):.1f} s")
    for key in missing[:10]:
        say(f"lost: {key}, sent {tally.sent[key] - began:.1f} s after the start")
    result.published = len(tally.sent)
    result.handled = len(tally.handled)
    result.lost = len(missing)
    result.twice = tally.twice
    result.late = len(tally.late)
    result.longest_late_s = max((tally.late_by(*key) for key in tally.late), default=0.0)
    result.late_calm = sum(
        any(start < tally.sent[key] and tally.handled[key] < end for start, end in calm)
        for key in tally.late
    )
    result.seconds = time.monotonic() - began
    return result


async def _publish(bus: Bus, plan: ClusterPlan, tally: _Tally, stop: asyncio.Event) -> None:
    """Send numbered events at the publisher's share of the rate, with some of them in flight."""
    pause = plan.publishers / plan.rate
    address = _TOPIC.at(bus.identity)
    slots = asyncio.Semaphore(_MAX_IN_FLIGHT)
    due = time.monotonic()
    n = 0

    async def send(n: int) -> None:
        try:
            await bus.publish(address, Numbered(source=bus.identity.source, n=n))
            if n % _STATE_EACH == 0:
                state = _STATE.at(bus.identity, kind=f"k{n // _STATE_EACH % _STATES}")
                tally.states[state.name] = n
                await bus.publish(state, Numbered(source=bus.identity.source, n=n))
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        while not stop.is_set() or len(tally.sent) < plan.events:
            await slots.acquire()
            # From here on it is the bus's: it goes out now, or waits in the outbox.
            tally.sent[address.name, n] = time.monotonic()
            group.create_task(send(n), name=f"event {n}")
            n += 1
            due = max(due + pause, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _wrong_states(bus: Bus, tally: _Tally) -> int:
    """How many retained topics have not their last value for a client that comes now."""
    found: dict[str, int] = {}
    news = asyncio.Event()

    async def take(event: Event[Numbered]) -> None:
        found[event.topic] = event.payload.n
        news.set()

    await bus.subscribe(_STATE.any(site=_SITE), take)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while found != tally.states:
                news.clear()
                await news.wait()
    except TimeoutError:
        return sum(found.get(topic) != n for topic, n in tally.states.items())
    return 0


async def _fresh(tally: _Tally) -> None:
    """Return once an event that is sent from now on was handled."""
    since = time.monotonic()
    while not any(
        at > since and key in tally.handled for key, at in reversed(list(tally.sent.items())[-500:])
    ):
        tally.news.clear()
        await tally.news.wait()


def report_cluster(plan: ClusterPlan, result: ClusterResult, *, console: Console) -> None:
    """Print the table."""
    table = Table(
        title=(
            f"{plan.kills} kills, {plan.publishers} publishers, {plan.rate:g} events/s, "
            f"ack_wait {plan.ack_wait_s:g} s"
        )
    )
    table.add_column("what")
    table.add_column("figure", justify="right")
    rows: list[tuple[str, str]] = [
        ("events published", f"{result.published}"),
        ("handled", f"{result.handled}"),
        ("lost", f"{result.lost}"),
        ("handled twice", f"{result.twice}"),
        (f"copies left out by id, of the last {plan.dedup_ids}", f"{result.copies}"),
        ("behind newer ones of their source", f"{result.late}"),
        ("  by at most", f"{result.longest_late_s:.1f} s"),
        ("  far from any failure", f"{result.late_calm}"),
        (f"wrong of {result.retained} retained values", f"{result.retained_wrong}"),
        ("sessions lost", f"{result.sessions_lost}"),
        ("reconnects", f"{len(result.reconnects_s)}"),
        ("  median, max", _middle(result.reconnects_s)),
        ("silence at the subscriber: median, max", _middle(result.silences_s)),
        ("node back in step: median, max", _middle(result.back_s)),
        ("seconds", f"{result.seconds:.0f}"),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)


def write_cluster(plan: ClusterPlan, result: ClusterResult, path: Path) -> None:
    """Keep plan and figures as JSON."""
    document = {"plan": asdict(plan), "result": asdict(result)}
    path.write_text(json.dumps(document, indent=1) + "\n")


def _middle(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.2f} s, {max(times):.2f} s" if times else "none"
