"""Files that are whole or not there: written aside, synced, renamed; and off the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

__all__ = ["DiskThread", "PictureStore", "write_atomically"]

P = ParamSpec("P")
T = TypeVar("T")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part.

    Raises:
        OSError: The disk is full or broken; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class PictureStore:
    """JPEG files named by their SHA-256: the same picture is stored once.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Keep a file; returns its digest."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, data)
        return digest

    def path(self, digest: str) -> Path:
        """Where a file lies, or would lie."""
        return self._folder / digest[:2] / f"{digest}.jpg"

    def remove(self, digest: str) -> None:
        """Forget a file; one that is gone already is fine."""
        self.path(digest).unlink(missing_ok=True)


class DiskThread:
    """Calls what blocks on the disk in a thread, one call at a time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it; what it raises is raised here."""
        async with self._lock:
            return await asyncio.to_thread(call, *args, **kwargs)
