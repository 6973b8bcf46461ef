"""Which subscriptions match a topic (MQTT 5.0 §4.7)."""

from __future__ import annotations

from typing import Generic, TypeVar

from edgebus.bus.errors import SubscribeRefusedError
from edgebus.contracts import ContractError

__all__ = ["TopicTrie", "check_filter", "check_topic"]

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
        # Topics repeat: a camera's thousandth frame needs no walk. Emptied on every change.
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
