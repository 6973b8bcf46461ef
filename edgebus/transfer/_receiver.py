"""Receiver of the blocks of one blob, without sockets or clocks.

It asks for a window of blocks, takes whatever comes (also what another edge asked for), checks
every block, and asks again when nothing came for a while. It never gives up; who runs it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from edgebus.artifacts.index import BLOCK_SIZE, sha256
from edgebus.contracts import BlockRange

Taken = Literal["new", "duplicate", "corrupt"]

# BlockRequest carries no more ranges; the rest is asked for later.
_MAX_RANGES = 1024


class Sink(Protocol):
    """Destination of blocks; `edgebus.artifacts.store.PartialBlob` is one."""

    def write(self, offset: int, data: bytes, /) -> None:
        """Keep verified bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Time to wait for blocks before asking again, in seconds.

    The wait follows the pace of the blocks: on a slow link it grows with the time that a block
    takes, so that nothing is asked for twice that is only late. Each silence doubles it.
    """

    first: float = 0.75
    longest: float = 30.0


class BlockReceiver:
    """The blocks of one blob.

    Args:
        size: Bytes of the blob.
        blocks: SHA-256 of each block; None where only the whole has a digest (an index), then the
            caller checks the whole and calls `restart` if it is wrong.
        sink: Where verified blocks go.
        block_size: Bytes of a block; the last one may be shorter.
        window: Blocks that are asked for at a time: enough to fill the link, few enough that other
            traffic passes.
        patience: When to ask again.
    """

    def __init__(
        self,
        *,
        size: int,
        blocks: Sequence[str] | None,
        sink: Sink,
        block_size: int = BLOCK_SIZE,
        window: int = 16,
        patience: Patience | None = None,
    ) -> None:
        self.size = size
        self.block_size = block_size
        self.corrupt = 0
        self.received_bytes = 0
        self.silences = 0
        self._blocks = blocks
        self._sink = sink
        self._window = window
        self._patience = patience or Patience()
        self._missing = set(range(-(-size // block_size)))
        self._asked: set[int] = set()
        self._heard = 0.0  # when a block came last, or was asked for
        self._pace: float | None = None  # seconds per block, smoothed

    @property
    def done(self) -> bool:
        """Whether every block is there."""
        return not self._missing

    @property
    def missing_bytes(self) -> int:
        """Bytes that have not come yet."""
        return sum(self._length(index) for index in self._missing)

    @property
    def missing(self) -> tuple[BlockRange, ...]:
        """The blocks that have not come yet."""
        return tuple(ranges(self._missing))

    def prime(self, read: Callable[[int, int], bytes]) -> int:
        """Take over the blocks that are there already: on disk, or in an earlier version.

        Args:
            read: Gives bytes at an offset; too few or wrong ones are simply not taken.

        Returns:
            Bytes that need not be fetched.
        """
        found = 0
        if self._blocks is None:
            return found
        for index in sorted(self._missing):
            data = read(index * self.block_size, self._length(index))
            if sha256(data) == self._blocks[index]:
                self._sink.write(index * self.block_size, data)
                self._missing.discard(index)
                found += len(data)
        return found

    def take(self, index: int, data: bytes, *, now: float) -> Taken:
        """A block came, asked for or not.

        Args:
            index: Its number.
            data: Its bytes.
            now: Monotonic seconds.
        """
        if index not in self._missing:
            return "duplicate"
        if len(data) != self._length(index) or (
            self._blocks is not None and sha256(data) != self._blocks[index]
        ):
            self.corrupt += 1
            self._asked.discard(index)  # asked for again at once, behind the others
            return "corrupt"
        self._sink.write(index * self.block_size, data)
        self._missing.discard(index)
        self._asked.discard(index)
        self.received_bytes += len(data)
        gap = max(0.0, now - self._heard)
        self._pace = gap if self._pace is None else 0.8 * self._pace + 0.2 * gap
        self._heard = now
        self.silences = 0
        return "new"

    def next_request(self, *, now: float) -> tuple[BlockRange, ...]:
        """Blocks to ask for now; none while enough is on its way.

        Args:
            now: Monotonic seconds.
        """
        if self.done:
            return ()
        if self._asked and now >= self._heard + self.patience:
            self.silences += 1
            self._asked.clear()
        if len(self._asked) > self._window // 2:
            return ()
        free = sorted(self._missing - self._asked)[: self._window - len(self._asked)]
        if not free:
            return ()
        if not self._asked:
            self._heard = now
        chosen = ranges(free)[:_MAX_RANGES]
        self._asked.update(i for item in chosen for i in range(item.first, item.first + item.count))
        return tuple(chosen)

    def restart(self) -> None:
        """Every block is missing again: the whole was wrong."""
        self.corrupt += 1
        self._missing = set(range(-(-self.size // self.block_size)))
        self._asked.clear()

    @property
    def patience(self) -> float:
        """Seconds without a block after which it asks again."""
        first = max(self._patience.first, 4 * (self._pace or 0.0))
        return min(self._patience.longest, first * 2.0 ** min(self.silences, 16))

    def deadline(self) -> float:
        """When `next_request` has something new if nothing comes, in monotonic seconds."""
        return self._heard + self.patience

    def _length(self, index: int) -> int:
        return min(self.block_size, self.size - index * self.block_size)


def ranges(indices: Iterable[int]) -> list[BlockRange]:
    """Block numbers as ranges of consecutive ones."""
    found: list[BlockRange] = []
    first = last = -1
    for index in sorted(indices):
        if first >= 0 and index == last + 1 and index - first < 65536:
            last = index
            continue
        if first >= 0:
            found.append(BlockRange(first=first, count=last - first + 1))
        first = last = index
    if first >= 0:
        found.append(BlockRange(first=first, count=last - first + 1))
    return found
