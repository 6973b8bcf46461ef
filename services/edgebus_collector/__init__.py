"""Collects what the model got wrong: hard examples, held-out frames, within a budget."""

from edgebus_collector.service import Collector
from edgebus_collector.settings import CollectorSettings

__all__ = [
    "Collector",
    "CollectorSettings",
]
