"""What was promised and what came of it: no socket, no clock of its own beyond waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

__all__ = ["Ledger", "Verdict"]

_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The counts of one run.

    Attributes:
        accepted: Events whose `publish` returned.
        handled: Different events that handlers saw.
        lost: Accepted and never handled.
        twice: Handler calls for an event that the same process had handled.
        disorder: Handler calls for an event that is older than one of its source handled before,
            in the same process.
        again: Handler calls for an event that an earlier process had handled before it was
            killed: at least once, and the id tells.
        examples: A few of what is wrong, in words.
    """

    accepted: int
    handled: int
    lost: int
    twice: int
    disorder: int
    again: int
    examples: tuple[str, ...] = ()

    def but(self, *, lost: int) -> Verdict:
        """The same, with another number of lost events."""
        told = tuple(words for words in self.examples if lost or not words.endswith("lost"))
        return replace(self, lost=lost, examples=told)


@dataclass(slots=True)
class _Source:
    accepted: set[int] = field(default_factory=set)
    handled: set[int] = field(default_factory=set)
    last: int = -1
    here: set[int] = field(default_factory=set)


class Ledger:
    """Follows numbered events of several sources; each source numbers from 0.

    Args:
        sources: Their names.
        news: Called whenever an event is handled for the first time.
    """

    def __init__(self, sources: Sequence[str], *, news: Callable[[], None] = lambda: None) -> None:
        self.sources = tuple(sources)
        self.accepted = 0
        self.handled = 0
        self._of = {name: _Source() for name in sources}
        self._twice = 0
        self._disorder = 0
        self._again = 0
        self._examples: list[str] = []
        self._news = news
        self._changed = asyncio.Event()

    def accept(self, source: str, n: int) -> None:
        """`publish` has returned for event `n`; saying so again changes nothing."""
        known = self._of[source].accepted
        if n not in known:
            known.add(n)
            self.accepted += 1
            self._changed.set()

    def handle(self, source: str, n: int) -> None:
        """A handler was called with event `n`."""
        of = self._of[source]
        if n in of.here:
            self._twice += 1
            self._example(f"{source} {n} twice")
        elif n < of.last:
            self._disorder += 1
            self._example(f"{source} {n} after {of.last}")
        elif n in of.handled:
            self._again += 1
        of.here.add(n)
        of.last = max(of.last, n)
        if n not in of.handled:
            of.handled.add(n)
            self.handled += 1
            self._news()
        self._changed.set()

    def next_life(self) -> None:
        """The process with the handlers was killed, and another one takes over."""
        for of in self._of.values():
            of.here.clear()
            of.last = -1

    def next_of(self, source: str) -> int:
        """The number after the last of those that were accepted without a gap."""
        accepted = self._of[source].accepted
        return next(n for n in range(len(accepted) + 1) if n not in accepted)

    async def has_handled(self, count: int) -> None:
        """Return once so many events were handled."""
        while self.handled < count:
            self._changed.clear()
            await self._changed.wait()

    async def news(self) -> None:
        """Return when something was accepted or handled."""
        self._changed.clear()
        await self._changed.wait()

    async def settled(self, *, patience_s: float) -> None:
        """Return once all that was accepted was handled, or nothing new came for a while."""
        while self.handled < self.accepted:
            before = (self.handled, self.accepted)
            try:
                async with asyncio.timeout(patience_s):
                    while (self.handled, self.accepted) == before:
                        self._changed.clear()
                        await self._changed.wait()
            except TimeoutError:
                return

    def verdict(self) -> Verdict:
        """The counts so far."""
        lost = 0
        examples = list(self._examples)
        for name, of in self._of.items():
            missing = of.accepted - of.handled
            lost += len(missing)
            examples += [f"{name} {n} lost" for n in sorted(missing)[:_EXAMPLES]]
        return Verdict(
            accepted=self.accepted,
            handled=self.handled,
            lost=lost,
            twice=self._twice,
            disorder=self._disorder,
            again=self._again,
            examples=tuple(examples[: 2 * _EXAMPLES]),
        )

    def missing_are_oldest(self) -> bool:
        """Whether each source lost nothing that is newer than what arrived."""
        return all(
            max(of.accepted - of.handled, default=-1) < min(of.handled, default=0)
            for of in self._of.values()
        )

    def _example(self, words: str) -> None:
        if len(self._examples) < _EXAMPLES:
            self._examples.append(words)
