"""Child processes that leave no orphans."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

_LAUNCHER = Path(__file__).with_name("launch.py")


def dying_with_parent(*command: str) -> tuple[str, ...]:
    """The command line that runs `command` and ends it when this process dies."""
    # -I -S: neither the environment nor site packages, only what the launcher itself imports.
    return (sys.executable, "-I", "-S", os.fspath(_LAUNCHER), str(os.getpid()), *command)


async def start_process(
    *command: str, output: int | IO[bytes], environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start a program in a session of its own; it ends when this process dies.

    Args:
        command: Program and arguments.
        output: Where its standard output and error go.
        environment: Its whole environment; this process's own by default.
    """
    return await asyncio.create_subprocess_exec(
        *dying_with_parent(*command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


async def stop_process(process: asyncio.subprocess.Process, *, grace_s: float) -> int:
    """SIGTERM, then after `grace_s` SIGKILL for it and its whole process group.

    The process must have been started by `start_process`.

    Returns:
        Its exit code; negative for a signal.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    # What it left behind in its group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.returncode if process.returncode is not None else 0
