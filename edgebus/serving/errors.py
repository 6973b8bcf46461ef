"""Errors of models that cannot serve."""

from __future__ import annotations

from edgebus.contracts import ModelRef


class InferenceError(Exception):
    """The base of this package's errors."""


class EngineError(InferenceError):
    """A runtime cannot load or run a graph.

    Attributes:
        engine: The runtime, for example ``onnxruntime``.
        reason: Its message.
    """

    def __init__(self, *, engine: str, reason: str) -> None:
        super().__init__(f"{engine}: {reason}")
        self.engine = engine
        self.reason = reason


class ModelRefusedError(InferenceError):
    """A candidate that must not serve; the model before it serves on.

    Attributes:
        model: The candidate.
        stage: What it failed: ``load``, ``warm-up`` or ``probe``.
        reason: How.
    """

    def __init__(self, *, model: ModelRef, stage: str, reason: str) -> None:
        super().__init__(
            f"{model.name} v{model.version} ({model.digest[:12]}) failed its {stage}: {reason}"
        )
        self.model = model
        self.stage = stage
        self.reason = reason


class NoPreviousModelError(InferenceError):
    """There is no earlier model to go back to."""

    def __init__(self) -> None:
        super().__init__("no earlier model is loaded; release one to go back to")
