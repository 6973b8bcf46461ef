import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifact_examples import CLASSES, small_update, tiny_bundle
from edgebus.artifacts import (
    Bundle,
    BundleDigestError,
    BundleError,
    BundleFileMissingError,
    BundleFormatError,
    BundleIndex,
    BundleLimitError,
    BundlePathError,
    BundleTensorError,
    Limits,
    Manifest,
    ProbeSpec,
    Store,
    derive_bundle,
    write_bundle,
)
from edgebus.artifacts.index import FileEntry
from edgebus.artifacts.tensors import TensorFile, dump_tensors
from edgebus.serving import HotSwap, ModelRefusedError
from edgebus_detection.models import DetectionModel, detection_spec, input_spec


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path)


def forge(bundle: Bundle, name: str, data: bytes) -> Path:
    """Replace a file and make the index agree, as somebody who controls the provider could."""
    folder = bundle.path
    assert folder is not None
    fields = json.loads(bundle.index_bytes)
    for number, entry in enumerate(fields["files"]):
        if entry["path"] == name:
            fields["files"][number] = FileEntry.of(name, data).model_dump()
    for path, content in ((name, data), ("index.json", json.dumps(fields).encode())):
        (folder / path).unlink()
        (folder / path).write_bytes(content)
    return folder


def test_a_bundle_reads_back_as_it_was_written(bundle):
    assert bundle.path is not None
    again = Bundle.open(bundle.path)

    assert again.digest == bundle.digest
    assert again.manifest == bundle.manifest
    assert detection_spec(again.manifest).classes == CLASSES
    assert again.ref.version == 1
    assert set(again.tensors()) == {"stem.weight", "stem.bias", "head.weight", "head.bias"}
    assert not again.tensors()["stem.bias"].flags.writeable
    assert again.size == sum(
        file.stat().st_size for file in bundle.path.iterdir() if file.name != "index.json"
    )


def test_the_digest_follows_every_byte(tmp_path):
    created = tiny_bundle(tmp_path / "a").manifest.created
    bundles = [
        write_bundle(
            tmp_path / str(number),
            manifest=base.manifest.model_copy(update={"created": created}),
            graph=base.graph_bytes(),
            weights=base.weights.data,
        )
        for number, base in enumerate(
            [
                tiny_bundle(tmp_path / "b"),
                tiny_bundle(tmp_path / "c"),
                tiny_bundle(tmp_path / "d", seed=1),
            ]
        )
    ]
    assert bundles[0].digest == bundles[1].digest
    assert bundles[0].digest != bundles[2].digest


def test_writing_the_same_bundle_twice_is_fine_and_another_one_is_refused(bundle, tmp_path):
    parts = {"graph": bundle.graph_bytes(), "weights": bundle.weights.data}
    assert bundle.path is not None
    same = write_bundle(bundle.path, manifest=bundle.manifest, **parts)
    assert same.digest == bundle.digest

    other = bundle.manifest.model_copy(update={"version": 2})
    with pytest.raises(FileExistsError, match="something else"):
        write_bundle(bundle.path, manifest=other, **parts)
    assert Bundle.open(bundle.path).digest == bundle.digest


def test_nothing_is_left_when_the_parts_make_no_bundle(bundle, tmp_path):
    out = tmp_path / "new" / "b"
    with pytest.raises(BundleError):
        write_bundle(out, manifest=bundle.manifest, graph=b"", weights=bundle.weights.data)
    assert not out.parent.exists()


def test_files_are_read_only(bundle):
    modes = {file.stat().st_mode & 0o222 for file in bundle.path.iterdir()}
    assert modes == {0}


@pytest.mark.parametrize("name", ["index.json", "manifest.json", "graph.onnx"])
def test_a_missing_file_is_named(bundle, name):
    (bundle.path / name).unlink()
    with pytest.raises(BundleFileMissingError, match=name):
        Bundle.open(bundle.path)


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(BundleFileMissingError, match=r"index\.json"):
        Bundle.open(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["manifest.json", "graph.onnx", "weights.safetensors"])
def test_a_flipped_bit_is_found(bundle, name):
    data = bytearray((bundle.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / name).unlink()
    (bundle.path / name).write_bytes(data)
    with pytest.raises(BundleDigestError) as caught:
        Bundle.open(bundle.path)
    assert caught.value.file == name


def test_a_cut_or_longer_file_is_refused(bundle):
    weights = bundle.path / "weights.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:-4])
    with pytest.raises(BundleDigestError):
        Bundle.open(bundle.path)
    weights.write_bytes(data + b"x")
    with pytest.raises(BundleLimitError, match=f"has {len(data) + 1} bytes"):
        Bundle.open(bundle.path)


def test_a_link_is_refused_and_a_linked_folder_is_not(bundle, tmp_path):
    weights = bundle.path / "weights.safetensors"
    shutil.move(weights, tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundlePathError, match=r"weights\.safetensors"):
        Bundle.open(bundle.path)

    weights.unlink()
    shutil.move(tmp_path / "elsewhere", weights)
    (tmp_path / "current").symlink_to(bundle.path)
    assert Bundle.open(tmp_path / "current").digest == bundle.digest


def test_a_pipe_does_not_hang(bundle):
    (bundle.path / "manifest.json").unlink()
    os.mkfifo(bundle.path / "manifest.json")
    with pytest.raises(BundlePathError):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "path", ["../manifest.json", "/etc/passwd", "a/b", ".hidden", "index.json", "", "x" * 100]
)
def test_a_path_out_of_the_folder_is_refused(bundle, path):
    fields = json.loads(bundle.index_bytes)
    fields["files"].append({**fields["files"][0], "path": path})
    with pytest.raises(BundleFormatError):
        BundleIndex.decode(json.dumps(fields).encode())


def test_the_index_must_agree_with_itself(bundle):
    def broken(**changes: object) -> bytes:
        fields = json.loads(bundle.index_bytes)
        fields["files"][0] |= changes
        return json.dumps(fields).encode()

    for change in (
        {"blocks": []},
        {"size": -1},
        {"digest": "abc"},
        {"path": "other.json"},
        {"size": 10**15},
    ):
        with pytest.raises(BundleFormatError):
            BundleIndex.decode(broken(**change))


def test_absurd_sizes_are_refused_before_they_are_read(bundle):
    with pytest.raises(BundleLimitError) as caught:
        Bundle.open(bundle.path, limits=Limits(weights=100))
    assert caught.value.limit == 100
    assert caught.value.size == len(bundle.weights.data)
    with pytest.raises(BundleLimitError, match=r"index\.json"):
        Bundle.open(bundle.path, limits=Limits(index=10))


def weights_with(bundle: Bundle, **changes: np.ndarray | None) -> bytes:
    tensors = bundle.tensors() | {name.replace("__", "."): v for name, v in changes.items()}
    return dump_tensors({name: value for name, value in tensors.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem__bias": np.zeros(9, np.float32)}, r"is F32 \[9\], the graph needs F32 \[8\]"),
        ({"stem__bias": np.zeros(8, np.float16)}, r"is F16 \[8\], the graph needs F32"),
        ({"stem__weight": np.zeros((3, 8, 4, 4), np.float32)}, r"\[3, 8, 4, 4\]"),
        ({"head__bias": None}, "is missing"),
        ({"extra": np.zeros(1, np.float32)}, "is not in the graph"),
        ({"stem__bias": np.full(8, np.nan, np.float32)}, "8 values that are NaN"),
        ({"stem__bias": np.full(8, np.inf, np.float32)}, "NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit_the_graph_are_named(bundle, changes, words):
    with pytest.raises(BundleTensorError, match=words) as caught:
        Bundle.open(forge(bundle, "weights.safetensors", weights_with(bundle, **changes)))
    assert caught.value.tensor


def test_weights_in_another_order_are_refused(bundle):
    # ONNX Runtime would load them by offset and be silently wrong.
    swapped = dump_tensors(dict(reversed(list(bundle.tensors().items()))))
    with pytest.raises(BundleTensorError, match="lies at byte"):
        Bundle.open(forge(bundle, "weights.safetensors", swapped))


def test_a_graph_that_reaches_out_of_the_bundle_is_refused(bundle):
    outside = bundle.graph_bytes().replace(b"weights.safetensors", b"../../../etc/shadow")
    with pytest.raises(BundlePathError, match="etc/shadow"):
        Bundle.open(forge(bundle, "graph.onnx", outside))


@pytest.mark.parametrize("data", [b"", b"\xff" * 50, b"{}", b"\x00"])
def test_a_graph_that_is_no_graph_is_refused(bundle, data):
    with pytest.raises(BundleFormatError, match=r"graph\.onnx"):
        Bundle.open(forge(bundle, "graph.onnx", data))


def graphs(*, file="graph.onnx", inputs=None, outputs=None) -> dict[str, Any]:
    """The manifest's graphs of the tiny bundle, changed."""
    taken = {"name": "images", "dtype": "float32", "shape": [1, 3, 32, 32]} | (inputs or {})
    made = {"name": "output", "dtype": "float32", "shape": [1, 7, 2, 2]} | (outputs or {})
    return {"graphs": [{"file": file, "inputs": [taken], "outputs": [made]}]}


def test_the_manifest_of_the_next_tests_is_the_true_one(bundle):
    assert json.loads(bundle.manifest.encode())["graphs"] == graphs()["graphs"]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"name": "a/b"},
        {"format": "bundle/2"},
        graphs(inputs={"name": "other"}),
        graphs(inputs={"shape": [1, 3, 64, 32]}),
        graphs(inputs={"shape": [None, 3, 32, 32]}),
        graphs(inputs={"dtype": "uint8"}),
        graphs(inputs={"dtype": "float31"}),
        graphs(outputs={"shape": [1, 8, 2, 2]}),
        graphs(file="other.onnx"),
        {"graphs": []},
        {"graphs": [*graphs()["graphs"], graphs(file="head.onnx")["graphs"][0]]},
        {"metrics": {"map50": "nan"}},
        {"workload": {"scale": float("inf")}},
    ],
)
def test_a_manifest_that_lies_is_refused(bundle, changes):
    fields = json.loads(bundle.manifest.encode()) | changes
    with pytest.raises((BundleFormatError, BundleFileMissingError), match=r"manifest|head\.onnx"):
        Bundle.open(forge(bundle, "manifest.json", json.dumps(fields).encode()))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classes": []}, "workload: classes"),
        ({"classes": ["car", "car"]}, "classes named twice: car"),
        ({"decoder": None}, "workload: decoder"),
        ({"picture": {"std": [1, 0, 1]}}, "workload: picture"),
        ({"picture": {"layout": "NHWC"}}, "is not one NHWC picture"),
    ],
)
def test_a_lie_in_the_workloads_part_is_found_when_the_model_is_loaded(bundle, changes, named):
    fields = json.loads(bundle.manifest.encode())
    fields["workload"] |= changes
    opened = Bundle.open(forge(bundle, "manifest.json", json.dumps(fields).encode()))
    with pytest.raises(BundleFormatError, match=rf"manifest\.json.*{named}"):
        DetectionModel.load(opened)


def test_a_bundle_of_an_unknown_workload_opens_and_travels_and_cannot_serve(bundle, tmp_path):
    fields = json.loads(bundle.manifest.encode()) | {"task": "weather", "workload": {"sky": [1]}}
    opened = Bundle.open(forge(bundle, "manifest.json", json.dumps(fields).encode()))
    store = Store(tmp_path / "store")
    store.put_bundle(opened)
    again = store.open_bundle(opened.digest)
    assert again.manifest.workload == {"sky": [1]}
    child = derive_bundle(again, small_update(again), out=tmp_path / "child")
    assert child.manifest.task == "weather"
    with pytest.raises(ModelRefusedError, match="no workload 'weather'"):
        HotSwap().prepare(again)


def test_a_probe_travels_with_its_bundle(bundle, tmp_path):
    def probe(model):
        assert set(model.tensors()) == set(bundle.tensors())
        return ProbeSpec(seed=7), {"value/output": np.arange(3, dtype=np.float32)}

    child = derive_bundle(bundle, small_update(bundle), out=tmp_path / "2", probe=probe)
    again = Bundle.open(tmp_path / "2")
    assert again.manifest.probe == ProbeSpec(seed=7)
    assert again.probe()["value/output"].tolist() == [0, 1, 2]
    # Values belong to one version's weights: a child does not inherit them.
    grandchild = derive_bundle(child, small_update(child), out=tmp_path / "3")
    assert grandchild.manifest.probe is None
    assert grandchild.probe() is None


def test_the_manifest_round_trips():
    fields = {
        "name": "m",
        "version": 3,
        "task": "detection",
        "graphs": [
            {
                "inputs": [{"name": "x", "shape": [None, 32, 64, 3]}],
                "outputs": [{"name": "y", "dtype": "int64", "shape": []}],
            }
        ],
        "workload": {
            "picture": {"layout": "NHWC"},
            "decoder": {"kind": "yolox"},
            "classes": ["a"],
        },
        "engine": {"opset": 11, "ir_version": 7},
    }
    manifest = Manifest.model_validate(fields)
    assert Manifest.decode(manifest.encode()) == manifest
    assert manifest.inputs[0].shape == (None, 32, 64, 3)
    assert manifest.outputs[0].shape == ()
    assert input_spec(manifest).shape == (1, 32, 64, 3)


class TestSafetensors:
    def test_the_library_reads_what_we_write(self, tmp_path):
        from safetensors.numpy import load_file, save

        tensors = {
            "b": np.arange(6, dtype=np.float32).reshape(2, 3),
            "a": np.array(3, np.int64),
            "none": np.zeros((0, 4), np.float16),
            "tränen": np.array([1, 2], np.uint8),
        }
        path = tmp_path / "x.safetensors"
        path.write_bytes(dump_tensors(tensors, metadata={"k": "v"}))
        loaded = load_file(path)
        assert set(loaded) == set(tensors)
        for name, value in tensors.items():
            np.testing.assert_array_equal(loaded[name], value)
        ours = TensorFile.parse(save(loaded), file="x").arrays()
        np.testing.assert_array_equal(ours["b"], tensors["b"])

    def test_refuses_what_is_not_there(self):
        def file(header: object, data: bytes = b"\0" * 8) -> bytes:
            text = header if isinstance(header, bytes) else json.dumps(header).encode()
            return len(text).to_bytes(8, "little") + text + data

        good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        TensorFile.parse(file({"a": good}), file="x")
        for broken in (
            b"",
            b"\xff" * 8,
            file(b"[]"),
            file(b"{"),
            file(b"[" * 100_000),
            file(b'{"a":1,"a":2}'),
            file({"a": 3}),
            file({"a": good | {"dtype": "F3"}}),
            file({"a": good | {"shape": [-2]}}),
            file({"a": good | {"shape": [2.0]}}),
            file({"a": good | {"shape": [3]}}),
            file({"a": good | {"data_offsets": [0, 9]}}),
            file({"a": good | {"data_offsets": [8, 16]}}),
            file({"a": good, "b": good}),
            file({"a": good}, b"\0" * 9),
            file({"a": good}, b""),
            file({"a": good, "__metadata__": {"k": 1}}),
        ):
            with pytest.raises(BundleError):
                TensorFile.parse(broken, file="x")
