"""Errors that cross the wire's edge: bad names and bad payloads."""

from __future__ import annotations

from asyncio import CancelledError
from typing import Final

STRANGE: Final = (Exception, SystemExit, GeneratorExit, CancelledError)
"""Whatever a stranger's code may raise where nothing is awaited: none of it is meant for us."""

# Names come from outside, and errors go into logs.
_SHOWN = 80


class ContractError(ValueError):
    """Something does not fit the contracts; the base of every error in this package."""


class NameRefusedError(ContractError):
    """A name from outside cannot be one level of a topic.

    Attributes:
        what: What the name names, for example ``"node"``; empty where the place says it.
        value: The refused name.
        reason: Why, in words that tell the way out.
    """

    def __init__(self, *, what: str, value: str, reason: str) -> None:
        shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
        super().__init__(f"{what} name {shown!r} {reason}".lstrip())
        self.what = what
        self.value = value
        self.reason = reason


class PayloadError(ContractError):
    """Bytes that are not what their topic carries; they belong in a dead letter.

    Attributes:
        schema: The schema that was expected, for example ``"detections/1"``.
        reason: What is wrong with the bytes.
    """

    def __init__(self, *, schema: str, reason: str) -> None:
        super().__init__(f"not a {schema} payload: {reason}")
        self.schema = schema
        self.reason = reason
