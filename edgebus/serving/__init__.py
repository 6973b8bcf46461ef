"""Running models: engines, the parity probe, the hot swap, and following releases.

Nothing here needs torch; the interpreter that trains a graph is `edgebus.training.graph`.
"""

from edgebus.serving.engine import Engine, EngineSettings, OrtEngine, choose_providers
from edgebus.serving.errors import (
    EngineError,
    InferenceError,
    ModelRefusedError,
    NoPreviousModelError,
)
from edgebus.serving.model import ArrayModel, Model, NamedSource
from edgebus.serving.probe import (
    ProbeError,
    make_probe,
    probe_inputs,
    run_probe,
    seeded_bytes,
    seeded_inputs,
)
from edgebus.serving.swap import HotSwap, LoadedModel, Serving

__all__ = [
    "ArrayModel",
    "Engine",
    "EngineError",
    "EngineSettings",
    "HotSwap",
    "InferenceError",
    "LoadedModel",
    "Model",
    "ModelRefusedError",
    "NamedSource",
    "NoPreviousModelError",
    "OrtEngine",
    "ProbeError",
    "Serving",
    "choose_providers",
    "make_probe",
    "probe_inputs",
    "run_probe",
    "seeded_bytes",
    "seeded_inputs",
]
