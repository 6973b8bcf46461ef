"""Queue and rate of the blocks that a provider sends, without sockets or clocks.

Each block is sent once for all who asked for it: a request for a block that waits, is being sent,
or was sent a moment ago adds nothing. Whoever asks for a blob for the first time is an exception:
it listens only since then, so what was on its way before may have passed it. Blobs take turns, so a
manifest does not wait behind somebody's weights.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from edgebus.artifacts.index import BLOCK_SIZE
from edgebus.contracts import BlockRange

_LISTENERS = 4096
"""Most pairs of blob and listener that are remembered, the latest."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a blob."""

    digest: str
    index: int


@dataclass(slots=True)
class SenderStats:
    """Counted since the start.

    Attributes:
        wanted: Blocks asked for.
        coalesced: Of those, blocks that were on their way to all already.
        refused: Of those, blocks that do not exist.
        sent: Blocks sent.
        sent_bytes: Bytes of those.
    """

    wanted: int = 0
    coalesced: int = 0
    refused: int = 0
    sent: int = 0
    sent_bytes: int = 0


class BlockSender:
    """The queue of blocks to send.

    Args:
        settle: Seconds after a block was sent in which a request for it is taken for one that
            crossed it, if it comes from somebody who listened then. Whoever missed the block asks
            again, later than this.
    """

    def __init__(self, *, settle: float = 0.25) -> None:
        self.stats = SenderStats()
        self._settle = settle
        self._queues: OrderedDict[str, deque[int]] = OrderedDict()
        self._busy: set[Block] = set()  # waits or is being sent
        self._leaving: set[Block] = set()  # is being sent
        self._again: set[Block] = set()  # and is to be sent once more
        self._listens: LRUCache[tuple[str, str], float] = LRUCache(_LISTENERS)
        self._sent: OrderedDict[Block, float] = OrderedDict()

    def want(
        self,
        digest: str,
        wanted: Sequence[BlockRange],
        *,
        size: int,
        now: float,
        who: str = "",
        block_size: int = BLOCK_SIZE,
    ) -> int:
        """Somebody asks for blocks.

        Args:
            digest: The blob, which the provider has.
            who: Who asks, and hears what is sent of this blob from the first time on.
            wanted: Which blocks.
            size: Bytes of the blob.
            now: Monotonic seconds.
            block_size: Bytes of a block.

        Returns:
            How many blocks were added to the queue.
        """
        self._forget(now)
        fresh = (digest, who) not in self._listens
        since = self._heard_since(digest, who, now)
        count = -(-size // block_size)
        added = 0
        spans: list[tuple[int, int]] = []
        for item in wanted:
            end = min(count, item.first + item.count)
            self.stats.wanted += item.count
            self.stats.refused += item.count - max(0, end - item.first)
            spans.append((item.first, end))
        # A request that names the same blocks a thousand times costs no more than once.
        done = 0
        for first, end in sorted(spans):
            self.stats.coalesced += max(0, min(done, end) - first)
            for index in range(max(first, done), end):
                block = Block(digest, index)
                if fresh and block in self._leaving:
                    self._again.add(block)
                if block in self._busy or self._sent.get(block, float("-inf")) >= since:
                    self.stats.coalesced += 1
                    continue
                self._busy.add(block)
                self._queues.setdefault(digest, deque()).append(index)
                added += 1
            done = max(done, end)
        return added

    def next(self) -> Block | None:
        """The next block to send, or None. `sent` or `failed` must follow."""
        if not self._queues:
            return None
        digest, queue = next(iter(self._queues.items()))
        index = queue.popleft()
        if queue:
            self._queues.move_to_end(digest)
        else:
            del self._queues[digest]
        block = Block(digest, index)
        self._leaving.add(block)
        return block

    def sent(self, block: Block, *, size: int, now: float) -> None:
        """A block is with the broker."""
        self._done(block)
        self._sent[block] = now
        self._sent.move_to_end(block)
        self.stats.sent += 1
        self.stats.sent_bytes += size

    def failed(self, block: Block) -> None:
        """A block could not be sent; whoever needs it asks again."""
        self._again.discard(block)
        self._done(block)

    @property
    def waiting(self) -> int:
        """Blocks in the queue."""
        return sum(len(queue) for queue in self._queues.values())

    def _done(self, block: Block) -> None:
        self._leaving.discard(block)
        self._busy.discard(block)
        if block in self._again:
            self._again.discard(block)
            self._busy.add(block)
            self._queues.setdefault(block.digest, deque()).append(block.index)

    def _heard_since(self, digest: str, who: str, now: float) -> float:
        """Since when somebody hears what is sent of a blob: its first request."""
        # Looked up and set: both keep it among the latest.
        since = self._listens.get((digest, who), now)
        self._listens[digest, who] = since
        return since

    def _forget(self, now: float) -> None:
        while self._sent:
            block, when = next(iter(self._sent.items()))
            if now - when < self._settle:
                return
            del self._sent[block]


class Pace:
    """Rate limit of the bytes that leave, as a token bucket.

    Args:
        bytes_per_s: The rate.
        burst: Bytes that may leave at once after a rest.
    """

    def __init__(self, *, bytes_per_s: float, burst: int) -> None:
        self._rate = bytes_per_s
        self._ahead_s = burst / bytes_per_s
        self._free = float("-inf")

    def rest(self, size: int, *, now: float) -> float:
        """Reserve the link for some bytes.

        Args:
            size: How many.
            now: Monotonic seconds.

        Returns:
            Seconds to rest before they leave.
        """
        # Whoever was silent for long may not make up for all of it at once.
        free = max(self._free, now - self._ahead_s)
        self._free = free + size / self._rate
        return max(0.0, free - now)
