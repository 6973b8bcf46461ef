"""How unlike the pictures that it knows is a picture to a model?"""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from artifact_examples import small_update
from edgebus.artifacts import Bundle, BundleFileMissingError, Draft, derive_bundle
from edgebus.serving import EngineError, EngineSettings, HotSwap, ModelRefusedError
from edgebus_detection.models import (
    DetectionModel,
    Novelty,
    NoveltyError,
    add_novelty,
    detection_spec,
    make_novelty,
)
from edgebus_detection.models.testing import tiny_bundle
from edgebus_detection.vision import encode_jpeg

ONE = EngineSettings(threads=1)


def scene(rng, *, tint=(0.0, 0.0, 0.0)):
    """Smooth coloured patches with some grain: pictures of one camera."""
    coarse = rng.uniform(40, 200, (6, 8, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)
    picture += rng.normal(0, 4, picture.shape)
    picture += tint
    return np.clip(picture, 0, 255).astype(np.uint8)


def scenes(seed, count, **changes):
    rng = np.random.default_rng(seed)
    return [scene(rng, **changes) for _ in range(count)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("plain") / "v1")


@pytest.fixture(scope="module")
def bundle(plain, tmp_path_factory) -> Bundle:
    return add_novelty(plain, scenes(0, 120), out=tmp_path_factory.mktemp("novelty") / "v1")


def distances(model, pictures):
    return np.array([model.predict(picture).novelty for picture in pictures])


def test_pictures_like_the_reference_are_near_and_others_are_far(bundle):
    assert detection_spec(bundle.manifest).novelty.pictures == 120
    model = DetectionModel.load(bundle, ONE)
    like = distances(model, scenes(1, 200))
    # Its unit is the 95th percentile of pictures like these, none of which it was fitted to.
    assert 0.88 <= np.mean(like <= 1) <= 0.99
    for change in ({"tint": (-60, -60, 90)}, {"tint": (90, -60, -60)}):
        far = distances(model, scenes(2, 50, **change))
        assert far.min() > 2


def test_a_cloud_is_nothing_new_and_the_night_is(plain, tmp_path):
    still = scenes(0, 1)[0]
    rng = np.random.default_rng(1)
    seconds = [np.clip(still + rng.normal(0, 2, still.shape), 0, 255) for _ in range(60)]
    seconds = [picture.astype(np.uint8) for picture in seconds]
    model = DetectionModel.load(add_novelty(plain, seconds, out=tmp_path / "v1"), ONE)
    lights = {light: (still * light).astype(np.uint8) for light in (0.9, 1.1, 0.3)}
    cloud, sun, night = (model.predict(picture).novelty for picture in lights.values())
    assert max(cloud, sun) < 1.5
    assert night > 4


def test_the_boxes_are_the_same_with_and_without(bundle, plain):
    for picture in scenes(3, 5):
        look = DetectionModel.load(bundle, ONE).predict(picture)
        found, _ = DetectionModel.load(plain, ONE).detect(picture)
        np.testing.assert_array_equal(look.found.boxes, found.boxes)
        assert DetectionModel.load(plain, ONE).predict(picture).novelty is None


def test_it_goes_from_version_to_version_unchanged(bundle, tmp_path):
    child = derive_bundle(bundle, small_update(bundle), out=tmp_path / "child")
    assert child.files["novelty.onnx"] == bundle.files["novelty.onnx"]
    assert detection_spec(child.manifest).novelty == detection_spec(bundle.manifest).novelty
    again = Bundle.open(tmp_path / "child")
    picture = scenes(4, 1)[0]
    before, after = (DetectionModel.load(b, ONE).predict(picture).novelty for b in (bundle, again))
    assert after == before


def test_the_detectors_swap_loads_it_where_it_shall(bundle):
    for wanted in (True, False):
        swap = HotSwap(ONE, options={"novelty": wanted})
        swap.switch(swap.prepare(bundle))
        look = swap.current.model.predict(scenes(5, 1)[0])
        assert (look.novelty is not None) == wanted


def test_too_few_pictures_are_refused(plain):
    with pytest.raises(NoveltyError, match="19 pictures are too few; bring 20, better 200"):
        make_novelty(plain, scenes(0, 19))


def test_pictures_that_are_all_the_same_are_no_reason_to_fail(plain):
    _, data = make_novelty(plain, scenes(0, 1) * 20)
    tensor = np.zeros((1, 3, 48, 64), np.float32)
    assert Novelty(data).of_input(tensor) > 1


def test_a_graph_without_convolution_has_no_first_layer(plain):
    graph = onnx.load_model_from_string(plain.graph_bytes())
    for node in graph.graph.node:
        if node.op_type == "Conv":
            node.op_type = "ConvTranspose"
    draft = Draft(manifest=plain.manifest, graph=graph.SerializeToString(), weights=plain.tensors())
    with pytest.raises(NoveltyError, match="no convolution"):
        make_novelty(draft, scenes(0, 20))


@pytest.mark.parametrize("spoil", ["noise", "another graph", "nan", "external"])
def test_what_is_no_novelty_graph_never_serves(bundle, spoil):
    model = onnx.load_model_from_string(bundle.files["novelty.onnx"])
    centre = next(t for t in model.graph.initializer if t.name == "novelty.centre")
    if spoil == "noise":
        data = b"\x08no graph"
    elif spoil == "another graph":
        data = bundle.graph_bytes()
    elif spoil == "external":
        centre.data_location = onnx.TensorProto.EXTERNAL
        centre.external_data.add(key="location", value="../../secret")
        data = model.SerializeToString()
    else:
        size = centre.dims[1]
        centre.CopyFrom(
            onnx.numpy_helper.from_array(np.full((1, size), np.nan, np.float32), centre.name)
        )
        data = model.SerializeToString()
    with pytest.raises(EngineError, match="novelty"):
        Novelty(data).of_input(np.zeros((1, 3, 48, 64), np.float32))


def test_a_manifest_that_promises_it_needs_the_file(bundle):
    files = {name: data for name, data in bundle.files.items() if name != "novelty.onnx"}
    index = bundle.index.model_copy(
        update={"files": tuple(f for f in bundle.index.files if f.path != "novelty.onnx")}
    )
    lacking = Bundle.assemble(index.encode(), lambda name, _: files.get(name))
    with pytest.raises(BundleFileMissingError, match=r"novelty\.onnx"):
        DetectionModel.load(lacking, ONE)
    with pytest.raises(ModelRefusedError, match=r"novelty\.onnx"):
        HotSwap(ONE).prepare(lacking)


@pytest.mark.skipif("EDGEBUS_DATA" not in os.environ, reason="EDGEBUS_DATA is not set")
def test_a_real_camera_that_turns_to_infrared_is_told_by_any_of_its_frames(tmp_path):
    from edgebus_detection.models import import_onnx

    data = Path(os.environ["EDGEBUS_DATA"])
    plain = import_onnx(data / "models/yolox_nano_416.onnx", name="m", out=tmp_path / "plain")
    coco = sorted((data / "datasets/coco128/images/train2017").glob("*.jpg"))
    known = [cv2.imread(str(path)) for path in coco]
    model = DetectionModel.load(add_novelty(plain, known, out=tmp_path / "told"), ONE)
    folder = data / "datasets/llvip-night/images"
    visible, infrared = (
        distances(model, [cv2.imread(str(p)) for p in sorted((folder / kind).glob("*"))[:30]])
        for kind in ("visible", "infrared")
    )
    assert infrared.min() > visible.max()


def edgebus(*arguments):
    root = Path(__file__).resolve().parents[3]
    search = os.pathsep.join([str(root), str(root / "services")])
    return subprocess.run(
        [sys.executable, "-c", "from edgebus.cli import main; main()", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_person_teaches_a_bundle_what_it_knows_by_one_command(plain, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(scenes(6, 30)):
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(picture))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    done = edgebus("model", "novelty", plain.path, folder, "--out", tmp_path / "made")
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stderr
    assert detection_spec(Bundle.open(tmp_path / "made").manifest).novelty.pictures == 30
    few = tmp_path / "few"
    few.mkdir()
    done = edgebus("model", "novelty", plain.path, few, "--out", tmp_path / "none")
    assert done.returncode == 2
    assert "has no pictures" in done.stderr
    assert not (tmp_path / "none").exists()


def test_pictures_of_any_format_count_and_classes_keep_their_numbers(tmp_path):
    from typer.testing import CliRunner

    from edgebus_detection.cli.model import app

    bundle = tiny_bundle(tmp_path / "bundle")
    rng = np.random.default_rng(1)
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), scene(rng))
    command = ["novelty", str(bundle.path), str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command, terminal_width=200)
    assert done.exit_code == 2
    assert "4 pictures are too few" in done.output
    done = CliRunner().invoke(app, [*command[:2], str(bundle.path), *command[3:]])
    assert "has no pictures" in str(done.exception)
    (tmp_path / "classes.txt").write_bytes("\ufeffcar\r\n\r\nperson\r\n".encode())
    command = ["import", "m.onnx", "--classes", str(tmp_path / "classes.txt")]
    done = CliRunner().invoke(app, command, terminal_width=200)
    assert "line 2 is empty" in done.output
