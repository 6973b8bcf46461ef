from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from edgebus.artifacts import Bundle, Draft
from edgebus.serving import EngineError, EngineSettings, OrtEngine, choose_providers
from edgebus_detection.models import DetectionModel
from edgebus_detection.models.testing import tiny_bundle, tiny_picture, tiny_tensors
from edgebus_detection.vision import to_boxes

ONE = EngineSettings(threads=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "v1")


def draft(bundle: Bundle, **tensors) -> Draft:
    return Draft(
        manifest=bundle.manifest,
        graph=bundle.graph_bytes(),
        weights={**bundle.tensors(), **tensors},
    )


def test_the_model_finds_what_is_there(bundle: Bundle) -> None:
    model = DetectionModel.load(bundle, ONE)
    found, times = model.detect(tiny_picture(red=(1, 2), blue=(4, 5)))
    boxes = {box.label: (box.x1, box.y1, box.x2, box.y2) for box in to_boxes(found, model.classes)}
    assert boxes == {"person": (16, 8, 24, 16), "car": (40, 32, 48, 40)}
    assert found.scores.min() > 0.9
    assert times.inference_ms > 0
    assert model.ref == bundle.ref.model_copy(update={"engine": "onnxruntime/CPUExecutionProvider"})


def test_boxes_are_in_pixels_of_the_picture(bundle: Bundle) -> None:
    picture = tiny_picture(red=(1, 2), blue=None).repeat(3, axis=0).repeat(3, axis=1)
    found, _ = DetectionModel.load(bundle, ONE).detect(picture)
    assert found.boxes == pytest.approx(np.array([[48, 24, 72, 48]]))


def test_thresholds_can_be_set(bundle: Bundle) -> None:
    model = DetectionModel.load(bundle, ONE, threshold=1.01)
    assert len(model.detect(tiny_picture())[0]) == 0
    assert len(model.detect(tiny_picture(), threshold=0.5)[0]) == 2


def test_the_engine_keeps_its_own_copy_of_the_weights(bundle: Bundle) -> None:
    tensors = {name: value.copy() for name, value in tiny_tensors().items()}
    source = draft(bundle, **tensors)
    engine = OrtEngine(source, ONE)
    picture = np.random.default_rng(0).random((1, 3, 48, 64), np.float32)
    before = engine.run({"images": picture})["output"]
    for value in tensors.values():
        value[:] = 0
    assert (engine.run({"images": picture})["output"] == before).all()


@pytest.mark.parametrize(
    "tensors",
    [
        {"conv.bias": np.zeros(6, np.float32)},
        {"conv.bias": np.zeros(7, np.float16)},
        {"conv.weight": np.zeros((3, 7, 8, 8), np.float32)},
        {"conv.unknown": np.zeros(7, np.float32)},
    ],
    ids=["shape", "type", "transposed", "unknown"],
)
def test_weights_that_do_not_fit_the_graph_are_refused(bundle: Bundle, tensors) -> None:
    with pytest.raises(EngineError, match=r"conv\."):
        OrtEngine(draft(bundle, **tensors), ONE)


def test_a_graph_that_is_none_is_refused(bundle: Bundle) -> None:
    for graph in (b"", b"not a graph", bundle.graph_bytes()[:50]):
        with pytest.raises(EngineError, match="onnxruntime"):
            OrtEngine(Draft(manifest=bundle.manifest, graph=graph, weights=bundle.tensors()), ONE)


@pytest.mark.parametrize(
    "change",
    [
        ("inputs", {"shape": (1, 3, 56, 64)}),
        ("inputs", {"name": "pictures"}),
        ("inputs", {"dtype": "uint8"}),
        ("inputs", {"shape": (None, 3, 48, 64)}),
        ("outputs", {"name": "boxes"}),
        ("outputs", {"shape": (1, 48, 8)}),
    ],
)
def test_a_manifest_of_another_graph_is_refused(bundle: Bundle, change) -> None:
    kind, fields = change
    (graph,) = bundle.manifest.graphs
    (spec,) = getattr(graph, kind)
    changed = graph.model_copy(update={kind: (spec.model_copy(update=fields),)})
    manifest = bundle.manifest.model_copy(update={"graphs": (changed,)})
    source = Draft(manifest=manifest, graph=bundle.graph_bytes(), weights=bundle.tensors())
    with pytest.raises(EngineError, match="manifest"):
        OrtEngine(source, ONE)


def test_an_input_of_the_wrong_shape_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="images"):
        OrtEngine(bundle, ONE).run({"images": np.zeros((1, 3, 8, 8), np.float32)})


def test_unusable_outputs_name_the_model(bundle: Bundle) -> None:
    class Broken:
        name = "broken/cpu"

        def run(self, inputs):
            out = np.zeros((1, 48, 7), np.float32)
            out[0, 7, 4] = np.nan
            return {"output": out}

    model = DetectionModel(bundle, Broken())
    with pytest.raises(EngineError, match=rf"tiny v1 \({bundle.digest[:12]}\).*not finite"):
        model.detect(tiny_picture())


def test_providers_are_chosen_by_what_there_is() -> None:
    cpu, cuda, trt = (
        "CPUExecutionProvider",
        "CUDAExecutionProvider",
        "TensorrtExecutionProvider",
    )

    def names(wanted, available):
        chosen = choose_providers(wanted, available)
        return [item if isinstance(item, str) else item[0] for item in chosen]

    assert names("auto", ["AzureExecutionProvider", cpu]) == [cpu]
    assert names("auto", [trt, cuda, cpu]) == [trt, cuda, cpu]
    assert names("cuda", [trt, cuda, cpu]) == [cuda, cpu]
    assert names("cpu", [trt, cuda, cpu]) == [cpu]
    with pytest.raises(EngineError, match="onnxruntime-gpu"):
        choose_providers("cuda", [cpu])


def test_settings_refuse_nonsense() -> None:
    with pytest.raises(ValidationError):
        EngineSettings(threads=0)
    with pytest.raises(ValidationError):
        EngineSettings(thread=1)


def test_the_folder_may_vanish_while_the_model_serves(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "v1")
    model = DetectionModel.load(bundle, ONE)
    before, _ = model.detect(tiny_picture())
    for file in (tmp_path / "v1").iterdir():
        file.chmod(0o600)
        file.write_bytes(b"")
    after, _ = model.detect(tiny_picture())
    assert (before.boxes == after.boxes).all()
    assert (before.scores == after.scores).all()
