"""Settings of the collector."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from edgebus.contracts import Consent, Segment
from edgebus.mining import Combination, PolicyChain, make_policies
from edgebus.service import ServiceSettings
from edgebus.workload import WorkloadUnknownError, load_workload
from edgebus_collector.budget import BudgetSettings
from edgebus_collector.drift import DriftSettings
from edgebus_collector.reference_model import ReferenceSettings
from edgebus_collector.spool import SpoolSettings

Share = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1)]


class BufferSettings(ServiceSettings):
    """Inputs in memory: those that wait for their prediction, and those that have one."""

    inputs: AtLeastOne = 64
    """The most inputs of each stream that wait."""
    bytes: AtLeastOne = 32 * 2**20
    """The most bytes of these."""
    history_inputs: AtLeastOne = 300
    """The most inputs of each stream that are kept for feedback on their predictions."""
    history_bytes: Annotated[int, Field(ge=0)] = 16 * 2**20
    """The most bytes of these, of all streams together."""


class StreamSettings(ServiceSettings):
    """Conditions under which the inputs of a stream may be used; every sample names them."""

    consent: Consent = "unstated"
    """Agreement of the people that it shows or concerns; refused: nothing is ever collected."""
    retention: Segment = "standard"
    """Name of the class of how long its samples may be kept."""


class CollectorSettings(ServiceSettings):
    """Settings of the collector."""

    workload: Segment = "detection"
    """Name of the installed workload whose inputs and predictions are collected."""
    policies: dict[str, dict[str, Any]] | None = None
    """Policies with their own settings, in order of authority; null: the workload's default."""
    combine: Combination = "first"
    """first: the first policy that can tell decides; any: the first that says wrong; all: those
    that can tell have to agree."""
    reference_model: ReferenceSettings | None = None
    """Second model, for policies that compare with one; null: there is none."""
    drift: DriftSettings | None = None
    """Watch for drift of each stream; null: there is none."""
    stream: StreamSettings = StreamSettings()
    """Conditions under which the inputs of any stream may be used."""
    streams: dict[Segment, StreamSettings] = Field(default_factory=dict)
    """The same for single streams, by name."""
    holdout_share: Share = 0.25
    """Share of the held-out inputs that become samples, whatever the policies say."""
    audit_share: Share = 0.0
    """Share of the other inputs that become samples although nothing seems wrong."""
    duplicate_distance: Annotated[int, Field(ge=-1, le=256)] = 8
    """Bits, at most, in which the fingerprints of near-duplicates differ; -1: there are none."""
    duplicate_memory: AtLeastOne = 64
    """Samples of each stream that are remembered to recognise near-duplicates."""
    receiver: Segment | None = "retrainer"
    """Samples stay on disk until a service of this name lives on the site; null: they are sent at
    once, whoever listens."""
    feedback_from: tuple[Segment, ...] | None = None
    """Nodes whose feedback counts, each as the level of its topic; null: any, but of held-out
    inputs only the own one's: what is measured on is not labelled by whoever happens to be on the
    site."""
    budget: BudgetSettings = BudgetSettings()
    """Budget of what the node may send."""
    buffer: BufferSettings = BufferSettings()
    """Inputs in memory."""
    spool: SpoolSettings = SpoolSettings()
    """Samples that wait for the broker."""

    @model_validator(mode="after")
    def _fits_the_workload(self) -> Self:
        try:
            workload = load_workload(self.workload)
        except WorkloadUnknownError as error:
            raise ValueError(str(error)) from error
        wants_reference = self.chain().wants_reference
        if wants_reference and self.reference_model is None:
            msg = "a policy compares with a reference model: set reference_model.model to its path"
            raise ValueError(msg)
        if self.reference_model is not None and not wants_reference:
            msg = "no policy compares with the reference model: add one, such as disagreement"
            raise ValueError(msg)
        if self.drift is not None:
            self.drift.check(workload.statistics)
        return self

    def chain(self) -> PolicyChain:
        """The policies, made anew.

        Raises:
            PolicyError: One is not known, or its settings are wrong.
        """
        workload = load_workload(self.workload)
        known = workload.policies()
        configured = self.policies
        if configured is None:
            configured = {name: {} for name in workload.default_policies or known}
        return PolicyChain(make_policies(configured, known=known), combination=self.combine)

    def of_stream(self, name: str) -> StreamSettings:
        """Conditions under which the inputs of a stream may be used."""
        return self.streams.get(name, self.stream)
