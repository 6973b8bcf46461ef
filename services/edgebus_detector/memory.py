"""What a detector remembers across restarts: one small file, replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from edgebus.contracts import ModelRef, Record, Segment, Timestamp
from edgebus.files import write_file

__all__ = ["Memory", "MemoryFile"]

Count = Annotated[int, Field(ge=0)]


class Memory(Record):
    """The state of a detector's models.

    Attributes:
        model: Name of the model that all of this is about.
        current: The version that serves.
        since: When it began.
        previous: The one before, kept for going back.
        sequence: Sequence of the release that was acted on last.
        failed: Why that release does not serve.
        loading: Sequence of the release whose bundle is being loaded.
        loads: How often that was begun. A count that is left behind tells that the process died.
    """

    format: Literal["detector/1"] = "detector/1"
    model: Segment
    current: ModelRef | None = None
    since: Timestamp | None = None
    previous: ModelRef | None = None
    sequence: Count = 0
    failed: str | None = None
    loading: Count = 0
    loads: Count = 0

    def keeps(self) -> set[str]:
        """Digests of the bundles that must stay in the store."""
        return {ref.digest for ref in (self.current, self.previous) if ref is not None}


class MemoryFile:
    """Reads and writes a `Memory`; a crash leaves the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, *, model: str) -> tuple[Memory, str]:
        """What was written last, and why it could not be used, if it could not.

        A memory of another model is of no use either.
        """
        empty = Memory(model=model)
        try:
            found = Memory.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return empty, ""
        except ValidationError as error:
            return empty, f"{self._path} is damaged ({error.error_count()} errors)"
        if found.model != model:
            return empty, f"{self._path} is about model {found.model}, not {model}"
        return found, ""

    def model(self) -> str | None:
        """Name of the model that the last memory is about; None without a readable one."""
        try:
            return Memory.model_validate_json(self._path.read_bytes()).model
        except (OSError, ValidationError):
            return None

    def write(self, memory: Memory) -> None:
        """Replace it; flushed to the disk on return.

        Raises:
            OSError: The disk refuses.
        """
        write_file(self._path, memory.model_dump_json(exclude_none=True).encode())
