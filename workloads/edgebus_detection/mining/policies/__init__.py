"""Policies of detection, one formula each; named in the group ``edgebus.policies.detection``."""

from edgebus_detection.mining.policies.disagreement import DisagreementPolicy, DisagreementSettings
from edgebus_detection.mining.policies.expected import ExpectedPolicy, ExpectedSettings
from edgebus_detection.mining.policies.novelty import NoveltyPolicy, NoveltySettings
from edgebus_detection.mining.policies.temporal import TemporalPolicy, TemporalSettings
from edgebus_detection.mining.policies.truth import TruthPolicy, TruthSettings
from edgebus_detection.mining.policies.uncertainty import (
    ConfidencePolicy,
    ConfidenceSettings,
    EntropyPolicy,
    EntropySettings,
    MarginPolicy,
    MarginSettings,
)

__all__ = [
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
    "TemporalPolicy",
    "TemporalSettings",
    "TruthPolicy",
    "TruthSettings",
]
