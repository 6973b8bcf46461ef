"""Atomic writes of files and folders: written aside, flushed to the disk, renamed into place."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_BREAKS = re.compile(r"[\r\n\v\f\x85\u2028\u2029]")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the path in every error of the disk: those of a write name none, or a temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def check_room(folder: Path, *, least: int) -> None:
    """Refuse a disk that is as good as full, before something is begun on it.

    Args:
        folder: On it; need not exist.
        least: Bytes that have to be free.

    Raises:
        OSError: Fewer are; it names the folder and both numbers.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < least:
        reason = f"{os.strerror(errno.ENOSPC)}: {free >> 20} MB free, at least {least >> 20} needed"
        raise OSError(errno.ENOSPC, reason, str(folder))


def write_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write or replace a file; a crash or a power cut leaves the old bytes or the new, no mixture.

    Args:
        path: The file.
        data: Its new content.
        private: Only this user may read it.

    Raises:
        OSError: The disk is full or broken; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    with writing(path):
        try:
            _write_synced(temporary, data, mode=0o600 if private else 0o666)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def csv_cells(row: Iterable[str]) -> list[str]:
    """Cells of a CSV file that no spreadsheet takes for formulas, each in one line.

    Texts come from other devices, and a spreadsheet computes what begins with ``=``, ``+``, ``-``
    or ``@``; such a text gets a quote in front, which spreadsheets do not show. Numbers stay.
    """
    return [_cell(_BREAKS.sub(" ", value)) for value in row]


def _cell(text: str) -> str:
    formula = text.lstrip(" ")[:1] in {"=", "+", "-", "@", "\t"} and not _NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def drop_leftovers(folder: Path, *, older_s: float = 0.0) -> None:
    """Remove what an interrupted write left beside its place, in the folder and below it.

    Args:
        folder: Where.
        older_s: Only what is older, where another process may be writing at this moment.
    """
    before = time.time() - older_s
    for item in folder.rglob(".*.part"):
        if item.stat().st_mtime <= before or not older_s:
            item.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_synced(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of read-only files, whole or not at all.

    Raises:
        OSError: `target` is there and not empty.
    """
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.part")
    with writing(target), new_folder(temporary):
        for name, data in files.items():
            _write_synced(temporary / name, data)
            (temporary / name).chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        sync_folder(temporary)
        temporary.replace(target)  # over an empty folder too (POSIX)
        sync_folder(target.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Make a folder, with those above it; where its block fails, none of them is left."""
    missing = [path, *(above for above in path.parents if not above.exists())]
    try:
        path.mkdir(parents=True)
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):  # somebody else has put something in
            for above in missing[1:]:
                above.rmdir()
        raise
