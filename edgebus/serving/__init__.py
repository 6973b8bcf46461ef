"""Running models: engines, the detection pipeline, the parity probe and the hot swap.

Nothing here needs torch; the interpreter that trains a graph is `edgebus.training.graph`.
"""

from edgebus.serving.engine import Engine, EngineSettings, OrtEngine, choose_providers
from edgebus.serving.errors import (
    EngineError,
    InferenceError,
    ModelRefusedError,
    NoPreviousModelError,
)
from edgebus.serving.probe import ProbeError, make_probe, probe_picture, run_probe
from edgebus.serving.swap import Candidate, HotSwap, Serving

__all__ = [
    "Candidate",
    "Engine",
    "EngineError",
    "EngineSettings",
    "HotSwap",
    "InferenceError",
    "ModelRefusedError",
    "NoPreviousModelError",
    "OrtEngine",
    "ProbeError",
    "Serving",
    "choose_providers",
    "make_probe",
    "probe_picture",
    "run_probe",
]
