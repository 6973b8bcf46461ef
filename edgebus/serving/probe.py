"""The parity probe: a bundle brings what must come out of an input that a seed generates.

It catches what digests cannot: a runtime, a processor or an execution provider that computes
something else than the machine on which the bundle was measured.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np

from edgebus.artifacts import Array, Manifest, ModelSource, ProbeSpec, TensorSpec
from edgebus.serving.engine import Engine, EngineSettings, OrtEngine
from edgebus.serving.errors import EngineError, InferenceError
from edgebus.workload import load_workload

_VALUES = 256


class ProbeError(InferenceError):
    """An engine does not compute what the bundle says.

    Attributes:
        output: The graph's output at fault.
        reason: How far it is off.
    """

    def __init__(self, *, output: str, reason: str) -> None:
        super().__init__(f"output {output}: {reason}")
        self.output = output
        self.reason = reason


def probe_inputs(manifest: Manifest, *, seed: int) -> Mapping[str, Array]:
    """The input of a model's probe, the same on every machine: its workload makes it.

    Raises:
        WorkloadUnknownError: No installed package brings the manifest's workload.
    """
    return load_workload(manifest.task).probe_inputs(manifest, seed=seed)


def seeded_inputs(manifest: Manifest, *, seed: int) -> dict[str, Array]:
    """Inputs by the specifications alone: floats in [0, 1), bytes of any value, else 0 and 1.

    Open dimensions are 1.
    """
    return {spec.name: _seeded(spec, seed) for spec in manifest.inputs}


def seeded_bytes(label: str, shape: tuple[int, ...]) -> Array:
    """Noise that no library's update can change: SHAKE-256 of the label.

    Returns:
        uint8 of the shape.
    """
    data = hashlib.shake_256(f"edgebus probe {label}".encode()).digest(math.prod(shape))
    return np.frombuffer(data, np.uint8).reshape(shape)


def make_probe(
    source: ModelSource, *, seed: int = 0, settings: EngineSettings | None = None
) -> tuple[ProbeSpec, Mapping[str, Array]]:
    """Run a model on its probe input; for `edgebus.artifacts.write_bundle`.

    Of each output the extremes and an even share are kept, so a probe has a few kilobytes.

    Returns:
        The specification, and per output ``index/{name}`` (int64) and ``value/{name}`` (float32).

    Raises:
        EngineError: The runtime refuses the model, or its outputs are not finite.
    """
    outputs = _outputs(OrtEngine(source, settings), source.manifest, seed)
    tensors: dict[str, Array] = {}
    for name, output in outputs.items():
        flat = output.reshape(-1).astype(np.float32)
        # The largest values matter most: they decide what is predicted.
        large = np.argsort(-np.abs(flat), kind="stable")[: _VALUES // 4]
        even = np.linspace(0, flat.size - 1, _VALUES - len(large)).astype(np.int64)
        index = np.unique(np.concatenate([large, even])).astype(np.int64)
        tensors[f"index/{name}"] = index
        tensors[f"value/{name}"] = flat[index]
    return ProbeSpec(seed=seed), tensors


def run_probe(engine: Engine, manifest: Manifest, expected: Mapping[str, Array] | None) -> float:
    """Compare an engine with the bundle's probe.

    Without a probe only finite outputs are asked for.

    Args:
        engine: The loaded bundle.
        manifest: Its manifest.
        expected: Its probe's tensors.

    Returns:
        The largest deviation as a share of what is allowed: 0 is exact, 1 the limit.

    Raises:
        ProbeError: A value deviates by more than ``atol + rtol * |expected|``, or the probe does
            not belong to these outputs.
        EngineError: The runtime fails, or an output is not finite.
    """
    spec = manifest.probe or ProbeSpec()
    outputs = _outputs(engine, manifest, spec.seed)
    worst = 0.0
    for name, output in outputs.items() if expected else ():
        worst = max(worst, _compare(name, output.reshape(-1), expected or {}, spec))
    return worst


def check_finite(outputs: Mapping[str, Array], *, engine: str) -> None:
    """Refuse outputs that are NaN or infinite.

    Raises:
        EngineError: One is.
    """
    for name, output in outputs.items():
        bad = int(output.size - np.count_nonzero(np.isfinite(output)))
        if bad:
            reason = f"{bad} of {output.size} values of output {name} are not finite"
            raise EngineError(engine=engine, reason=reason)


def _compare(name: str, found: Array, expected: Mapping[str, Array], spec: ProbeSpec) -> float:
    try:
        index, value = expected[f"index/{name}"], expected[f"value/{name}"]
    except KeyError as error:
        raise ProbeError(output=name, reason=f"the probe has no {error}") from error
    if index.shape != value.shape or index.dtype != np.int64 or index.size == 0:
        raise ProbeError(output=name, reason=f"the probe has {index.shape} places, {value.shape}")
    if index.min() < 0 or index.max() >= found.size:
        reason = f"the probe asks for value {index.max()} of {found.size}"
        raise ProbeError(output=name, reason=reason)
    deviation = np.abs(found[index].astype(np.float64) - value)
    allowed = spec.atol + spec.rtol * np.abs(value.astype(np.float64))
    share = deviation / allowed
    at = int(share.argmax())
    if not share[at] <= 1:  # NaN too
        reason = (
            f"value {int(index[at])} is {float(found[index[at]]):.6g}, expected "
            f"{float(value[at]):.6g} within {float(allowed[at]):.2g}; "
            f"{int((share > 1).sum())} of {len(share)} are off"
        )
        raise ProbeError(output=name, reason=reason)
    return float(share[at])


def _outputs(engine: Engine, manifest: Manifest, seed: int) -> dict[str, Array]:
    outputs = engine.run(probe_inputs(manifest, seed=seed))
    check_finite(outputs, engine=engine.name)
    return outputs


def _seeded(spec: TensorSpec, seed: int) -> Array:
    dtype, shape = np.dtype(spec.dtype), spec.concrete()
    if dtype.kind == "f":
        words = seeded_bytes(f"{spec.name} {seed}", (*shape, 4)).astype(np.float64)
        return (words @ (1 / 256.0 ** np.arange(1, 5))).astype(dtype)
    noise = seeded_bytes(f"{spec.name} {seed}", shape)
    return noise if dtype == np.uint8 else (noise & 1).astype(dtype)
