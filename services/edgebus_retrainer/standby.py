"""A job's process that is there before the job: starting one takes a second and more."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["LINE", "LOG", "Standby", "environment"]

LINE = 4 * 2**20
"""Longest line that a job says: a gate's report names every class."""
LOG = "log.txt"
"""File in a job's folder with what its libraries say."""


class Standby:
    """Keeps at most one process that waits for a job.

    Args:
        folder: Exists; gets what the process says before it has a job.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def prepare(self) -> None:
        """Have a process ready, if none is; it is started, not waited for.

        Raises:
            OSError: It cannot be started.
        """
        if self._process is not None and self._process.returncode is None:
            return
        with (self._folder / "standby.txt").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "edgebus_retrainer.worker",
                "-",
                str(self._folder),  # for whoever looks at the list of processes
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=LINE,
                env=environment(),
            )

    async def take(self, spec: Path) -> asyncio.subprocess.Process | None:
        """The process, with its job; None where there is none, or it has died."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return None
        assert process.stdin is not None
        try:
            process.stdin.write(f"{spec}\n".encode())
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            await _end(process)
            return None
        return process

    async def close(self) -> None:
        """End a process that waits."""
        process, self._process = self._process, None
        if process is not None:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def environment() -> dict[str, str]:
    """This process's environment, and its module path: the child must import the same packages."""
    paths = [path for path in sys.path if path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
