"""Loaded models: what a workload makes of a bundle and an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from edgebus.artifacts import Array, ModelSource
from edgebus.contracts import ModelRef
from edgebus.serving.engine import Engine
from edgebus.serving.probe import check_finite, probe_inputs


class NamedSource(ModelSource, Protocol):
    """A model source with a digest; `edgebus.artifacts.Bundle` is one."""

    @property
    def ref(self) -> ModelRef:
        """Name, version and digest."""
        ...


class Model(Protocol):
    """A loaded model of any workload. May be used from any thread."""

    @property
    def ref(self) -> ModelRef:
        """Name, version, digest, and the engine that runs it."""
        ...

    def predict(self, inputs: Any, /) -> Any:
        """Answer one input.

        Args:
            inputs: What the workload's `decode` made of a message.

        Returns:
            What the workload's `prediction` makes a message of.

        Raises:
            EngineError: The runtime fails, or the outputs are unusable.
            ValueError: No model can answer this input.
        """
        ...

    def warm_up(self) -> None:
        """Answer an input of its own making, so that the first real one is not slow.

        Raises:
            EngineError: As for `predict`.
        """
        ...


class ArrayModel:
    """The plain model: input arrays by name in, output arrays by name out.

    Attributes:
        ref: Name, version and digest, with the engine that runs it.
        manifest: What the model is.
    """

    def __init__(self, source: NamedSource, engine: Engine) -> None:
        self.ref = source.ref.model_copy(update={"engine": engine.name})
        self.manifest = source.manifest
        self._engine = engine

    def predict(self, inputs: Mapping[str, Array], /) -> dict[str, Array]:
        """Run the graph; the outputs are finite."""
        outputs = self._engine.run(inputs)
        check_finite(outputs, engine=self._engine.name)
        return outputs

    def warm_up(self) -> None:
        """Run the graph on the probe's input."""
        self.predict(probe_inputs(self.manifest, seed=0))
