"""Import of ONNX detection models as bundles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from edgebus.artifacts.bundle import Bundle, Limits
from edgebus.artifacts.errors import ImportRefusedError, UnsupportedOperatorError
from edgebus.artifacts.graph import GraphFacts, PortFacts, inspect_graph
from edgebus.artifacts.index import WEIGHTS, sha256
from edgebus.artifacts.manifest import EngineRequirements, TensorSpec
from edgebus.artifacts.split import fold_half_weights, split_weights
from edgebus.artifacts.tensors import DTYPES, TensorFile
from edgebus.artifacts.write import ProbeMaker, write_bundle
from edgebus.contracts import explain, utc_now
from edgebus_detection.models.heads import COCO_CLASSES, HEADS, Head, recognise
from edgebus_detection.models.spec import detection_manifest
from edgebus_detection.vision import InputSpec

__all__ = ["import_onnx", "open_bundle"]


def open_bundle(path: Path, *, imports: Path) -> Bundle:
    """Open a bundle's folder, or an ONNX file, which becomes a bundle once.

    Args:
        path: Either of the two.
        imports: Folder of the bundles that ONNX files become.

    Raises:
        BundleError: It is no bundle.
        OSError: The file is not there.
        ImportRefusedError: The ONNX file has a head that is not known.
    """
    if path.is_dir():
        return Bundle.open(path)
    folder = imports / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if not folder.exists():
        import_onnx(path, name="imported", out=folder, serve_only=True)
    return Bundle.open(folder)


def import_onnx(
    path: Path | str,
    *,
    name: str,
    out: Path | str,
    classes: Sequence[str] | None = None,
    decoder: str = "auto",
    version: int = 1,
    serve_only: bool = False,
    check: Callable[[bytes], None] | None = None,
    probe: ProbeMaker | None = None,
    input_overrides: dict[str, Any] | None = None,
    created: datetime | None = None,
) -> Bundle:
    """Make a bundle from an ONNX file.

    Args:
        path: The file, with its external data beside it if it has any.
        name: Name of the model on the bus.
        out: Folder of the bundle.
        classes: Names of the classes, in the model's order; COCO's by default for 80.
        decoder: Kind of the head, or ``auto`` to tell it by the shapes of the outputs.
        version: Version of the bundle.
        serve_only: Take a graph that cannot be trained.
        check: Raises ValueError, naming the operators, for a graph that cannot be trained:
            `edgebus.training.graph.check_supported` where torch is installed.
        probe: Makes the self-test.
        input_overrides: Fields of the `InputSpec` that differ from the head's usual ones, for
            example ``{"color": "RGB"}``.
        created: When; now by default.

    Raises:
        ImportRefusedError: The file is no ONNX model, has open shapes, several inputs, a batch
            other than one, or a head that is not known.
        UnsupportedOperatorError: It cannot be trained, and `serve_only` is not set.
        BundleError: Its weights are not finite or absurdly large.
    """
    source = Path(path)
    data = _read(source)
    model = _load(source, data)
    fold_half_weights(model)
    _infer_shapes(model)
    try:
        reason = _untrainable(source, model, check, serve_only=serve_only)
        graph, weights = split_weights(model)
    except ValueError as error:  # protobuf's 2 GB, or a tensor without data
        raise _refused(source, str(error)) from error
    if not TensorFile.parse(weights, file=WEIGHTS).entries:
        raise _refused(source, "has no float32 weights; restore full precision before importing")
    facts = inspect_graph(graph)
    port = _only_input(source, facts)
    outputs = tuple(_closed(source, "output", port) for port in facts.outputs)
    types = [DTYPES[port.dtype].name for port in facts.outputs]
    layout, height, width = _picture(source, port)
    kind, head, count = _head(
        source, decoder, facts, size=(height, width), outputs=tuple(shape for _, shape in outputs)
    )
    fields: dict[str, Any] = {
        "name": port.name,
        "height": height,
        "width": width,
        "layout": layout,
        "dtype": "uint8" if port.dtype == "U8" else "float32",
    }
    try:
        manifest = detection_manifest(
            name=name,
            version=version,
            picture=InputSpec.model_validate(fields | head.input | (input_overrides or {})),
            outputs=[
                TensorSpec.model_validate({"name": label, "dtype": dtype, "shape": shape})
                for (label, shape), dtype in zip(outputs, types, strict=True)
            ],
            decoder=head.decoder,
            classes=_classes(source, kind, classes, count),
            engine=EngineRequirements(
                opset=facts.opset, ir_version=facts.ir_version, operators=facts.operators
            ),
            created=created or utc_now(),
            trainable=reason is None or check is None,
            trainable_reason=reason,
            origin=f"imported from {source.name}, SHA-256 {sha256(data)}",
        )
    except ValidationError as error:
        raise _refused(source, explain(error)) from error
    return write_bundle(out, manifest=manifest, graph=graph, weights=weights, probe=probe)


def _refused(path: Path, reason: str) -> ImportRefusedError:
    return ImportRefusedError(path=str(path), reason=reason)


def _read(path: Path) -> bytes:
    limit = Limits().weights
    try:
        if path.stat().st_size > limit:
            raise _refused(path, f"has {path.stat().st_size} bytes, more than {limit}")
        return path.read_bytes()
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error


def _load(path: Path, data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except DecodeError as error:
        raise _refused(path, "is no ONNX file, or is cut off") from error
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise _refused(path, f"is no valid ONNX model: {error}") from error
    return model


def _infer_shapes(model: onnx.ModelProto) -> None:
    """Fill in the shapes of outputs that the exporter left open but that follow."""
    closed = all(
        dim.dim_value > 0 for item in model.graph.output for dim in item.type.tensor_type.shape.dim
    )
    if closed and all(item.type.tensor_type.shape.dim for item in model.graph.output):
        return
    known = {item.name: item for item in onnx.shape_inference.infer_shapes(model).graph.output}
    for item in model.graph.output:
        item.CopyFrom(known[item.name])


def _untrainable(
    path: Path,
    model: onnx.ModelProto,
    check: Callable[[bytes], None] | None,
    *,
    serve_only: bool,
) -> str | None:
    """The reason why the graph cannot be trained; None if it can."""
    if check is None:
        return "not checked at import: torch was not installed"
    try:
        check(model.SerializeToString())
    except ValueError as error:
        if serve_only:
            return str(error)
        raise UnsupportedOperatorError(path=str(path), detail=str(error)) from error
    return None


def _only_input(path: Path, facts: GraphFacts) -> PortFacts:
    if len(facts.inputs) != 1:
        names = ", ".join(port.name for port in facts.inputs) or "none"
        raise _refused(path, f"has {len(facts.inputs)} inputs ({names}); one picture is expected")
    port = facts.inputs[0]
    if port.dtype not in {"F32", "U8"}:
        raise _refused(path, f"input {port.name} is {port.dtype}; it must be float32 or uint8")
    return port


def _closed(path: Path, what: str, port: PortFacts) -> tuple[str, tuple[int, ...]]:
    """Name and shape, with every dimension given."""
    shape = tuple(size for size in port.shape if size is not None)
    if not shape or len(shape) != len(port.shape):
        raise _refused(
            path,
            f"{what} {port.name} has the open shape {list(port.shape)}; fix it first, for example "
            "with python -m onnxruntime.tools.make_dynamic_shape_fixed",
        )
    return port.name, shape


def _picture(path: Path, port: PortFacts) -> tuple[str, int, int]:
    name, shape = _closed(path, "input", port)
    if len(shape) == 4 and shape[0] != 1:
        raise _refused(path, f"input {name} has a batch of {shape[0]}; export it with a batch of 1")
    if len(shape) == 4 and shape[1] == 3:
        return "NCHW", shape[2], shape[3]
    if len(shape) == 4 and shape[3] == 3:
        return "NHWC", shape[1], shape[2]
    raise _refused(path, f"input {name} {list(shape)} is no picture of three channels")


def _head(
    path: Path,
    decoder: str,
    facts: GraphFacts,
    *,
    size: tuple[int, int],
    outputs: tuple[tuple[int, ...], ...],
) -> tuple[str, Head, int]:
    height, width = size
    shapes = ", ".join(str(list(shape)) for shape in outputs)
    if decoder != "auto" and decoder not in HEADS:
        raise _refused(path, f"no decoder {decoder!r}; there are {', '.join(HEADS)}")
    found = recognise(height, width, outputs)
    if decoder != "auto":
        found = {kind: count for kind, count in found.items() if kind == decoder}
    if not found:
        wanted = [decoder] if decoder != "auto" else list(HEADS)
        known = "; ".join(f"{kind}: {HEADS[kind].expects}" for kind in wanted)
        raise _refused(
            path, f"its outputs {shapes} for a {width} x {height} input fit no head ({known})"
        )
    if len(found) > 1:
        raise _refused(path, f"its outputs fit {', '.join(found)}; say which with --decoder")
    kind, count = next(iter(found.items()))
    if kind == "yolox" and "Exp" in facts.operators:
        raise _refused(
            path, "its boxes are decoded in the graph; export YOLOX with decode_in_inference=False"
        )
    return kind, HEADS[kind], count


def _classes(path: Path, kind: str, names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        if count == len(COCO_CLASSES):
            return COCO_CLASSES
        raise _refused(
            path,
            f"its {kind} head has {count} classes that it does not name; make a bundle with their "
            f"names, one a line: edgebus model import {path.name} --classes names.txt",
        )
    if len(names) != count:
        raise _refused(path, f"its {kind} head has {count} classes, {len(names)} names were given")
    return tuple(names)
