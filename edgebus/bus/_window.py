"""Acknowledgements in arrival order (MQTT 5.0 §4.6, MQTT-4.6.0-2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

__all__ = ["AckWindow", "Slot"]


class Slot:
    """The place of one received event in the order of acknowledgements."""

    __slots__ = ("done", "token", "window")

    def __init__(self, window: AckWindow, token: int) -> None:
        self.window = window
        self.token = token
        self.done = False


class AckWindow:
    """The events received over one connection that are not acknowledged yet.

    Handlers finish in any order; an acknowledgement leaves once everything that arrived before it
    is done as well. A new connection gets a new window: what the old one held back comes again.
    """

    def __init__(self, acknowledge: Callable[[int], None]) -> None:
        self._acknowledge = acknowledge
        self._slots: deque[Slot] = deque()
        self._tokens: set[int] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def holds(self, token: int) -> bool:
        """Whether an event with this token is here: then one that comes is the same one again.

        A broker may not use a packet id for another message before it is acknowledged (§2.2.1),
        but some send a message again when its acknowledgement takes long.
        """
        return token in self._tokens

    def arrived(self, token: int) -> Slot:
        """Give the next event its place."""
        slot = Slot(self, token)
        self._tokens.add(token)
        self._slots.append(slot)
        return slot

    def finish(self, slot: Slot) -> None:
        """An event is done; acknowledge all that are free to go."""
        slot.done = True
        slots = self._slots
        while slots and slots[0].done:
            token = slots.popleft().token
            self._tokens.discard(token)
            self._acknowledge(token)
