"""Real weights on real pictures; EDGEBUS_DATA names the folder with both."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgebus.serving import EngineSettings, OrtEngine, make_probe, run_probe
from edgebus_detection.metrics import mean_average_precision
from edgebus_detection.models import DetectionModel, import_onnx
from edgebus_detection.vision import Detected, Truth, decode_picture

DATA = os.environ.get("EDGEBUS_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="EDGEBUS_DATA is not set")

# AP50 on the 128 pictures as measured by an independent implementation of the heads.
MODELS = {"yolox_nano_416": 0.492, "fastestdet_352": 0.351, "nanodet_m_416": 0.423}


@pytest.fixture(scope="module")
def pictures() -> list[tuple[np.ndarray, Truth]]:
    root = Path(DATA or "") / "datasets" / "coco128"
    found = []
    for path in sorted((root / "images" / "val2017").glob("*.jpg")):
        image = decode_picture(path.read_bytes())
        labels = root / "labels" / "val2017" / f"{path.stem}.txt"
        rows = labels.read_text().split("\n") if labels.exists() else []
        table = np.array([row.split() for row in rows if row], np.float32).reshape(-1, 5)
        half = table[:, 3:] / 2
        shares = np.concatenate([table[:, 1:3] - half, table[:, 1:3] + half], axis=1)
        scale = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        found.append((image, Truth(shares * scale, table[:, 0].astype(np.int64))))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_pipeline_reaches_the_known_precision(name, pictures, tmp_path: Path) -> None:
    bundle = import_onnx(
        Path(DATA or "") / "models" / f"{name}.onnx",
        name=name.split("_")[0],
        out=tmp_path / name,
        probe=make_probe,
    )
    model = DetectionModel.load(bundle, EngineSettings(threads=1), threshold=0.01, nms_iou=0.6)
    found: list[Detected] = [model.detect(image)[0] for image, _ in pictures]
    result = mean_average_precision(found, [truth for _, truth in pictures], model.classes)
    assert result.images == 128
    assert result.map50 == pytest.approx(MODELS[name], abs=0.01)
    assert run_probe(OrtEngine(bundle), bundle.manifest, bundle.probe()) < 0.5
