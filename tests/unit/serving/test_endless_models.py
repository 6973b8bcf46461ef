"""Models whose inference never ends: they are stopped, and hold up neither inputs nor releases."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_release_follower import Edge, release

from edgebus.artifacts import Bundle, Draft
from edgebus.serving import EngineError, EngineSettings, HotSwap, ModelRefusedError, OrtEngine
from edgebus_detection.models import DetectionModel
from edgebus_detection.models.testing import tiny_bundle, tiny_picture

HASTY = EngineSettings(threads=1, deadline_s=0.5)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: tiny_bundle(folder / f"v{n}", version=n, gain=0.2 + n / 50) for n in (1, 2, 3)}


def endless(bundle: Bundle, *, when: str | None = None) -> Draft:
    """The same model behind a loop that never ends, or only for a dark picture (`when`)."""
    model = onnx.load_from_string(bundle.graph_bytes())
    graph = model.graph
    ports = {
        name: helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("turn", TensorProto.INT64, []),
            ("again", TensorProto.BOOL, []),
            ("value", TensorProto.FLOAT, [1, 3, 48, 64]),
            ("goes_on", TensorProto.BOOL, []),
            ("passed", TensorProto.FLOAT, [1, 3, 48, 64]),
        )
    }
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["goes_on"]),
            helper.make_node("Identity", ["value"], ["passed"]),
        ],
        "body",
        [ports["turn"], ports["again"], ports["value"]],
        [ports["goes_on"], ports["passed"]],
    )
    for node in graph.node:
        node.input[:] = ["looped" if name == "images" else name for name in node.input]
    before = []
    if when is None:
        graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    else:
        graph.initializer.append(numpy_helper.from_array(np.array(10, np.float32), "dark"))
        before = [
            helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
            helper.make_node("Less", ["mean", "dark"], ["always"]),
        ]
    nodes = [*before, helper.make_node("Loop", ["", "always", "images"], ["looped"], body=body)]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    graph.ClearField("node")
    graph.node.extend([*nodes, *kept])
    return Draft(
        manifest=bundle.manifest, graph=model.SerializeToString(), weights=bundle.tensors()
    )


def test_an_inference_that_never_ends_is_stopped(bundles: dict[int, Bundle]) -> None:
    engine = OrtEngine(endless(bundles[1]), HASTY)
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"no answer within 0.5 s \(engine.deadline_s\)"):
        engine.run({"images": np.zeros((1, 3, 48, 64), np.float32)})
    assert time.monotonic() - began < 5


def test_it_answers_the_next_input_as_before(bundles: dict[int, Bundle]) -> None:
    engine = OrtEngine(endless(bundles[1], when="dark"), HASTY)
    plain = OrtEngine(bundles[1], HASTY)
    light = np.full((1, 3, 48, 64), 90, np.float32)
    for _ in range(2):
        with pytest.raises(EngineError, match="no answer"):
            engine.run({"images": light * 0})
        have, want = (each.run({"images": light})["output"] for each in (engine, plain))
        np.testing.assert_array_equal(have, want)


def test_such_a_model_is_refused_at_its_warm_up(bundles: dict[int, Bundle]) -> None:
    swap = HotSwap(
        HASTY, make_engine=lambda source, settings: OrtEngine(endless(bundles[2]), settings)
    )
    with pytest.raises(ModelRefusedError, match=r"failed its warm-up: .*no answer within"):
        swap.prepare(bundles[2])
    assert swap.current is None


async def test_the_owners_rollback_does_not_wait_for_a_model_that_hangs(
    tmp_path: Path, bundles: dict[int, Bundle]
) -> None:
    released = threading.Event()

    def make(source, settings):
        if source.manifest.version == 2:
            released.wait(20)  # a load that no deadline of the runtime ends
        return OrtEngine(source, settings)

    try:
        async with Edge(tmp_path, bundles, make_engine=make) as edge:
            await edge.follower.restore()
            edge.follower.offer(release(bundles[1], 1))
            await edge.until(lambda status: status.state == "updated")
            edge.follower.offer(release(bundles[2], 2))
            await edge.until(lambda status: status.state == "updating" and status.sequence == 1)
            edge.said.clear()
            edge.follower.offer(release(bundles[3], 3))
            done = await edge.until(lambda status: status.state == "updated")
            assert (edge.version, done.sequence) == (3, 3)
            released.set()
            await asyncio.sleep(0.2)
            assert edge.version == 3
            found, _ = DetectionModel.load(bundles[3], HASTY).detect(tiny_picture())
            assert len(found)
    finally:
        released.set()


async def test_a_release_that_hangs_fails_and_the_model_before_serves_on(
    tmp_path: Path, bundles: dict[int, Bundle]
) -> None:
    def make(source, settings):
        hangs = source.manifest.version == 2
        return OrtEngine(endless(bundles[2]) if hangs else source, HASTY)

    async with Edge(tmp_path, bundles, make_engine=make) as edge:
        await edge.follower.restore()
        edge.follower.offer(release(bundles[1], 1))
        await edge.until(lambda status: status.state == "updated")
        edge.follower.offer(release(bundles[2], 2))
        failed = await edge.until(lambda status: status.state == "failed")
        assert "no answer within 0.5 s" in failed.error
        assert edge.version == 1
