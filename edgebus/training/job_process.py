"""Jobs as processes of their own, and the events that they report."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from edgebus.files import write_file
from edgebus.training.job_spec import JobEvent, JobOutcome, JobSpec, read_event

SPEC = "spec.json"
"""File in a job's folder with its specification."""

LOG = "log.txt"
"""File in a job's folder with what its libraries print."""

_LINE = 4 * 2**20  # longest line of a job's output: a gate's report names every class
_TAIL = 2000


class JobCrashedError(RuntimeError):
    """A job's process ended without an outcome.

    Attributes:
        code: Its exit code; negative: killed by that signal.
        log: The end of its log.
    """

    def __init__(self, *, code: int, log: str) -> None:
        how = f"was killed by signal {-code}" if code < 0 else f"ended ({code})"
        last = log.strip().splitlines()[-1:] or ["nothing in its log"]
        super().__init__(f"the job's process {how} without an outcome: {last[0]}")
        self.code = code
        self.log = log


async def run_process(
    spec: JobSpec, *, on_event: Callable[[JobEvent], Awaitable[None]]
) -> JobOutcome:
    """Run a job to its outcome.

    When this is cancelled or times out, the process is killed; should this process die, the
    job's process sees it and ends.

    Args:
        spec: The job; its folder is made and gets `spec.json` and `log.txt`.
        on_event: Awaited with phases, steps and the outcome.

    Raises:
        JobCrashedError: The process ended without an outcome.
    """
    spec.folder.mkdir(parents=True, exist_ok=True)
    path = spec.folder / SPEC
    write_file(path, spec.model_dump_json(indent=1).encode())
    log_path = spec.folder / LOG
    process = await _start(spec, path, log_path)
    try:
        outcome = await _listen(process, on_event)
        if outcome is None:
            code = await process.wait()
            log = log_path.read_bytes()[-_TAIL:].decode(errors="replace")
            raise JobCrashedError(code=code, log=log)
        # With the outcome all is on disk; what a training library does at exit takes seconds.
        return outcome
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _start(spec: JobSpec, path: Path, log_path: Path) -> asyncio.subprocess.Process:
    # The child must import the same packages.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *_command(spec, path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=_LINE,
            env=environment,
        )


async def _listen(
    process: asyncio.subprocess.Process, on_event: Callable[[JobEvent], Awaitable[None]]
) -> JobOutcome | None:
    assert process.stdout is not None
    async for line in process.stdout:
        event = read_event(line)
        await on_event(event)
        if isinstance(event, JobOutcome):
            return event
    return None


def _command(spec: JobSpec, path: Path) -> tuple[str, ...]:
    """One process, or `torchrun` with one for each device."""
    several: tuple[str, ...] = ()
    if spec.settings.devices > 1:
        count = f"--nproc-per-node={spec.settings.devices}"
        several = ("-m", "torch.distributed.run", "--standalone", count)
    return (sys.executable, *several, "-m", "edgebus.training.worker", str(path))
