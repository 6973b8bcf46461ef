"""Names that become topic levels, and the identity of who publishes."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from edgebus.contracts.errors import NameRefusedError

_MAX_LENGTH = 96
# MQTT 5.0 §4.7 reserves the first three; `*` and `>` are the wildcards of NATS, which may carry
# the same topics.
_RESERVED = frozenset("/+#*>")
# What nearly every name is made of, accepted without a look at each character.
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,96}")
_PLAIN_SOURCE = re.compile(r"[A-Za-z0-9_-]{1,96}(/[A-Za-z0-9_-]{1,96}){2}")


def check_segment(value: str, *, what: str = "segment") -> str:
    """Return `value` if it can be exactly one level of a topic.

    Args:
        value: The name as it came from outside.
        what: What it names, for the error message.

    Raises:
        NameRefusedError: It is empty, too long, ``.`` or ``..``, starts with ``$``, or holds a
            wildcard, a slash, white space or a control character.
    """
    if _PLAIN.fullmatch(value):
        return value
    if not value:
        raise NameRefusedError(what=what, value=value, reason="is empty; give it a name")
    if len(value) > _MAX_LENGTH:
        raise NameRefusedError(
            what=what, value=value, reason=f"is longer than {_MAX_LENGTH} characters; shorten it"
        )
    if value.startswith("$"):
        raise NameRefusedError(
            what=what, value=value, reason="starts with '$', which MQTT keeps for the broker"
        )
    if value in {".", ".."}:
        # Names become folders and files too: runs, data of a node, samples of a stream.
        raise NameRefusedError(
            what=what, value=value, reason="means a folder to every disk; give it another name"
        )
    for character in value:
        if character in _RESERVED:
            raise NameRefusedError(
                what=what,
                value=value,
                reason=f"holds {character!r}, which MQTT or NATS keeps for itself; use '-'",
            )
        # Z*: separators (spaces); C*: control, format, surrogate, private use and unassigned.
        if unicodedata.category(character)[0] in "ZC":
            raise NameRefusedError(
                what=what,
                value=value,
                reason=f"holds white space or a control character ({character!r}); use '-'",
            )
    return value


def stream_model(model: str, place: str) -> str:
    """Name of a stream's own model, ``model@node.stream``: made from a shared one, for it alone.

    Args:
        model: Name of the shared model.
        place: Node and stream, ``node.stream``.

    Raises:
        NameRefusedError: It is too long, or holds what no name may.
    """
    return check_segment(f"{model}@{place}", what="model")


def shared_model(name: str) -> tuple[str, str]:
    """The shared model that a name stands for, and the place of the stream whose own it is.

    The place is empty where the model is no stream's own.
    """
    model, _, place = name.partition("@")
    return (model, place) if model and place else (name, "")


def _check(value: str) -> str:
    return check_segment(value, what="")


Segment = Annotated[
    str,
    AfterValidator(_check),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": _MAX_LENGTH}),
]
"""One level of a topic: a stream, a node, a model."""


def _check_digest(value: str) -> str:
    if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        msg = f"digest {value[:80]!r} is not 64 lower-case hexadecimal digits (SHA-256)"
        raise ValueError(msg)
    return value


Digest = Annotated[
    str,
    AfterValidator(_check_digest),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{64}$"}),
]
"""SHA-256 in lower-case hexadecimal."""


def _check_source(value: str) -> str:
    if not _PLAIN_SOURCE.fullmatch(value):
        parts = value.split("/", 3)
        if len(parts) != 3:
            msg = f"source {value[:80]!r} is not site/node/service"
            raise ValueError(msg)
        for part in parts:
            check_segment(part, what="source")
    return value


Source = Annotated[
    str,
    AfterValidator(_check_source),
    WithJsonSchema({"type": "string", "pattern": "^[^/]{1,96}/[^/]{1,96}/[^/]{1,96}$"}),
]
"""Who publishes, ``site/node/service``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Identity of a publisher: the first four levels of every topic of a service.

    Attributes:
        base: Root of the bus on a shared broker.
        site: The place, for example ``lab``.
        node: The host; with an ACL per node, also the broker's user name.
        service: The service on that host.
    """

    base: str = "edgebus"
    site: str
    node: str
    service: str

    def __post_init__(self) -> None:
        for what in ("base", "site", "node", "service"):
            check_segment(getattr(self, what), what=what)

    @property
    def source(self) -> str:
        """``site/node/service``: the `source` field of every message."""
        return f"{self.site}/{self.node}/{self.service}"

    @property
    def prefix(self) -> str:
        """``base/site/node/service``: the topic subtree that this identity may write."""
        return f"{self.base}/{self.source}"

    def __str__(self) -> str:
        return self.source
