"""Topic filters, and the routing of a connection's messages to the consumers that want them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from edgebus.bus._delivery import AckWindow, Delivery, Route
from edgebus.bus.errors import SubscribeRefusedError
from edgebus.bus.event import RawMessage
from edgebus.contracts import ContractError

T = TypeVar("T")
_CACHED_TOPICS = 4096
_MAX_TOPIC = 65_535


def check_topic(value: str) -> str:
    """Return `value` if it is a topic that may be published to.

    Raises:
        ContractError: It is empty, too long, or holds a wildcard or a NUL.
    """
    if not value or len(value.encode()) > _MAX_TOPIC or any(c in value for c in "+#\0"):
        msg = f"{value[:80]!r} is no topic to publish to: empty, too long, or with a wildcard"
        raise ContractError(msg)
    return value


def check_filter(value: str) -> str:
    """Return `value` if it is a topic filter.

    Raises:
        SubscribeRefusedError: It is empty, misuses a wildcard or is a shared subscription.
    """
    if not value or "\0" in value:
        raise SubscribeRefusedError(filter=repr(value), reason="it is empty or holds a NUL")
    if value.startswith("$share/"):
        reason = "shared subscriptions are not supported; subscribe to the filter itself"
        raise SubscribeRefusedError(filter=value, reason=reason)
    levels = value.split("/")
    for number, level in enumerate(levels):
        if "#" in level and (level != "#" or number != len(levels) - 1):
            raise SubscribeRefusedError(filter=value, reason="'#' stands alone as the last level")
        if "+" in level and level != "+":
            raise SubscribeRefusedError(filter=value, reason="'+' stands alone on its level")
    return value


class _Node(Generic[T]):
    __slots__ = ("children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.here: list[T] = []


class TopicTrie(Generic[T]):
    """Values by topic filter; a filter may hold many values, in the order they were added."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        # Topics repeat: a stream's thousandth message needs no walk. Emptied on every change.
        self._cache: dict[str, tuple[T, ...]] = {}

    def add(self, topic_filter: str, value: T) -> None:
        """Add a value.

        Raises:
            SubscribeRefusedError: It is no topic filter.
        """
        node = self._root
        for level in check_filter(topic_filter).split("/"):
            node = node.children.setdefault(level, _Node())
        node.here.append(value)
        self._cache.clear()

    def remove(self, topic_filter: str, value: T) -> None:
        """Remove a value that was added; KeyError or ValueError where it was not."""
        path = [(self._root, "")]
        for level in topic_filter.split("/"):
            path.append((path[-1][0].children[level], level))
        path[-1][0].here.remove(value)
        for (parent, _), (node, level) in zip(path[-2::-1], path[:0:-1], strict=True):
            if node.here or node.children:
                break
            del parent.children[level]
        self._cache.clear()

    def match(self, topic: str) -> tuple[T, ...]:
        """Every value whose filter matches `topic`, each once per filter."""
        found = self._cache.get(topic)
        if found is None:
            found = tuple(self._walk(topic.split("/")))
            if len(self._cache) >= _CACHED_TOPICS:
                self._cache.clear()
            self._cache[topic] = found
        return found

    def _walk(self, levels: list[str]) -> list[T]:
        found: list[T] = []
        nodes = [self._root]
        # A wildcard on the first level does not match topics of the broker itself (§4.7.2).
        wild = not levels[0].startswith("$")
        for level in levels:
            following: list[_Node[T]] = []
            for node in nodes:
                children = node.children
                if wild and (rest := children.get("#")) is not None:
                    found.extend(rest.here)
                if (child := children.get(level)) is not None:
                    following.append(child)
                if wild and (child := children.get("+")) is not None:
                    following.append(child)
            nodes = following
            wild = True
        for node in nodes:
            found.extend(node.here)
            # `a/#` also matches its parent, `a` (§4.7.1.2).
            if (rest := node.children.get("#")) is not None:
                found.extend(rest.here)
        return found


class Router:
    """Gives every message to each consumer with a matching filter, once.

    Events of a resumed session may come before their handlers have subscribed: `park` keeps them
    unacknowledged until a route matches or `unpark` ends the grace.
    """

    def __init__(self) -> None:
        self._routes: TopicTrie[Route] = TopicTrie()
        self.window = AckWindow(_ignore)
        self._parked: list[Delivery] = []
        self._restored: list[Delivery] = []
        self._parking = False
        self.taking = True
        self.received = 0
        self.received_bytes = 0
        self.unrouted = 0

    @property
    def unacknowledged(self) -> int:
        """Events received over the present connection and not acknowledged."""
        return len(self.window)

    @property
    def restored(self) -> int:
        """Events of the process before that wait for a handler."""
        return len(self._restored)

    def connect(self, acknowledge: Callable[[int], None], *, park: bool) -> None:
        """Start with a new connection: what the old one held back comes again over this one."""
        self.window = AckWindow(acknowledge)
        self._parked = []
        self._parking = park

    def disconnect(self) -> None:
        """The connection is gone; nothing can be acknowledged any more."""
        self.window = AckWindow(_ignore)
        self._parked = []

    def add(self, route: Route) -> None:
        """Add a route, and give it what was parked for it."""
        self._routes.add(route.filter, route)
        self._restored = self._offer(self._restored)
        self._parked = self._offer(self._parked)

    def _offer(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Give what waits to whoever wants it by now; what still waits."""
        still: list[Delivery] = []
        for delivery in deliveries:
            if self._give(delivery):
                delivery.release()
            else:
                still.append(delivery)
        return still

    def restore(self, deliveries: list[Delivery]) -> None:
        """Keep what the process before had not finished for the handlers that subscribe."""
        self._restored = self._offer(deliveries)

    def remove(self, route: Route) -> None:
        """Remove a route that was added."""
        self._routes.remove(route.filter, route)

    def unpark(self) -> int:
        """End the grace; acknowledge what nobody wanted. Returns how many these were."""
        parked, self._parked, self._parking = self._restored + self._parked, [], False
        self._restored = []
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
            if self.window.holds(message.token):
                return
            slot = self.window.arrived(message.token, time.monotonic())
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
        # A broker that sends one copy per overlapping filter names the filter of each copy.
        # A filter that this process does not know is an old session's: then it may be for all.
        via = message.via
        if via and any(route.filter in via for route in routes):
            routes = tuple(route for route in routes if route.filter in via)
        served: list[object] = []
        for route in routes:
            if route.consumer not in served:
                served.append(route.consumer)
                route.consumer.offer(delivery, route)
        return bool(served)

    def _is_internal(self, message: RawMessage) -> bool:
        routes = self._routes.match(message.topic)
        return bool(routes) and all(route.consumer.options.internal for route in routes)


def _ignore(_token: int) -> None:
    """Acknowledge nothing: there is no connection."""
