"""Serving state that survives a restart: one small file, replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from edgebus.contracts import Count, ModelRef, Record, Segment, Timestamp
from edgebus.files import write_file


class ServingState(Record):
    """State of one model that a release follower keeps.

    Attributes:
        model: Name of the model that all of this is about.
        current: The version that serves.
        since: When it began.
        previous: The one before, kept for going back.
        sequence: Sequence of the release that was acted on last.
        highest: The highest version that was ever released or served.
        failed: Why that release does not serve.
        loading: Sequence of the release whose bundle is being loaded.
        loads: How often that was begun. A count that is left behind shows that the process died.
    """

    format: Literal["serving/1"] = "serving/1"
    model: Segment
    current: ModelRef | None = None
    since: Timestamp | None = None
    previous: ModelRef | None = None
    sequence: Count = 0
    highest: Count = 0
    failed: str | None = None
    loading: Count = 0
    loads: Count = 0

    @property
    def digests(self) -> set[str]:
        """Digests of the bundles that must stay in the store."""
        return {ref.digest for ref in (self.current, self.previous) if ref is not None}


class StateFile:
    """Reads and writes a `ServingState`; a crash leaves the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, *, model: str) -> tuple[ServingState, str]:
        """The state that was written last, and why it could not be used, if it could not.

        The state of another model is of no use either.
        """
        empty = ServingState(model=model)
        try:
            found = ServingState.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return empty, ""
        except OSError as error:
            return empty, f"{self.path} cannot be read: {error.strerror}"
        except ValidationError as error:
            return empty, f"{self.path} is damaged ({error.error_count()} errors)"
        if found.model != model:
            return empty, f"{self.path} is about model {found.model}, not {model}"
        return found, ""

    def peek(self) -> ServingState | None:
        """The state that was written last, of whatever model; None without a readable file."""
        try:
            return ServingState.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, state: ServingState) -> None:
        """Replace it; flushed to the disk on return.

        Raises:
            OSError: The disk refuses.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, state.model_dump_json(exclude_none=True).encode())
