"""Files that are whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["PictureStore", "write_atomically"]


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
