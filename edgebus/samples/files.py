"""Payloads of samples as files, named by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgebus.files import write_file


class SampleFiles:
    """Files named by their SHA-256, so that the same payload is stored once.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes, *, suffix: str = "") -> str:
        """Store a file; returns its name, the digest and the suffix.

        Raises:
            OSError: The disk is full or broken.
        """
        name = hashlib.sha256(data).hexdigest() + suffix
        path = self.path(name)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_file(path, data)
        return name

    def path(self, name: str) -> Path:
        """The place of a file, which may not be there."""
        return self._folder / name[:2] / name

    def remove(self, name: str) -> None:
        """Delete a file; one that is gone already is fine."""
        self.path(name).unlink(missing_ok=True)
