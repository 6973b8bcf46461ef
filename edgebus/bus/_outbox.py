"""The outbox in memory: events that the broker does not have yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgebus.bus.errors import OutboxFullError
from edgebus.bus.transport import Outgoing

OVERFLOW = "it gave way to newer ones in a full outbox"

# Bulk in flight, so that a command is never more than this far behind a block or a record.
_BULK_BYTES_IN_FLIGHT = 512 * 1024


@dataclass(slots=True, eq=False)
class Entry:
    """One event on its way.

    Attributes:
        message: What to send.
        number: Grows with each entry.
        deadline: Not to be sent afterwards, on the clock of the outbox's caller.
        done: Called once: with None when the broker has it, else with the reason why not.
        in_flight: Sent over the present connection and not acknowledged.
        durable: Kept on disk too.
    """

    message: Outgoing
    number: int
    deadline: float | None
    done: Callable[[str | None], None] | None = None
    in_flight: bool = False
    durable: bool = False


class Outbox:
    """A bounded line of events, sent in order within each of two lanes.

    JSON goes before bulk (records, blocks), so that control traffic never waits for a large
    transfer. A retained value that still waits is replaced by a newer one for the same topic.

    Args:
        max_messages: Most entries, those in flight included.
        max_bytes: Most payload bytes, those in flight included.
    """

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._control: deque[Entry] = deque()
        self._bulk: deque[Entry] = deque()
        self._in_flight: dict[int, Entry] = {}
        self._number = 0
        self._bulk_in_flight = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._control) + len(self._bulk) + len(self._in_flight)

    @property
    def has_room(self) -> bool:
        """True while a small message would be accepted."""
        return len(self) < self._max_messages and self.bytes < self._max_bytes

    def put(
        self,
        message: Outgoing,
        *,
        deadline: float | None = None,
        first: bool = False,
        make_room: bool = False,
    ) -> Entry:
        """Accept an event.

        Args:
            message: What to send.
            deadline: Not to be sent afterwards.
            first: In front of its lane: for state that is published again after a reconnect.
            make_room: Drop the oldest that are not in flight where it would exceed a limit.

        Raises:
            OutboxFullError: It would exceed a limit.
        """
        lane = self._lane(message)
        if message.retain:
            self._replace(lane, message.topic)
        size = len(message.payload)
        while len(self) >= self._max_messages or (
            len(self) and self.bytes + size > self._max_bytes
        ):
            if make_room and self._drop_oldest():
                continue
            raise OutboxFullError(
                messages=len(self),
                size=self.bytes,
                max_messages=self._max_messages,
                max_bytes=self._max_bytes,
            )
        self._number += 1
        entry = Entry(message, self._number, deadline)
        if first:
            lane.appendleft(entry)
        else:
            lane.append(entry)
        self.bytes += size
        return entry

    def restore(self, message: Outgoing, *, number: int, deadline: float | None) -> Entry:
        """Take over an event of the process before, whatever the limits; oldest first."""
        self._number = max(self._number, number)
        entry = Entry(message, number, deadline, durable=True)
        self._lane(message).append(entry)
        self.bytes += len(message.payload)
        return entry

    def next(self, *, window: int, now: float) -> Entry | None:
        """The next entry to send, which then counts as in flight; None: nothing now.

        Args:
            window: Events that may be in flight.
            now: Time on the clock of the deadlines.
        """
        if len(self._in_flight) >= window:
            return None
        while True:
            if self._control:
                entry = self._control.popleft()
            elif self._bulk and self._bulk_fits(self._bulk[0]):
                entry = self._bulk.popleft()
            else:
                return None
            if entry.deadline is None or entry.deadline > now:
                break
            self._finish(entry, "it expired before it could be sent")
        entry.in_flight = True
        self._in_flight[entry.number] = entry
        if _is_bulk(entry.message):
            self._bulk_in_flight += len(entry.message.payload)
        return entry

    def settle(self, entry: Entry, refusal: str | None = None) -> None:
        """The broker has an entry, or refused it for the given reason."""
        if self._in_flight.pop(entry.number, None) is None:
            return
        if _is_bulk(entry.message):
            self._bulk_in_flight -= len(entry.message.payload)
        entry.in_flight = False
        self._finish(entry, refusal)

    def rewind(self) -> None:
        """The connection is gone: what was in flight is to be sent again, in its old order."""
        for entry in reversed(self._in_flight.values()):
            entry.in_flight = False
            self._lane(entry.message).appendleft(entry)
        self._in_flight.clear()
        self._bulk_in_flight = 0

    def topics(self) -> set[str]:
        """Topics of what waits or is in flight."""
        lanes = (self._control, self._bulk, self._in_flight.values())
        return {entry.message.topic for lane in lanes for entry in lane}

    def _lane(self, message: Outgoing) -> deque[Entry]:
        return self._bulk if _is_bulk(message) else self._control

    def _bulk_fits(self, entry: Entry) -> bool:
        after = self._bulk_in_flight + len(entry.message.payload)
        return not self._bulk_in_flight or after <= _BULK_BYTES_IN_FLIGHT

    def _drop_oldest(self) -> bool:
        heads = [lane for lane in (self._control, self._bulk) if lane]
        if not heads:
            return False
        oldest = min(heads, key=lambda lane: lane[0].number).popleft()
        self._finish(oldest, OVERFLOW)
        return True

    def _replace(self, lane: deque[Entry], topic: str) -> None:
        for entry in lane:
            if entry.message.retain and entry.message.topic == topic:
                lane.remove(entry)
                self._finish(entry, None)
                return

    def _finish(self, entry: Entry, reason: str | None) -> None:
        self.bytes -= len(entry.message.payload)
        if entry.done is not None:
            entry.done(reason)


def _is_bulk(message: Outgoing) -> bool:
    return bool(message.content_type) and message.content_type != "application/json"
