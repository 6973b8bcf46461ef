"""Topics as objects: nobody builds a topic with an f-string."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from edgebus.contracts.errors import ContractError, PayloadError
from edgebus.contracts.names import Identity, check_segment
from edgebus.contracts.payload import P

if TYPE_CHECKING:
    from edgebus.contracts.control import Command, Reply

Qos = Literal[0, 1]

C = TypeVar("C", bound="Command")
R = TypeVar("R", bound="Reply")

_PLACEHOLDER = re.compile(r"^\{([a-z_]+)\}$")
_IDENTITY = ("base", "site", "node", "service")


@dataclass(frozen=True, slots=True)
class Address(Generic[P]):
    """One concrete topic to publish to."""

    name: str
    topic: Topic[P]

    @property
    def sender(self) -> str:
        """``site/node/service`` that its messages must be from; empty where anybody may be."""
        return self.topic.sender(self.name)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class CommandAddress(Address[C], Generic[C, R]):
    """One concrete topic to send a command to."""

    topic: CommandTopic[C, R]


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
            ``"{node}/{service}/{meter}/reading"``. A literal in place of ``{service}`` means that
            only a service of that name publishes it (of a command: takes it).
        payload: The class of its payloads.
        qos: Quality of service it is published with: 0 for what is soon replaced, 1 for events.
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
    placeholders: tuple[str | None, ...] = field(init=False, repr=False)
    """Per level the name of its placeholder; None: a literal."""
    _from_sender: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        levels = ("{base}", "{site}", *self.pattern.split("/"))
        found = (_PLACEHOLDER.match(level) for level in levels)
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "placeholders", tuple(m[1] if m else None for m in found))
        message = getattr(self.payload, "record_type", self.payload)
        bound = len(levels) > 4 and getattr(message, "SOURCE_IS_PREFIX", False)
        object.__setattr__(self, "_from_sender", bound)

    @property
    def names(self) -> tuple[str, ...]:
        """The placeholders, in order: ``("base", "site", "node", …)``."""
        return tuple(name for name in self.placeholders if name is not None)

    @property
    def address(self) -> str:
        """The whole pattern, for example ``{base}/{site}/{node}/{service}/{meter}/reading``."""
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
        return Address(name=self._name_at(identity, names), topic=self)

    def any(self, *, base: str = "edgebus", **names: str) -> Filter[P]:
        """The filter that matches this topic from everybody, or only from the given names.

        Raises:
            NameRefusedError: A given name cannot be a topic level.
            ContractError: A given name is no placeholder of this topic.
        """
        self._check_known(names)
        values = {"base": base} | names
        levels = (
            level
            if name is None
            else check_segment(values[name], what=name)
            if name in values
            else "+"
            for level, name in zip(self.levels, self.placeholders, strict=True)
        )
        return Filter(name="/".join(levels), topic=self)

    def parse(self, name: str) -> dict[str, str] | None:
        """The placeholders' values in a concrete topic, or None where it is another topic."""
        parts = name.split("/")
        if len(parts) != len(self.levels):
            return None
        values: dict[str, str] = {}
        for level, placeholder, part in zip(self.levels, self.placeholders, parts, strict=True):
            if placeholder is not None:
                values[placeholder] = part
            elif level != part:
                return None
        return values

    def sender(self, name: str) -> str:
        """``site/node/service`` that a concrete topic's messages must be from; empty: anybody.

        Brokers decide who may publish below a prefix, and nobody what is written in a message.
        """
        return "/".join(name.split("/", 4)[1:4]) if self._from_sender else ""

    def check_source(self, name: str, payload: object) -> None:
        """Refuse a message that says it is from somebody else than its topic's prefix.

        Args:
            name: The concrete topic.
            payload: The message, or bytes with a message inside.

        Raises:
            PayloadError: It is.
        """
        sender = self.sender(name)
        if not sender:
            return
        source: str = getattr(payload, "record", payload).source  # type: ignore[attr-defined]
        if source != sender:
            reason = f"source: {source[:300]!r} is not the prefix of its topic, {sender}"
            raise PayloadError(schema=self.payload.schema_id(), reason=reason)

    def _name_at(self, identity: Identity, names: dict[str, str]) -> str:
        self._check_known(names)
        values = {part: getattr(identity, part) for part in _IDENTITY} | names
        levels: list[str] = []
        for level, name in zip(self.levels, self.placeholders, strict=True):
            if name is None:
                levels.append(level)
            elif (value := values.get(name)) is None:
                msg = f"topic {self.address} needs {name}=…"
                raise ContractError(msg)
            else:
                levels.append(check_segment(value, what=name))
        return "/".join(levels)

    def _check_known(self, names: dict[str, str]) -> None:
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            msg = f"topic {self.address} has no {', '.join(unknown)}; it has {self.names}"
            raise ContractError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class CommandTopic(Topic[C], Generic[C, R]):
    """A topic on which a service takes commands, with the type of its answers.

    Args:
        reply: The class of the answers.
    """

    qos: Qos = field(kw_only=True, default=1)
    reply: type[R] = field(kw_only=True)

    def at(self, identity: Identity, /, **names: str) -> CommandAddress[C, R]:
        """The concrete topic of a command to a service; see `Topic.at`."""
        return CommandAddress(name=self._name_at(identity, names), topic=self)
