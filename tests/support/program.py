"""The program `edgebus` as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from subprocess import PIPE

__all__ = ["EDGEBUS", "clean_environment", "run_edgebus", "start_edgebus"]

EDGEBUS = (sys.executable, "-c", "from edgebus.cli import main; main()")
_END_S = 60.0


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment and module path, without settings of EdgeBus."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("EDGEBUS_")}
    return {**clean, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **more}


async def start_edgebus(
    *arguments: str | Path,
    prefix: tuple[str, ...] = (),
    cwd: Path | None = None,
    stderr: int = PIPE,
) -> asyncio.subprocess.Process:
    """Start the program.

    Args:
        arguments: Of the program.
        prefix: A command to run it with, such as ``timeout``.
        cwd: Its working folder; by default the present one.
        stderr: As in `subprocess`; standard output is a pipe.
    """
    words = (*prefix, *EDGEBUS, *map(str, arguments))
    return await asyncio.create_subprocess_exec(
        *words, env=clean_environment(), stdout=PIPE, stderr=stderr, cwd=cwd
    )


async def run_edgebus(*arguments: str | Path) -> tuple[int, str, str]:
    """Run the program to its end, beside the event loop: exit code, output, errors."""
    process = await start_edgebus(*arguments)
    out, err = await asyncio.wait_for(process.communicate(), _END_S)
    return process.returncode or 0, out.decode(), err.decode()
