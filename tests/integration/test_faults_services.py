"""Services as processes that are killed, suspended and damaged: the short form of the long runs."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from tests.soak.brokers import Mosquitto
from tests.soak.by_damage import Damage, damage_services
from tests.soak.by_kill import kill_services
from tests.soak.household import Household, Member


async def test_every_service_is_killed_while_it_starts_and_while_it_works(tmp_path: Path) -> None:
    result = await kill_services(tmp_path, kills=2)
    assert result.wrong == []
    assert dict(result.killed) == dict.fromkeys(result.killed, 2)
    assert len(result.killed) == 4
    assert result.figures["samples"]


async def test_a_damaged_file_is_told_in_one_line(tmp_path: Path) -> None:
    done: list[Damage] = []
    await damage_services(tmp_path, only=("distributor",), ways=("bits flipped",), say=done.append)
    assert [one for one in done if not one.good] == []
    said = {Path(one.file).suffix: one.outcome for one in done if one.file == "registry.sqlite"}
    assert "registry.sqlite: file is not a database" in said[".sqlite"]
    assert said[".sqlite"].startswith("exit 2")


async def test_a_suspended_twin_wakes_up_and_exactly_one_stays(tmp_path: Path) -> None:
    """Somebody took a process for dead that was only suspended, and started another elsewhere."""
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(Mosquitto(tmp_path / "broker", persistence=False))
        home = await stack.enter_async_context(Household(tmp_path, broker.settings()))
        first = home.members["detector"]
        await first.start()
        await home.ready("detector")
        filming = asyncio.create_task(home.film(every_s=0.2))
        await home.answers()
        first.send(signal.SIGSTOP)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        settings = {"bundle": str(tmp_path / "v1"), "engine": {"threads": 1}}
        second = Member("detector", folder=elsewhere, url=broker.settings().url, settings=settings)
        await second.start()
        try:
            home.members["detector"] = second
            await home.ready("detector")
            await home.answers()
            first.send(signal.SIGCONT)
            async with asyncio.timeout(60):
                while first.code is None and second.code is None:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(3.0)
            assert sorted(str(member.code) for member in (first, second)) == ["3", "None"]
            before = home.filmed
            await home.until(lambda: any(n > before for n in home.answered), "one answers")
        finally:
            filming.cancel()
            home.members["detector"] = first
            if second.code is None:
                await second.kill()
