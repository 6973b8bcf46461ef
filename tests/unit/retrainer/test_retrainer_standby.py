"""A job's process that waits before there is a job: real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest

from edgebus_retrainer.runner import run_process
from edgebus_retrainer.standby import LOG, Standby
from edgebus_retrainer.triggers import Facts, Rules, near
from retrainer_jobs import job, make_world


def workers() -> list[psutil.Process]:
    """Job processes of this one, which may have other children: multiprocessing's, for example."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is none any more
            if "edgebus_retrainer.worker" in child.cmdline():
                found.append(child)
    return found


def waiting() -> list[psutil.Process]:
    """Those that wait for a job."""
    return [child for child in workers() if child.cmdline()[-2] == "-"]


@pytest.fixture
def spec(tmp_path):
    # Nothing to measure on: the job ends at once, with an outcome.
    world = make_world(tmp_path)
    return job(world, tmp_path / "job", new_holdout=(), train=())


async def nobody(_event: object) -> None:
    pass


async def test_the_process_that_waits_takes_the_job(spec, tmp_path):
    standby = Standby(tmp_path)
    await standby.prepare()
    await standby.prepare()  # one is enough
    (process,) = waiting()
    used: list[int] = []

    async def on_event(_event: object) -> None:
        used.extend(child.pid for child in workers())

    outcome = await run_process(spec, on_event=on_event, standby=standby)
    assert outcome.outcome == "skipped"
    assert set(used) == {process.pid}
    assert waiting() == []
    assert (spec.folder / LOG).is_file()
    # Nobody waits now: the next job starts a process of its own.
    assert (await run_process(spec, on_event=nobody, standby=standby)).outcome == "skipped"


async def test_one_that_died_is_not_missed(spec, tmp_path):
    standby = Standby(tmp_path)
    await standby.prepare()
    (process,) = waiting()
    os.kill(process.pid, signal.SIGKILL)
    while psutil.pid_exists(process.pid):  # until the loop has heard of it
        await asyncio.sleep(0.01)
    outcome = await run_process(spec, on_event=nobody, standby=standby)
    assert outcome.outcome == "skipped"


async def test_it_ends_with_the_service(tmp_path):
    standby = Standby(tmp_path)
    await standby.prepare()
    (process,) = waiting()
    await standby.close()
    assert not process.is_running()
    await standby.close()


async def test_it_ends_with_a_service_that_is_killed(tmp_path):
    code = (
        "import asyncio, pathlib, sys\n"
        "from edgebus_retrainer.standby import Standby\n"
        "async def main():\n"
        "    await Standby(pathlib.Path(sys.argv[1])).prepare()\n"
        "    print('there', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert service.stdout is not None
    assert await service.stdout.readline() == b"there\n"
    (child,) = psutil.Process(service.pid).children()
    service.kill()
    await service.wait()
    await asyncio.to_thread(child.wait, 60)


def test_it_is_there_when_a_job_is_near():
    assert not near(Facts(untrained=24), Rules())
    assert near(Facts(untrained=25), Rules())
    assert not near(Facts(untrained=49, waiting="a job is running"), Rules())
    assert not near(Facts(untrained=49, lacking="held-out samples"), Rules())
    assert not near(Facts(untrained=49, accepted=2), Rules(max_jobs=2))
    assert not near(Facts(untrained=10**6), Rules(min_samples=None))


def test_a_job_needs_no_database():
    # Each library that it does without is a tenth of a second and more of every round.
    code = "import sys, edgebus_retrainer.worker; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
