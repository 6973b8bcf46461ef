"""Import of ONNX detection models as bundles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgebus.artifacts import Bundle, OnnxFile, ProbeMaker
from edgebus.artifacts.graph import PortFacts
from edgebus.contracts import explain
from edgebus_detection.datasets.coco import COCO_CLASSES
from edgebus_detection.models.heads import HEADS, Head, recognise
from edgebus_detection.models.spec import detection_manifest
from edgebus_detection.vision import InputSpec


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
    file = OnnxFile.open(path, check=check, serve_only=serve_only)
    port = _only_input(file)
    shapes = tuple(_closed(file, "output", each)[1] for each in file.facts.outputs)
    layout, height, width = _picture(file, port)
    kind, head, count = _head(file, decoder, size=(height, width), outputs=shapes)
    fields: dict[str, Any] = {
        "name": port.name,
        "height": height,
        "width": width,
        "layout": layout,
        "dtype": "uint8" if port.dtype == "U8" else "float32",
    }
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
        outputs=file.outputs,
        decoder=head.decoder,
        classes=_classes(file, kind, classes, count),
    )


def _only_input(file: OnnxFile) -> PortFacts:
    inputs = file.facts.inputs
    if len(inputs) != 1:
        names = ", ".join(port.name for port in inputs) or "none"
        raise file.refused(f"has {len(inputs)} inputs ({names}); one picture is expected")
    port = inputs[0]
    if port.dtype not in {"F32", "U8"}:
        raise file.refused(f"input {port.name} is {port.dtype}; it must be float32 or uint8")
    return port


def _closed(file: OnnxFile, what: str, port: PortFacts) -> tuple[str, tuple[int, ...]]:
    """Name and shape, with every dimension given."""
    shape = tuple(size for size in port.shape if size is not None)
    if not shape or len(shape) != len(port.shape):
        raise file.refused(
            f"{what} {port.name} has the open shape {list(port.shape)}; fix it first, for example "
            "with python -m onnxruntime.tools.make_dynamic_shape_fixed",
        )
    return port.name, shape


def _picture(file: OnnxFile, port: PortFacts) -> tuple[str, int, int]:
    name, shape = _closed(file, "input", port)
    if len(shape) == 4 and shape[0] != 1:
        raise file.refused(f"input {name} has a batch of {shape[0]}; export it with a batch of 1")
    if len(shape) == 4 and shape[1] == 3:
        return "NCHW", shape[2], shape[3]
    if len(shape) == 4 and shape[3] == 3:
        return "NHWC", shape[1], shape[2]
    raise file.refused(f"input {name} {list(shape)} is no picture of three channels")


def _head(
    file: OnnxFile,
    decoder: str,
    *,
    size: tuple[int, int],
    outputs: tuple[tuple[int, ...], ...],
) -> tuple[str, Head, int]:
    height, width = size
    shapes = ", ".join(str(list(shape)) for shape in outputs)
    if decoder != "auto" and decoder not in HEADS:
        raise file.refused(f"no decoder {decoder!r}; there are {', '.join(HEADS)}")
    found = recognise(height, width, outputs)
    if decoder != "auto":
        found = {kind: count for kind, count in found.items() if kind == decoder}
    if not found:
        wanted = [decoder] if decoder != "auto" else list(HEADS)
        known = "; ".join(f"{kind}: {HEADS[kind].expects}" for kind in wanted)
        raise file.refused(
            f"its outputs {shapes} for a {width} x {height} input fit no head ({known})"
        )
    if len(found) > 1:
        raise file.refused(f"its outputs fit {', '.join(found)}; say which with --decoder")
    kind, count = next(iter(found.items()))
    if kind == "yolox" and "Exp" in file.facts.operators:
        raise file.refused(
            "its boxes are decoded in the graph; export YOLOX with decode_in_inference=False"
        )
    return kind, HEADS[kind], count


def _classes(file: OnnxFile, kind: str, names: Sequence[str] | None, count: int) -> tuple[str, ...]:
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
