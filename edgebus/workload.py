"""The base of workloads: what the framework's generic services need to know of a kind of model.

A workload ties its input message, model, output message, what counts as wrong, how it is trained
and judged, and its views together. Object detection is one; a package adds another by naming a
subclass of `Workload` in the entry-point group ``edgebus.workloads``, and its module of topics in
``edgebus.topics``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from edgebus.artifacts import Array, Bundle, Manifest
    from edgebus.serving import Engine, Model, NamedSource
    from edgebus.training.job_spec import JobSpec
    from edgebus.training.trainer import Trainer

__all__ = [
    "ENTRY_POINTS",
    "NoSettings",
    "UntrainableError",
    "Workload",
    "WorkloadUnknownError",
    "load_workload",
]

ENTRY_POINTS = "edgebus.workloads"


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

    def __init__(self, *, model: str, reason: str) -> None:
        super().__init__(f"model {model!r} cannot be trained: {reason}")
        self.model = model
        self.reason = reason


class NoSettings(BaseModel):
    """The settings of a workload that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Workload:
    """One kind of model, from its input to the judgement of its successor.

    Attributes:
        name: What it is called in settings, and as the `task` of its bundles.
    """

    name: ClassVar[str]

    # Serving.

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

    def probe_inputs(self, manifest: Manifest, *, seed: int) -> Mapping[str, Array]:
        """Input arrays by name for the parity probe, the same for a seed on every machine."""
        from edgebus.serving import seeded_inputs

        return seeded_inputs(manifest, seed=seed)

    # Collecting.

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

    # Telemetry.

    # Lab.

    lab: ClassVar[str] = "edgebus.lab:Lab"
    """Import path of its `edgebus.lab.Lab`, ``module:class``: what `edgebus up` shows and reports
    of a run. Imported by that command only, so that a device needs none of it."""


@cache
def load_workload(name: str) -> Workload:
    """The workload of a name, imported when it is first asked for.

    Raises:
        WorkloadUnknownError: No installed package has one of that name.
    """
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            workload: Workload = point.load()()
            return workload
    raise WorkloadUnknownError(name)
