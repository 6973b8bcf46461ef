"""The tasks of an open bus: named, and never dead without anybody noticing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

import structlog

from edgebus.bus.errors import BusClosedError
from edgebus.contracts.trace import CURRENT


class Tasks:
    """Runs the bus's tasks from its opening to its closing.

    Args:
        owner: Whose tasks they are, for their names.
        failed: Called once, with the error of the first task that ends with one.
    """

    def __init__(self, *, owner: str, failed: Callable[[BaseException], None]) -> None:
        self._owner = owner
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[None] | None = None
        self._log = structlog.get_logger("edgebus.bus").bind(source=owner)

    def open(self) -> None:
        """From now on tasks may be spawned."""
        self._over = asyncio.get_running_loop().create_future()

    def check(self) -> asyncio.Future[None]:
        """The future of the end, which has not come.

        Raises:
            BusClosedError: It is not open; the cause is what broke it, if something did.
        """
        over = self._over
        if over is None:
            raise BusClosedError
        if over.done():
            raise BusClosedError from over.exception()
        return over

    async def ended(self) -> None:
        """Return when it is closed, or raise what broke it.

        Raises:
            BusClosedError: It was never open.
        """
        if self._over is None:
            raise BusClosedError
        await asyncio.shield(self._over)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run something until it ends or the bus is closed."""
        # Whoever subscribes while handling a message: what comes later is of other traces.
        context = copy_context()
        context.run(CURRENT.set, None)
        task = asyncio.create_task(work, name=f"bus {self._owner} {name}", context=context)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks and wait for them."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Nothing may be spawned any more."""
        if self._over is None:
            return
        if not self._over.done():
            self._over.set_result(None)
        elif not self._over.cancelled():
            self._over.exception()  # seen, also where nobody watches

    async def settle(self, up: Coroutine[Any, Any, None], *, timeout: float) -> bool:
        """Wait for `up` for a while; whether all is well, however that went."""
        over = self.check()
        waiting = asyncio.ensure_future(up)
        try:
            await asyncio.wait(
                [waiting, over], timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiting.cancel()
        return not over.done()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._over is not None and not self._over.done():
            self._log.error("the bus has failed", task=task.get_name(), error=str(error))
            self._over.set_exception(error)
            self._failed(error)
