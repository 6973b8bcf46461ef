from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from artifact_examples import small_update, tiny_bundle
from edgebus.artifacts import Bundle, PatchError, Update, apply_update, derive_bundle
from edgebus.artifacts.tensors import TensorFile, dump_tensors
from edgebus.artifacts.update import apply_patch, encode_patch


@pytest.fixture
def parent(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path, channels=64)


def test_a_child_keeps_graph_and_layout_and_carries_a_patch(parent, tmp_path):
    update = small_update(parent)
    child = derive_bundle(parent, update, out=tmp_path / "child", metrics={"map50": 0.5})

    assert child.graph_bytes() == parent.graph_bytes()
    assert child.weights.entries == parent.weights.entries
    assert child.manifest.version == 2
    assert child.manifest.parent == parent.digest
    assert child.manifest.metrics == {"map50": 0.5}
    expected = apply_update(parent.tensors(), update)
    for name, value in child.tensors().items():
        assert value.tobytes() == expected[name].tobytes()

    patch = child.index.patch
    assert patch is not None
    assert patch.base == parent.index.file("weights.safetensors").digest
    # 2 * (64 + 7) numbers of 4 bytes, and a list of four names.
    assert update.parameters == 142
    assert 568 < patch.size < 900
    rebuilt = apply_patch(parent.weights.data, child.files[patch.path])
    assert rebuilt == child.weights.data


def test_a_bundle_without_its_patch_is_complete(parent, tmp_path):
    child = derive_bundle(parent, small_update(parent), out=tmp_path / "child")
    (tmp_path / "child" / "weights.patch.safetensors").unlink()
    assert Bundle.open(tmp_path / "child").digest == child.digest


def test_new_tensors_become_a_patch_of_those_that_changed(parent, tmp_path):
    tensors = dict(parent.tensors())
    tensors["head.bias"] = tensors["head.bias"] + np.float32(1)
    child = derive_bundle(parent, tensors, out=tmp_path / "child")
    assert child.index.patch is not None
    assert child.index.patch.size < 400

    everything = {name: value * np.float32(1.01) for name, value in parent.tensors().items()}
    child = derive_bundle(parent, everything, out=tmp_path / "whole")
    assert child.index.patch is None
    assert child.tensors()["stem.weight"].tobytes() == everything["stem.weight"].tobytes()


def test_a_scale_along_two_axes_is_published_in_full(parent, tmp_path):
    scale = np.full((64, 3, 1, 1), 1.5, np.float32)
    child = derive_bundle(parent, Update(scale={"stem.weight": scale}), out=tmp_path / "child")
    assert child.index.patch is None
    np.testing.assert_array_equal(
        child.tensors()["stem.weight"], parent.tensors()["stem.weight"] * scale
    )


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (Update(replace={"nose": np.zeros(1, np.float32)}), "'nose': is no tensor"),
        (Update(scale={"nose": np.zeros(1, np.float32)}), "'nose': is no tensor"),
        (Update(replace={"stem.bias": np.zeros(3, np.float32)}), r"shape \(3,\)"),
        (Update(scale={"stem.bias": np.zeros(3, np.float32)}), "does not fit"),
        (Update(scale={"stem.weight": np.ones((3, 64, 1, 1), np.float32)}), "does not fit"),
        (Update(replace={"stem.bias": np.full(64, np.nan, np.float32)}), "NaN"),
        (Update(scale={"stem.bias": np.full(64, np.inf, np.float32)}), "infinity"),
        (Update(scale={"stem.bias": np.full(64, 3e38, np.float32)}), "infinity"),
        (
            Update(
                replace={"stem.bias": np.ones(64, np.float32)},
                scale={"stem.bias": np.ones(64, np.float32)},
            ),
            "both",
        ),
    ],
)
def test_an_update_that_does_not_fit_names_the_tensor(parent, tmp_path, update, words):
    big = {"stem.bias": np.full(64, 1e3, np.float32)}
    parent = derive_bundle(parent, Update(replace=big), out=tmp_path / "parent")
    with pytest.raises(PatchError, match=words):
        derive_bundle(parent, update, out=tmp_path / "child")
    assert not (tmp_path / "child").exists()


def test_a_broken_patch_is_refused(parent):
    good = encode_patch(parent.weights, small_update(parent))
    file = TensorFile.parse(good, file="patch")
    names = file.metadata["names"]
    flat = {name: np.array(value) for name, value in file.arrays().items()}

    def patch(**changes: str) -> bytes:
        return dump_tensors(flat, metadata=file.metadata | changes)

    assert apply_patch(parent.weights.data, patch()) != parent.weights.data
    for broken in (
        b"",
        good[:-4],
        patch(format="patch/9"),
        patch(names="{"),
        patch(names="[" * 100_000),
        patch(names='{"replace": 3, "scale": {}}'),
        patch(names='{"replace": [], "scale": {}}'),
        patch(names=names.replace("stem.bias", "stem.bios")),
        patch(names=names.replace('"0"', '"9"')),
        patch(names=names.replace('"0"', '"-1"')),
        patch(names=names.replace("head.bias", "stem.bias")),
        dump_tensors({"a": np.zeros(1, np.float32)}, metadata=file.metadata),
    ):
        with pytest.raises(PatchError):
            apply_patch(parent.weights.data, broken)
    with pytest.raises(PatchError):
        apply_patch(b"no weights", good)


def test_a_patch_for_other_weights_makes_another_digest(parent, tmp_path):
    other = tiny_bundle(tmp_path / "other", channels=64, seed=9)
    patch = encode_patch(parent.weights, small_update(parent))
    assert apply_patch(other.weights.data, patch) != apply_patch(parent.weights.data, patch)


floats = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=60, deadline=None)
@given(
    base=hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=4), elements=floats),
    data=st.data(),
)
def test_any_patch_rebuilds_what_the_update_says(base, data):
    file = TensorFile.parse(dump_tensors({"w": base, "other": np.ones(2, np.float32)}), file="w")
    axis = data.draw(st.integers(0, base.ndim - 1))
    shape = [1] * base.ndim
    shape[axis] = base.shape[axis]
    factor = data.draw(hnp.arrays(np.float32, tuple(shape), elements=floats))
    for update in (Update(scale={"w": factor}), Update(replace={"w": base * factor})):
        expected = apply_update(file.arrays(), update)
        rebuilt = TensorFile.parse(apply_patch(file.data, encode_patch(file, update)), file="w")
        for name, value in rebuilt.arrays().items():
            assert value.tobytes() == expected[name].tobytes()
