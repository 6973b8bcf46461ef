"""The parity probe: a bundle brings an input and what must come out of it.

It catches what digests cannot: a runtime, a processor or an execution provider that computes
something else than the machine on which the bundle was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from edgebus.artifacts import Array, Manifest, ModelSource, ProbeSpec
from edgebus.serving.engine import Engine, EngineSettings, OrtEngine
from edgebus.serving.errors import EngineError, InferenceError
from edgebus_detection.vision import Image, Preprocessor

__all__ = ["ProbeError", "check_finite", "make_probe", "probe_picture", "run_probe"]

_VALUES = 256
_TILES = 13


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


def probe_picture(manifest: Manifest, *, seed: int) -> Image:
    """A picture of the model's own input size, the same on every machine and in every version.

    A mosaic of coloured tiles with fine grain on it, from SHAKE-256 of the seed: no random
    generator or interpolation that could change with a library.

    Returns:
        uint8 [height, width, 3].
    """
    height, width = manifest.input.height, manifest.input.width
    tall, wide = -(-height // _TILES), -(-width // _TILES)
    tiles = _noise(f"tiles {seed}", (tall, wide, 3))
    picture = tiles.repeat(_TILES, axis=0).repeat(_TILES, axis=1)[:height, :width]
    grain = _noise(f"grain {seed}", (height, width, 3)) >> 4
    mixed: Image = (picture - (picture >> 3) + grain // 2).astype(np.uint8)
    return mixed


def make_probe(
    source: ModelSource, *, seed: int = 0, settings: EngineSettings | None = None
) -> tuple[ProbeSpec, Mapping[str, Array]]:
    """Run a model on its probe picture; for `edgebus.artifacts.write_bundle`.

    Of each output the extremes and an even share are kept, so a probe has a few kilobytes.

    Returns:
        The specification, and per output ``index/{name}`` (int64) and ``value/{name}`` (float32).

    Raises:
        EngineError: The runtime refuses the model, or its outputs are not finite.
    """
    outputs = _outputs(OrtEngine(source, settings), source.manifest, seed)
    tensors: dict[str, Array] = {}
    for spec, output in zip(source.manifest.outputs, outputs, strict=True):
        flat = output.reshape(-1)
        # The largest values are the ones that become boxes.
        large = np.argsort(-np.abs(flat), kind="stable")[: _VALUES // 4]
        even = np.linspace(0, flat.size - 1, _VALUES - len(large)).astype(np.int64)
        index = np.unique(np.concatenate([large, even])).astype(np.int64)
        tensors[f"index/{spec.name}"] = index
        tensors[f"value/{spec.name}"] = flat[index].astype(np.float32)
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
    for port, output in zip(manifest.outputs, outputs, strict=True) if expected else ():
        worst = max(worst, _compare(port.name, output.reshape(-1), expected or {}, spec))
    return worst


def check_finite(outputs: Sequence[Array], manifest: Manifest, *, engine: str) -> None:
    """Refuse outputs that are NaN or infinite.

    Raises:
        EngineError: One is.
    """
    for port, output in zip(manifest.outputs, outputs, strict=True):
        bad = int(output.size - np.count_nonzero(np.isfinite(output)))
        if bad:
            reason = f"{bad} of {output.size} values of output {port.name} are not finite"
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


def _outputs(engine: Engine, manifest: Manifest, seed: int) -> list[Array]:
    tensor, _ = Preprocessor(manifest.input).prepare(probe_picture(manifest, seed=seed))
    outputs = engine.run(tensor)
    check_finite(outputs, manifest, engine=engine.name)
    return list(outputs)


def _noise(label: str, shape: tuple[int, int, int]) -> Image:
    size = shape[0] * shape[1] * shape[2]
    data = hashlib.shake_256(f"edgebus probe {label}".encode()).digest(size)
    return np.frombuffer(data, np.uint8).reshape(shape)
