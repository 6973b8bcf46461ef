"""ONNX files of many exporters: told apart by numbers and metadata, or refused with what helps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from edgebus.artifacts import Bundle, ImportRefusedError, UnsupportedOperatorError
from edgebus.artifacts.split import fold_half_weights
from edgebus.training.graph import UnsupportedGraphError, check_supported
from edgebus_detection.models import COCO_CLASSES, DetectionModel, detection_spec, import_onnx
from edgebus_detection.vision import read_picture

_SIDE = 128
_STRIDES = (8, 16, 32)


def _cells() -> tuple[np.ndarray, np.ndarray]:
    places, strides = [], []
    for stride in _STRIDES:
        y, x = np.mgrid[: _SIDE // stride, : _SIDE // stride]
        places.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(places).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _boxes(layout: str) -> np.ndarray:
    """Boxes as a detector gives them: near their cells, of all sizes."""
    random = np.random.default_rng(0)
    places, strides = _cells()
    offset = random.normal(0.5, 0.4, places.shape).astype(np.float32)
    size = np.exp(random.normal(0.7, 0.5, places.shape)).astype(np.float32) * strides
    centre = (places + offset) * strides
    corners = np.concatenate([centre - size / 2, centre + size / 2], 1)
    return {
        "grid": np.concatenate([offset, np.log(size / strides)], 1),
        "pixels": np.concatenate([centre, size], 1),
        "corners": corners,
        "shares": np.concatenate([centre, size], 1) / _SIDE,
        "corner shares": corners / _SIDE,
    }[layout]


def _scores(count: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 0.2, (count, width)).astype(np.float32)


def detector(path: Path, rows: np.ndarray, *, transposed: bool = False, **metadata: str) -> Path:
    """A graph whose output is `rows` [n, k] (or its transpose), for any picture."""
    value = rows.T if transposed else rows
    tensors = {
        "w": np.zeros((1, 3, _SIDE, _SIDE), np.float32),
        "rows": value[None].astype(np.float32),
        "flat": np.array([1, 1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "flat"], ["zero"]),
        helper.make_node("Add", ["rows", "zero"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, _SIDE, _SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, *value.shape])],
        [numpy_helper.from_array(each, name) for name, each in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    onnx.save(model, str(path))
    return path


def yolox(path: Path, layout: str, *, objectness: float | None = None, **metadata: str) -> Path:
    boxes = _boxes(layout)
    first = (
        _scores(len(boxes), 1)
        if objectness is None
        else np.full((len(boxes), 1), objectness, np.float32)
    )
    return detector(path, np.concatenate([boxes, first, _scores(len(boxes), 3)], 1), **metadata)


def yolov8(path: Path, layout: str, *, extra: np.ndarray | None = None, **metadata: str) -> Path:
    boxes = _boxes(layout)
    parts = [boxes, _scores(len(boxes), 3)] + ([] if extra is None else [extra])
    return detector(path, np.concatenate(parts, 1), transposed=True, **metadata)


ABC = ("a", "b", "c")


@pytest.mark.parametrize(
    ("layout", "objectness", "decoder", "color"),
    [
        ("grid", None, "yolox", "BGR"),
        ("pixels", None, "yolox-decoded", "BGR"),  # decode_in_inference=True
        ("pixels", 1.0, "yolox-decoded", "RGB"),  # YOLOv6
    ],
)
def test_heads_of_one_shape_are_told_apart_by_numbers(
    tmp_path: Path, layout: str, objectness: float | None, decoder: str, color: str
) -> None:
    path = yolox(tmp_path / "m.onnx", layout, objectness=objectness)
    spec = detection_spec(import_onnx(path, name="m", out=tmp_path / "b", classes=ABC).manifest)
    assert spec.decoder.kind == decoder
    assert spec.picture.color == color


@pytest.mark.parametrize("layout", ["corners", "shares", "corner shares"])
@pytest.mark.parametrize("head", [yolox, yolov8])
def test_boxes_that_no_decoder_reads_are_refused(tmp_path: Path, head, layout: str) -> None:
    path = head(tmp_path / "m.onnx", layout)
    with pytest.raises(ImportRefusedError, match=r"boxes are .*(corners|shares)"):
        import_onnx(path, name="m", out=tmp_path / "b", classes=ABC)


def test_boxes_of_yolov8_in_pixels_are_served(tmp_path: Path) -> None:
    path = yolov8(tmp_path / "m.onnx", "pixels")
    bundle = import_onnx(path, name="m", out=tmp_path / "b", classes=ABC)
    assert detection_spec(bundle.manifest).decoder.kind == "yolov8"


@pytest.mark.parametrize(
    "names",
    [
        {"names": "{0: 'forklift', 1: \"worker's hat\", 2: 'car'}", "task": "detect"},
        {"names": json.dumps({"0": "forklift", "2": "car", "1": "worker's hat"})},
        {"names": json.dumps(["forklift", "worker's hat", "car"])},
        {"class_names": "forklift, worker's hat, car"},
        {"classes": "forklift\nworker's hat\ncar\n", "task": "object-detection"},
        {"id2label": json.dumps({"0": "forklift", "1": "worker's hat", "2": "car"})},
    ],
)
def test_classes_come_from_the_files_metadata(tmp_path: Path, names: dict[str, str]) -> None:
    path = yolov8(tmp_path / "m.onnx", "pixels", **names)
    spec = detection_spec(import_onnx(path, name="m", out=tmp_path / "b").manifest)
    assert spec.classes == ("forklift", "worker's hat", "car")
    given = import_onnx(path, name="m", out=tmp_path / "c", classes=ABC)
    assert detection_spec(given.manifest).classes == ABC


@pytest.mark.parametrize(
    "names", ["{0: 'a', 2: 'b', 3: 'c'}", "{0: 'a', 1: 'a', 2: 'a'}", "__import__('os')", ""]
)
def test_metadata_that_names_nothing_is_as_none(tmp_path: Path, names: str) -> None:
    path = yolov8(tmp_path / "m.onnx", "pixels", names=names)
    with pytest.raises(ImportRefusedError, match=r"3 classes that it does not name|metadata names"):
        import_onnx(path, name="m", out=tmp_path / "b")


@pytest.mark.parametrize(
    "task", ["pose", "obb", "segment", "classify", "keypoint-detection", "instance-segmentation"]
)
def test_a_model_of_another_task_is_refused_by_it(tmp_path: Path, task: str) -> None:
    path = yolov8(tmp_path / "m.onnx", "pixels", task=task, names="{0: 'a', 1: 'b', 2: 'c'}")
    for classes in (None, ABC):
        with pytest.raises(ImportRefusedError, match=f"its task is '{task}'; a detector is needed"):
            import_onnx(path, name="m", out=tmp_path / "b", classes=classes, serve_only=True)


def test_another_task_without_its_name_is_found_by_what_it_gives(tmp_path: Path) -> None:
    count = len(_cells()[0])
    keypoints = np.random.default_rng(2).uniform(0, _SIDE, (count, 51)).astype(np.float32)
    pose = yolov8(tmp_path / "pose.onnx", "pixels", extra=keypoints)
    with pytest.raises(ImportRefusedError, match=r"scores go from .*pose, oriented"):
        import_onnx(pose, name="m", out=tmp_path / "b", classes=["c"] * 54)
    angle = np.random.default_rng(2).uniform(-0.7, 2, (count, 1)).astype(np.float32)
    oriented = yolov8(tmp_path / "obb.onnx", "pixels", extra=angle, names="['a', 'b', 'c']")
    with pytest.raises(ImportRefusedError, match="pose, oriented"):
        import_onnx(oriented, name="m", out=tmp_path / "b")
    quiet = yolov8(tmp_path / "q.onnx", "pixels", extra=angle * 0, names="['a', 'b', 'c']")
    with pytest.raises(ImportRefusedError, match="names 3 classes, its outputs hold 4"):
        import_onnx(quiet, name="m", out=tmp_path / "b")


def test_one_reason_is_given_and_its_advice_works(tmp_path: Path) -> None:
    path = yolov8(tmp_path / "m.onnx", "pixels", names="['a', 'b', 'c']")
    model = onnx.load(str(path))
    model.graph.node[-1].output[0] = "x0"
    kinds = [*["Round"] * 33, "Mish"]
    for number, kind in enumerate(kinds, start=1):
        out = "output" if number == len(kinds) else f"x{number}"
        model.graph.node.append(helper.make_node(kind, [f"x{number - 1}"], [out]))
    model.opset_import[0].version = 18
    onnx.save(model, str(path))
    with pytest.raises(UnsupportedOperatorError) as refused:
        import_onnx(path, name="m", out=tmp_path / "b", check=check_supported)
    assert len(str(refused.value)) < 400
    assert "Round" in str(refused.value)
    assert "and 33 more" in str(refused.value)
    assert isinstance(refused.value.__cause__, UnsupportedGraphError)
    assert len(refused.value.__cause__.problems) == 34
    bundle = import_onnx(path, name="m", out=tmp_path / "b", check=check_supported, serve_only=True)
    assert len(bundle.manifest.trainable_reason or "") < 300


def test_what_serve_only_would_refuse_too_is_said_first(tmp_path: Path) -> None:
    path = yolov8(tmp_path / "m.onnx", "shares")

    def check(_: bytes) -> None:
        raise ValueError("Loop")

    with pytest.raises(ImportRefusedError, match="boxes are") as refused:
        import_onnx(path, name="m", out=tmp_path / "b", classes=ABC, check=check)
    assert "--serve-only" not in str(refused.value)


# Real files.


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("EDGEBUS_DATA")
    if not folder:
        pytest.skip("EDGEBUS_DATA is not set: no real detectors here")
    return Path(folder)


@pytest.fixture(scope="module")
def yolov8n(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = onnx.load(str(data / "models/yolov8n_640_f16w.onnx"))
    fold_half_weights(model)
    path = tmp_path_factory.mktemp("v8") / "y8n.onnx"
    onnx.save(model, str(path))
    return path


def found(bundle: Bundle, picture: np.ndarray) -> list[tuple[str, int, int]]:
    """What is surely there: label, and corner on a grid of 40 pixels."""
    seen = DetectionModel.load(bundle).predict(picture).found
    names = detection_spec(bundle.manifest).classes
    return sorted(
        (names[label], round(box[0] / 40), round(box[1] / 40))
        for box, score, label in zip(seen.boxes, seen.scores, seen.labels, strict=True)
        if score > 0.6
    )


def _halved(model: onnx.ModelProto) -> None:
    graph = model.graph
    tensors = [*graph.initializer]
    tensors += [item.t for node in graph.node for item in node.attribute if item.HasField("t")]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for item in (*graph.input, *graph.output, *graph.value_info):
        if item.type.tensor_type.elem_type == TensorProto.FLOAT:
            item.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in graph.node:
        for item in node.attribute:
            if item.name == "to" and item.i == TensorProto.FLOAT:
                item.i = TensorProto.FLOAT16
    # As Ultralytics' half=True leaves them.
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes[::-1])


def _like_yolov6(source: Path, target: Path) -> None:
    """[1, N, 4 + objectness 1 + classes], as YOLOv6 exports."""
    model = onnx.load(str(source))
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["v8" if name == graph.output[0].name else name for name in node.output]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("outputs", 1, [1, 8400, 85]))
    numbers = {"a0": [0], "a4": [4], "a84": [84], "axis": [2]}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()
    )
    graph.initializer.append(numpy_helper.from_array(np.ones((1, 8400, 1), np.float32), "ones"))
    graph.node.extend(
        [
            helper.make_node("Transpose", ["v8"], ["t"], perm=[0, 2, 1]),
            helper.make_node("Slice", ["t", "a0", "a4", "axis"], ["boxes"]),
            helper.make_node("Slice", ["t", "a4", "a84", "axis"], ["classes"]),
            helper.make_node("Concat", ["boxes", "ones", "classes"], ["outputs"], axis=2),
        ]
    )
    onnx.save(model, str(target))


def test_quantized_half_and_yolov6_files_detect_what_the_model_detects(
    data: Path, yolov8n: Path, tmp_path: Path
) -> None:
    picture = read_picture(data / "images/bus.jpg")
    expected = found(import_onnx(yolov8n, name="m", out=tmp_path / "full"), picture)
    assert {label for label, _, _ in expected} == {"bus", "person"}

    model = onnx.load(str(yolov8n))
    _halved(model)
    (tmp_path / "half.onnx").write_bytes(model.SerializeToString())
    half = import_onnx(
        tmp_path / "half.onnx", name="m", out=tmp_path / "half", check=check_supported
    )
    assert half.manifest.trainable
    assert found(half, picture) == expected

    quantize_dynamic(yolov8n, tmp_path / "int8.onnx", weight_type=QuantType.QUInt8)
    quantize_static(yolov8n, tmp_path / "blind.onnx", _Calibration(picture), QuantFormat.QDQ)
    with pytest.raises(ImportRefusedError, match=r"scores are all 0.*\['Conv'\]"):
        import_onnx(tmp_path / "blind.onnx", name="m", out=tmp_path / "blind", serve_only=True)
    quantize_static(
        yolov8n,
        tmp_path / "qdq.onnx",
        _Calibration(picture),
        QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
    )
    for name in ("int8", "qdq"):
        path = tmp_path / f"{name}.onnx"
        with pytest.raises(UnsupportedOperatorError, match="it is quantized to int8") as refused:
            import_onnx(path, name="m", out=tmp_path / name, check=check_supported)
        assert len(str(refused.value)) < 400
        assert "--serve-only" in str(refused.value)
        served = import_onnx(
            path, name="m", out=tmp_path / name, check=check_supported, serve_only=True
        )
        assert {label for label, _, _ in found(served, picture)} <= {"bus", "person"}
        assert len(found(served, picture)) >= 3

    _like_yolov6(yolov8n, tmp_path / "v6.onnx")
    v6 = import_onnx(tmp_path / "v6.onnx", name="m", out=tmp_path / "v6")
    assert found(v6, picture) == expected
    assert detection_spec(v6.manifest).classes == COCO_CLASSES


class _Calibration(CalibrationDataReader):
    def __init__(self, picture: np.ndarray) -> None:
        resized = cv2.resize(picture, (640, 640))[..., ::-1].transpose(2, 0, 1)[None] / 255
        self._values = iter([{"images": resized.astype(np.float32)}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._values, None)


def test_the_advice_about_an_open_picture_size_works(yolov8n: Path, tmp_path: Path) -> None:
    model = onnx.load(str(yolov8n))
    del model.graph.value_info[:]
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, "bchw", strict=True):
        if name != "c":
            dim.dim_param = name
    for dim in model.graph.output[0].type.tensor_type.shape.dim:
        dim.dim_param = "x"
    path = tmp_path / "open.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ImportRefusedError) as refused:
        import_onnx(path, name="m", out=tmp_path / "b")
    command = str(refused.value).rpartition(": python ")[2].split()
    assert command[-2:] == ["open.onnx", "fixed.onnx"]
    subprocess.run([sys.executable, *command], cwd=tmp_path, check=True, capture_output=True)
    bundle = import_onnx(tmp_path / "fixed.onnx", name="m", out=tmp_path / "b")
    assert bundle.manifest.outputs[0].shape == (1, 84, 8400)
