"""The clock of one service after the other is a year off, while those of all others are right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.soak.brokers import Mosquitto
from tests.soak.household import SERVICES, Household

__all__ = ["Clock", "set_clocks"]

YEAR_S = 365 * 86_400.0
_SAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What became of a site of which one clock is wrong.

    Attributes:
        service: Whose clock it is.
        offset: In words.
        wrong: What did not work, in words; empty: all did.
    """

    service: str
    offset: str
    wrong: str


async def set_clocks(
    folder: Path, *, only: tuple[str, ...] = tuple(SERVICES), say: Callable[[Clock], None]
) -> list[Clock]:
    """Start a site anew for each service and offset, and have it do all that it does."""
    done: list[Clock] = []
    for name in only:
        for offset, seconds in (("a year ahead", YEAR_S), ("a year behind", -YEAR_S)):
            place = folder / f"{name}{seconds:.0f}"
            place.mkdir()
            wrong = ""
            try:
                await _work(place, name, seconds)
            except AssertionError as error:
                wrong = str(error)
            done.append(Clock(service=name, offset=offset, wrong=wrong))
            say(done[-1])
    return done


async def _work(folder: Path, name: str, seconds: float) -> None:
    """Frames are answered, samples stored, versions brought to the edge, also after a restart."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(folder / "broker", persistence=False))
        home = await stack.enter_async_context(Household(folder, broker.settings()))
        home.members[name].clock_s = seconds
        await home.start()
        filming = asyncio.create_task(home.film(every_s=0.2))
        stack.callback(filming.cancel)
        await home.answers()
        await home.until(lambda: len(home.sampled) >= _SAMPLES, "samples pass")
        if name == "distributor" and seconds > 0:
            # Every command is too late for it; whoever asks is told why.
            said = await home.publish()
            assert "is one of the two clocks wrong?" in said, f"publish says {said}"
        else:
            await _brings(home)
        # Its clock is right again: what it wrote with the wrong one must not hold it up.
        member = home.members[name]
        await member.kill()
        member.clock_s = 0.0
        await member.start()
        await home.ready(name)
        before = len(home.sampled)
        await home.answers()
        await home.until(lambda: len(home.sampled) >= before + _SAMPLES, "samples pass again")
        await _brings(home)
        for other in home.members.values():
            assert other.code is None, f"{other.name} has ended: {other.code}"


async def _brings(home: Household) -> None:
    """A version is published, and served."""
    said = await home.publish()
    assert said == "ok", f"publish says {said}"
    digest = home.bundle(home.version).ref.digest
    await home.until(
        lambda: (
            home.status is not None
            and home.status.serving is not None
            and home.status.serving.digest == digest
        ),
        f"the edge serves version {home.version}",
    )
