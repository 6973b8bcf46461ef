"""A site under accelerated load: what grows in memory, descriptors, files and retained topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from edgebus.bus import BusError, RawMessage
from edgebus.contracts import topics
from edgebus_detection.messages import SAMPLES
from tests.soak.brokers import Mosquitto
from tests.soak.household import Household

__all__ = ["Growth", "load_services", "report_growth"]

_LOOK_S = 5.0
_FRAME_S = 0.05
_VERSION_S = 10.0
_POISON_S = 0.5
# Bounds that are reached within minutes, so that what is kept for ever shows.
_SETTINGS: dict[str, dict[str, Any]] = {
    "retrainer": {"store": {"max_samples": 200}},
    "distributor": {"keep_versions": 3},
}
# What may grow: allocators and caches settle late.
_MEMORY_MIB = 12.0


@dataclass(slots=True)
class Growth:
    """Figures over time, by what they count."""

    series: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    frames: int = 0
    samples: int = 0
    versions: int = 0

    def rows(self) -> list[tuple[str, float, float, bool]]:
        """Of each figure: the median of its second quarter, of its last, and whether it grows."""
        rows = []
        for name, values in self.series.items():
            quarter = max(1, len(values) // 4)
            early, late = median(values[quarter : 2 * quarter] or values), median(values[-quarter:])
            allowed = _MEMORY_MIB if name.endswith("MiB") else 3.0
            rows.append((name, early, late, late - early > allowed))
        return rows


async def load_services(
    folder: Path, *, minutes: float, say: Callable[[str], None] = print
) -> Growth:
    """Film 20 times a second, publish versions, send what cannot be read, and look."""
    growth = Growth()
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(folder / "broker", persistence=False))
        home = await stack.enter_async_context(Household(folder, broker.settings(), more=_SETTINGS))
        await home.start()
        async with asyncio.TaskGroup() as group:
            busy = [
                group.create_task(home.film(every_s=_FRAME_S)),
                group.create_task(_versions(home)),
                group.create_task(_poison(home)),
            ]
            while time.monotonic() - began < minutes * 60:
                await asyncio.sleep(_LOOK_S)
                await _look(home, growth)
                if len(growth.series["retained topics"]) % 12 == 0:
                    say(f"{time.monotonic() - began:.0f} s, {home.filmed} frames")
            for task in busy:
                task.cancel()
        growth.frames, growth.samples = len(home.answered), len(home.sampled)
        growth.versions = home.version
    growth.seconds = time.monotonic() - began
    return growth


async def _versions(home: Household) -> None:
    while True:
        await home.publish()
        await asyncio.sleep(_VERSION_S)


async def _poison(home: Household) -> None:
    """Messages that nobody can read, below the edge's own prefix: each becomes a dead letter."""
    at = home.identity("collector")
    names = (SAMPLES.at(at).name, topics.MODEL_STATUS.at(home.identity("detector")).name)
    number = 0
    while True:
        number += 1
        with suppress(BusError):
            await home.bus.publish_raw(names[number % 2], b"no message %d" % number, qos=1)
        await asyncio.sleep(_POISON_S)


async def _look(home: Household, growth: Growth) -> None:
    def note(name: str, value: float) -> None:
        growth.series.setdefault(name, []).append(value)

    for name, member in home.members.items():
        process = psutil.Process(member.pid)
        note(f"{name}: MiB", process.memory_info().rss / 2**20)
        note(f"{name}: descriptors", process.num_fds())
        note(f"{name}: threads", process.num_threads())
        note(f"{name}: files", sum(1 for path in member.data.rglob("*") if path.is_file()))
    note("retained topics", await _retained(home))


async def _retained(home: Household) -> int:
    """Topics that the broker retains."""
    seen: set[str] = set()

    async def see(message: RawMessage) -> None:
        if message.retained:
            seen.add(message.topic)

    tap = await home.bus.tap("#", see)
    await asyncio.sleep(0.5)
    await tap.unsubscribe()
    return len(seen)


def report_growth(growth: Growth, *, console: Console) -> None:
    """Print the table."""
    table = Table("figure", "second quarter", "last quarter", "")
    for name, early, late, grows in growth.rows():
        table.add_row(name, f"{early:,.1f}", f"{late:,.1f}", "grows" if grows else "")
    console.print(table)
    console.print(
        f"{growth.seconds:.0f} s, {growth.frames:,} frames answered, {growth.samples:,} samples, "
        f"{growth.versions} versions",
        highlight=False,
    )
