"""Attacks on what a model is made of: index, manifest, tensors, patches, graphs, blocks."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from edgebus.artifacts import (
    ArtifactError,
    Bundle,
    BundleError,
    GraphSpec,
    Manifest,
    PatchError,
    Update,
)
from edgebus.artifacts.graph import inspect_graph
from edgebus.artifacts.index import (
    BLOCK_SIZE,
    GRAPH,
    MANIFEST,
    WEIGHTS,
    BundleIndex,
    FileEntry,
    block_digests,
)
from edgebus.artifacts.tensors import TensorFile
from edgebus.artifacts.update import apply_patch, encode_patch
from edgebus.contracts import BlockRange, BlockRequest, PayloadError
from edgebus.transfer import BlockReceiver, BlockSender
from edgebus_detection.models.testing import tiny_bundle
from tests.soak.making import Maker
from tests.soak.mutating import mutated_bytes, mutated_json
from tests.soak.target import Target, WrongError

__all__ = ["artifact_targets"]


def artifact_targets() -> list[Target]:
    """Every parser between a block from the network and a model that serves."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = tiny_bundle(Path(folder) / "tiny")
    rng = np.random.default_rng(0)
    update = Update(
        replace={"conv.bias": rng.normal(size=7).astype(np.float32)},
        scale={"conv.weight": rng.normal(1, 0.1, 7).astype(np.float32)},
    )
    patch = encode_patch(bundle.weights, update)
    return [
        Target("bundle index", _document(BundleIndex, bundle.index_bytes), share=2.0),
        Target("bundle manifest", _document(Manifest, bundle.files[MANIFEST]), share=2.0),
        Target("bundle tensors", _tensors(bundle), share=3.0),
        Target("bundle patch", _patch(bundle, patch), share=2.0),
        Target("bundle graph", _graph(bundle), share=2.0),
        Target("bundle as a whole", _whole(bundle), share=1.0),
        Target("block requests", _requests, share=1.0),
        Target("blocks", _blocks, share=1.0),
    ]


def _document(kind: type[BundleIndex] | type[Manifest], whole: bytes) -> Callable[[Random], int]:
    tree = json.loads(whole)

    def attack(random: Random) -> int:
        if kind is Manifest and random.random() < 0.2:
            maker = Maker(random)
            # Its graphs have to agree with each other: the first is the file of that name.
            graph = maker.model(GraphSpec, file=GRAPH)
            made = maker.model(Manifest, graphs=(graph,))
            if Manifest.decode(made.encode()) != made:
                msg = "a manifest came back as another"
                raise WrongError(msg)
            return 1
        if random.random() < 0.6:
            hostile = mutated_json(random, tree)
        else:
            hostile = mutated_bytes(random, whole)
        try:
            read = kind.decode(hostile)
        except BundleError as error:
            str(error).encode()
            return 0
        if kind.decode(read.encode()) != read:
            msg = f"accepted {hostile[:500]!r}, but writes it differently itself"
            raise WrongError(msg)
        return 1

    return attack


def _hostile_tensors(random: Random, whole: bytes) -> bytes:
    """A safetensors file with a header that lies."""
    if random.random() < 0.4:
        return mutated_bytes(random, whole)
    (length,) = struct.unpack_from("<Q", whole)
    header = json.loads(whole[8 : 8 + length])
    if random.random() < 0.2:  # what adds up to nothing although it claims much
        name = random.choice(list(header))
        size = random.choice((2**31, 2**62, 2**63, 2**70, 10**30))
        header[name] = {
            "dtype": "F32",
            "shape": random.choice(([0, size], [size, 0], [0] * 16, [0] * 17, [1] * 16)),
            "data_offsets": [0, 0],
        }
        text = json.dumps(header).encode()
    else:
        text = mutated_json(random, header)
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


def _tensors(bundle: Bundle) -> Callable[[Random], int]:
    whole = bundle.files[WEIGHTS]

    def attack(random: Random) -> int:
        try:
            file = TensorFile.parse(_hostile_tensors(random, whole), file=WEIGHTS)
        except BundleError as error:
            str(error).encode()
            return 0
        arrays = file.arrays()
        if sum(array.nbytes for array in arrays.values()) > len(file.data):
            msg = "tensors larger than their file"
            raise WrongError(msg)
        file.replaced(dict(list(arrays.items())[:1]))
        return 1

    return attack


def _patch(bundle: Bundle, patch: bytes) -> Callable[[Random], int]:
    base = bundle.files[WEIGHTS]
    (length,) = struct.unpack_from("<Q", patch)
    header = json.loads(patch[8 : 8 + length])
    names = json.loads(header["__metadata__"]["names"])

    def attack(random: Random) -> int:
        if random.random() < 0.5:
            hostile = _hostile_tensors(random, patch)
        else:
            wrong = mutated_json(random, names).decode(errors="replace")
            metadata = header["__metadata__"] | {"names": wrong[:100_000]}
            text = json.dumps(header | {"__metadata__": metadata}).encode()
            hostile = struct.pack("<Q", len(text)) + text + patch[8 + length :]
        try:
            made = apply_patch(base, hostile)
        except PatchError as error:
            str(error).encode()
            return 0
        file = TensorFile.parse(made, file=WEIGHTS)
        if file.entries != bundle.weights.entries:
            msg = "a patch changed the layout"
            raise WrongError(msg)
        return 1

    return attack


def _graph(bundle: Bundle) -> Callable[[Random], int]:
    whole = bundle.files[GRAPH]

    def attack(random: Random) -> int:
        try:
            inspect_graph(_hostile_graph(random, whole))
        except BundleError as error:
            str(error).encode(errors="strict")
            return 0
        return 1

    return attack


def _hostile_graph(random: Random, whole: bytes) -> bytes:
    if random.random() < 0.8:
        return mutated_bytes(random, whole)
    import onnx

    model = onnx.ModelProto.FromString(whole)
    tensor = random.choice(model.graph.initializer)
    digits = random.choice(("9" * 5000, "9" * 20, "-1", "1_0", " 1", "٣", "", "1e3"))
    for item in tensor.external_data:
        if item.key in ("offset", "length"):
            item.value = digits
    tensor.dims.extend(random.choice(([], [0], [-1], [2**62], [0, 2**62])))
    tensor.data_type = random.choice((0, 1, 7, 99, 2**31 - 1))
    return bytes(model.SerializeToString())


def _whole(bundle: Bundle) -> Callable[[Random], int]:
    """One file is hostile, and the index agrees with it: a bundle that somebody made so."""

    def attack(random: Random) -> int:
        files = {name: data for name, data in bundle.files.items() if name != "graph"}
        name = random.choice(list(files))
        if name == WEIGHTS:
            files[name] = _hostile_tensors(random, files[name])
        elif name == GRAPH:
            files[name] = _hostile_graph(random, files[name])
        elif name == MANIFEST and random.random() < 0.7:
            files[name] = mutated_json(random, json.loads(files[name]))
        else:
            files[name] = mutated_bytes(random, files[name])
        index = BundleIndex(files=tuple(FileEntry.of(key, data) for key, data in files.items()))
        try:
            opened = Bundle.assemble(index.encode(), lambda key, _size: files[key])
            opened.probe()
        except ArtifactError as error:
            str(error).encode()
            return 0
        opened.tensors()
        return 1

    return attack


def _requests(random: Random) -> int:
    """Whoever asks for nonsense gets nothing, and costs little."""
    made = Maker(random).model(BlockRequest)
    tree = json.loads(made.encode())
    if random.random() < 0.3:
        tree["missing"] = [{"first": random.choice((0, 7, 2**52)), "count": 65536}] * 1024
    hostile = mutated_json(random, tree) if random.random() < 0.5 else json.dumps(tree).encode()
    try:
        request = BlockRequest.decode(hostile)
    except PayloadError:
        return 0
    blocks = random.choice((0, 1, 3, 1000))
    sender = BlockSender()
    size = blocks * BLOCK_SIZE
    sender.want(request.digest, request.missing, size=size, now=0.0)
    if sender.waiting > blocks:
        msg = f"{sender.waiting} blocks wait of a blob of {blocks}"
        raise WrongError(msg)
    sent: set[int] = set()
    while (block := sender.next()) is not None:
        if block.index in sent or not 0 <= block.index < blocks:
            msg = f"block {block.index} of {blocks} is sent twice or does not exist"
            raise WrongError(msg)
        sent.add(block.index)
        sender.sent(block, size=1, now=0.0)
    return 1


class _Sink:
    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data


def _blocks(random: Random) -> int:
    """Blocks that nobody sent: what is complete in the end is what was published."""
    block_size = 16
    blob = random.randbytes(random.choice((0, 1, 16, 17, 100)))
    digests = block_digests(blob, block_size=block_size)
    sink = _Sink(len(blob))
    receiver = BlockReceiver(size=len(blob), blocks=digests, sink=sink, block_size=block_size)
    for _ in range(40):
        index = random.choice((*range(-1, len(digests) + 1), 2**60, -(2**60)))
        data = blob[index * block_size : (index + 1) * block_size] if index >= 0 else b""
        if random.random() < 0.4:
            data = mutated_bytes(random, data)
        receiver.take(index, data, now=0.0)
        wanted: tuple[BlockRange, ...] = receiver.next_request(now=0.0)
        if any(item.first + item.count > len(digests) for item in wanted):
            msg = f"asks for {wanted} of {len(digests)} blocks"
            raise WrongError(msg)
    if not receiver.done:
        return 0
    if hashlib.sha256(sink.data).digest() != hashlib.sha256(blob).digest():
        msg = "complete, and not what was published"
        raise WrongError(msg)
    return 1
