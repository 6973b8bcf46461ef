"""Faults, the short version; `make soak` runs the long one.

Processes killed with SIGKILL, ten minutes without a broker, a clock that is set, a full disk.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from edgebus.contracts import new_id, utc_now
from tests.soak import by_disk
from tests.soak.by_clock import clock_set
from tests.soak.by_disk import disk_full
from tests.soak.by_outage import outage_dropping, outage_refusing
from tests.soak.by_process import publisher_killed, reader_killed
from tests.soak.faults import PHASES
from tests.soak.field import Outcome, Scene
from tests.soak.virtual import Wall, run_virtually, wall_clock


def scene(folder: Path, *, events: int, faults: int) -> Scene:
    return Scene(events=events, faults=faults, folder=folder)


def check(outcome: Outcome, *, handled: int) -> None:
    assert outcome.good, (outcome.wrong, outcome.verdict)
    assert outcome.verdict.handled == handled


async def test_a_publisher_is_killed_and_its_outbox_is_sent_by_the_next(tmp_path: Path) -> None:
    outcome = await publisher_killed(scene(tmp_path, events=600, faults=2))
    check(outcome, handled=600)


async def test_a_reader_is_killed_and_the_next_one_goes_on_where_it_stood(tmp_path: Path) -> None:
    outcome = await reader_killed(scene(tmp_path, events=600, faults=1))
    check(outcome, handled=600)


def test_ten_minutes_without_a_broker_and_an_outbox_that_refuses(tmp_path: Path) -> None:
    check(outage_refusing(scene(tmp_path, events=1200, faults=1)), handled=1200)


def test_ten_minutes_without_a_broker_and_an_outbox_that_drops(tmp_path: Path) -> None:
    check(outage_dropping(scene(tmp_path, events=1200, faults=1)), handled=1000)


async def test_the_clock_is_set_by_a_day(tmp_path: Path) -> None:
    check(await clock_set(scene(tmp_path, events=800, faults=4)), handled=800)


async def test_a_full_disk(tmp_path: Path) -> None:
    check(await disk_full(scene(tmp_path, events=400, faults=1)), handled=464)


async def test_a_full_disk_where_nobody_may_mount(tmp_path: Path) -> None:
    with patch.object(by_disk, "_may", return_value=False):
        outcome = await disk_full(scene(tmp_path, events=400, faults=1))
    check(outcome, handled=464)
    assert outcome.notes[0] == "a limit on the size of files"


def test_a_long_run_has_all_its_events() -> None:
    assert sum(round(phase.share * 100_000) for phase in PHASES) == 100_000


def test_virtual_time_passes_while_nobody_works() -> None:
    async def work(wall: Wall) -> list[float]:
        loop = asyncio.get_running_loop()
        seen = [loop.time(), time.monotonic(), wall.time()]
        await asyncio.sleep(3600)
        await asyncio.to_thread(time.sleep, 0.05)  # real, and no time of ours
        return [
            later - then
            for then, later in zip(seen, [loop.time(), time.monotonic(), wall.time()], strict=True)
        ]

    began = time.monotonic()
    assert run_virtually(work) == pytest.approx([3600.0] * 3, abs=1e-3)
    assert time.monotonic() - began < 60


def test_a_wall_clock_that_is_set_is_everybodys() -> None:
    now = utc_now()
    with wall_clock(Wall()) as wall:
        wall.offset_s = -86_400.0
        assert -86_401 < (utc_now() - now).total_seconds() < -86_300
        assert time.time_ns() / 1e9 == pytest.approx(time.time(), abs=1)
        earlier = new_id()
        wall.offset_s = 0.0
        assert earlier < new_id()
    assert earlier < new_id()
    assert abs((utc_now() - now).total_seconds()) < 60
