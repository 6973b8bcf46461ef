"""The protocol of a policy, and how a collector finds policies."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgebus.contracts import explain
from edgebus_detection.mining.examples import Example, Judgement

__all__ = [
    "Policy",
    "PolicyError",
    "PolicySettings",
    "find_policies",
    "make_policies",
]

ENTRY_POINTS = "edgebus.collector.policies"


class PolicyError(ValueError):
    """A policy cannot be used as it is configured.

    Attributes:
        policy: Name of the policy, as written in the settings.
        reason: What is wrong, and what to write instead.
    """

    def __init__(self, *, policy: str, reason: str) -> None:
        super().__init__(f"policy {policy!r} {reason}")
        self.policy = policy
        self.reason = reason


class PolicySettings(BaseModel):
    """Base of a policy's settings: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=PolicySettings)


class Policy(ABC, Generic[S]):
    """Decides whether the model was wrong about one frame.

    A third party's policy is a subclass, named in the entry-point group
    ``edgebus.collector.policies``. A policy may keep state between frames (it sees every frame of
    every camera of its node, in the order of the detections), but has no clock and no I/O.

    Attributes:
        name: What it is called in the settings and in the record of a sample.
        settings_type: Its settings.
        needs_second: It looks at what the second model sees. Such a policy is asked later, and
            only about the frames that the second model was shown.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[PolicySettings]]
    needs_second: ClassVar[bool] = False

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @abstractmethod
    def judge(self, example: Example) -> Judgement | None:
        """What it thinks of an example; None where it cannot tell."""

    def taken(self, example: Example) -> None:
        """Some policy found this frame wrong, and it became a sample.

        A frame that is wrong may still be a near-duplicate or too expensive.
        """


def find_policies() -> dict[str, type[Policy[Any]]]:
    """Every policy that is installed, by name: ours, and those of other packages.

    Raises:
        PolicyError: An entry point names something that is no policy.
    """
    from edgebus_detection.mining.policies.confidence import ConfidencePolicy
    from edgebus_detection.mining.policies.disagreement import DisagreementPolicy
    from edgebus_detection.mining.policies.entropy import EntropyPolicy
    from edgebus_detection.mining.policies.expected import ExpectedPolicy
    from edgebus_detection.mining.policies.margin import MarginPolicy
    from edgebus_detection.mining.policies.novelty import NoveltyPolicy
    from edgebus_detection.mining.policies.temporal import TemporalPolicy
    from edgebus_detection.mining.policies.truth import TruthPolicy

    ours: tuple[type[Policy[Any]], ...] = (
        TruthPolicy,
        ExpectedPolicy,
        ConfidencePolicy,
        MarginPolicy,
        EntropyPolicy,
        TemporalPolicy,
        NoveltyPolicy,
        DisagreementPolicy,
    )
    found: dict[str, type[Policy[Any]]] = {policy.name: policy for policy in ours}
    for point in entry_points(group=ENTRY_POINTS):
        loaded = point.load()
        if not (isinstance(loaded, type) and issubclass(loaded, Policy)):
            reason = f"is {point.value} in its package, which is no subclass of Policy"
            raise PolicyError(policy=point.name, reason=reason)
        found[point.name] = loaded
    return found


def make_policies(configured: Mapping[str, Mapping[str, Any]]) -> list[Policy[Any]]:
    """Policies from the settings: name to that policy's own settings, in order of authority.

    Raises:
        PolicyError: No such policy, or its settings do not validate.
    """
    known = find_policies()
    made: list[Policy[Any]] = []
    for name, values in configured.items():
        policy_type = known.get(name)
        if policy_type is None:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            reason = f"is not installed; {hint}installed: {', '.join(sorted(known))}"
            raise PolicyError(policy=name, reason=reason)
        try:
            settings = policy_type.settings_type.model_validate(dict(values))
        except ValidationError as error:
            raise PolicyError(
                policy=name,
                reason=f"has bad settings: {explain(error)}; "
                f"it knows {', '.join(policy_type.settings_type.model_fields)}",
            ) from error
        made.append(policy_type(settings))
    return made
