"""The error of a file that holds pictures or labels and cannot be read."""

from __future__ import annotations


class SourceError(ValueError):
    """A source of pictures or of their labels cannot be read.

    Attributes:
        source: Its path, address or device number.
        reason: Why, and the way out.
    """

    exit_code = 2

    def __init__(self, *, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason
