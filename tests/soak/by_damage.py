"""Every file that a service keeps is damaged in every way, and the service started on it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.soak.brokers import Mosquitto
from tests.soak.household import SERVICES, Household, Member

__all__ = ["Damage", "damage_services", "report_damages"]

_START_S = 60.0
_WORK_S = 8.0


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(0, len(data), 97):
        data[place] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(data)


def _foreign(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"something else\n" * 100)


def _gone(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


WAYS: dict[str, Callable[[Path], None]] = {
    "cut in half": _cut,
    "emptied": _empty,
    "bits flipped": _flip,
    "another file": _foreign,
    "gone": _gone,
    "a folder in its place": _folder,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One file damaged in one way, and what the service did.

    Attributes:
        service: Whose file it is.
        file: Below its data folder.
        way: How it was damaged.
        outcome: In words: its state with the reason, or its exit code with the error.
        good: It serves, or says in one line what is wrong.
    """

    service: str
    file: str
    way: str
    outcome: str
    good: bool


async def damage_services(
    folder: Path,
    *,
    only: tuple[str, ...] = tuple(SERVICES),
    ways: tuple[str, ...] = tuple(WAYS),
    say: Callable[[Damage], None],
) -> list[Damage]:
    """Damage one file after the other; each time on a copy of a data folder of a real run."""
    done: list[Damage] = []
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(folder / "broker", persistence=False))
        home = await stack.enter_async_context(Household(folder, broker.settings()))
        await _make_data(home)
        for name in only:
            member = home.members[name]
            good = folder / "good" / name
            shutil.copytree(member.data, good, symlinks=True)
            for file in _files(good):
                for way in ways:
                    shutil.rmtree(member.data)
                    shutil.copytree(good, member.data, symlinks=True)
                    WAYS[way](member.data / file)
                    outcome, fine = await _start(home, member)
                    one = Damage(service=name, file=str(file), way=way, outcome=outcome, good=fine)
                    say(one)
                    done.append(one)
            shutil.rmtree(member.data)
            shutil.copytree(good, member.data, symlinks=True)
    return done


async def _make_data(home: Household) -> None:
    """Run the site for a while, with two versions, samples, and samples that wait."""
    await home.start()
    filming = asyncio.create_task(home.film(every_s=0.1))
    await home.publish()
    await home.answers()
    await asyncio.sleep(_WORK_S)
    await home.members["retrainer"].kill(15)
    await asyncio.sleep(2.0)  # samples wait in the spool
    filming.cancel()
    for member in home.members.values():
        if member.code is None:
            await member.kill(15)


def _files(folder: Path) -> list[Path]:
    """One file of each kind, the kinds told apart by folder and ending."""
    kinds: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == ".lock":
            continue
        inside = path.relative_to(folder)
        kind = inside.parts[0] if len(inside.parts) > 1 else inside.name
        kinds.setdefault((kind, path.suffix), inside)
    return list(kinds.values())


async def _start(home: Household, member: Member) -> tuple[str, bool]:
    """Start a service on what there is: what becomes of it, and whether that is in order."""
    before = member.log.stat().st_size
    await member.start()
    ready = asyncio.create_task(home.ready(member.name, patience_s=_START_S))
    while not ready.done() and member.code is None:
        await asyncio.wait([ready], timeout=0.1)
    if member.code is None and ready.exception() is None:
        state = ready.result()
        await asyncio.sleep(0.5)
        lives = member.code is None
        code = await member.kill(15)
        words = f"{state.state} {state.reason}".strip()
        return (words if lives else f"{words}, then exit {code}"), lives and code == 0
    ready.cancel()
    with suppress(asyncio.CancelledError, AssertionError):
        await ready
    if member.code is None:
        await member.kill()
        return "neither ready nor ended", False
    text = member.log.read_bytes()[before:].decode(errors="replace")
    reasons = [line.get("reason") for line in _events(text) if line.get("level") == "error"]
    reason = reasons[-1] if reasons else None
    return f"exit {member.code}: {reason}", reason is not None and "Traceback" not in text


def _events(text: str) -> list[dict[str, str]]:
    events = []
    for line in text.splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    return [event for event in events if isinstance(event, dict)]


def report_damages(done: list[Damage], *, console: Console) -> None:
    """Print the table."""
    table = Table("service", "file", "damage", "what it does", "")
    for one in done:
        table.add_row(one.service, one.file, one.way, one.outcome, "" if one.good else "wrong")
    console.print(table)
