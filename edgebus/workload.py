"""The base of workloads: what the framework's generic services need to know of a kind of model.

A workload ties its input message, model, output message, what counts as wrong, how it is trained
and judged, and its views together. Object detection is one; a package adds another by naming a
subclass of `Workload` in the entry-point group ``edgebus.workloads``, and its module of topics in
``edgebus.topics``.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict

from edgebus.contracts import STRANGE
from edgebus.contracts.registry import entry_point

if TYPE_CHECKING:
    from pathlib import Path

    from edgebus.artifacts import Array, Bundle, Manifest
    from edgebus.contracts import Message, ModelRef, Topic, Verdict
    from edgebus.mining import Example, Fingerprint, Policy, Statistic
    from edgebus.serving import Engine, Model, NamedSource
    from edgebus.training.job_spec import JobSpec
    from edgebus.training.settings import RetrainingSettings
    from edgebus.training.trainer import Trainer

ENTRY_POINTS = "edgebus.workloads"

Figure = Callable[[Any], float | int | str | None]
"""Computes one value of a message; always of the same type."""


class WorkloadUnknownError(LookupError):
    """No installed package brings this workload.

    Attributes:
        name: The name that was asked for.
    """

    exit_code = 2

    def __init__(self, name: str) -> None:
        known = sorted(point.name for point in entry_points(group=ENTRY_POINTS))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"no workload {name!r}; {hint}installed: {', '.join(known) or 'none'}")
        self.name = name


class UntrainableError(ValueError):
    """The incumbent cannot be trained further.

    Attributes:
        model: Its name.
        reason: Why not.
    """

    exit_code = 2

    def __init__(self, *, model: str, reason: str) -> None:
        super().__init__(f"model {model!r} cannot be trained: {reason}")
        self.model = model
        self.reason = reason


class NoSettings(BaseModel):
    """The settings of a workload that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P")
A = ParamSpec("A")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[P]):
    """A model's prediction for one input, and the stamps of whoever made it.

    Attributes:
        prediction: What the model's `predict` returned.
        model: The one model that answered.
        received: When the service had the input.
        answered: When the prediction was there; not before `received`.
        stages: Milliseconds per stage; ``decode`` and ``inference`` at least.
        dropped: Inputs of this stream that were dropped for newer ones so far.
    """

    prediction: P
    model: ModelRef
    received: datetime
    answered: datetime
    stages: Mapping[str, float]
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCheck:
    """What a look at the settings of a retraining has shown, in words.

    Attributes:
        found: Earlier data, and what it holds.
        lacking: What is too little, and what is needed.
    """

    found: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


class Workload:
    """One kind of model, from its input to the judgement of its successor.

    Attributes:
        name: What it is called in settings, and as the `task` of its bundles.
        inputs: Topic of what its model is asked about: messages, or payloads with a record, that
            are `AboutInput` and have an `index` and a time `captured`. One level names the stream.
        predictions: Topic of what its model answers: messages that are `edgebus.mining.Predicted`,
            with that level.
        stream_level: Name of that level.
    """

    name: ClassVar[str]
    inputs: ClassVar[Topic[Any]]
    predictions: ClassVar[Topic[Any]]
    stream_level: ClassVar[str] = "stream"

    def prepare(self) -> None:
        """Set up the process of a service that loads this workload; by default nothing."""

    # Serving.

    def decode(self, payload: Any) -> Any:
        """Turn an input into what the model's `predict` takes; called in a worker thread.

        By default these are the arrays of an `edgebus.artifacts.ArrayPayload`.

        Raises:
            ValueError: The input is broken; it becomes a dead letter.
        """
        return payload.arrays

    def prediction(self, payload: Any, answer: Answer[Any]) -> Message:
        """The message that answers an input.

        Args:
            payload: The input.
            answer: The model's prediction, and who made it when.
        """
        raise NotImplementedError

    def stages(self, prediction: Any) -> Mapping[str, float]:
        """Milliseconds per stage inside of `predict`, for metrics."""
        return {}

    def load(self, source: NamedSource, engine: Engine, **options: Any) -> Model:
        """A model, ready to answer; by default arrays in, arrays out.

        Args:
            source: The verified bundle.
            engine: Its graph, loaded.
            **options: What a service that serves this workload can be set to besides.

        Raises:
            ArtifactError: The workload's part of the manifest is wrong.
            ValueError: So is what else it needs.
        """
        from edgebus.serving import ArrayModel

        return ArrayModel(source, engine, **options)

    def open_bundle(self, path: Path, *, imports: Path) -> Bundle:
        """Open the model that a setting names: a bundle's folder.

        Args:
            path: What the setting names. A workload may import files of other kinds.
            imports: Folder of bundles that are made of such files.

        Raises:
            OSError: It is not there.
            ArtifactError: It is no bundle, and nothing that becomes one.
        """
        from edgebus.artifacts import Bundle

        return Bundle.open(path)

    def probe_inputs(self, manifest: Manifest, *, seed: int) -> Mapping[str, Array]:
        """Input arrays by name for the parity probe, the same for a seed on every machine."""
        from edgebus.serving import seeded_inputs

        return seeded_inputs(manifest, seed=seed)

    # Collecting.

    truths: ClassVar[Topic[Any] | None] = None
    """What is right, where somebody knows: messages that are `AboutInput`."""

    samples: ClassVar[Topic[Any]]
    """What the collector makes of inputs that are worth learning from, see `sample`."""

    feedback: ClassVar[Topic[Any] | None] = None
    """What people say of predictions: messages of a `source` with `stream`, `input` (None: the
    stream's newest) and `node` (None: any)."""

    default_policies: ClassVar[tuple[str, ...] | None] = None
    """Names of the policies that decide where the settings name none, in order of authority;
    None: all of `policies`."""

    statistics: ClassVar[Mapping[str, Statistic]] = {}
    """What can be watched for drift, by name."""

    reference_options: ClassVar[Mapping[str, Any]] = {}
    """Options of `load` for a model that predictions are compared with."""

    def policies(self) -> Mapping[str, type[Policy[Any]]]:
        """Policies by name: those of the entry-point group ``edgebus.policies.NAME``."""
        from edgebus.mining import installed_policies

        return installed_policies(self.name)

    def fingerprint(self, payload: Any) -> Fingerprint | None:
        """A hash of an input that is nearly the same for near-duplicates; None: it has none.

        Args:
            payload: The input.

        Raises:
            InputUnreadableError: The input's content is corrupt.
        """
        return None

    def sample(self, example: Example[Any, Any, Any], facts: Mapping[str, Any]) -> Any:
        """Make the sample of an input: a payload of the topic `samples`.

        Args:
            example: The input, its prediction and, where it is known, its truth.
            facts: The fields of an `edgebus.contracts.SampleRecord`, which the sample's extends.

        Raises:
            PayloadError: It does not fit into such a payload.
        """
        raise NotImplementedError

    def verdict(self, feedback: Any, example: Example[Any, Any, Any]) -> Verdict:
        """A person's feedback for the record of a sample, held against the prediction.

        Raises:
            ValueError: It speaks of what is not there.
        """
        raise NotImplementedError

    # Samples.

    sample_suffix: ClassVar[str] = ""
    """Suffix of the files in which its samples are stored, for whoever opens one."""

    def count_truths(self, record: Any) -> int | None:
        """Number of labels that its source gave a sample; None where the truth is unknown.

        By default no source gives any: labels come from operators and teachers.
        """
        return None

    def check_sample(self, sample: Any) -> None:
        """Refuse a sample that cannot be trained on; by default none.

        Raises:
            SampleRefusedError: It cannot, for example because its bytes are corrupt.
        """

    # Training.

    def training_settings(self) -> type[BaseModel]:
        """Class of the workload's own training settings; by default one without any."""
        return NoSettings

    def check_training(self, settings: RetrainingSettings, base: Bundle | None) -> TrainingCheck:
        """See, before there are samples, whether a job could work; by default without a look.

        Args:
            settings: Those of the retraining; `options` are of `training_settings`.
            base: What is trained further; None while it has yet to come.

        Raises:
            ValueError: No job could, for example because earlier data cannot be read.
            UntrainableError: The model has no loss.
        """
        return TrainingCheck()

    def trainer(self, spec: JobSpec, base: Bundle, *, threads: int) -> Trainer[Any]:
        """A trainer of one job, made in the job's process.

        Args:
            spec: The job.
            base: What is trained further.
            threads: CPU threads.

        Raises:
            UntrainableError: The workload trains nothing, which is the default.
            ValueError: The job's options are not those of `training_settings`.
        """
        reason = f"workload {self.name!r} has no trainer"
        raise UntrainableError(model=base.manifest.name, reason=reason)

    # Tools.

    follows: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Kinds of message on the path of an input, by schema name, each with the kinds that it
    follows from, the likeliest first. What follows from none is an input."""

    def phrase(self, kind: str, body: Mapping[str, Any]) -> str:
        """A message on the path of an input in a few words; empty for a kind of another's.

        Args:
            kind: One of `follows`.
            body: Its fields, as they came from the bus: anything may be missing.
        """
        return ""

    # Telemetry.

    figures: ClassVar[Mapping[str, Mapping[str, Figure]]] = {}
    """More columns for telemetry, by schema identifier: what the fields of a message mean
    together. The values are numbers or short texts, and None where there is none."""

    # Lab.

    lab: ClassVar[str] = "edgebus.lab:Lab"
    """Import path of its `edgebus.lab.Lab`, ``module:class``: what `edgebus up` shows and reports
    of a run. Imported by that command only, so that a device needs none of it."""


def call_in_thread(call: Callable[A, T], /, *args: A.args, **kwargs: A.kwargs) -> T:
    """Call what runs a workload's code, in a thread that somebody waits for.

    No future carries a StopIteration: for want of a default in ``next(…)`` the wait had no end. A
    SystemExit of a command-line library would end the process, and a CancelledError the task.

    Raises:
        RuntimeError: There was one of these, as where a generator raises it (PEP 479).
        Exception: Whatever else the call raises.
    """
    try:
        return call(*args, **kwargs)
    except StopIteration as error:
        msg = "an iterator had no further item (StopIteration)"
        raise RuntimeError(msg) from error
    except STRANGE as error:
        if isinstance(error, Exception):
            raise
        msg = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise RuntimeError(msg) from error


@cache
def installed_workloads() -> tuple[Workload, ...]:
    """Every installed workload; one that cannot be imported is left out, with a warning."""
    found = []
    for name in sorted({point.name for point in entry_points(group=ENTRY_POINTS)}):
        try:
            found.append(load_workload(name))
        except STRANGE as error:  # a stranger's module may raise anything
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"workload {name} is left out: {reason}", RuntimeWarning, stacklevel=2)
    return tuple(found)


@cache
def load_workload(name: str) -> Workload:
    """The workload of a name, imported when it is first asked for.

    Raises:
        WorkloadUnknownError: No installed package has one of that name.
        RegistryError: Two packages have one.
    """
    point = entry_point(ENTRY_POINTS, name)
    if point is None:
        raise WorkloadUnknownError(name)
    workload: Workload = point.load()()
    return workload
