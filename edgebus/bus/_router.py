"""From a connection's messages to the consumers that want them."""

from __future__ import annotations

from collections.abc import Callable

from edgebus.bus._delivery import Delivery, Route
from edgebus.bus._trie import TopicTrie
from edgebus.bus._window import AckWindow
from edgebus.bus.event import RawMessage

__all__ = ["Router"]


class Router:
    """Gives every message to each consumer with a matching filter, once.

    Events of a resumed session may come before their handlers have subscribed: `park` keeps them
    unacknowledged until a route matches or `unpark` ends the grace.
    """

    def __init__(self) -> None:
        self._routes: TopicTrie[Route] = TopicTrie()
        self._window = AckWindow(_ignore)
        self._parked: list[Delivery] = []
        self._parking = False
        self.taking = True
        self.received = 0
        self.received_bytes = 0
        self.unrouted = 0

    @property
    def unacknowledged(self) -> int:
        """Events received over the present connection and not acknowledged."""
        return len(self._window)

    def connect(self, acknowledge: Callable[[int], None], *, park: bool) -> None:
        """Start with a new connection: what the old one held back comes again over this one."""
        self._window = AckWindow(acknowledge)
        self._parked = []
        self._parking = park

    def disconnect(self) -> None:
        """The connection is gone; nothing can be acknowledged any more."""
        self._window = AckWindow(_ignore)
        self._parked = []

    def add(self, route: Route) -> None:
        """Add a route, and give it what was parked for it."""
        self._routes.add(route.filter, route)
        still: list[Delivery] = []
        for delivery in self._parked:
            if self._give(delivery):
                delivery.release()
            else:
                still.append(delivery)
        self._parked = still

    def remove(self, route: Route) -> None:
        """Remove a route that was added."""
        self._routes.remove(route.filter, route)

    def unpark(self) -> int:
        """End the grace; acknowledge what nobody wanted. Returns how many these were."""
        parked, self._parked, self._parking = self._parked, [], False
        for delivery in parked:
            delivery.release()
        self.unrouted += len(parked)
        return len(parked)

    def route(self, message: RawMessage) -> None:
        """Take a message in."""
        self.received += 1
        self.received_bytes += len(message.payload)
        slot = None
        if message.qos:
            if self._window.holds(message.token):
                return
            slot = self._window.arrived(message.token)
        if not self.taking and not self._is_internal(message):
            return  # unacknowledged: it comes again when the service is back
        delivery = Delivery(message, slot)
        if self._give(delivery) or slot is None:
            delivery.release()
        elif self._parking:
            self._parked.append(delivery)
        else:
            self.unrouted += 1
            delivery.release()

    def _give(self, delivery: Delivery) -> bool:
        """Give a message to every consumer that wants it; whether there was one."""
        message = delivery.message
        routes = self._routes.match(message.topic)
        if len(routes) == 1:
            route = routes[0]
            route.consumer.offer(delivery, route)
            return True
        # A broker that sends one copy per overlapping filter says which filter a copy is for.
        # A filter that this process does not know is an old session's: then it may be for all.
        via = message.via
        if via and any(route.filter in via for route in routes):
            routes = tuple(route for route in routes if route.filter in via)
        told: list[object] = []
        for route in routes:
            if route.consumer not in told:
                told.append(route.consumer)
                route.consumer.offer(delivery, route)
        return bool(told)

    def _is_internal(self, message: RawMessage) -> bool:
        routes = self._routes.match(message.topic)
        return bool(routes) and all(route.consumer.options.internal for route in routes)


def _ignore(_token: int) -> None:
    """Acknowledge nothing: there is no connection."""
