import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from artifact_examples import CLASSES, tiny_file, tiny_onnx
from edgebus.artifacts import (
    Bundle,
    BundleTensorError,
    ImportRefusedError,
    UnsupportedOperatorError,
)
from edgebus_detection.models import COCO_CLASSES, detection_spec, import_onnx, input_spec


def run(model: bytes | str, name: str, x: np.ndarray, bundle: Bundle | None = None) -> list:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    tensors = {k: np.array(v) for k, v in bundle.tensors().items()} if bundle else {}
    values = [ort.OrtValue.ortvalue_from_numpy(value) for value in tensors.values()]
    options.add_external_initializers(list(tensors), values)
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options).run(None, {name: x})


def check_like_torch(_: bytes) -> None:
    raise ValueError("Loop (node 'loop_3')")


def test_the_imported_graph_answers_as_the_file_did(tmp_path):
    path = tiny_file(tmp_path)
    bundle = import_onnx(path, name="tiny", out=tmp_path / "b", classes=CLASSES)
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 32, 32)).astype(np.float32)

    expected = run(str(path), "images", x)[0]
    np.testing.assert_array_equal(run(bundle.graph_bytes(), "images", x, bundle)[0], expected)
    # As a folder it is an ordinary ONNX model with external data.
    np.testing.assert_array_equal(run(str(tmp_path / "b" / "graph.onnx"), "images", x)[0], expected)
    onnx.checker.check_model(str(tmp_path / "b" / "graph.onnx"))
    assert detection_spec(bundle.manifest).decoder.kind == "fastestdet"
    assert input_spec(bundle.manifest).std == (255, 255, 255)
    assert len(bundle.graph_bytes()) < 1500


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (second_input, "has 2 inputs \\(images, mask\\)"),
        (lambda m: m.graph.ClearField("node"), "no valid ONNX|output"),
        (lambda m: m.graph.ClearField("output"), "no valid ONNX|fit no head"),
    ],
)
def test_what_is_no_detector_is_refused(tmp_path, change, words):
    model = tiny_onnx()
    change(model)
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ImportRefusedError, match=words):
        import_onnx(path, name="x", out=tmp_path / "b", classes=CLASSES)
    assert not (tmp_path / "b").exists()


def test_a_batch_of_several_is_refused(tmp_path):
    path = tiny_file(tmp_path, batch=4)
    with pytest.raises(ImportRefusedError, match="batch of 4"):
        import_onnx(path, name="x", out=tmp_path / "b", classes=CLASSES)


def test_an_open_batch_becomes_one(tmp_path):
    path = tiny_file(tmp_path, batch="N")
    bundle = import_onnx(path, name="x", out=tmp_path / "b", classes=CLASSES)
    assert bundle.manifest.inputs[0].shape == (1, 3, 32, 32)
    assert bundle.manifest.outputs[0].shape == (1, 7, 2, 2)


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x07"])
def test_no_onnx_file(tmp_path, data):
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(ImportRefusedError, match=r"x\.onnx"):
        import_onnx(path, name="x", out=tmp_path / "b")


def test_missing_file(tmp_path):
    with pytest.raises(ImportRefusedError, match="No such file"):
        import_onnx(tmp_path / "x.onnx", name="x", out=tmp_path / "b")


def test_a_truncated_file(tmp_path):
    path = tiny_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImportRefusedError):
        import_onnx(path, name="x", out=tmp_path / "b", classes=CLASSES)


def test_external_data_may_not_come_from_elsewhere(tmp_path):
    model = tiny_onnx()
    (tmp_path / "secret").write_bytes(b"\0" * 4096)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ImportRefusedError):
        import_onnx(path, name="x", out=tmp_path / "b", classes=CLASSES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "has 2 classes that it does not name"),
        ({"classes": ["a"]}, "has 2 classes, 1 names"),
        ({"classes": ["a", "a"]}, "named twice"),
        ({"classes": CLASSES, "decoder": "yolox"}, r"\[1, 7, 2, 2\].*fit no head \(yolox"),
        ({"classes": CLASSES, "decoder": "yolo99"}, "no decoder 'yolo99'; there are yolox"),
        ({"classes": CLASSES, "name": "a b"}, "white space"),
        ({"classes": CLASSES, "version": 0}, "version"),
    ],
)
def test_wrong_options_say_what_is_right(tmp_path, options, words):
    with pytest.raises(ImportRefusedError, match=words):
        import_onnx(tiny_file(tmp_path), **({"name": "x", "out": tmp_path / "b"} | options))


def test_nan_weights_are_refused(tmp_path):
    path = tiny_file(tmp_path, poison=float("nan"))
    with pytest.raises(BundleTensorError, match=r"stem\.bias"):
        import_onnx(path, name="x", out=tmp_path / "b", classes=CLASSES)


def test_what_cannot_be_trained_is_refused_by_name_unless_it_only_serves(tmp_path):
    path = tiny_file(tmp_path)
    options = {"name": "x", "classes": CLASSES, "check": check_like_torch}
    with pytest.raises(UnsupportedOperatorError, match=r"Loop \(node 'loop_3'\).*--serve-only"):
        import_onnx(path, out=tmp_path / "b", **options)
    bundle = import_onnx(path, out=tmp_path / "b", serve_only=True, **options)
    assert not bundle.manifest.trainable
    assert "Loop" in bundle.manifest.trainable_reason


def test_half_weights_are_restored_and_shape_like_floats_stay_inline(tmp_path):
    model = tiny_onnx()
    graph = model.graph
    for tensor in list(graph.initializer):
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name + "_16"))
        cast = helper.make_node(
            "Cast", [tensor.name], [tensor.name[:-3]], to=onnx.TensorProto.FLOAT
        )
        graph.node.insert(0, cast)
    # A Resize by 1: its scales are float32 too, and must not leave the graph.
    graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "scales"))
    graph.node[-3].output[0] = "small"
    graph.node.insert(
        len(graph.node) - 2,
        helper.make_node("Resize", ["small", "", "scales"], ["a"], mode="nearest"),
    )
    path = tmp_path / "half.onnx"
    path.write_bytes(model.SerializeToString())
    bundle = import_onnx(path, name="half", out=tmp_path / "b", classes=CLASSES)

    assert {value.dtype for value in bundle.tensors().values()} == {np.dtype(np.float32)}
    assert "scales" not in bundle.tensors()
    assert "Cast" not in bundle.manifest.engine.operators
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(
        run(bundle.graph_bytes(), "images", x, bundle)[0], run(str(path), "images", x)[0]
    )


@pytest.mark.parametrize(
    ("file", "kind", "count", "anchor"),
    [
        ("yolox_nano_416", "yolox", 226, "top-left"),
        ("fastestdet_352", "fastestdet", 140, "top-left"),
        ("nanodet_m_416", "nanodet", 146, "center"),
        ("yolov8n_640_f16w", "yolov8", 127, "center"),
    ],
)
def test_real_detectors(tmp_path, file, kind, count, anchor):
    folder = os.environ.get("EDGEBUS_DATA")
    if not folder:
        pytest.skip("EDGEBUS_DATA is not set: no real detectors here")
    path = Path(folder) / "models" / f"{file}.onnx"
    bundle = import_onnx(path, name=kind, out=tmp_path / "b")
    assert detection_spec(bundle.manifest).decoder.kind == kind
    assert detection_spec(bundle.manifest).classes == COCO_CLASSES
    assert input_spec(bundle.manifest).anchor == anchor
    assert len(bundle.tensors()) == count
    source = ort.InferenceSession(str(path), _quiet())
    spec = input_spec(bundle.manifest)
    x = np.random.default_rng(0).uniform(0, 255, spec.shape).astype(np.float32)
    x = (x - spec.mean[0]) / spec.std[0]
    expected = source.run(None, {spec.name: x})
    # NanoDet lists its weights as inputs, so the runtime folds it differently: rounding.
    for have, want in zip(run(bundle.graph_bytes(), spec.name, x, bundle), expected, strict=True):
        np.testing.assert_allclose(have, want, atol=2e-5)


def _quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options
