"""Retrains a model on what the edges collected, and offers what passes the gate."""

from edgebus_retrainer.service import Retrainer
from edgebus_retrainer.settings import RetrainerSettings

__all__ = ["Retrainer", "RetrainerSettings"]
