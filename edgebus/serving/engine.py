"""Engines, which run graphs: arrays in, arrays out. ONNX Runtime is the first."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Protocol

import numpy as np
import onnxruntime as ort
import structlog
from onnxruntime.capi import onnxruntime_pybind11_state as state
from pydantic import BaseModel, ConfigDict, Field

from edgebus.artifacts import Array, BundleError, ModelSource, TensorSpec
from edgebus.artifacts.graph import inspect_graph
from edgebus.artifacts.tensors import dtype_name
from edgebus.serving.errors import EngineError

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
    ValueError,  # an input is missing
)
# The runtime's names of types where they are not those of numpy.
_ORT_TYPES: Final[Mapping[str, str]] = {
    "float64": "double",
    "float32": "float",
    "float16": "float16",
}


DEADLINE_S: Final = 20.0
"""Seconds that one inference may take by default; small devices need a few for a large model."""


class EngineSettings(BaseModel):
    """Settings of an engine: threads and device."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads of one inference; by default one less than the cores, so that loading the next
    model and the network do not delay inputs."""
    spinning: bool = False
    """Let idle threads spin instead of sleep: a little faster alone, much slower in company."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = DEADLINE_S
    """Seconds that one inference may take, the first included; a model that takes longer is stopped
    and has failed."""
    provider: Provider = "auto"
    """`auto` takes TensorRT or CUDA where the installed runtime has them, else the CPU."""


class Engine(Protocol):
    """A loaded graph."""

    @property
    def name(self) -> str:
        """Runtime and device, for example ``onnxruntime/CPUExecutionProvider``."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, in the order of the manifest, for the inputs by name.

        Raises:
            EngineError: The runtime fails, or an input is missing, unknown, or has the wrong shape
                or type.
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
            values = [
                ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
                for value in tensors.values()
            ]
            options.add_external_initializers(list(tensors), values)
            session = ort.InferenceSession(source.graph_bytes(), options, providers=providers)
        except ORT_ERRORS as error:
            raise EngineError(engine="onnxruntime", reason=first_line(error)) from error
        self._session, self._deadline_s = session, settings.deadline_s
        self._outputs = [output.name for output in manifest.outputs]
        _check_tensors("input", session.get_inputs(), manifest.inputs, exactly=True)
        _check_tensors("output", session.get_outputs(), manifest.outputs, exactly=False)
        self.name = f"onnxruntime/{session.get_providers()[0]}"
        structlog.get_logger(__name__).info(
            "engine loaded",
            model=manifest.name,
            version=manifest.version,
            engine=self.name,
            threads=options.intra_op_num_threads,
            tensors=len(tensors),
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Engine`."""
        outputs = run_session(
            self._session, self._outputs, inputs, engine=self.name, deadline_s=self._deadline_s
        )
        return dict(zip(self._outputs, map(np.asarray, outputs), strict=True))


def run_session(
    session: ort.InferenceSession,
    outputs: Sequence[str],
    inputs: Mapping[str, Array],
    *,
    engine: str,
    deadline_s: float = DEADLINE_S,
) -> Sequence[Any]:
    """Run a graph, and stop it where it takes too long.

    Raises:
        EngineError: The runtime fails, or does not answer in time.
    """
    options = ort.RunOptions()
    # The runtime looks at its flag between two operators: a loop without end does end so.
    watch = threading.Timer(deadline_s, _terminate, (options,))
    watch.daemon = True
    watch.start()
    try:
        found: Sequence[Any] = session.run(list(outputs), dict(inputs), options)
    except ORT_ERRORS as error:
        reason = first_line(error)
        if options.terminate:
            reason = f"no answer within {deadline_s:g} s (engine.deadline_s)"
        raise EngineError(engine=engine, reason=reason) from error
    finally:
        watch.cancel()
    return found


def _terminate(options: ort.RunOptions) -> None:
    options.terminate = True


def _check_tensors(
    what: str, found: Sequence[Any], specs: Sequence[TensorSpec], *, exactly: bool
) -> None:
    """Refuse a graph whose inputs or outputs are not the manifest's.

    Raises:
        EngineError: They are not.
    """
    there = {item.name: item for item in found}
    wanted = {spec.name for spec in specs}
    if wanted - there.keys() or (exactly and there.keys() - wanted):
        reason = f"the graph has the {what}s {sorted(there)}, the manifest says {sorted(wanted)}"
        raise EngineError(engine="onnxruntime", reason=reason)
    for spec in specs:
        item = there[spec.name]
        # The runtime gives open dimensions a name, or None, and outputs at times no shape at all.
        shape = tuple(size if isinstance(size, int) else None for size in item.shape)
        kind = f"tensor({_ORT_TYPES.get(spec.dtype, spec.dtype)})"
        if item.type != kind or not (spec.fits(shape) or (not exactly and not shape)):
            reason = (
                f"{what} {spec.name} is {item.type} {list(item.shape)}, the manifest says "
                f"{spec.dtype} {list(spec.shape)}"
            )
            raise EngineError(engine="onnxruntime", reason=reason)


def choose_providers(wanted: Provider, available: Sequence[str]) -> list[Any]:
    """The execution providers to ask the runtime for, best first.

    Args:
        wanted: The provider of the settings.
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
        dtype = dtype_name(value.dtype)
        if value.shape != entry.shape or dtype != entry.dtype:
            reason = (
                f"tensor {name!r} is {dtype} {list(value.shape)}, the graph takes "
                f"{entry.dtype} {list(entry.shape)}"
            )
            raise EngineError(engine="onnxruntime", reason=reason)


def first_line(error: Exception) -> str:
    """The first line of a runtime's error, at most 500 characters."""
    return str(error).strip().split("\n", 1)[0][:500]
