"""Real detectors, real pictures: torch computes what ONNX Runtime computes."""

import os
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch

from edgebus.training.graph import TorchGraph, UnsupportedGraphError, check_supported

DATA = os.environ.get("EDGEBUS_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="EDGEBUS_DATA names no folder of test data")


@pytest.fixture(scope="module")
def pictures():
    """Photographs and frames of two videos, BGR."""
    root = Path(DATA)
    images = [cv2.imread(str(path)) for path in sorted(root.glob("images/*.jpg"))]
    for video, frames in (("vtest.avi", (0, 300)), ("person-bicycle-car-detection.mp4", (40, 200))):
        capture = cv2.VideoCapture(str(root / "videos" / video))
        for number in frames:
            capture.set(cv2.CAP_PROP_POS_FRAMES, number)
            found, image = capture.read()
            assert found
            images.append(image)
    assert len(images) == 6
    return images


def inputs(pictures, side, *, mean=0.0, std=1.0, fill=True):
    rows = []
    for image in pictures:
        scale = min(side / image.shape[0], side / image.shape[1]) if fill else None
        size = (
            (side, side) if scale is None else tuple(round(n * scale) for n in image.shape[1::-1])
        )
        canvas = np.full((side, side, 3), 114, np.uint8)
        small = cv2.resize(image, size)
        canvas[: small.shape[0], : small.shape[1]] = small
        rows.append(((canvas.astype(np.float32) - mean) / std).transpose(2, 0, 1))
    return np.ascontiguousarray(np.stack(rows), np.float32)


# Columns (or channels, for the second) of the outputs that hold scores; the rest are raw boxes.
MODELS = {
    "yolox_nano_416": (416, {}, lambda y: (y[..., 4:], y[..., :4])),
    "fastestdet_352": (
        352,
        {"std": 255.0, "fill": False},
        lambda y: (np.concatenate([y[:, :1], y[:, 5:]], 1), y[:, 1:5]),
    ),
    "nanodet_m_416": (
        416,
        {"mean": np.float32([103.53, 116.28, 123.675]), "std": np.float32([57.375, 57.12, 58.395])},
        lambda y: (y, y[..., :0]) if y.shape[-1] == 80 else (y[..., :0], y),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_equal_onnx_runtime(name, pictures):
    side, options, parts = MODELS[name]
    path = Path(DATA) / "models" / f"{name}.onnx"
    x = inputs(pictures, side, **options)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    graph = TorchGraph(path.read_bytes())
    feed = session.get_inputs()[0].name
    rows = [session.run(list(graph.output_names), {feed: x[i : i + 1]}) for i in range(len(x))]
    with torch.no_grad():
        single = graph(torch.from_numpy(x))
        double = TorchGraph(path.read_bytes()).double()(torch.from_numpy(x).double())
    assert len(graph.output_names) >= 1
    for index, output in enumerate(graph.output_names):
        expected = np.stack([row[index] for row in rows]).reshape(single[output].shape)
        # In float64 the interpreter's own rounding is out of the way: what is left is ONNX
        # Runtime's (4e-5 on yolox' scores). In float32 the order of sums, which the number of
        # threads changes, moves yolox' scores by up to 1.1e-4; the other networks' by 3e-5.
        for found, score, box in ((double, 1e-4, 1e-3), (single, 2e-4, 1e-3)):
            for what, tolerance in ((0, score), (1, box)):
                a, b = parts(found[output].numpy())[what], parts(expected)[what]
                assert a.size == 0 or float(np.abs(a - b).max()) < tolerance, (output, what)


def test_a_real_network_in_another_style_is_refused_by_name():
    model = (Path(DATA) / "models" / "ssd_mobilenet_v2_300_f16w.onnx").read_bytes()
    with pytest.raises(UnsupportedGraphError) as caught:
        check_supported(model)
    assert {"Loop", "graph"} <= {problem.op for problem in caught.value.problems}


def test_the_head_of_yolox_nano_is_found_by_its_depth():
    graph = TorchGraph((Path(DATA) / "models" / "yolox_nano_416.onnx").read_bytes(), scope="head")
    assert graph.trainable == 103_039
