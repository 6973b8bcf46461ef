"""The specification of a job, and the events and the outcome that its process reports."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from edgebus.contracts import GateReport, LabelReport, StoredSample, TrainingOutcome
from edgebus.training.settings import GateSettings, TrainSettings

PhaseName = Literal["preparing", "training", "evaluating", "publishing"]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JobSpec(_Event):
    """Everything that a job needs; its process knows no bus.

    Attributes:
        job: Id of the job.
        workload: Name of the workload that trains.
        base: Folder of the bundle that is trained further.
        model: Name of the candidate; None: that of the base.
        incumbent: Folder of the bundle that serves now, which the candidate has to beat; None: the
            base.
        folder: The job's own folder, for candidates and checkpoints.
        version: Version of the candidate.
        train: New samples to train on.
        replay_samples: Samples of earlier jobs.
        new_holdout: Held-out samples of the new domain.
        old_holdout: Held-out samples from before.
        replay: Labelled folder of earlier data.
        replay_holdout: Labelled folder to measure forgetting on.
        cache: Folder in which the workload may keep what is of use to later jobs.
        settings: How to train.
        gate: What a candidate has to show.
        options: The workload's own settings.
    """

    job: str
    workload: str
    base: Path
    model: str | None = None
    incumbent: Path | None = None
    folder: Path
    version: Annotated[int, Field(ge=1)]
    train: tuple[StoredSample, ...]
    replay_samples: tuple[StoredSample, ...] = ()
    new_holdout: tuple[StoredSample, ...] = ()
    old_holdout: tuple[StoredSample, ...] = ()
    replay: Path | None = None
    replay_holdout: Path | None = None
    cache: Path
    settings: TrainSettings = TrainSettings()
    gate: GateSettings = GateSettings()
    options: dict[str, JsonValue] = Field(default_factory=dict)


class Phase(_Event):
    """The job enters a phase."""

    event: Literal["phase"] = "phase"
    phase: PhaseName
    detail: str = ""


class StepDone(_Event):
    """A part of the phase is done: an optimiser step, or an item that was measured."""

    event: Literal["step"] = "step"
    step: int
    steps: int
    loss: float | None = None


class JobOutcome(_Event):
    """The end of the job.

    Attributes:
        outcome: accepted: `bundle` may serve; refused: by the gate, or for its data; failed: the
            job itself went wrong; skipped: there was nothing to do.
        reason: In words, with figures.
        bundle: Folder of the candidate.
        gate: The gate's figures.
        labels: Label sources of what it was made of.
        samples: New samples that were trained on.
        replay: Earlier items that were mixed in.
        update_bytes: Bytes of the weights' patch.
        seconds: Per phase.
        unusable: Items and labels that were left out, and why.
        waiting: Ids of samples that were left out until somebody labels them.
        lacking: Held-out items with labels that there were too few to measure on.
    """

    event: Literal["outcome"] = "outcome"
    outcome: TrainingOutcome
    reason: str
    bundle: Path | None = None
    gate: GateReport | None = None
    labels: LabelReport | None = None
    samples: int = 0
    replay: int = 0
    update_bytes: int = 0
    seconds: dict[str, float] = Field(default_factory=dict)
    unusable: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    lacking: int = 0


JobEvent = Phase | StepDone | JobOutcome

_EVENTS: TypeAdapter[JobEvent] = TypeAdapter(Annotated[JobEvent, Field(discriminator="event")])


def read_event(line: bytes) -> JobEvent:
    """One line of a job's output.

    Raises:
        ValidationError: It is none.
    """
    return _EVENTS.validate_json(line)


Report = Callable[[JobEvent], None]


@dataclass(slots=True)
class JobClock:
    """Reports phases and adds up their seconds."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: PhaseName, detail: str = "") -> Iterator[None]:
        """A phase of the job; entered twice, its seconds add up."""
        self.report(Phase(phase=name, detail=detail))
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)
