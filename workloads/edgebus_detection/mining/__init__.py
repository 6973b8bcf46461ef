"""Mining: which frames the model got wrong."""

from edgebus_detection.mining.examples import Example, Judgement
from edgebus_detection.mining.policies import Policy, PolicyError, PolicySettings

__all__ = [
    "Example",
    "Judgement",
    "Policy",
    "PolicyError",
    "PolicySettings",
]
