"""Running models: engines, the parity probe, the hot swap, and following releases.

The service that serves any workload is `edgebus.serving.service`. Nothing here needs torch; the
interpreter that trains a graph is `edgebus.training.graph`.
"""

from edgebus.serving.authority import MAX_JUMP, Authorities
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
from edgebus.serving.release_follower import (
    ReleaseFollower,
    ReleaseRefusedError,
    ReleaseSettings,
    verify_release,
)
from edgebus.serving.serving_state import ServingState, StateFile
from edgebus.serving.swap import HotSwap, LoadedModel, Serving, Swap

__all__ = [
    "MAX_JUMP",
    "ArrayModel",
    "Authorities",
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
    "ReleaseFollower",
    "ReleaseRefusedError",
    "ReleaseSettings",
    "Serving",
    "ServingState",
    "StateFile",
    "Swap",
    "choose_providers",
    "make_probe",
    "probe_inputs",
    "run_probe",
    "seeded_bytes",
    "seeded_inputs",
    "verify_release",
]
