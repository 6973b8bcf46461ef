"""The trainer of plain workloads: samples become arrays, and one figure is the mean of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgebus.artifacts import Array, Bundle
from edgebus.contracts import LabelReport, PayloadError, StoredSample
from edgebus.serving import ArrayModel, EngineSettings, OrtEngine
from edgebus.training.gate import Measured
from edgebus.training.trainer import Material, Trainer

if TYPE_CHECKING:
    from torch import Tensor

    from edgebus.training.finetune import Objective

_BLOCK = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayItem:
    """A sample as arrays; a `TrainingItem`.

    Attributes:
        key: Id of the sample.
        path: Its file.
        inputs: Input of the graph, without the batch.
        target: What the first output should be, without the batch.
        group: Its stream, and a block of neighbours.
        provenance: Source of the target.
    """

    key: str
    path: Path
    inputs: Array
    target: Array
    group: str
    provenance: str = "truth"

    @property
    def label_count(self) -> int:
        """One: items without a target are left out."""
        return 1


class ArrayTrainer(Trainer[ArrayItem]):
    """Trains a graph of one input by its first output.

    A subclass makes arrays of a sample (`read`). The loss is the mean squared error, and
    so is the figure; `loss` and `score` change that.

    Attributes:
        figure: Name of the figure, the mean of `score` over items.
        lower_is_better: Whether less of it is better.
    """

    figure: ClassVar[str] = "mse"
    lower_is_better: ClassVar[bool] = True

    def read(self, sample: StoredSample) -> tuple[Array, Array, str] | None:
        """Input, target and stream of a sample; None where its target is unknown.

        Raises:
            PayloadError: The file is no sample; it is left out.
            OSError: It cannot be read; it is left out.
        """
        raise NotImplementedError

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss of each row, [B]; the mean squared error by default."""
        return (output - target).square().flatten(1).mean(1)

    def score(self, output: Array, target: Array) -> float:
        """Figure of one item; the mean squared error by default."""
        return float(np.mean(np.square(output - target)))

    def prepare(
        self,
        *,
        enough: Callable[[Sequence[ArrayItem], Sequence[ArrayItem]], bool],
        on_item: Callable[[int, int], None],
    ) -> Material[ArrayItem]:
        """Read the samples; there are no folders of earlier data.

        Raises:
            ValueError: A replay folder was given.
        """
        spec = self.spec
        if spec.replay is not None or spec.replay_holdout is not None:
            msg = f"workload {spec.workload!r} reads no replay folder: remove replay from settings"
            raise ValueError(msg)
        material: Material[ArrayItem] = Material()
        waiting: list[str] = []
        groups = (spec.new_holdout, spec.old_holdout, spec.train, spec.replay_samples)
        done, total = 0, sum(map(len, groups))
        read: list[tuple[ArrayItem, ...]] = []
        for samples in groups:
            items = []
            for number, sample in enumerate(samples):
                done += 1
                on_item(done, total)
                try:
                    found = self.read(sample)
                except (OSError, PayloadError) as error:
                    material.unusable.append(f"sample {sample.id}: {error}")
                    continue
                if found is None:
                    waiting.append(sample.id)
                    continue
                inputs, target, stream = found
                items.append(
                    ArrayItem(
                        key=sample.id,
                        path=sample.path,
                        inputs=np.asarray(inputs, np.float32),
                        target=np.asarray(target),
                        group=f"{stream}/{number // _BLOCK}",
                        provenance="truth" if sample.labels is None else "operator",
                    )
                )
            read.append(tuple(items))
        material.new_holdout, material.old_holdout, material.new, material.replay = read
        material.waiting = tuple(waiting)
        sources = Counter(item.provenance for items in read for item in items)
        material.labels = LabelReport(inputs=dict(sources), labels=dict(sources))
        return material

    def objective(self) -> Objective[ArrayItem, ArrayItem]:
        """`loss` of the graph's first output."""
        from edgebus.training._array_objective import ArrayObjective

        return ArrayObjective(self.loss)

    def load(self, bundle: Bundle) -> ArrayModel:
        """Arrays in, arrays out."""
        return ArrayModel(bundle, OrtEngine(bundle, EngineSettings(threads=self.threads)))

    def measure(
        self, model: ArrayModel, items: Sequence[ArrayItem], *, on_item: Callable[[], None]
    ) -> Measured:
        """The mean of `score`, over all items and per stream."""
        scores = []
        for item in items:
            outputs = model.predict(self._inputs(item))
            scores.append(self.score(next(iter(outputs.values()))[0], item.target))
            on_item()
        streams = [item.group.rpartition("/")[0] for item in items]
        return Measured.of_scores(
            self.figure, scores, streams=streams, lower_is_better=self.lower_is_better
        )

    def example(self, items: Sequence[ArrayItem]) -> Any:
        """The inputs of the first item."""
        return self._inputs(items[0]) if items else None

    def _inputs(self, item: ArrayItem) -> dict[str, Array]:
        return {self.base.manifest.inputs[0].name: item.inputs[None]}
