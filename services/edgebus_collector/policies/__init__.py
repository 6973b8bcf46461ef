"""Policies: which frames was the model wrong about? Small plug-ins, one formula each."""

from edgebus_collector.policies.base import (
    Combination,
    Policy,
    PolicyChain,
    PolicyError,
    PolicySettings,
    find_policies,
    make_policies,
)
from edgebus_collector.policies.confidence import ConfidencePolicy, ConfidenceSettings
from edgebus_collector.policies.margin import MarginPolicy, MarginSettings
from edgebus_collector.policies.truth import TruthPolicy, TruthSettings

__all__ = [
    "Combination",
    "ConfidencePolicy",
    "ConfidenceSettings",
    "MarginPolicy",
    "MarginSettings",
    "Policy",
    "PolicyChain",
    "PolicyError",
    "PolicySettings",
    "TruthPolicy",
    "TruthSettings",
    "find_policies",
    "make_policies",
]
