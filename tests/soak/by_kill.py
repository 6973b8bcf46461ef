"""Every service is killed with SIGKILL at random moments, all of them side by side."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from edgebus.artifacts import BundleDigestError, Store
from edgebus.samples import SampleFiles, SampleStore, open_database
from edgebus.workload import load_workload
from edgebus_detection.messages import Sample
from tests.soak.brokers import Mosquitto
from tests.soak.household import MODEL, SERVICES, Household, Member

__all__ = ["Kills", "kill_services", "report_kills"]

_FRAME_S = 0.25
_PUBLISH_S = 2.0
_QUIET_S = 90.0


@dataclass(slots=True)
class Kills:
    """What came of it.

    Attributes:
        killed: How often each service was, and how often before it was ready.
        wrong: What must not be.
        figures: What was counted.
    """

    killed: Counter[str] = field(default_factory=Counter)
    starting: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, int | float | str] = field(default_factory=dict)

    def expect(self, good: bool, what: str) -> None:
        """Note what must not be."""
        if not good:
            self.wrong.append(what)


async def kill_services(
    folder: Path, *, kills: int, only: tuple[str, ...] = tuple(SERVICES), seed: int = 1
) -> Kills:
    """Kill each of some services so many times while frames, samples and versions pass.

    Half of the kills strike at a moment of the start, the others at one of the work.
    """
    kinds = Kills()
    chance = random.Random(seed)
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(folder / "broker", persistence=False))
        home = await stack.enter_async_context(Household(folder, broker.settings()))
        await home.start()
        replies: Counter[str] = Counter()
        async with asyncio.TaskGroup() as group:
            filming = group.create_task(home.film(every_s=_FRAME_S))
            publishing = group.create_task(_publish(home, replies))
            killers = [
                group.create_task(_kill(home, home.members[name], kills, kinds, chance))
                for name in only
            ]
            await asyncio.wait(killers)
            await home.answers()
            filming.cancel()
            publishing.cancel()
        await _check(home, kinds, replies)
    kinds.figures["seconds"] = round(time.monotonic() - began)
    return kinds


def report_kills(result: Kills, *, console: Console) -> None:
    """Print the table, the figures and what was wrong."""
    table = Table("service", "kills", "of these before it was ready")
    for name, count in result.killed.items():
        table.add_row(name, str(count), str(result.starting[name]))
    console.print(table)
    for what, figure in result.figures.items():
        console.print(f"{what}: {figure}", highlight=False)
    for what in result.wrong:
        console.print(f"wrong: {what}", highlight=False, markup=False)


async def _publish(home: Household, replies: Counter[str]) -> None:
    while True:
        replies[await home.publish()] += 1
        await asyncio.sleep(_PUBLISH_S)


async def _kill(
    home: Household, member: Member, kills: int, kinds: Kills, chance: random.Random
) -> None:
    """Kill a service again and again, and have it work at the end."""
    usual = 3.0  # seconds that a start takes here
    for number in range(kills):
        if number % 2:
            await asyncio.sleep(chance.uniform(0.0, usual))
        else:
            began = time.monotonic()
            await home.ready(member.name)
            usual = time.monotonic() - began
            await asyncio.sleep(chance.uniform(0.0, 1.5))
        state = home.states.get(member.name)
        if state is None or state.pid != member.pid:
            kinds.starting[member.name] += 1
        kinds.expect(member.code is None, f"{member.name} had ended by itself: {member.code}")
        await member.kill()
        kinds.killed[member.name] += 1
        await member.start()
    await home.ready(member.name)


async def _check(home: Household, kinds: Kills, replies: Counter[str]) -> None:
    """Nothing that was accepted is lost, and nothing is left behind."""
    kinds.figures |= {"frames": home.filmed, "frames answered": len(home.answered)}
    # The last version that the distributor took reaches the edge.
    versions = await home.versions()
    newest = home.bundle(versions[-1]).ref.digest
    kinds.figures |= {"versions published": home.version, "versions taken": versions[-1]}
    kinds.figures["answers to publish"] = ", ".join(f"{n} {word}" for word, n in replies.items())

    def serves() -> bool:
        status = home.status
        return status is not None and status.serving is not None and status.serving.digest == newest

    await home.until(serves, f"the edge serves version {versions[-1]}")
    spool = home.members["collector"].data / "spool"
    await home.until(lambda: not list(spool.glob("*.sample")), "the spool is empty")
    await _stored(home, kinds)
    for member in home.members.values():
        code = await member.kill(15)
        kinds.expect(code == 0, f"{member.name} ends with {code}")
    _left(home, kinds)


async def _stored(home: Household, kinds: Kills) -> None:
    """Every sample that passed the broker is in the store, whole."""
    data = home.members["retrainer"].data

    def stored() -> set[str]:
        store = SampleStore(
            open_database(data / "samples.db"),
            SampleFiles(data / "samples"),
            load_workload("detection"),
            max_samples=100_000,
            max_bytes=2**40,
            everything_new=False,
        )
        return {Sample.decode(one.path.read_bytes()).record.id for one in store.all(MODEL)}

    end = time.monotonic() + _QUIET_S
    while (missing := home.sampled - stored()) and time.monotonic() < end:
        await asyncio.sleep(1.0)
    kinds.expect(not missing, f"{len(missing)} of {len(home.sampled)} samples are not in the store")
    kinds.figures["samples"] = len(home.sampled)


def _left(home: Household, kinds: Kills) -> None:
    """What lies about afterwards: half-written files, blobs that are not what they are named."""
    halves = [
        str(path.relative_to(home.folder))
        for path in (home.folder / "data").rglob("*")
        if path.is_file() and (path.suffix in (".tmp", ".part", ".new") or ".tmp" in path.name)
    ]
    kinds.figures["files left half-written"] = len(halves)
    kinds.figures["half-written"] = ", ".join(halves[:5])
    for member in home.members.values():
        folder = member.data / "store"
        if not folder.exists():
            continue
        store = Store(folder)
        for blob in (folder / "blobs").glob("*/*"):
            try:
                store.get(blob.name)
            except BundleDigestError as error:
                kinds.expect(False, f"{member.name}: {error}")
        outbox = list(member.data.glob("*.sqlite"))
        kinds.figures[f"{member.name}: bytes of its databases"] = sum(
            path.stat().st_size for path in outbox
        )
    own = psutil.Process(os.getpid())
    orphans = [child.cmdline()[-3:] for child in own.children(recursive=True)]
    orphans = [words for words in orphans if "run" in words]
    kinds.expect(not orphans, f"processes are left: {orphans}")
