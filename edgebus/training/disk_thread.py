"""Blocking disk calls, kept off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from edgebus.workload import call_in_thread

P = ParamSpec("P")
T = TypeVar("T")


class DiskThread:
    """Calls what blocks on the disk in a thread, one call at a time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it; what it raises is raised here."""
        async with self._lock:
            return await asyncio.to_thread(call_in_thread, call, *args, **kwargs)
