"""Mining of inputs that are worth learning from: what workloads and the collector share."""

from edgebus.mining.chain import Combination, PolicyChain, Ruling
from edgebus.mining.example import (
    AboutInput,
    Example,
    Fingerprint,
    InputUnreadableError,
    Judgement,
    Predicted,
    Statistic,
)
from edgebus.mining.policy import (
    Policy,
    PolicyError,
    PolicySettings,
    ScorePolicy,
    ScoreSettings,
    installed_policies,
    make_policies,
)

__all__ = [
    "AboutInput",
    "Combination",
    "Example",
    "Fingerprint",
    "InputUnreadableError",
    "Judgement",
    "Policy",
    "PolicyChain",
    "PolicyError",
    "PolicySettings",
    "Predicted",
    "Ruling",
    "ScorePolicy",
    "ScoreSettings",
    "Statistic",
    "installed_policies",
    "make_policies",
]
