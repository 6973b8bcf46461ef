"""Calls of handlers: how long each runs, and what the code of strangers may raise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from edgebus.bus._delivery import Item

GRACE_S = 2.0
"""Seconds that a cancelled handler has to end before its worker is replaced."""


def is_ours(error: BaseException) -> bool:
    """True for a cancellation of the running task and for Ctrl-C, which nobody may keep.

    Code of a third party may raise `SystemExit` (a command-line library), or a `CancelledError`
    that nobody asked for (a client whose own task was cancelled). Those are errors like others:
    they must neither end the process nor silently end the task that called.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


@dataclass(slots=True, eq=False)
class Call:
    """One call of a handler that runs.

    Attributes:
        item: What it handles.
        key: The message's topic and id, where ids count.
        attempt: Number of the call, from 1.
        task: The worker that awaits it.
        since: When it began, on the loop's clock.
        overdue: It was cancelled because its time was up.
        abandoned: It ignored that; another worker goes on in its place.
    """

    item: Item
    key: tuple[str, str] | None
    attempt: int
    task: asyncio.Task[Any]
    since: float
    overdue: bool = False
    abandoned: bool = False


class RunningCalls:
    """The calls of one subscription's handler that run now.

    Args:
        limit_s: Seconds that one may take.
    """

    def __init__(self, *, limit_s: float) -> None:
        self._limit_s = limit_s
        self._calls: dict[asyncio.Task[Any], Call] = {}

    @property
    def overdue_text(self) -> str:
        """The error in the dead letter of a handler whose time was up."""
        return (
            f"TimeoutError: the handler took longer than {self._limit_s:g} s (bus.handler_s); "
            "work that takes longer leaves the handler: note it, return, and do it in a task"
        )

    def begin(self, item: Item, key: tuple[str, str] | None, attempt: int) -> Call:
        """A call begins in the current task."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        call = self._calls[task] = Call(item, key, attempt, task, loop.time())
        return call

    def end(self, call: Call) -> None:
        """A call has ended; its worker is no longer to be cancelled for it."""
        del self._calls[call.task]
        if call.overdue:
            call.task.uncancel()

    def excuse(self, seconds: float) -> None:
        """Nobody got to work for so long: the loop was held up, or the process suspended."""
        for call in self._calls.values():
            call.since += seconds

    def check(self, now: float) -> list[Call]:
        """Cancel the calls whose time is up.

        Returns:
            Those that did not end although they were cancelled: each is forgotten here, and its
            message is its caller's to settle.
        """
        stubborn: list[Call] = []
        for task, call in list(self._calls.items()):
            took = now - call.since
            if call.overdue and took > self._limit_s + GRACE_S:
                call.abandoned = True
                del self._calls[task]
                stubborn.append(call)
            elif took > self._limit_s and not call.overdue:
                call.overdue = True
                task.cancel()
        return stubborn
