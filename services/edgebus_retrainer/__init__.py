"""Retrains a model on what the edges collected, and offers what passes the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebus_retrainer.settings import RetrainerSettings

if TYPE_CHECKING:
    from edgebus_retrainer.service import Retrainer

__all__ = ["Retrainer", "RetrainerSettings"]


def __getattr__(name: str) -> object:
    # A job's process is of this package too, and starts sooner without service, bus and database.
    if name == "Retrainer":
        from edgebus_retrainer.service import Retrainer

        return Retrainer
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
