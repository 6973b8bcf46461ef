"""File of the MCAP writer: memory first, so that the disk can be written elsewhere."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Sink:
    """A file that is written in two steps: `write` keeps in memory, `spill` puts on disk.

    Each call of `write` is one or more whole MCAP records, and `spill` writes all or nothing: when
    the disk is full the file is cut back to whole records, and stays readable.

    Args:
        path: The file; it must not exist unless `overwrite`.
        overwrite: Replace what is there.

    Raises:
        OSError: It cannot be opened; FileExistsError among others.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        flags |= os.O_TRUNC if overwrite else os.O_EXCL
        self._file = os.open(path, flags, 0o644)
        self._pending: list[bytes] = []
        self._waiting = 0
        self._safe = 0

    @property
    def pending(self) -> int:
        """Bytes that wait for `spill`."""
        return self._waiting

    def write(self, data: bytes) -> int:
        """Keep whole records until `spill`."""
        if data:
            self._pending.append(bytes(data))
            self._waiting += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes written so far, those in memory included."""
        return self._safe + self._waiting

    def flush(self) -> None:
        """The MCAP writer asks for it; `spill` decides."""

    def spill(self) -> None:
        """Put everything on disk.

        Raises:
            OSError: The disk does not take it; the file ends where it ended before.
        """
        data = b"".join(self._pending)
        self._pending, self._waiting = [], 0
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            # Not a regular file: a pipe or a device keeps what it got.
            with suppress(OSError):
                os.ftruncate(self._file, self._safe)
            raise
        self._safe += len(data)

    def close(self, *, sync: bool) -> None:
        """Close the file.

        Raises:
            OSError: What was written did not reach the disk.
        """
        try:
            if sync:
                os.fsync(self._file)
        finally:
            os.close(self._file)
