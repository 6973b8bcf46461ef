"""Errors of recordings."""

from __future__ import annotations

from pathlib import Path


class RecordingError(Exception):
    """The base of every error of this package."""


class RecordingExistsError(RecordingError):
    """There is a file already where the recording shall go.

    Attributes:
        path: The file.
    """

    exit_code = 2

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} exists; choose another name, or replace it with --force")
        self.path = path


class RecordingWriteError(RecordingError):
    """The disk does not take the recording, most often because it is full.

    Attributes:
        path: The file; what was written before stays readable.
        reason: What the system says.
        messages: Messages that are in the file.
    """

    def __init__(self, path: Path, *, reason: str, messages: int) -> None:
        kept = f"it holds {messages} messages and can be replayed. " if messages else ""
        super().__init__(
            f"cannot write {path}: {reason}; {kept}Make room, name a place on another disk, or "
            "record less with --filter or --exclude"
        )
        self.path = path
        self.reason = reason
        self.messages = messages


class RecordingUnreadableError(RecordingError):
    """A file is no recording, or nothing of it can be read.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    exit_code = 2

    def __init__(self, path: Path, *, reason: str) -> None:
        super().__init__(f"{path} is no readable MCAP file: {reason}")
        self.path = path
        self.reason = reason
