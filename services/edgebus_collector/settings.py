"""What a collector can be set to."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from edgebus.contracts import Consent, Segment
from edgebus.service import ServiceSettings
from edgebus_collector.budget import Budget
from edgebus_collector.drift import DetectorName, Statistic, check_parameter
from edgebus_collector.selection import Selector
from edgebus_detection.mining.policies import Combination, PolicyChain, make_policies
from edgebus_detection.mining.reference_model import SecondSettings
from edgebus_detection.vision.near_duplicates import NearDuplicates

__all__ = [
    "BudgetSettings",
    "BufferSettings",
    "CameraSettings",
    "CollectorSettings",
    "DriftSettings",
    "SpoolSettings",
]

Share = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


def _default_policies() -> dict[str, dict[str, Any]]:
    return {"truth": {}, "expected": {}}


class BudgetSettings(ServiceSettings):
    """What the node may send.

    It is shared evenly by the cameras that have something to send. Samples that were asked for by
    a command, and those of operators, do not count.
    """

    samples_per_minute: Positive = 60.0
    """A minute's worth can be saved up."""
    bytes_per_hour: Positive = 200e6
    """A quarter of an hour's worth can be saved up."""
    holdout_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """The part of everything that only held-out samples may use."""
    audit_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The part that only audited samples may use; 0: they are paid from the rest."""
    samples_per_hour: Positive | None = None
    """A second limit, for the long run. A quarter of an hour's worth can be saved up."""
    burst_s: Positive | None = None
    """Seconds' worth that can be saved up, instead: the shorter, the more evenly it is spent."""
    feedback_per_minute: Positive = 30.0
    """What operators may send; an automation that runs wild is no operator."""

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.holdout_share + self.audit_share >= 1:
            msg = (
                f"holdout_share {self.holdout_share:g} and audit_share {self.audit_share:g} leave "
                "nothing for hard frames; their sum has to be below 1"
            )
            raise ValueError(msg)
        return self


class BufferSettings(ServiceSettings):
    """Frames in memory: those that wait for their detections, per camera, and those answered."""

    frames: AtLeastOne = 64
    """The most frames."""
    bytes: AtLeastOne = 32 * 2**20
    """The most bytes of pictures."""
    history_frames: AtLeastOne = 300
    """The most answered frames of each camera that are kept for what operators say of them."""
    history_bytes: Annotated[int, Field(ge=0)] = 16 * 2**20
    """The most bytes of these pictures, of all cameras together."""


class DriftSettings(ServiceSettings):
    """How the cameras are watched for drift."""

    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1)] = ("confidence", "novelty")
    """What is watched: the mean score of a frame's boxes, and the distance of the picture's
    features, where the detector reports it."""
    detector: DetectorName = "adwin"
    """What notices a change."""
    parameter: Positive | None = None
    """How sure it has to be: delta of ADWIN (0.0002), threshold of Page-Hinkley (25), alpha of
    KSWIN (1e-7)."""
    calibration: Annotated[int, Field(ge=30, le=100_000)] = 200
    """Frames of each camera after which it is known what is normal; anew for each model."""
    max_block: Annotated[int, Field(ge=1, le=1000)] = 5
    """Frames that are averaged at most, where neighbours are alike: longer blocks make fewer
    false alarms, and later ones."""
    min_change: dict[Statistic, Positive] = Field(default_factory=dict)
    """How far from normal the means have to be: what is sure but small is no drift. By default 0.1
    of confidence, and 0.12 of log(1 + x) for the novelty x."""
    empty: bool = False
    """Whether a frame without boxes has confidence 0; otherwise it does not count."""

    @model_validator(mode="after")
    def _parameter_fits(self) -> Self:
        check_parameter(self.detector, self.parameter)
        return self


class CameraSettings(ServiceSettings):
    """What may be done with the pictures of a camera; every sample says so."""

    consent: Consent = "unstated"
    """What the persons in front of it agreed to; refused: nothing is ever collected from it."""
    retention: Segment = "standard"
    """Name of the class that says how long its samples may be kept."""


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
    combine: Combination = "first"
    """first: the first policy that can tell decides; any: the first that says wrong; all: those
    that can tell have to agree."""
    second: SecondSettings | None = None
    """A second model, for the policy disagreement."""
    drift: DriftSettings | None = None
    """How the cameras are watched for drift; null: they are not."""
    camera: CameraSettings = CameraSettings()
    """What may be done with the pictures of a camera."""
    cameras: dict[Segment, CameraSettings] = Field(default_factory=dict)
    """The same for single cameras, by name."""
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

    @model_validator(mode="after")
    def _policies_can_be_made(self) -> Self:
        wants_second = self.chain().wants_second
        if wants_second and self.second is None:
            msg = "the policy disagreement needs a second model: set second.model to its path"
            raise ValueError(msg)
        if self.second is not None and not wants_second:
            msg = "no policy looks at the second model: add disagreement to policies"
            raise ValueError(msg)
        return self

    def selector(self, chain: PolicyChain) -> Selector:
        """The selection that these settings describe."""
        budget = self.budget
        return Selector(
            chain=chain,
            budget=Budget(
                samples_per_minute=budget.samples_per_minute,
                samples_per_hour=budget.samples_per_hour,
                bytes_per_hour=budget.bytes_per_hour,
                holdout_share=budget.holdout_share,
                audit_share=budget.audit_share,
                burst_s=budget.burst_s,
            ),
            duplicates=NearDuplicates(
                distance=self.duplicate_distance, memory=self.duplicate_memory
            ),
            holdout_share=self.holdout_share,
            audit_share=self.audit_share,
            second_share=self.second.share if self.second else 0.0,
        )

    def chain(self) -> PolicyChain:
        """The policies, made anew.

        Raises:
            PolicyError: One is not known, or its settings are wrong.
        """
        return PolicyChain(make_policies(self.policies), combination=self.combine)

    def of_camera(self, name: str) -> CameraSettings:
        """What may be done with the pictures of a camera."""
        return self.cameras.get(name, self.camera)
