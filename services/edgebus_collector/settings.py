"""What a collector can be set to."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from edgebus.contracts import Segment
from edgebus.service import ServiceSettings
from edgebus_collector.policies import make_policies

__all__ = ["BudgetSettings", "BufferSettings", "CollectorSettings", "SpoolSettings"]

Share = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


def _default_policies() -> dict[str, dict[str, Any]]:
    return {"truth": {}, "confidence": {}}


class BudgetSettings(ServiceSettings):
    """What the node may send. Samples that were asked for by a command do not count."""

    samples_per_minute: Positive = 60.0
    """A minute's worth can be saved up."""
    bytes_per_hour: Positive = 200e6
    """A quarter of an hour's worth can be saved up."""
    holdout_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """The part of both that only held-out samples may use."""


class BufferSettings(ServiceSettings):
    """Frames that wait for their detections, per camera."""

    frames: AtLeastOne = 64
    """The most frames."""
    bytes: AtLeastOne = 32 * 2**20
    """The most bytes of pictures."""


class SpoolSettings(ServiceSettings):
    """Samples that wait on disk until the broker has them."""

    max_samples: AtLeastOne = 5_000
    """The most samples."""
    max_bytes: AtLeastOne = 2**30
    """The most bytes."""
    overflow: Literal["drop_oldest", "drop_newest"] = "drop_oldest"
    """What goes when it is full; counted either way."""


class CollectorSettings(ServiceSettings):
    """Settings of the collector."""

    policies: dict[str, dict[str, Any]] = Field(default_factory=_default_policies)
    """Policies with their own settings, in order of authority."""
    combine: Literal["first", "any"] = "first"
    """first: the first policy that can tell decides; any: the first that says wrong."""
    holdout_share: Share = 0.25
    """Share of the held-out frames that become samples, whatever the policies say."""
    audit_share: Share = 0.0
    """Share of the other frames that become samples although nothing seems wrong."""
    duplicate_distance: Annotated[int, Field(ge=-1, le=256)] = 8
    """Pictures whose hashes differ in at most so many of 256 bits are near-duplicates; -1: none."""
    duplicate_memory: AtLeastOne = 64
    """So many samples of each camera are remembered to recognise near-duplicates."""
    receiver: Segment | None = "retrainer"
    """Samples stay on disk until a service of this name lives on the site; null: they are sent at
    once, whoever listens."""
    budget: BudgetSettings = BudgetSettings()
    """What the node may send."""
    buffer: BufferSettings = BufferSettings()
    """Frames that wait for their detections."""
    spool: SpoolSettings = SpoolSettings()
    """Samples that wait for the broker."""

    @field_validator("policies")
    @classmethod
    def _policies_can_be_made(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        make_policies(value)
        return value
