"""Errors between bytes and boxes."""

from __future__ import annotations

from edgebus.mining import InputUnreadableError


class VisionError(ValueError):
    """A picture or a model's output cannot be used; the base of this package's errors."""


class ImageError(VisionError, InputUnreadableError):
    """Bytes or an array are no picture.

    Attributes:
        size: Bytes, or 0 where it is no byte string.
        reason: What is wrong.
    """

    def __init__(self, *, size: int, reason: str) -> None:
        super().__init__(f"picture of {size} bytes: {reason}")
        self.size = size
        self.reason = reason


class OutputError(VisionError):
    """A model's output is not what its decoder reads: wrong shape, or not finite.

    Attributes:
        decoder: The decoder's kind, for example ``yolox``.
        reason: What is wrong with the output.
    """

    def __init__(self, *, decoder: str, reason: str) -> None:
        super().__init__(f"{decoder} output: {reason}")
        self.decoder = decoder
        self.reason = reason
