"""Policies: the base class, and how installed ones are found and configured."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebus.contracts import explain
from edgebus.contracts.registry import entry_point
from edgebus.mining.example import Example, Judgement

ENTRY_POINTS = "edgebus.policies"


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
    """Base of policies: was the model wrong about one input?

    A workload's own policies and those of third parties are subclasses, named in the entry-point
    group ``edgebus.policies.WORKLOAD``. A policy may keep state between inputs (it sees every
    input of every stream of its node, in the order of the predictions), but has no clock and does
    no I/O.

    Attributes:
        name: Its name in the settings and in the record of a sample.
        settings_type: Its settings.
        needs_reference: It compares with a reference model. Such a policy is asked later, and
            only about inputs that the reference model was shown.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[PolicySettings]]
    needs_reference: ClassVar[bool] = False

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @abstractmethod
    def judge(self, example: Example[Any, Any, Any]) -> Judgement | None:
        """Judge an example; None where it cannot tell."""

    def taken(self, example: Example[Any, Any, Any]) -> None:
        """Note that some policy found this input wrong, and that it became a sample.

        An input that is wrong may still be a near-duplicate or too expensive.
        """


class ScoreSettings(PolicySettings):
    """Settings of a policy that compares one score with a threshold."""

    threshold: float | None = Field(
        default=None, description="Inputs that score more are wrong; null: the policy's own."
    )


class ScorePolicy(Policy[ScoreSettings]):
    """Base of policies that are one formula: wrong iff the score exceeds a threshold.

    Attributes:
        threshold: Where the settings name no other.
    """

    settings_type = ScoreSettings
    threshold: ClassVar[float]

    @abstractmethod
    def score(self, example: Example[Any, Any, Any]) -> float | None:
        """How wrong the prediction is, higher is worse; None where it cannot tell."""

    def judge(self, example: Example[Any, Any, Any]) -> Judgement | None:
        """Compare the score with the threshold."""
        score = self.score(example)
        if score is None:
            return None
        own = self.settings.threshold
        threshold = self.threshold if own is None else own
        reason = f"{self.name} {score:.3g} (threshold {threshold:g})"
        return Judgement(wrong=score > threshold, score=score, reason=reason)


def installed_policies(workload: str) -> dict[str, type[Policy[Any]]]:
    """Policies that installed packages bring for a workload, by name.

    Raises:
        PolicyError: An entry point names something that is no policy.
        RegistryError: Two packages bring a policy of one name.
    """
    found: dict[str, type[Policy[Any]]] = {}
    group = f"{ENTRY_POINTS}.{workload}"
    for name in entry_points(group=group).names:
        point = entry_point(group, name)
        assert point is not None
        loaded = point.load()
        if not (isinstance(loaded, type) and issubclass(loaded, Policy)):
            reason = f"is {point.value} in its package, which is no subclass of Policy"
            raise PolicyError(policy=name, reason=reason)
        found[name] = loaded
    return found


def make_policies(
    configured: Mapping[str, Mapping[str, Any]], *, known: Mapping[str, type[Policy[Any]]]
) -> list[Policy[Any]]:
    """Policies as they are configured, in order of authority.

    Args:
        configured: Each policy's own settings, by its name.
        known: The policies that there are, by name.

    Raises:
        PolicyError: No such policy, or its settings do not validate.
    """
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
