"""Child processes that leave no orphans."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("launch.py")


def dying_with_parent(*command: str) -> tuple[str, ...]:
    """The command line that runs `command` and ends it when this process dies."""
    # -I -S: neither the environment nor site packages, only what the launcher itself imports.
    return (sys.executable, "-I", "-S", os.fspath(_LAUNCHER), str(os.getpid()), *command)


async def stop_process(process: asyncio.subprocess.Process, *, grace_s: float) -> int:
    """SIGTERM, then after `grace_s` SIGKILL for it and its whole process group.

    The process must have been started with ``start_new_session=True``.

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
