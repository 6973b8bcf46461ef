"""Policies: which frames was the model wrong about? Small plug-ins, one formula each."""

from edgebus_detection.mining.policies.base import (
    Policy,
    PolicyError,
    PolicySettings,
    find_policies,
    make_policies,
)
from edgebus_detection.mining.policies.chain import Combination, PolicyChain, Ruling
from edgebus_detection.mining.policies.confidence import ConfidencePolicy, ConfidenceSettings
from edgebus_detection.mining.policies.disagreement import DisagreementPolicy, DisagreementSettings
from edgebus_detection.mining.policies.entropy import EntropyPolicy, EntropySettings
from edgebus_detection.mining.policies.expected import ExpectedPolicy, ExpectedSettings
from edgebus_detection.mining.policies.margin import MarginPolicy, MarginSettings
from edgebus_detection.mining.policies.novelty import NoveltyPolicy, NoveltySettings
from edgebus_detection.mining.policies.temporal import TemporalPolicy, TemporalSettings
from edgebus_detection.mining.policies.truth import TruthPolicy, TruthSettings

__all__ = [
    "Combination",
    "ConfidencePolicy",
    "ConfidenceSettings",
    "DisagreementPolicy",
    "DisagreementSettings",
    "EntropyPolicy",
    "EntropySettings",
    "ExpectedPolicy",
    "ExpectedSettings",
    "MarginPolicy",
    "MarginSettings",
    "NoveltyPolicy",
    "NoveltySettings",
    "Policy",
    "PolicyChain",
    "PolicyError",
    "PolicySettings",
    "Ruling",
    "TemporalPolicy",
    "TemporalSettings",
    "TruthPolicy",
    "TruthSettings",
    "find_policies",
    "make_policies",
]
