"""Collects what the model got wrong: hard examples, held-out frames, within a budget."""

from edgebus_collector.examples import Example, Judgement
from edgebus_collector.policies import Policy, PolicyError, PolicySettings
from edgebus_collector.service import Collector
from edgebus_collector.settings import CollectorSettings

__all__ = [
    "Collector",
    "CollectorSettings",
    "Example",
    "Judgement",
    "Policy",
    "PolicyError",
    "PolicySettings",
]
