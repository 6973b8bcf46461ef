"""Time that passes only while nobody works, and wall clocks that are set.

Ten minutes without a broker take a second: where every task waits, the clock jumps to the next
timer. Threads and sockets are real; while a thread works, the clock stands still.
"""

from __future__ import annotations

import asyncio
import secrets
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, tzinfo
from typing import Any, Self, TypeVar
from unittest.mock import patch
from uuid import UUID

from edgebus.contracts import payload

__all__ = ["Wall", "run_virtually", "wall_clock"]

T = TypeVar("T")
_POLL_S = 0.02


class Wall:
    """A wall clock that can be set.

    Args:
        now: Seconds since 1970, of the clock that it follows.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.offset_s = 0.0
        self._now = now

    def time(self) -> float:
        """Seconds since 1970, as this clock says."""
        return self._now() + self.offset_s


@contextmanager
def wall_clock(wall: Wall) -> Iterator[Wall]:
    """Everything of ours in this process reads the wall clock from `wall`, ids included."""

    class Datetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(wall.time(), tz or UTC)

    def identifier() -> UUID:
        # RFC 9562 §5.7, with the fraction of the millisecond as in §6.2, method 3.
        millis, fraction = divmod(wall.time() * 1000, 1)
        high = int(millis) << 16 | 7 << 12 | int(fraction * 4096)
        return UUID(int=high << 64 | 2 << 62 | secrets.randbits(62))

    with ExitStack() as stack:
        stack.enter_context(patch.object(time, "time", wall.time))
        stack.enter_context(patch.object(time, "time_ns", lambda: int(wall.time() * 1e9)))
        stack.enter_context(patch.object(payload, "datetime", Datetime))
        stack.enter_context(patch.object(payload, "uuid7", identifier))
        yield wall


def run_virtually(work: Callable[[Wall], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on an event loop whose time is virtual; it gets the wall clock."""
    loop = _VirtualLoop()
    began = time.time()
    wall = Wall(lambda: began + loop.time())
    # Whatever is measured with the monotonic clock has to agree with the loop's timers.
    with (
        wall_clock(wall),
        patch.object(time, "monotonic", loop.time),
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        return runner.run(work(wall))


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = 1000.0
        self._at_work = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As ever; the clock stands still until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._at_work += 1
        future.add_done_callback(self._done)
        return future

    def pass_time(self, seconds: float | None) -> float | None:
        """Nothing is ready: how long to wait for real, after the clock was moved on."""
        if self._at_work:
            return _POLL_S
        if seconds is None:
            return None  # no timer at all: only a socket or a thread can wake us
        self._virtual += seconds
        return 0.0

    def _done(self, _future: asyncio.Future[Any]) -> None:
        self._at_work -= 1


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: _VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Events, or the passing of time."""
        found = super().select(0)
        if found or timeout == 0:
            return found
        return super().select(self._loop.pass_time(timeout))
