"""CSV files that grow, rotate and survive kill -9."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgebus.files import csv_cells


class CsvTable:
    """One table: rows wait in memory until `flush` writes them.

    The current file is ``{name}.csv``; when it is full it becomes ``{name}.1.csv``, and so on. A
    file left with half a line by a crash is cut back to its last whole line, and one with other
    columns is put aside.

    Args:
        folder: Where it lies; is made.
        name: Name of the table.
        columns: Its header.
        max_bytes: Size at which it is put aside.
        keep: Files to keep, the current one included.
    """

    def __init__(
        self, folder: Path, name: str, columns: Sequence[str], *, max_bytes: int, keep: int
    ) -> None:
        self._folder = folder
        self._name = name
        self._max_bytes = max_bytes
        self._keep = keep
        self._header = _encode([columns])
        self._width = len(columns)
        self._rows: list[Sequence[str]] = []
        self._ready = False

    @property
    def path(self) -> Path:
        """The current file."""
        return self._folder / f"{self._name}.csv"

    @property
    def waiting(self) -> int:
        """Rows not written yet."""
        return len(self._rows)

    def add(self, row: Sequence[str]) -> None:
        """Take a row in.

        Raises:
            ValueError: It has not one value per column.
        """
        if len(row) != self._width:
            msg = f"table {self._name} has {self._width} columns, the row has {len(row)}"
            raise ValueError(msg)
        self._rows.append(row)

    def take(self) -> bytes:
        """The waiting rows as bytes; the table forgets them."""
        rows, self._rows = self._rows, []
        return _encode(rows)

    def write(self, data: bytes) -> int:
        """Append what `take` returned. Blocking: call it in a thread.

        Returns:
            Bytes written.

        Raises:
            OSError: The disk is full or the folder is not writable.
        """
        if not data:
            return 0
        if not self._ready:
            self._recover()
            self._ready = True
        if self.path.exists() and self.path.stat().st_size + len(data) > self._max_bytes:
            self._rotate()
        with self.path.open("ab") as file:
            if file.tell() == 0:
                file.write(self._header)
            file.write(data)
        return len(data)

    def _recover(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            first = file.readline()
            size = file.seek(0, io.SEEK_END)
            if size and first == self._header:
                file.truncate(_end_of_last_line(file, size))
                return
        if size:
            self._rotate()

    def _rotate(self) -> None:
        """Move every file one number up; the oldest falls off."""
        numbered = [self.path, *(self._numbered(n) for n in range(1, self._keep))]
        numbered[-1].unlink(missing_ok=True)
        for older, newer in zip(reversed(numbered[1:]), reversed(numbered[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)

    def _numbered(self, number: int) -> Path:
        return self._folder / f"{self._name}.{number}.csv"


def _end_of_last_line(file: io.BufferedRandom, size: int) -> int:
    """Offset behind the last whole line.

    A quoted value may hold line breaks, but writes end with a whole row, so what is behind the
    last line break is the torn part; a break inside a torn quoted value leaves one broken row.
    """
    at = size
    while at > 0:
        start = max(0, at - 4096)
        file.seek(start)
        found = file.read(at - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0


def _encode(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    # A line break in an error message would tear a row for line-based tools.
    writer.writerows(map(csv_cells, rows))
    return text.getvalue().encode()
