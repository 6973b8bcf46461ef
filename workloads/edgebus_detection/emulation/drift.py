"""Strength of each drift effect over time: a script of steps."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

EffectName = Literal["moved", "fog", "dusk", "infrared", "blur", "noise"]
"""The effects, in the order in which they are applied: from the mounting to the sensor."""

EFFECTS: Final[tuple[EffectName, ...]] = get_args(EffectName)

Strength = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DriftStep(BaseModel):
    """One change of one effect."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    effect: EffectName
    """Name of the effect that changes."""
    start_s: Seconds = 0.0
    """Seconds from the first frame until the change begins."""
    ramp_s: Seconds = 0.0
    """Seconds that the change takes; 0: none, it is there at once."""
    to: Strength = 1.0
    """Strength at its end."""


class DriftScript(BaseModel):
    """Steps of any effects, in any order; without steps nothing drifts.

    Attributes:
        steps: A step of an effect starts from the strength that the earlier ones have reached.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[DriftStep, ...] = ()

    def at(self, time: float) -> dict[EffectName, float]:
        """Strength of each effect that is on.

        Args:
            time: Seconds from the first frame.

        Returns:
            Strengths above 0, in the order in which the effects are applied.
        """
        strengths = {name: self._strength(name, time) for name in EFFECTS}
        return {name: strength for name, strength in strengths.items() if strength > 0}

    def _strength(self, name: EffectName, time: float) -> float:
        steps = [step for step in self.steps if step.effect == name and step.start_s <= time]
        steps.sort(key=lambda step: step.start_s)
        value = 0.0
        for number, step in enumerate(steps):
            # A later step takes over where this one has got to.
            until = steps[number + 1].start_s if number + 1 < len(steps) else time
            elapsed = until - step.start_s
            done = 1.0 if elapsed >= step.ramp_s else elapsed / step.ramp_s
            value += (step.to - value) * done
        return min(1.0, max(0.0, value))


def condition_of(strengths: dict[EffectName, float], *, plain: str = "normal") -> str:
    """A name for a mixture of effects, for example ``dusk`` or ``fog+noise``.

    Args:
        strengths: As from `DriftScript.at`.
        plain: The name of no effect at all.
    """
    return "+".join(strengths) or plain
