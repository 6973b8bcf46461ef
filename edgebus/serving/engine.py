"""Engines: what runs a graph. ONNX Runtime is the first."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import structlog
from onnxruntime.capi import onnxruntime_pybind11_state as state
from pydantic import BaseModel, ConfigDict, Field

from edgebus.artifacts import Array, BundleError, ModelSource
from edgebus.artifacts.graph import inspect_graph
from edgebus.serving.errors import EngineError

__all__ = ["Engine", "EngineSettings", "OrtEngine", "choose_providers"]

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]

_NAMES: Final[Mapping[str, str]] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
# The runtime registers these without a base class of its own.
ORT_ERRORS: Final[tuple[type[Exception], ...]] = (
    state.EPFail,
    state.EngineError,
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoModel,
    state.NoSuchFile,
    state.NotImplemented,
    state.RuntimeException,
    # pybind11 turns std::exception and failed casts into these two
    RuntimeError,
    TypeError,
)
_ORT_TYPES: Final[Mapping[str, str]] = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}


class EngineSettings(BaseModel):
    """How a graph is run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads of one inference; by default one less than the cores, so that loading the next
    model, the network and the camera do not delay frames."""
    spinning: bool = False
    """Let idle threads spin instead of sleep: a little faster alone, much slower in company."""
    provider: Provider = "auto"
    """`auto` takes TensorRT or CUDA where the installed runtime has them, else the CPU."""


class Engine(Protocol):
    """A loaded graph."""

    @property
    def name(self) -> str:
        """Runtime and device, for example ``onnxruntime/CPUExecutionProvider``."""
        ...

    def run(self, tensor: Array) -> list[npt.NDArray[np.float32]]:
        """The outputs for one input, in the order of the manifest's outputs.

        Raises:
            EngineError: The runtime fails, or the input has the wrong shape or type.
        """
        ...


class OrtEngine:
    """A graph in ONNX Runtime.

    The runtime gets the graph's bytes and a copy of every weight: no file is mapped, so nothing
    that happens to a file changes, or ends, a running model. `run` may be called from any thread.
    """

    def __init__(self, source: ModelSource, settings: EngineSettings | None = None) -> None:
        """Load a model.

        Raises:
            EngineError: The runtime refuses the graph or a weight, or the provider that was asked
                for is not installed.
        """
        settings = settings or EngineSettings()
        providers = choose_providers(settings.provider, ort.get_available_providers())
        manifest, tensors = source.manifest, source.tensors()
        _check_weights(source.graph_bytes(), tensors)
        options = _options(settings)
        try:
            values = [ort.OrtValue.ortvalue_from_numpy(_plain(v)) for v in tensors.values()]
            options.add_external_initializers(list(tensors), values)
            session = ort.InferenceSession(source.graph_bytes(), options, providers=providers)
        except ORT_ERRORS as error:
            raise EngineError(engine="onnxruntime", reason=first_line(error)) from error
        self._session = session
        self._input = manifest.input.name
        self._outputs = [output.name for output in manifest.outputs]
        self._check_ports(source)
        self.name = f"onnxruntime/{session.get_providers()[0]}"
        self.shape = manifest.input.shape
        structlog.get_logger(__name__).info(
            "engine loaded",
            model=manifest.name,
            version=manifest.version,
            engine=self.name,
            threads=options.intra_op_num_threads,
            tensors=len(tensors),
        )

    def run(self, tensor: Array) -> list[npt.NDArray[np.float32]]:
        """See `Engine`."""
        try:
            outputs: Sequence[Any] = self._session.run(self._outputs, {self._input: tensor})
        except ORT_ERRORS as error:
            raise EngineError(engine=self.name, reason=first_line(error)) from error
        return [np.asarray(output, np.float32) for output in outputs]

    def _check_ports(self, source: ModelSource) -> None:
        """Refuse a graph whose input or outputs are not the manifest's.

        Raises:
            EngineError: They are not.
        """
        spec = source.manifest.input
        found = {item.name: item for item in self._session.get_inputs()}
        item = found.get(spec.name)
        if item is None or len(found) != 1:
            reason = f"the graph takes {sorted(found)}, the manifest says {spec.name!r}"
            raise EngineError(engine="onnxruntime", reason=reason)
        wrong = [
            (have, want)
            for have, want in zip(item.shape, spec.shape, strict=False)
            if isinstance(have, int) and have != want
        ]
        if len(item.shape) != 4 or wrong or item.type != _ORT_TYPES[spec.dtype]:
            reason = (
                f"input {spec.name} is {item.type} {item.shape}, the manifest says "
                f"{spec.dtype} {list(spec.shape)}"
            )
            raise EngineError(engine="onnxruntime", reason=reason)
        missing = set(self._outputs) - {item.name for item in self._session.get_outputs()}
        if missing:
            reason = f"the graph has no output {', '.join(sorted(missing))}"
            raise EngineError(engine="onnxruntime", reason=reason)


def choose_providers(wanted: Provider, available: Sequence[str]) -> list[Any]:
    """The execution providers to ask the runtime for, best first.

    Args:
        wanted: What the settings say.
        available: What the installed runtime was built with.

    Raises:
        EngineError: The provider that was asked for is not among them.
    """
    if wanted != "auto" and _NAMES[wanted] not in available:
        reason = (
            f"provider {wanted!r} is not installed (there are {', '.join(available)}); "
            "install onnxruntime-gpu, or set provider to auto"
        )
        raise EngineError(engine="onnxruntime", reason=reason)
    names = [
        _NAMES[name]
        for name in ("tensorrt", "cuda", "cpu")
        if _NAMES[name] in available and wanted in {"auto", name, "tensorrt"}
    ]
    if _NAMES["cpu"] not in names:  # for operators that the device does not have
        names.append(_NAMES["cpu"])
    # TF32 keeps 10 bits of mantissa: the parity probe would be about rounding only.
    return [(name, {"use_tf32": "0"}) if name == _NAMES["cuda"] else name for name in names]


def default_threads() -> int:
    """One less than the cores that this process may use, at least one."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def _options(settings: EngineSettings) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    spin = "1" if settings.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spin)
    options.add_session_config_entry("session.inter_op.allow_spinning", spin)
    return options


def _check_weights(graph: bytes, tensors: Mapping[str, Array]) -> None:
    """Refuse weights that are not the graph's, by name; the runtime does not say which it means.

    Raises:
        EngineError: A weight is missing, unknown, or of another shape or type.
    """
    try:
        wanted = inspect_graph(graph).external
    except BundleError as error:
        raise EngineError(engine="onnxruntime", reason=str(error)) from error
    odd = sorted(wanted.keys() ^ tensors.keys())
    if odd:
        reason = f"graph and weights do not have the same tensors: {', '.join(odd[:5])}"
        raise EngineError(engine="onnxruntime", reason=reason)
    for name, entry in wanted.items():
        value = tensors[name]
        if value.shape != entry.shape or _dtype(value) != entry.dtype:
            reason = (
                f"tensor {name!r} is {_dtype(value)} {list(value.shape)}, the graph takes "
                f"{entry.dtype} {list(entry.shape)}"
            )
            raise EngineError(engine="onnxruntime", reason=reason)


def _dtype(value: Array) -> str:
    """The name that safetensors has for a dtype, for example ``F32``."""
    return f"{value.dtype.kind.upper()}{value.dtype.itemsize * 8}"


def _plain(value: Array) -> Array:
    return np.ascontiguousarray(value)


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:500]
