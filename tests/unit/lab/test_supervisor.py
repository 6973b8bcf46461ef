from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from edgebus.lab.supervisor import (
    Backoff,
    ProcessEvent,
    ProcessSpec,
    ServiceFailedError,
    SetupFailedError,
    Supervisor,
    run_setup,
)


def spec(tmp_path: Path, code: str, *, name: str = "n/s") -> ProcessSpec:
    return ProcessSpec(
        name=name,
        command=(sys.executable, "-c", code),
        log=tmp_path / f"{name.replace('/', '-')}.log",
        environment=os.environ,
    )


class Events:
    """Every event, and a way to wait for the next of a kind."""

    def __init__(self) -> None:
        self.all: list[ProcessEvent] = []
        self._queue: asyncio.Queue[ProcessEvent] = asyncio.Queue()

    def __call__(self, event: ProcessEvent) -> None:
        self.all.append(event)
        self._queue.put_nowait(event)

    async def next(self, kind: str) -> ProcessEvent:
        async with asyncio.timeout(20):
            while (event := await self._queue.get()).kind != kind:
                pass
        return event


def test_backoff_doubles_up_to_its_cap_and_starts_over_after_a_life() -> None:
    backoff = Backoff(first_s=0.5, cap_s=3, healthy_s=5, limit=5)
    assert [backoff.after(0.1) for _ in range(5)] == [0.5, 1, 2, 3, 3]
    assert backoff.after(0.1) is None
    assert backoff.after(6) == 0.5


async def test_a_killed_process_comes_back_and_all_end_together(tmp_path: Path) -> None:
    events = Events()
    sleeper = "import time; time.sleep(600)"
    supervisor = Supervisor(
        [spec(tmp_path, sleeper, name="n/a"), spec(tmp_path, sleeper, name="n/b")],
        on_event=events,
    )
    task = asyncio.create_task(supervisor.run())
    first = await events.next("started")
    await events.next("started")
    os.kill(first.pid, signal.SIGKILL)
    died = await events.next("died")
    assert (died.name, died.code) == (first.name, -signal.SIGKILL)
    again = await events.next("started")
    assert again.name == first.name
    assert again.pid != first.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [event.pid for event in events.all if event.pid and psutil.pid_exists(event.pid)]


async def test_what_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    child_file = tmp_path / "child"
    stubborn = (
        "import signal, subprocess, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(child_file)!r}).write_text(str(child.pid))\n"
        "print('up', flush=True)\n"
        "time.sleep(600)\n"
    )
    events = Events()
    process = spec(tmp_path, stubborn)
    task = asyncio.create_task(Supervisor([process], grace_s=0.2, on_event=events).run())
    await events.next("started")
    async with asyncio.timeout(20):
        while not (process.log.exists() and b"up" in process.log.read_bytes()):
            await asyncio.sleep(0.02)
    child = psutil.Process(int(child_file.read_text()))
    task.cancel()
    stopped = await events.next("stopped")
    assert stopped.code == -signal.SIGKILL
    _gone, alive = await asyncio.to_thread(psutil.wait_procs, [child], 10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


async def test_wrong_settings_end_the_run_with_the_services_own_words(tmp_path: Path) -> None:
    wrong = "import sys; print('unknown key fsp; did you mean fps?'); sys.exit(2)"
    with pytest.raises(ExceptionGroup) as caught:
        await Supervisor([spec(tmp_path, wrong)]).run()
    error = caught.value.exceptions[0]
    assert isinstance(error, ServiceFailedError)
    assert "n/s cannot start (exit code 2): unknown key fsp; did you mean fps?" in str(error)


async def test_a_process_that_is_done_is_left_alone(tmp_path: Path) -> None:
    events = Events()
    async with asyncio.timeout(20):
        await Supervisor([spec(tmp_path, "pass")], on_event=events).run()
    assert [event.kind for event in events.all] == ["started", "stopped"]


async def test_set_up_tells_what_failed(tmp_path: Path) -> None:
    log = tmp_path / "setup.log"
    await run_setup(["timeit", "-n1", "0"], log=log, environment=os.environ)
    with pytest.raises(SetupFailedError, match="No module named no_such_module"):
        await run_setup(["no_such_module"], log=log, environment=os.environ)
