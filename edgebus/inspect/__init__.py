"""Tools that look at the bus: dead letters, traffic, single messages, the path of an input."""

from edgebus.inspect.path import FrameNotFoundError, Hop, follow

__all__ = [
    "FrameNotFoundError",
    "Hop",
    "follow",
]
