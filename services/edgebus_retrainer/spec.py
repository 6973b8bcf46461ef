"""What a job's process is given, and what it says."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from edgebus.contracts import GateReport, LabelReport, StoredSample, TrainingOutcome
from edgebus.training.settings import TrainSettings
from edgebus_detection.labels.settings import LabelSettings
from edgebus_detection.training.augment import AugmentSettings
from edgebus_retrainer.settings import GateSettings

__all__ = ["JobEvent", "JobOutcome", "JobSpec", "Phase", "PhaseName", "StepDone", "read_event"]

PhaseName = Literal["preparing", "training", "evaluating", "publishing"]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JobSpec(_Line):
    """Everything that a job needs; its process knows no bus.

    Attributes:
        job: Id of the job.
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
        label_cache: Where a teacher's answers are kept between jobs.
    """

    job: str
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
    label_cache: Path
    labels: LabelSettings = LabelSettings()
    settings: TrainSettings = TrainSettings()
    augment: AugmentSettings = AugmentSettings()
    gate: GateSettings = GateSettings()


class Phase(_Line):
    """The job enters a phase."""

    event: Literal["phase"] = "phase"
    phase: PhaseName
    detail: str = ""


class StepDone(_Line):
    """A part of the phase is done: an optimiser step, or a picture that was measured."""

    event: Literal["step"] = "step"
    step: int
    steps: int
    loss: float | None = None


class JobOutcome(_Line):
    """How the job ended.

    Attributes:
        outcome: accepted: `bundle` may serve; refused: the gate or the data said no; failed: the
            job itself went wrong; skipped: there was nothing to do.
        reason: In words, with figures.
        bundle: Folder of the candidate.
        gate: The gate's figures.
        labels: Who labelled what it was made of.
        samples: New samples that were trained on.
        replay: Earlier pictures that were mixed in.
        update_bytes: Bytes of the weights' patch.
        seconds: Per phase.
        unusable: Pictures and labels that were left out, and why.
        waiting: Ids of samples that were left out until somebody labels them.
        lacking: Held-out pictures with boxes that there were too few to measure on.
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
