"""Topics as objects: nobody builds a topic with an f-string."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Generic, Literal, cast

from edgebus.contracts.errors import ContractError
from edgebus.contracts.names import Identity, check_segment
from edgebus.contracts.payload import P

__all__ = ["Address", "Filter", "Qos", "Topic"]

Qos = Literal[0, 1]

_PLACEHOLDER = re.compile(r"^\{([a-z_]+)\}$")
_IDENTITY = ("base", "site", "node", "service")


@dataclass(frozen=True, slots=True)
class Address(Generic[P]):
    """One concrete topic to publish to."""

    name: str
    topic: Topic[P]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Filter(Generic[P]):
    """A topic filter to subscribe to, with the topic whose payloads match it."""

    name: str
    topic: Topic[P]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class Topic(Generic[P]):
    """A named channel of the bus and the type of what it carries.

    Args:
        pattern: Levels below base and site, with one placeholder per variable level, for example
            ``"{node}/detector/{camera}/detections"``.
        payload: The class of its payloads.
        qos: Quality of service it is published with: 0 for frames and metrics, 1 for events.
        retain: Whether the broker keeps the last one for late subscribers (state, not events).
        durable: Whether an event that waits for the broker may wait on disk, where its publisher
            has an outbox there. Not where the publisher can say it again by other means, or where
            nobody wants it after a restart.
        doc: One sentence for the generated documentation.
    """

    pattern: str
    payload: type[P]
    qos: Qos = field(kw_only=True)
    retain: bool = field(kw_only=True, default=False)
    durable: bool = field(kw_only=True, default=True)
    doc: str = field(kw_only=True)
    levels: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        levels = ("{base}", "{site}", *self.pattern.split("/"))
        object.__setattr__(self, "levels", levels)

    @property
    def names(self) -> tuple[str, ...]:
        """The placeholders, in order: ``("base", "site", "node", …)``."""
        return tuple(m[1] for level in self.levels if (m := _PLACEHOLDER.match(level)))

    @property
    def address(self) -> str:
        """The whole pattern, for example ``{base}/{site}/{node}/detector/{camera}/detections``."""
        return "/".join(self.levels)

    def at(self, identity: Identity, /, **names: str) -> Address[P]:
        """The concrete topic of a publisher.

        Args:
            identity: Gives base, site, node and service, as far as the pattern asks for them.
            names: The other placeholders; they also override those of the identity.

        Raises:
            NameRefusedError: A name cannot be a topic level.
            ContractError: A placeholder is missing or unknown.
        """
        values = {part: getattr(identity, part) for part in _IDENTITY} | names
        self._check_known(names)
        levels: list[str] = []
        for level in self.levels:
            match = _PLACEHOLDER.match(level)
            if match is None:
                levels.append(level)
            elif (value := values.get(match[1])) is None:
                msg = f"topic {self.address} needs {match[1]}=…"
                raise ContractError(msg)
            else:
                levels.append(check_segment(value, what=match[1]))
        return Address(name="/".join(levels), topic=self)

    def any(self, *, base: str = "edgebus", **names: str) -> Filter[P]:
        """The filter that matches this topic from everybody, or only from the given names.

        Raises:
            NameRefusedError: A given name cannot be a topic level.
            ContractError: A given name is no placeholder of this topic.
        """
        self._check_known(names)
        values = {"base": base} | names
        levels: list[str] = []
        for level in self.levels:
            match = _PLACEHOLDER.match(level)
            if match is None:
                levels.append(level)
            elif match[1] in values:
                levels.append(check_segment(values[match[1]], what=match[1]))
            else:
                levels.append("+")
        return Filter(name="/".join(levels), topic=self)

    def parse(self, name: str) -> dict[str, str] | None:
        """The placeholders' values in a concrete topic, or None where it is another topic."""
        parts = name.split("/")
        if len(parts) != len(self.levels):
            return None
        values: dict[str, str] = {}
        for level, part in zip(self.levels, parts, strict=True):
            match = _PLACEHOLDER.match(level)
            if match is not None:
                values[cast("str", match[1])] = part
            elif level != part:
                return None
        return values

    def _check_known(self, names: dict[str, str]) -> None:
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            msg = f"topic {self.address} has no {', '.join(unknown)}; it has {self.names}"
            raise ContractError(msg)
