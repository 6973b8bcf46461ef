"""One process per data folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgebus.service.errors import DuplicateIdentityError, SettingsError, SettingsProblem

__all__ = ["folder_lock"]


@contextmanager
def folder_lock(folder: Path, *, identity: str) -> Iterator[None]:
    """Hold a service's data folder; the kernel lets go of it when the process ends, however.

    Args:
        folder: Made if need be.
        identity: Whose folder it is, for the error.

    Raises:
        DuplicateIdentityError: Another process holds it.
        SettingsError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        reason = f"{error.strerror}; choose a folder that this user may write"
        problem = SettingsProblem(key="data_dir", origin=str(folder), reason=reason)
        raise SettingsError([problem]) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
            other = f"process {pid} holds {folder}"
            raise DuplicateIdentityError(identity, other=other) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
