"""Replay of a recording on a bus, at its own pace."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from edgebus.bus import Bus, RawMessage, TopicTrie
from edgebus.contracts import utc_now
from edgebus.recording._ids import IdRewriter
from edgebus.recording.errors import RecordingError
from edgebus.recording.reader import Recorded

_CONNECT_S = 30.0
_SETTLE_S = 0.25
"""A broker sends what it keeps in one go after SUBACK."""


class MappingError(RecordingError):
    """A mapping of topics is none.

    Attributes:
        text: What was given.
    """

    exit_code = 2

    def __init__(self, text: str, *, reason: str) -> None:
        super().__init__(f"--map {text!r}: {reason}; write it like edgebus/lab=edgebus/test")
        self.text = text


class PrefixMap:
    """Puts topics below other topics, by whole levels; the longest matching prefix counts.

    Args:
        rules: Texts like ``edgebus/lab=edgebus/test``.

    Raises:
        MappingError: One of them is no mapping.
    """

    def __init__(self, rules: Sequence[str] = ()) -> None:
        self._rules: dict[tuple[str, ...], tuple[str, ...]] = {}
        for rule in rules:
            old, equals, new = rule.partition("=")
            old, new = old.strip("/"), new.strip("/")
            if not equals or not old or not new:
                raise MappingError(rule, reason="it needs an old and a new prefix")
            if any(sign in old + new for sign in "+#"):
                raise MappingError(rule, reason="a prefix holds no wildcard")
            self._rules[tuple(old.split("/"))] = tuple(new.split("/"))

    def __call__(self, topic: str) -> str:
        """The topic to publish to."""
        levels = tuple(topic.split("/"))
        for length in range(len(levels), 0, -1):
            new = self._rules.get(levels[:length])
            if new is not None:
                return "/".join((*new, *levels[length:]))
        return topic


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Options of a replay.

    Attributes:
        speed: 2 is twice as fast; infinity does not wait at all.
        filters: Only topics that match one of these; empty: all. They mean the recorded topics.
        mapping: Where to publish to.
        fresh: Give every message a new id and a new time, as if it happened now.
        keep_state: Leave the retained values of the replay at the broker afterwards.
    """

    speed: float = 1.0
    filters: tuple[str, ...] = ()
    mapping: PrefixMap = field(default_factory=PrefixMap)
    fresh: bool = False
    keep_state: bool = False

    def __post_init__(self) -> None:
        if not self.speed > 0:
            msg = f"speed {self.speed} is not above zero"
            raise ValueError(msg)


@dataclass(slots=True)
class ReplayReport:
    """Result of a replay.

    Attributes:
        published: Messages published.
        published_bytes: Their payload bytes.
        left_out: Messages that the filters left out.
        late_s: How far behind its time the latest message was.
        seconds: How long it took.
        restored: Topics whose retained value was put back or taken away afterwards.
    """

    published: int = 0
    published_bytes: int = 0
    left_out: int = 0
    late_s: float = 0.0
    seconds: float = 0.0
    restored: int = 0


async def replay(
    bus: Bus,
    recording: Iterable[Recorded],
    *,
    options: ReplayOptions | None = None,
    stop: asyncio.Event | None = None,
) -> ReplayReport:
    """Publish a recording, each message as far behind the first one as it was then.

    Each message's time is counted from the start, so pauses do not add up. State that brokers keep
    is published as such, and put back to what it was before at the end, also after an error or
    `stop`: a service that never ran here must not look alive for ever.

    Args:
        bus: Where to.
        recording: The messages, in order; they may be read twice.
        options: How.
        stop: Ends it early.

    Raises:
        BrokerUnreachableError: The broker is away for long.
        BusError: A message cannot be published.
    """
    options = options or ReplayOptions()
    wanted = _Wanted(options.filters)
    report = ReplayReport()
    state = _State(bus)
    if not options.keep_state:
        kept = {
            options.mapping(item.topic)
            for item in recording
            if item.retain and wanted.match(item.topic)
        }
        await state.remember(kept)
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        await _play(bus, recording, options, wanted, report, stop=stop)
    finally:
        report.seconds = loop.time() - begun
        report.restored = await state.restore()
    return report


async def _play(
    bus: Bus,
    recording: Iterable[Recorded],
    options: ReplayOptions,
    wanted: _Wanted,
    report: ReplayReport,
    *,
    stop: asyncio.Event,
) -> None:
    loop = asyncio.get_running_loop()
    begun: float | None = None
    origin = 0
    rewriter: IdRewriter | None = None
    for item in recording:
        if not wanted.match(item.topic):
            report.left_out += 1
            continue
        if begun is None:
            begun, origin = loop.time(), item.logged
            if options.fresh:
                rewriter = _rewriter(origin, options.speed)
        due = begun + max(0, item.logged - origin) / 1e9 / options.speed
        if await _wait_until(due, stop):
            return
        if not bus.connection.connected:
            await bus.connected(_CONNECT_S)
        topic, payload = options.mapping(item.topic), item.payload
        if rewriter is not None:
            topic, payload = rewriter.topic(topic), rewriter.payload(item.topic, payload)
        if math.isfinite(options.speed):
            report.late_s = max(report.late_s, loop.time() - due)
        await bus.publish_raw(
            topic, payload, qos=item.qos, retain=item.retain, content_type=item.content_type
        )
        report.published += 1
        report.published_bytes += len(payload)


def _rewriter(origin: int, speed: float) -> IdRewriter:
    return IdRewriter(
        origin=datetime.fromtimestamp(0, tz=UTC) + timedelta(microseconds=origin // 1000),
        start=utc_now(),
        speed=speed,
        salt=secrets.token_bytes(16),
    )


async def _wait_until(due: float, stop: asyncio.Event) -> bool:
    """Wait until a moment of the loop's clock; whether `stop` came first."""
    delay = due - asyncio.get_running_loop().time()
    if delay > 0:
        try:
            async with asyncio.timeout(delay):
                await stop.wait()
        except TimeoutError:
            return False
    return stop.is_set()


class _Wanted:
    """Which topics to replay."""

    def __init__(self, filters: Sequence[str]) -> None:
        self._all = not filters
        self._trie: TopicTrie[bool] = TopicTrie()
        for item in filters:
            self._trie.add(item, True)

    def match(self, topic: str) -> bool:
        return self._all or bool(self._trie.match(topic))


class _State:
    """Retained values of some topics before the replay."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._topics: set[str] = set()
        self._before: dict[str, RawMessage] = {}

    async def remember(self, topics: set[str]) -> None:
        """Ask the broker what it keeps on these topics now."""
        self._topics = topics
        if not topics:
            return

        async def see(message: RawMessage) -> None:
            if message.retained:
                self._before.setdefault(message.topic, message)

        subscription = await self._bus.tap(sorted(topics), see, qos=1, name="state before")
        await asyncio.sleep(_SETTLE_S)
        await subscription.unsubscribe()

    async def restore(self) -> int:
        """Put everything back; returns the number of topics."""
        for topic in sorted(self._topics):
            before = self._before.get(topic)
            await self._bus.publish_raw(
                topic,
                before.payload if before else b"",
                qos=1,
                retain=True,
                content_type=(before.content_type or "") if before else "",
            )
        return len(self._topics)
