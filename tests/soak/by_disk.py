"""The disk is full, in a process of its own: see `tests.soak.smalldisk`."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.soak.field import Outcome, Scene
from tests.soak.ledger import Verdict

__all__ = ["disk_full"]

_ROOT = Path(__file__).resolve().parents[2]
_STUCK_S = 300.0
_SIZE = "16m"


async def disk_full(scene: Scene) -> Outcome:
    """On a small tmpfs where this user may mount one, else under a limit on the size of files."""
    disk = scene.folder / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "soak", str(disk))
    kind = "tmpfs" if await _may(mount) else "limit"
    command = [sys.executable, "-m", "tests.soak.smalldisk"]
    command += [str(disk), str(scene.events), kind]
    if kind == "tmpfs":
        script = f"{shlex.join(mount)} && exec {shlex.join(command)}"
        command = ["unshare", "-rm", "sh", "-c", script]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=_ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{_ROOT}:{_ROOT / 'services'}",
            "PYTHONDONTWRITEBYTECODE": "1",  # not even a part of a file, on the full disk
        },
        stdout=asyncio.subprocess.PIPE,
        # A pipe: a file could not be written to under the limit.
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_STUCK_S):
            said, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        msg = f"the process on a full disk ended with {process.returncode}: {errors[-2000:]!r}"
        raise RuntimeError(msg)
    parts = {name: _outcome(part) for name, part in json.loads(said).items()}
    for _ in range(sum(part.verdict.handled for part in parts.values())):
        scene.news()
    return _sum(parts, kind)


async def _may(mount: tuple[str, ...]) -> bool:
    """Whether this user may mount something, in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    process = await asyncio.create_subprocess_exec(
        "unshare",
        "-rm",
        *mount,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait() == 0


def _outcome(part: dict[str, Any]) -> Outcome:
    verdict = part.pop("verdict")
    verdict["examples"] = tuple(verdict["examples"])
    return Outcome(verdict=Verdict(**verdict), **part)


def _sum(parts: dict[str, Outcome], kind: str) -> Outcome:
    verdicts = [part.verdict for part in parts.values()]
    whole = Verdict(
        accepted=sum(one.accepted for one in verdicts),
        handled=sum(one.handled for one in verdicts),
        lost=sum(one.lost for one in verdicts),
        twice=sum(one.twice for one in verdicts),
        disorder=sum(one.disorder for one in verdicts),
        again=sum(one.again for one in verdicts),
        examples=tuple(words for one in verdicts for words in one.examples),
    )
    how = {"tmpfs": f"a tmpfs of {_SIZE}", "limit": "a limit on the size of files"}[kind]
    return Outcome(
        verdict=whole,
        faults=sum(part.faults for part in parts.values()),
        duplicates=sum(part.duplicates for part in parts.values()),
        wrong=[f"{name}: {words}" for name, part in parts.items() for words in part.wrong],
        notes=[how, *(words for part in parts.values() for words in part.notes)],
    )
