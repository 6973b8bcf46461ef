"""Spool of samples on disk, until the broker has them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgebus.files import drop_leftovers, write_file
from edgebus.service import ServiceSettings

_SUFFIX = ".sample"


class SpoolSettings(ServiceSettings):
    """Samples that wait on disk until the broker has them."""

    max_samples: Annotated[int, Field(ge=1)] = 5_000
    """The most samples."""
    max_bytes: Annotated[int, Field(ge=1)] = 2**30
    """The most bytes."""
    overflow: Literal["drop_oldest", "drop_newest"] = "drop_oldest"
    """The sample that goes when it is full; counted either way."""


class SpoolFullError(Exception):
    """A sample does not fit, and the overflow policy keeps what is there.

    Attributes:
        sample: Its id.
        size: Its bytes.
        used: Bytes that are spooled.
        limit: Bytes that may be spooled.
    """

    def __init__(self, *, sample: str, size: int, used: int, limit: int) -> None:
        super().__init__(
            f"sample {sample} of {size} bytes does not fit: {used} of {limit} bytes are spooled; "
            "raise spool.max_bytes, or choose spool.overflow drop_oldest"
        )
        self.sample = sample
        self.size = size
        self.used = used
        self.limit = limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """One sample on disk: `id` is its record's id, `size` its bytes."""

    id: str
    path: Path
    size: int


class Spool:
    """A folder of samples, oldest first, that survives kill -9 and power loss.

    Each sample is one file of the bytes that go onto the wire, named by its id. Ids are UUIDv7, so
    names sort by time. A file appears by rename after its bytes are on disk and leaves when the
    broker has acknowledged it; a crash between the two sends it again, and the receiver knows its
    id. Methods do disk I/O.

    Args:
        folder: Made if it is not there; belongs to one process.
        settings: Its bounds, and what goes when it is full.
    """

    def __init__(self, folder: Path, settings: SpoolSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._items: OrderedDict[str, Spooled] = OrderedDict()
        self.size = 0
        """Bytes that are spooled."""
        folder.mkdir(parents=True, exist_ok=True)
        drop_leftovers(folder)
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            self._enter(Spooled(id=path.stem, path=path, size=path.stat().st_size))

    def __len__(self) -> int:
        return len(self._items)

    def put(self, sample: str, data: bytes) -> list[str]:
        """Keep a sample; returns the ids that were dropped for it.

        Raises:
            SpoolFullError: It does not fit and nothing may be dropped for it.
            OSError: The disk is full or broken.
        """
        dropped: list[str] = []
        limits = self._settings
        while len(self) >= limits.max_samples or self.size + len(data) > limits.max_bytes:
            if limits.overflow == "drop_newest" or not self._items:
                raise SpoolFullError(
                    sample=sample, size=len(data), used=self.size, limit=limits.max_bytes
                )
            oldest = next(iter(self._items))
            self.remove(oldest)
            dropped.append(oldest)
        path = self._folder / f"{sample}{_SUFFIX}"
        write_file(path, data)
        self._enter(Spooled(id=sample, path=path, size=len(data)))
        return dropped

    def oldest(self) -> Spooled | None:
        """The sample that goes next."""
        return next(iter(self._items.values()), None)

    def remove(self, sample: str) -> None:
        """Forget a sample; one that is gone already is fine."""
        item = self._items.pop(sample, None)
        if item is not None:
            self.size -= item.size
            item.path.unlink(missing_ok=True)

    def _enter(self, item: Spooled) -> None:
        known = self._items.get(item.id)
        self.size += item.size - (known.size if known else 0)
        self._items[item.id] = item
