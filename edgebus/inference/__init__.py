"""Running models: engines, the detection pipeline, the parity probe and the hot swap.

Nothing here needs torch; the interpreter that trains a graph is `edgebus.inference.graph`.
"""

from edgebus.inference.engine import Engine, EngineSettings, OrtEngine, choose_providers
from edgebus.inference.errors import (
    EngineError,
    InferenceError,
    ModelRefusedError,
    NoPreviousModelError,
)
from edgebus.inference.model import DetectionModel, Look, NamedSource
from edgebus.inference.novelty import Novelty, NoveltyError, add_novelty, make_novelty
from edgebus.inference.probe import ProbeError, make_probe, probe_picture, run_probe
from edgebus.inference.swap import Candidate, HotSwap, Serving

__all__ = [
    "Candidate",
    "DetectionModel",
    "Engine",
    "EngineError",
    "EngineSettings",
    "HotSwap",
    "InferenceError",
    "Look",
    "ModelRefusedError",
    "NamedSource",
    "NoPreviousModelError",
    "Novelty",
    "NoveltyError",
    "OrtEngine",
    "ProbeError",
    "Serving",
    "add_novelty",
    "choose_providers",
    "make_novelty",
    "make_probe",
    "probe_picture",
    "run_probe",
]
