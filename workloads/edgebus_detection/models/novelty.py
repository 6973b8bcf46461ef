"""Novelty: how unlike the pictures that a model knows a picture is, by a small graph in the bundle.

The graph is the model's own first layers up to the first convolution, frozen, and a Mahalanobis
distance behind them (Lee et al. 2018, *A Simple Unified Framework for Detecting Out-of-Distribution
Samples and Adversarial Attacks*). With x_c the mean and the logarithm of the deviation of every
channel c over the picture, and m and C the mean and covariance of x on the reference pictures::

    d = sqrt((x - m)^T C^-1 (x - m)) / d95

d95 is the 95th percentile of d on reference pictures that C was not fitted to. First layers see
light, sensor and weather, and say so when the outputs are still sure of themselves.

Pictures that a camera takes within seconds are more alike than those of its ordinary day: a cloud
or the camera's own exposure would be strange. So each reference picture counts twice, as it is and
in slightly other light (up to 15 % brighter or darker, 10 % of contrast, 4 % of each colour).

It is frozen on purpose: training changes every layer a little, and a distance that changes with
each version could not be compared. So the same file goes from version to version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edgebus.artifacts import (
    Array,
    Bundle,
    BundleError,
    BundleFileMissingError,
    ModelSource,
    inspect_graph,
    write_bundle,
)
from edgebus.serving.engine import ORT_ERRORS, first_line, run_session
from edgebus.serving.errors import EngineError, InferenceError
from edgebus_detection.models.spec import NoveltySpec, detection_spec, input_spec
from edgebus_detection.vision import Image, Preprocessor

_OUTPUT = "novelty"
_LEAST_PICTURES = 20
_FOLDS = 5
_TINY = 1e-6

Vector = npt.NDArray[np.float64]


class NoveltyError(InferenceError):
    """No reference can be made.

    Attributes:
        reason: Why not, and what to do.
    """

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"no novelty reference can be made: {reason}")
        self.reason = reason


class Novelty:
    """The novelty graph of a bundle, loaded; may be used from any thread."""

    def __init__(self, data: bytes) -> None:
        """Load it.

        Raises:
            EngineError: It is no such graph.
        """
        try:
            external = inspect_graph(data).external
            if external:
                raise EngineError(engine="novelty", reason="its weights lie in another file")
            self._session = _session(data)
        except BundleError as error:
            raise EngineError(engine="novelty", reason=str(error)) from error
        except ORT_ERRORS as error:
            raise EngineError(engine="novelty", reason=first_line(error)) from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or [output.name for output in outputs] != [_OUTPUT]:
            reason = f"it has to make {_OUTPUT!r} of one input, not {[o.name for o in outputs]}"
            raise EngineError(engine="novelty", reason=reason)
        self._input = inputs[0].name

    @classmethod
    def of(cls, bundle: Bundle) -> Novelty | None:
        """That of a bundle; None where it has none.

        Raises:
            EngineError: It cannot be loaded.
            BundleFileMissingError: The manifest names it, and the bundle has no such file.
        """
        spec = detection_spec(bundle.manifest).novelty
        if spec is None:
            return None
        if spec.file not in bundle.files:
            raise BundleFileMissingError(file=spec.file, where="the bundle")
        return cls(bundle.files[spec.file])

    def of_input(self, tensor: Array) -> float:
        """The distance of a picture, as the model's input; 1 is the reference's 95th percentile.

        Raises:
            EngineError: The graph fails, or gives no finite number.
        """
        (found,) = run_session(self._session, [_OUTPUT], {self._input: tensor}, engine="novelty")
        value = float(np.asarray(found).reshape(-1)[0])
        if not np.isfinite(value) or value < 0:
            raise EngineError(engine="novelty", reason=f"gave {value}")
        return value


def make_novelty(source: ModelSource, pictures: Iterable[Image]) -> tuple[NoveltySpec, bytes]:
    """Fit a novelty graph to pictures of the kind that the model is at home with.

    The covariance is shrunk towards the diagonal as Ledoit and Wolf 2004 (*A well-conditioned
    estimator for large-dimensional covariance matrices*) say, since there are about as many
    numbers in it as pictures.

    Args:
        source: The model.
        pictures: BGR, uint8; at least 20, better 200. Neighbours in a video belong together.

    Raises:
        NoveltyError: The graph has no convolution, or there are too few pictures.
        EngineError: The runtime refuses the graph.
    """
    stem = _stem(source)
    session = _session(_with_outputs(stem, ["mean", "spread"]).SerializeToString())
    name = session.get_inputs()[0].name
    preprocessor = Preprocessor(input_spec(source.manifest))
    light = np.random.default_rng(0)
    rows = []
    for picture in pictures:
        for seen in (picture, _in_other_light(picture, light)):
            tensor, _ = preprocessor.prepare(seen)
            mean, spread = session.run(["mean", "spread"], {name: tensor})
            rows.append(np.concatenate([mean.reshape(-1), spread.reshape(-1)]))
    count = len(rows) // 2
    if count < _LEAST_PICTURES:
        reason = f"{count} pictures are too few; bring {_LEAST_PICTURES}, better 200"
        raise NoveltyError(reason=reason)
    known = np.asarray(rows, np.float64)
    distances = np.concatenate(
        [
            _distances(known[test], *_fit(np.delete(known, test, axis=0)))
            for test in np.array_split(np.arange(len(known)), _FOLDS)  # neighbours stay together
        ]
    )
    centre, whitener = _fit(known)
    graph = _distance(stem, centre, whitener, max(float(np.quantile(distances, 0.95)), _TINY))
    return NoveltySpec(pictures=count), graph.SerializeToString(deterministic=True)


def add_novelty(
    bundle: Bundle, pictures: Iterable[Image], *, out: Path | str, version: int | None = None
) -> Bundle:
    """The same model with a novelty graph; its digest is another.

    Args:
        bundle: The model.
        pictures: See `make_novelty`.
        out: Folder of the new bundle.
        version: Its version, for a model that was published before; by default that of the model.

    Raises:
        NoveltyError: As for `make_novelty`.
        EngineError: The runtime refuses the graph.
        FileExistsError: `out` holds something else.
    """
    from edgebus.serving.probe import make_probe

    spec, graph = make_novelty(bundle, pictures)
    lineage = {} if version is None else {"version": version, "parent": bundle.digest}
    workload = bundle.manifest.workload | {"novelty": spec.model_dump(mode="json")}
    return write_bundle(
        out,
        manifest=bundle.manifest.model_copy(update={"workload": workload, **lineage}),
        graph=bundle.graph_bytes(),
        weights=bundle.weights.data,
        probe=make_probe if bundle.manifest.probe is not None else None,
        files={spec.file: graph},
    )


def _session(data: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # Beside the model: one thread, and none that spins.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _in_other_light(picture: Image, random: np.random.Generator) -> Image:
    """A picture as the same camera might take it under a cloud."""
    values = picture.astype(np.float32)
    mean = values.mean()
    values = (values - mean) * random.uniform(0.9, 1.1) + mean * random.uniform(0.85, 1.15)
    values = (values + random.uniform(-10, 10)) * random.uniform(0.96, 1.04, 3)
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _stem(source: ModelSource) -> onnx.ModelProto:
    """The part of a graph up to its first convolution, its weights inside, without outputs.

    Behind the convolution come `mean` and `spread`, both [1, channels, 1, 1].
    """
    model = onnx.load_model_from_string(source.graph_bytes())
    conv = next((node for node in model.graph.node if node.op_type == "Conv"), None)
    if conv is None:
        raise NoveltyError(reason="the graph has no convolution; it needs one to look through")
    nodes = _ancestors(model.graph.node, conv)
    used = {name for node in nodes for name in node.input}
    weights = source.tensors()
    constants = [item for item in model.graph.initializer if item.name in used - weights.keys()]
    constants += [
        numpy_helper.from_array(np.ascontiguousarray(weights[name]), name)
        for name in sorted(used & weights.keys())
    ]
    constants += [
        numpy_helper.from_array(np.array(_TINY, np.float32), "novelty.tiny"),
        numpy_helper.from_array(np.array(0.5, np.float32), "novelty.half"),
    ]
    nodes[-1] = _coarse(conv)
    made = conv.output[0]
    nodes += [
        helper.make_node("GlobalAveragePool", [made], ["mean"]),
        helper.make_node("Sub", [made, "mean"], ["novelty.off"]),
        helper.make_node("Mul", ["novelty.off", "novelty.off"], ["novelty.square"]),
        helper.make_node("GlobalAveragePool", ["novelty.square"], ["novelty.variance"]),
        helper.make_node("Add", ["novelty.variance", "novelty.tiny"], ["novelty.safe"]),
        helper.make_node("Log", ["novelty.safe"], ["novelty.log"]),
        helper.make_node("Mul", ["novelty.log", "novelty.half"], ["spread"]),
    ]
    name = source.manifest.inputs[0].name
    inputs = [item for item in model.graph.input if item.name == name]
    graph = helper.make_graph(nodes, "novelty", inputs, [], constants)
    return helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=min(model.ir_version, 10)
    )


def _coarse(conv: onnx.NodeProto) -> onnx.NodeProto:
    """A convolution that leaves out every other row and column of what it made.

    The statistics are the same, at a quarter of the cost.
    """
    coarse = onnx.NodeProto()
    coarse.CopyFrom(conv)
    strides = [item for item in coarse.attribute if item.name == "strides"]
    if strides:
        strides[0].ints[:] = [2 * step for step in strides[0].ints]
    else:
        coarse.attribute.append(helper.make_attribute("strides", [2, 2]))
    return coarse


def _ancestors(nodes: Sequence[onnx.NodeProto], last: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A node and all that it depends on, in the order of the graph."""
    wanted = set(last.input)
    found = [last]
    for node in reversed(nodes):
        if node is not last and wanted & set(node.output):
            wanted |= set(node.input)
            found.append(node)
    return found[::-1]


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in names:
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copy


def _distance(
    stem: onnx.ModelProto, centre: Vector, whitener: Vector, scale: float
) -> onnx.ModelProto:
    """The stem with the distance behind it."""
    model = _with_outputs(stem, [_OUTPUT])
    size = len(centre)
    for name, value in (
        ("novelty.centre", centre.reshape(1, size)),
        ("novelty.whitener", whitener / scale),
        ("novelty.ones", np.ones((size, 1))),
    ):
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    model.graph.node.extend(
        [
            helper.make_node("Concat", ["mean", "spread"], ["novelty.both"], axis=1),
            helper.make_node("Flatten", ["novelty.both"], ["novelty.flat"], axis=1),
            helper.make_node("Sub", ["novelty.flat", "novelty.centre"], ["novelty.away"]),
            helper.make_node("MatMul", ["novelty.away", "novelty.whitener"], ["novelty.white"]),
            helper.make_node("Mul", ["novelty.white", "novelty.white"], ["novelty.squares"]),
            helper.make_node("MatMul", ["novelty.squares", "novelty.ones"], ["novelty.sum"]),
            helper.make_node("Sqrt", ["novelty.sum"], [_OUTPUT]),
        ]
    )
    return model


def _fit(rows: Vector) -> tuple[Vector, Vector]:
    """Mean of some rows, and the matrix W with W W^T = C^-1 for their shrunk covariance C."""
    centre = rows.mean(axis=0)
    deviation = np.maximum(rows.std(axis=0), 1e-3)
    scaled = (rows - centre) / deviation
    count, size = scaled.shape
    sample = scaled.T @ scaled / count
    target = np.eye(size) * np.trace(sample) / size
    spread = float(((sample - target) ** 2).sum())
    noise = float(((scaled**2).T @ (scaled**2) / count - sample**2).sum() / count)
    share = 1.0 if spread == 0 else min(1.0, noise / spread)
    covariance = (1 - share) * sample + share * target + np.eye(size) * 1e-3
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    return centre, root / deviation[:, None]


def _distances(rows: Vector, centre: Vector, whitener: Vector) -> Vector:
    found: Vector = np.linalg.norm((rows - centre) @ whitener, axis=1)
    return found
