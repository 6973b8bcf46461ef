"""The parts that frameworks and probes have to provide: drivers, stages, probes and outcomes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias

from benchmarks._peers_stage import Broker, Link, Stranger, eventually

__all__ = [
    "Driver",
    "Got",
    "Group",
    "Listen",
    "Outcome",
    "Peer",
    "Probe",
    "Seen",
    "Setup",
    "Stage",
    "topic",
]

SITE = "s"
Group: TypeAlias = Literal["events", "readings", "status"]


def topic(group: str, kind: str, *, node: str = "b") -> str:
    """A topic on the wire; the same for every framework."""
    return f"edgebus/{SITE}/{node}/probe/{group}/{kind}"


@dataclass(frozen=True, slots=True)
class Got:
    """A message as it reached a handler: its number and the names in its topic."""

    n: int
    node: str
    kind: str


Handler: TypeAlias = Callable[[Got], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Listen:
    """One subscription.

    Attributes:
        handler: Awaited with each message.
        group: ``events`` and ``status`` are QoS 1, ``readings`` QoS 0.
        node: Only of this node; None: of all.
        kind: Only of this kind; None: of all.
        workers: Handler calls at a time.
        retry: A message whose handler failed is wanted again.
        queue: What happens when messages come faster than the handler takes them.
        apart: On a connection of its own.
        cleared: Awaited when a retained value was taken away.
    """

    handler: Handler
    group: Group = "events"
    node: str | None = None
    kind: str | None = None
    workers: int = 1
    retry: bool = False
    queue: Literal["default", "latest", "drop_oldest"] = "default"
    apart: bool = False
    cleared: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One application.

    Attributes:
        port: Of the broker, or of a link to it.
        name: Its identity; two with one name share a client id.
        listens: What it subscribes to.
        answer: Answers commands.
        persistent: The broker keeps events for it while it is away.
        defaults: Reconnects as the framework does by default; else quickly and for ever, as far
            as the framework can be told so.
        presence: Says that it lives, and leaves a will.
        disk: Where it may keep events that the broker does not have yet.
    """

    port: int
    name: str = "a"
    listens: tuple[Listen, ...] = ()
    answer: Callable[[int], Awaitable[int]] | None = None
    persistent: bool = False
    defaults: bool = False
    presence: bool = False
    disk: Path | None = None


class Peer(Protocol):
    """An application made with a framework."""

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""

    @property
    def lost_count(self) -> int:
        """Messages of which it knows that they were lost, by a queue or while offline."""

    @property
    def session_lost(self) -> bool:
        """Whether it was told that the broker forgot its session."""

    async def start(self) -> None:
        """Start as the framework's documentation shows; return once it listens."""

    async def stop(self) -> None:
        """Stop as the framework's documentation shows."""

    async def listen(self, listen: Listen) -> None:
        """Subscribe while it runs."""

    async def publish(
        self, group: Group, kind: str, n: int, *, expires_in_s: float | None = None
    ) -> None:
        """Publish a typed message below its own name; ``status`` is retained."""

    async def publish_bytes(self, kind: str, data: bytes) -> None:
        """Publish bytes at QoS 1 on ``bulk/{kind}``."""

    async def listen_badly(self) -> None:
        """Subscribe to what is no topic filter."""

    async def publish_template(self) -> None:
        """Publish to a topic whose placeholder nobody filled in."""

    async def request(self, node: str, n: int, *, timeout: float) -> int:
        """Ask another application, and return its answer."""


class Driver(Protocol):
    """A framework under test.

    Attributes:
        name: Of the framework.
        package: Distribution, for the version.
        letters: Filter-free prefix of topics where bad messages can be found; None: nowhere.
        not_offered: Probes for which the framework has nothing, with what it has instead.
    """

    name: str
    package: str
    letters: ClassVar[str | None]
    not_offered: Mapping[str, str]

    def make(self, setup: Setup) -> Peer:
        """An application that is not started."""

    def note(self, n: int) -> bytes:
        """A typed message's bytes as a stranger may send them."""


@dataclass
class Seen:
    """A handler that keeps what it gets."""

    work: Handler | None = None
    got: list[Got] = field(default_factory=list)

    async def __call__(self, got: Got) -> None:
        if self.work is not None:
            await self.work(got)
        self.got.append(got)

    @property
    def numbers(self) -> list[int]:
        """Of the messages."""
        return [item.n for item in self.got]

    async def has(self, count: int, within: float = 6.0) -> bool:
        """Whether there were as many in time."""
        return await eventually(lambda: len(self.got) >= count, within)


class Stage:
    """A broker of the probe's own, a stranger, and applications that are ended with it."""

    def __init__(self, driver: Driver, folder: Path, stack: AsyncExitStack) -> None:
        self.driver = driver
        self.folder = folder
        self.broker = Broker(folder)
        self.stranger = Stranger(self.broker)
        self._stack = stack

    async def link(self) -> Link:
        """A link of one application to the broker."""
        link = Link(self.broker)
        await link.start()
        self._stack.push_async_callback(link.close)
        return link

    def setup(self, *listens: Listen, **options: object) -> Setup:
        """An application straight at the broker, unless a port is given."""
        given: dict[str, object] = {"port": self.broker.port, "listens": listens} | options
        return Setup(**given)  # type: ignore[arg-type]

    async def peer(self, *listens: Listen, **options: object) -> Peer:
        """A running application."""
        peer = self.make(*listens, **options)
        async with asyncio.timeout(15):
            await peer.start()
        return peer

    def make(self, *listens: Listen, **options: object) -> Peer:
        """One that is not started; stopped at the end of the probe."""
        peer = self.driver.make(self.setup(*listens, **options))
        self._stack.push_async_callback(_end, peer)
        return peer

    async def say(
        self, *numbers: int, group: Group = "events", kind: str = "x", retain: bool = False
    ) -> None:
        """Let the stranger publish typed messages."""
        notes = (self.driver.note(n) for n in numbers)
        qos = 0 if group == "readings" else 1
        await self.stranger.say(topic(group, kind), *notes, qos=qos, retain=retain)

    def numbers(self, group: str, kind: str = "x", *, node: str = "a") -> list[int]:
        """What the stranger heard of an application's typed messages."""
        return [
            json.loads(data)["n"] for data in self.stranger.payloads(topic(group, kind, node=node))
        ]


async def _end(peer: Peer) -> None:
    """Stop what may be stuck, dead or stopped already; a probe has had its answer by now."""
    await asyncio.wait({asyncio.ensure_future(peer.stop())}, timeout=3)


@dataclass(frozen=True)
class Outcome:
    """Whether the promise holds, and what was observed."""

    passed: bool
    seen: str


@dataclass(frozen=True)
class Probe:
    """One requirement of docs/delivery.md, asked of an application from outside.

    Attributes:
        number: Of the requirement.
        title: What is probed.
        run: The probe.
        long: It mostly waits: it runs beside the others.
    """

    number: str
    title: str
    run: Callable[[Stage], Awaitable[Outcome]]
    long: bool = False
