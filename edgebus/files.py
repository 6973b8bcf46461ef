"""Atomic writes of files and folders: written aside, flushed to the disk, renamed into place."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4


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
    try:
        _write_synced(temporary, data, mode=0o600 if private else 0o666)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


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
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.part")
    temporary.mkdir()
    try:
        for name, data in files.items():
            _write_synced(temporary / name, data)
            (temporary / name).chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        sync_folder(temporary)
        temporary.replace(target)  # over an empty folder too (POSIX)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)
