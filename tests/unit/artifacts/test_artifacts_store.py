from pathlib import Path

import pytest

from artifact_examples import small_update, tiny_bundle
from edgebus.artifacts import (
    BlobMissingError,
    BundleDigestError,
    BundleFileMissingError,
    QuotaExceededError,
    Store,
    derive_bundle,
)
from edgebus.artifacts.index import sha256


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def blob_file(store: Store, digest: str) -> Path:
    return store.root / "blobs" / digest[:2] / digest


def test_blobs_by_digest(store):
    digest = store.put(b"hello")
    assert digest == sha256(b"hello") == store.put(b"hello")
    assert store.has(digest)
    assert store.get(digest) == b"hello"
    assert store.size(digest) == 5
    assert store.read(digest, offset=1, count=3) == b"ell"
    assert store.used == 5
    assert Store(store.root).used == 5


def test_what_is_not_there_is_named(store):
    with pytest.raises(BlobMissingError, match="abab"):
        store.get("ab" * 32)
    with pytest.raises(BlobMissingError):
        store.size("ab" * 32)
    with pytest.raises(BlobMissingError):
        store.complete_bundle("ab" * 32)


def test_a_blob_that_rots_is_dropped_to_be_fetched_again(store):
    digest = store.put(b"hello")
    blob_file(store, digest).write_bytes(b"hellO")
    with pytest.raises(BundleDigestError):
        store.get(digest)
    assert not store.has(digest)
    store.put(b"hello")
    assert store.get(digest) == b"hello"


def test_versions_share_what_they_have_in_common(store, tmp_path):
    parent = tiny_bundle(tmp_path, channels=64)
    child = derive_bundle(parent, small_update(parent), out=tmp_path / "child")
    store.put_bundle(parent)
    before = store.used
    store.put_bundle(child)
    extra = len(child.index_bytes) + sum(
        len(child.files[name])
        for name in ("manifest.json", "weights.safetensors", "weights.patch.safetensors")
    )
    assert store.used - before == extra  # not the graph
    assert set(store.bundles()) == {parent.digest, child.digest}
    assert store.open_bundle(child.digest) == child.__class__(
        **{
            name: getattr(child, name)
            for name in child.__dataclass_fields__
            if name not in {"path", "files"}
        },
        files=store.open_bundle(child.digest).files,
        path=None,
    )


def test_checkout_writes_a_folder(store, tmp_path):
    bundle = tiny_bundle(tmp_path)
    store.put_bundle(bundle)
    out = store.checkout(bundle.digest, tmp_path / "out")
    assert out.digest == bundle.digest
    assert out.path == tmp_path / "out"
    with pytest.raises(OSError, match="not empty"):
        store.checkout(bundle.digest, tmp_path / "out")


def test_gc_keeps_what_is_kept_and_all_that_it_needs(store, tmp_path):
    first = tiny_bundle(tmp_path, channels=64)
    second = derive_bundle(first, small_update(first), out=tmp_path / "2")
    third = derive_bundle(second, small_update(second), out=tmp_path / "3")
    for bundle in (first, second, third):
        store.put_bundle(bundle)
    stray = store.put(b"nobody's")
    with store.partial(sha256(b"half" * 100), size=400) as half:
        half.write(0, b"half")

    removed = store.gc(keep={first.digest, third.digest})
    assert removed.bundles == 1
    assert not store.has(stray)
    assert not store.has_bundle(second.digest)
    assert store.open_bundle(first.digest).digest == first.digest
    assert store.open_bundle(third.digest).index.patch is not None
    assert store.used == Store(store.root).used
    assert list((store.root / "partial").iterdir()) == []
    assert store.gc(keep={first.digest, third.digest}).bytes == 0


def test_the_quota_holds_and_nothing_half_is_left(tmp_path):
    bundle = tiny_bundle(tmp_path)
    store = Store(tmp_path / "store", quota=bundle.size)
    with pytest.raises(QuotaExceededError, match="raise the quota"):
        store.put_bundle(bundle)
    assert not store.has_bundle(bundle.digest)
    with pytest.raises(QuotaExceededError):
        store.partial("ab" * 32, size=bundle.size + 1)
    store.gc(keep=())
    assert store.used == 0


def test_a_crash_leaves_no_half_blob(store):
    digest = store.put(b"hello")
    leftover = blob_file(store, digest).with_name(f".{digest}.0123.part")
    leftover.write_bytes(b"hel")
    again = Store(store.root)
    assert not leftover.exists()
    assert again.get(digest) == b"hello"
    assert again.used == 5


def test_a_bundle_is_there_only_with_all_its_blobs(store, tmp_path):
    bundle = tiny_bundle(tmp_path)
    store.put(bundle.index_bytes)
    with pytest.raises(BlobMissingError):
        store.complete_bundle(bundle.digest)
    assert not store.has_bundle(bundle.digest)
    store.put_bundle(bundle)
    blob_file(store, bundle.index.file("graph.onnx").digest).unlink()
    with pytest.raises((BlobMissingError, BundleFileMissingError)):
        store.open_bundle(bundle.digest)


def test_a_partial_blob_survives_and_is_checked_as_a_whole(store):
    data = bytes(range(256)) * 4
    digest = sha256(data)
    with store.partial(digest, size=1024) as half:
        assert half.fresh
        half.write(0, data[:512])
    assert store.used == 1024

    again = Store(store.root)
    with again.partial(digest, size=1024) as half:
        assert not half.fresh
        assert half.read(0, 512) == data[:512]
        half.write(512, data[512:])
        half.finish()
    assert again.get(digest) == data
    assert again.used == 1024

    with again.partial("ab" * 32, size=4) as wrong:
        wrong.write(0, b"1234")
        with pytest.raises(BundleDigestError):
            wrong.finish()
    assert again.used == 1024
    assert not again.has("ab" * 32)
