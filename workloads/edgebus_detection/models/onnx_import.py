"""Import of ONNX detection models as bundles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from edgebus.artifacts import Array, Bundle, ImportRefusedError, OnnxFile, ProbeMaker
from edgebus.artifacts.graph import PortFacts
from edgebus.contracts import explain
from edgebus.serving import InferenceError
from edgebus_detection.datasets.coco import COCO_CLASSES
from edgebus_detection.models.box_layout import LAYOUTS, Layout, find_layout, run_on_picture
from edgebus_detection.models.heads import HEADS, Head, recognise
from edgebus_detection.models.named import named_classes, other_task
from edgebus_detection.models.spec import detection_manifest
from edgebus_detection.vision import InputSpec

_ROUNDING: Final = 1e-3


def open_bundle(path: Path, *, imports: Path) -> Bundle:
    """Open a bundle's folder, or an ONNX file, which becomes a bundle once.

    Args:
        path: Either of the two.
        imports: Folder of the bundles that ONNX files become.

    Raises:
        BundleError: It is no bundle.
        ImportRefusedError: The ONNX file is not there, or has a head that is not known.
    """
    if path.is_dir():
        return Bundle.open(path)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImportRefusedError(
            path=str(path), reason=f"cannot be read: {error.strerror}"
        ) from error
    folder = imports / digest[:16]
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
        classes: Names of the classes, in the model's order; by default those in the file's
            metadata, else COCO's for 80.
        decoder: Kind of the head, or ``auto`` to tell it by shapes and numbers of the outputs.
        version: Version of the bundle.
        serve_only: Take a graph that cannot be trained.
        check: Raises ValueError, naming the operators, for a graph that cannot be trained:
            `edgebus.training.graph.check_supported` where torch is installed.
        probe: Makes the self-test.
        input_overrides: Fields of the `InputSpec` that differ from the head's usual ones, for
            example ``{"color": "RGB"}``.
        created: When; now by default.

    Raises:
        ImportRefusedError: The file is no ONNX model, has an open picture size, several inputs, a
            batch other than one, another task, or a head that is not known.
        UnsupportedOperatorError: It cannot be trained, and `serve_only` is not set.
        BundleError: Its weights are not finite or absurdly large.
    """
    file = OnnxFile.open(path, check=check)
    if task := other_task(file.metadata):
        raise file.refused(
            f"its task is {task!r}; a detector is needed, whose outputs are boxes and classes"
        )
    port = _only_input(file)
    layout, height, width = _picture(file, port)
    fields: dict[str, Any] = {
        "name": port.name,
        "height": height,
        "width": width,
        "layout": layout,
        "dtype": "uint8" if port.dtype == "U8" else "float32",
    }
    outputs = _run(file, fields)
    kind, head, count = _head(file, decoder, size=(height, width), outputs=outputs)
    names = _classes(file, kind, classes, count)
    if not serve_only:
        file.require_trainable()
    try:
        picture = InputSpec.model_validate(fields | head.input | (input_overrides or {}))
    except ValidationError as error:
        raise file.refused(explain(error)) from error
    return file.write(
        out,
        manifest=detection_manifest,
        probe=probe,
        version=version,
        created=created,
        name=name,
        picture=picture,
        outputs=[
            spec.model_copy(update={"shape": outputs[spec.name].shape}) for spec in file.outputs
        ],
        decoder=head.decoder,
        classes=names,
    )


def _only_input(file: OnnxFile) -> PortFacts:
    inputs = file.facts.inputs
    if len(inputs) != 1:
        names = ", ".join(port.name for port in inputs) or "none"
        raise file.refused(f"has {len(inputs)} inputs ({names}); one picture is expected")
    if not file.facts.outputs:
        raise file.refused("is no valid ONNX model: it has no outputs")
    port = inputs[0]
    if port.dtype not in {"F32", "U8"}:
        raise file.refused(f"input {port.name} is {port.dtype}; it must be float32 or uint8")
    return port


def _picture(file: OnnxFile, port: PortFacts) -> tuple[str, int, int]:
    name = port.name
    shape = tuple(size for size in port.shape if size is not None)
    if not shape or len(shape) != len(port.shape):
        example = "1,640,640,3" if port.shape[-1:] == (3,) else "1,3,640,640"
        raise file.refused(
            f"input {name} has the open shape {_shown(port.shape)}; export it with a fixed size, "
            "or fix it: python -m onnxruntime.tools.make_dynamic_shape_fixed --input_name "
            f"{name} --input_shape {example} {file.path.name} fixed.onnx"
        )
    if len(shape) == 4 and shape[0] != 1:
        raise file.refused(f"input {name} has a batch of {shape[0]}; export it with a batch of 1")
    if len(shape) == 4 and shape[1] == 3:
        return "NCHW", shape[2], shape[3]
    if len(shape) == 4 and shape[3] == 3:
        return "NHWC", shape[1], shape[2]
    raise file.refused(f"input {name} {list(shape)} is no picture of three channels")


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _run(file: OnnxFile, fields: dict[str, Any]) -> dict[str, Array]:
    """The outputs for a picture whose values are small enough for any head."""
    scale = () if fields["dtype"] == "uint8" else (255.0, 255.0, 255.0)
    try:
        picture = InputSpec.model_validate(fields | ({"std": scale} if scale else {}))
        return run_on_picture(file, picture)
    except ValidationError as error:
        raise file.refused(explain(error)) from error
    except InferenceError as error:
        raise file.refused(f"does not run: {error}") from error


def _head(
    file: OnnxFile, decoder: str, *, size: tuple[int, int], outputs: dict[str, Array]
) -> tuple[str, Head, int]:
    height, width = size
    values = list(outputs.values())
    shapes = ", ".join(str(list(value.shape)) for value in values)
    if decoder != "auto" and decoder not in HEADS:
        raise file.refused(f"no decoder {decoder!r}; there are {', '.join(HEADS)}")
    found = recognise(height, width, tuple(value.shape for value in values))
    if decoder == "auto" and "yolox" in found:
        kinds = ("yolox", "yolox-decoded", "yolov6")
        right = _yolox_kind(file, values[0][0], size)
        found = {kind: count for kind, count in found.items() if kind not in kinds or kind == right}
    if decoder != "auto":
        found = {kind: count for kind, count in found.items() if kind == decoder}
    if not found:
        known = ", ".join(HEADS)
        if decoder != "auto":
            known = f"{decoder}: {HEADS[decoder].expects}"
        raise file.refused(
            f"its outputs {shapes} for a {width} x {height} input fit no head ({known})"
        )
    if len(found) > 1:
        raise file.refused(f"its outputs fit {', '.join(found)}; say which with --decoder")
    kind, count = next(iter(found.items()))
    if kind == "yolov8":
        rows = values[0][0].T
        place = find_layout(rows, height=height, width=width, expected="pixels")
        if place not in {"pixels", None}:
            raise _strange_boxes(file, kind, place)
        _check_scores(file, kind, rows[:, 4:])
    elif kind in {"yolox", "yolox-decoded", "yolov6"}:
        _check_scores(file, kind, values[0][0][:, 4:])
    return kind, HEADS[kind], count


def _yolox_kind(file: OnnxFile, rows: Array, size: tuple[int, int]) -> str:
    """Which of the heads with YOLOX's shape it is; they differ in what a box's numbers are."""
    found = find_layout(rows, height=size[0], width=size[1], expected="grid")
    if found == "grid":
        return "yolox"
    if found != "pixels":
        raise _strange_boxes(file, "yolox", found)
    # YOLOv6 has no objectness: its export writes 1 in the place of one.
    return "yolov6" if np.all(rows[:, 4] == 1) else "yolox-decoded"


def _strange_boxes(file: OnnxFile, kind: str, found: Layout | None) -> ImportRefusedError:
    what = "are nowhere near their cells" if found is None else f"are {LAYOUTS[found]}"
    return file.refused(
        f"its outputs have the shape of a {kind} head, but its boxes {what}; export it with boxes "
        "as centres and sizes in pixels"
    )


def _check_scores(file: OnnxFile, kind: str, scores: Array) -> None:
    """Refuse scores that are no probabilities: keypoints, angles, masks, logits."""
    low, high = float(scores.min()), float(scores.max())
    if low == high and "DequantizeLinear" in file.facts.operators:
        raise file.refused(
            f"its scores are all {low:.3g}: it was quantized with boxes and scores in one scale; "
            "quantize its convolutions only (quantize_static, op_types_to_quantize=['Conv'])"
        )
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise file.refused(
            f"its outputs have the shape of a {kind} head, but its scores go from {low:.3g} to "
            f"{high:.3g}: is it a pose, oriented or segmentation model, or one without its sigmoid?"
        )


def _classes(file: OnnxFile, kind: str, names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    named = named_classes(file.metadata)
    if names is None and named is not None:
        if len(named) != count:
            raise file.refused(
                f"its metadata names {len(named)} classes, its outputs hold {count} of a {kind} "
                "head: is it a pose, oriented or segmentation model?"
            )
        return named
    if names is None:
        if count == len(COCO_CLASSES):
            return COCO_CLASSES
        raise file.refused(
            f"its {kind} head has {count} classes that it does not name; make a bundle with their "
            f"names, one a line: edgebus model import {file.path.name} --classes names.txt",
        )
    if len(names) != count:
        raise file.refused(f"its {kind} head has {count} classes, {len(names)} names were given")
    return tuple(names)
