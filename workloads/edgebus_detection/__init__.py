"""The detection workload: objects in pictures of cameras, found, mined, labelled and learnt."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgebus_detection.workload import Detection

__all__ = ["Detection"]


def __getattr__(name: str) -> Any:
    # Late: its commands are mounted without pydantic, and this imports the messages.
    if name == "Detection":
        from edgebus_detection.workload import Detection

        return Detection
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
