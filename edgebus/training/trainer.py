"""Interface between training jobs and workloads: material, objective, figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from edgebus.contracts import LabelReport

if TYPE_CHECKING:
    from edgebus.artifacts import Bundle
    from edgebus.serving import Model
    from edgebus.training.finetune import FinetuneResult, Objective
    from edgebus.training.gate import Measured
    from edgebus.training.job_spec import JobOutcome, JobSpec


class TrainingFailedError(RuntimeError):
    """The training itself went wrong; the cause is a `TrainingError`, which needs torch."""


class TrainingItem(Protocol):
    """An input with its labels, as a job knows it; what else it holds is the workload's."""

    @property
    def key(self) -> str:
        """Its name for good: a sample's id, or a file's path in its data set."""
        ...

    @property
    def group(self) -> str:
        """The stream or data set, a slash, and a block of neighbours that are split together."""
        ...

    @property
    def provenance(self) -> str:
        """Source of its labels: ``operator``, ``truth``, ``teacher`` or the name of a data set."""
        ...

    @property
    def path(self) -> Path:
        """Its file; named by its digest where it is a sample."""
        ...

    @property
    def label_count(self) -> int:
        """Number of labels; with 0 it is a negative example, and measures nothing."""
        ...


ItemT = TypeVar("ItemT", bound=TrainingItem)


@dataclass(slots=True, kw_only=True)
class Material(Generic[ItemT]):
    """Items of a job, to train on and to measure on.

    Attributes:
        new: Of the new domain, to train on.
        replay: Of earlier data, to train on.
        new_holdout: Of the new domain, to measure on.
        old_holdout: Of earlier data, to measure on.
        unusable: What was left out, and why.
        labels: Label sources of the samples.
        waiting: Ids of samples that were left out until somebody labels them.
    """

    new: tuple[ItemT, ...] = ()
    replay: tuple[ItemT, ...] = ()
    new_holdout: tuple[ItemT, ...] = ()
    old_holdout: tuple[ItemT, ...] = ()
    unusable: list[str] = field(default_factory=list)
    labels: LabelReport = field(default_factory=LabelReport)
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Training items of one set that look like held-out ones.

    Attributes:
        name: The set: ``new`` or ``replay``.
        leaking: How many look like a held-out item.
        items: How many there are.
        summary: What was found, with an example.
    """

    name: str
    leaking: int
    items: int
    summary: str

    @property
    def share(self) -> float:
        """The part of the set that leaks."""
        return self.leaking / self.items


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakReport(Generic[ItemT]):
    """Material without training items that look like held-out ones.

    Attributes:
        material: What a job may use.
        leaks: What was left out.
    """

    material: Material[ItemT]
    leaks: tuple[Leak, ...] = ()

    @property
    def left_out(self) -> int:
        """Training items that were left out."""
        return sum(leak.leaking for leak in self.leaks)


class Trainer(Generic[ItemT]):
    """One job's view of its workload, in the job's process.

    Args:
        spec: The job.
        base: What is trained further.
        threads: CPU threads.
    """

    def __init__(self, spec: JobSpec, base: Bundle, *, threads: int) -> None:
        self.spec, self.base, self.threads = spec, base, threads

    def check(self) -> None:
        """Refuse a model that this workload cannot train; by default none.

        Raises:
            UntrainableError: Its graph or head has no loss.
        """

    def prepare(
        self,
        *,
        enough: Callable[[Sequence[ItemT], Sequence[ItemT]], bool],
        on_item: Callable[[int, int], None],
    ) -> Material[ItemT]:
        """Label everything that the job uses; what cannot be used is left out and named.

        Args:
            enough: Whether the held-out items, new and old, are enough to measure on; where they
                are not, nothing else need be prepared.
            on_item: Called with the number of samples done and of all.

        Raises:
            ValueError: Nothing can be prepared, for the reason given.
        """
        raise NotImplementedError

    def remove_leaks(self, material: Material[ItemT]) -> LeakReport[ItemT]:
        """Leave out training items that nearly are held-out ones; by default none are known."""
        return LeakReport(material=material)

    def leak_hint(self, leak: Leak) -> str:
        """The way out where too much of the new samples leaks."""
        return "the streams show the same again and again: wait for other samples"

    def objective(self) -> Objective[Any, Any]:
        """The loss, and rows of items. Imports torch."""
        raise NotImplementedError

    def learnables(self, items: Sequence[ItemT]) -> Sequence[Any]:
        """Prepared items as the objective takes them; by default as they are."""
        return items

    def load(self, bundle: Bundle) -> Model:
        """A bundle as a model that can be measured, through the engine that serves it.

        Raises:
            EngineError: The runtime refuses it.
        """
        from edgebus.serving import EngineSettings, OrtEngine
        from edgebus.workload import load_workload

        engine = OrtEngine(bundle, EngineSettings(threads=self.threads))
        return load_workload(self.spec.workload).load(bundle, engine)

    def measure(
        self, model: Any, items: Sequence[ItemT], *, on_item: Callable[[], None]
    ) -> Measured:
        """Figures of a loaded model.

        Args:
            model: From `load`.
            items: Held-out items, at least one with labels.
            on_item: Called after each.

        Raises:
            EngineError: The model's outputs are not finite.
            ValueError: Nothing can be measured.
        """
        raise NotImplementedError

    def example(self, items: Sequence[ItemT]) -> Any:
        """An input to measure latency with, as `Model.predict` takes it; None: not measured."""
        return None

    def write_card(
        self, material: Material[ItemT], learnt: FinetuneResult, outcome: JobOutcome, folder: Path
    ) -> None:
        """Write a model card for people; by default none.

        Raises:
            OSError: The disk is full or broken.
        """


def count_labelled(items: Iterable[TrainingItem]) -> int:
    """Items that have labels."""
    return sum(1 for item in items if item.label_count)
