"""Pictures by their digest, and disk I/O off the event loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from edgebus.files import write_file

__all__ = ["DiskThread", "PictureStore"]

P = ParamSpec("P")
T = TypeVar("T")


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
            write_file(path, data)
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
