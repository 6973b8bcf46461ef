"""The generic serving service with a workload that knows no picture: two inputs, open batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgebus.workload
from edgebus.artifacts import (
    Bundle,
    EngineRequirements,
    GraphSpec,
    Manifest,
    Store,
    TensorSpec,
    derive_bundle,
    write_bundle,
)
from edgebus.artifacts.graph import declare_external
from edgebus.artifacts.tensors import TensorFile, dump_tensors
from edgebus.contracts import (
    Count,
    Message,
    ModelRef,
    ModelStatus,
    Release,
    Segment,
    Timestamp,
    Topic,
    topics,
)
from edgebus.contracts import utc_now as now
from edgebus.service.testing import ServiceHarness
from edgebus.serving import EngineError, EngineSettings, OrtEngine, make_probe, run_probe
from edgebus.serving.service import ModelServiceSettings, Server
from edgebus.transfer import ArtifactProvider, reference
from edgebus.workload import Answer, Workload, load_workload

ONE = EngineSettings(threads=1)


class Reading(Message, version=1):
    stream: Segment
    index: Count
    captured: Timestamp
    values: tuple[float, float]
    offset: float = 0.0

    @property
    def input(self) -> str:
        return self.id


class Estimate(Message, version=1):
    stream: Segment
    input: str
    index: Count
    captured: Timestamp
    value: float
    model: ModelRef
    dropped: Count


READINGS = Topic("{node}/meter/{stream}/reading", Reading, qos=0, doc="What a meter reads.")
ESTIMATES = Topic("{node}/{service}/{stream}/estimate", Estimate, qos=0, doc="What follows of it.")


class Line(Workload):
    name: ClassVar[str] = "line"
    inputs = READINGS
    predictions = ESTIMATES

    def decode(self, payload: Reading) -> dict[str, np.ndarray]:
        if payload.values[0] < 0:
            msg = f"a meter cannot read {payload.values[0]}"
            raise ValueError(msg)
        return {
            "values": np.array([payload.values], np.float32),
            "offset": np.array([[payload.offset]], np.float32),
        }

    def prediction(self, payload: Reading, answer: Answer[dict[str, np.ndarray]]) -> Estimate:
        return Estimate(
            stream=payload.stream,
            input=payload.id,
            index=payload.index,
            captured=payload.captured,
            value=float(answer.prediction["estimate"][0, 0]),
            model=answer.model,
            dropped=answer.dropped,
        )


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch):
    point = SimpleNamespace(name="line", load=lambda: Line)
    monkeypatch.setattr(edgebus.workload, "entry_points", lambda group: [point])
    monkeypatch.setattr(
        edgebus.workload, "entry_point", lambda _group, name: point if name == point.name else None
    )
    load_workload.cache_clear()
    yield
    load_workload.cache_clear()


def line_bundle(
    folder: Path, *, version: int = 1, slope: float = 2.0, probe: bool = True
) -> Bundle:
    """estimate = slope * (values[0] + values[1]) + 1 + offset, for any number of rows."""
    tensors = {
        "slope": np.full((2, 1), slope, np.float32),
        "one": np.ones(1, np.float32),
    }
    weights = dump_tensors(tensors)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["values", "slope", "one"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["estimate"]),
        ],
        "line",
        [
            helper.make_tensor_value_info("values", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("offset", TensorProto.FLOAT, ["n", 1]),
        ],
        [helper.make_tensor_value_info("estimate", TensorProto.FLOAT, ["n", 1])],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    declare_external(model, TensorFile.parse(weights, file="weights.safetensors"))
    manifest = Manifest(
        name="line",
        version=1,
        task="line",
        graphs=(
            GraphSpec(
                inputs=(
                    TensorSpec(name="values", shape=(None, 2)),
                    TensorSpec(name="offset", shape=(None, 1)),
                ),
                outputs=(TensorSpec(name="estimate", shape=(None, 1)),),
            ),
        ),
        engine=EngineRequirements(opset=13, ir_version=8),
    )
    return write_bundle(
        folder,
        manifest=manifest,
        graph=model.SerializeToString(deterministic=True),
        weights=weights,
        probe=make_probe,
    )


def test_an_engine_takes_several_inputs_of_any_batch(tmp_path) -> None:
    engine = OrtEngine(line_bundle(tmp_path / "1"), ONE)
    outputs = engine.run(
        {
            "values": np.array([[1, 2], [3, 4], [5, 6]], np.float32),
            "offset": np.array([[0], [1], [2]], np.float32),
        }
    )
    assert outputs["estimate"].tolist() == [[7], [16], [25]]
    for wrong in (
        {"values": np.zeros((1, 2), np.float32)},
        {},
        {"values": np.zeros((1, 3), np.float32)},
    ):
        with pytest.raises(EngineError):
            engine.run(wrong)


def test_a_generic_probe_tells_one_models_answers_from_anothers(tmp_path) -> None:
    first, second = line_bundle(tmp_path / "1"), line_bundle(tmp_path / "2", slope=2.1)
    assert run_probe(OrtEngine(first, ONE), first.manifest, first.probe()) <= 1e-3
    with pytest.raises(Exception, match="output estimate"):
        run_probe(OrtEngine(first, ONE), first.manifest, second.probe())


def test_an_open_dimension_must_be_declared_open(tmp_path) -> None:
    bundle = line_bundle(tmp_path / "1")
    (graph,) = bundle.manifest.graphs
    fixed = graph.inputs[0].model_copy(update={"shape": (1, 3)})
    assert not fixed.fits((None, 2))
    assert graph.inputs[0].fits((None, 2))
    assert not graph.inputs[0].fits((1, 2))  # a graph for one row does not take any number


async def test_a_server_needs_no_code_of_its_own_for_another_workload(tmp_path) -> None:
    first = line_bundle(tmp_path / "1")
    steeper = first.tensors() | {"slope": np.full((2, 1), 3, np.float32)}
    second = derive_bundle(first, steeper, out=tmp_path / "2", probe=make_probe)
    settings = ModelServiceSettings(workload="line", bundle=first.path, engine=ONE)
    async with ServiceHarness(Server, settings, also=(READINGS, ESTIMATES)) as h:
        at = READINGS.at(h.node("pi-01"), stream="hall")

        async def ask(index: int, *values: float, offset: float = 0.0) -> Estimate:
            reading = Reading(
                stream="hall", index=index, captured=now(), values=values, offset=offset
            )
            await h.publish(at, reading)
            return (await h.expect(ESTIMATES)).payload

        said = await ask(0, 1, 2, offset=0.5)
        assert (said.value, said.index, said.model.version) == (7.5, 0, 1)
        assert said.source == "lab/pi-01/server"
        await h.publish(at, Reading(stream="hall", index=1, captured=now(), values=(-1, 0)))
        letter = (await h.expect(topics.DEAD_LETTER)).payload
        assert "a meter cannot read -1" in letter.error

        cloud = h.node("cloud", "distributor")
        store = Store(tmp_path / "cloud")
        store.put_bundle(second)
        provider = asyncio.create_task(ArtifactProvider(h.bus, cloud, store).run())
        ref = reference(store, second.digest, provider=cloud)
        release = Release(source=cloud.source, channel="stable", bundle=ref, sequence=1)
        await h.publish(topics.RELEASE.at(cloud, model="line", channel="stable"), release)
        status = await h.expect(
            topics.MODEL_STATUS, where=lambda event: event.payload.state == "updated"
        )
        assert status.payload.serving.digest == second.digest
        said = await ask(2, 1, 2)
        assert (said.value, said.model.version) == (10, 2)
        provider.cancel()
        await asyncio.gather(provider, return_exceptions=True)


class Lab:
    """A server that answers meter readings, and a distributor beside it."""

    def __init__(self, harness: ServiceHarness[ModelServiceSettings], folder: Path) -> None:
        self.harness = harness
        self._cloud = harness.node("cloud", "distributor")
        self._store = Store(folder / "cloud")
        self.provider = ArtifactProvider(harness.bus, self._cloud, self._store)

    async def release(self, bundle: Bundle, sequence: int) -> ModelStatus:
        self._store.put_bundle(bundle)
        ref = reference(self._store, bundle.digest, provider=self._cloud)
        await self.harness.publish(
            topics.RELEASE.at(self._cloud, model="line", channel="stable"),
            Release(source=self._cloud.source, channel="stable", bundle=ref, sequence=sequence),
        )
        return await self.status("updated", "failed", sequence=sequence)

    async def status(self, *states: str, sequence: int) -> ModelStatus:
        event = await self.harness.expect(
            topics.MODEL_STATUS,
            where=lambda e: e.payload.state in states and e.payload.sequence == sequence,
        )
        return event.payload

    async def read(self, index: int, *values: float) -> None:
        reading = Reading(stream="hall", index=index, captured=now(), values=values)
        at = READINGS.at(self.harness.node("pi-01"), stream="hall")
        await self.harness.publish(at, reading)

    async def ask(self, index: int, *values: float) -> Estimate:
        await self.read(index, *values)
        return (await self.harness.expect(ESTIMATES)).payload


@asynccontextmanager
async def lab(bundle: Bundle, folder: Path, **more: Any) -> AsyncIterator[Lab]:
    settings = ModelServiceSettings(workload="line", bundle=bundle.path, engine=ONE)
    async with ServiceHarness(Server, settings, also=(READINGS, ESTIMATES), **more) as harness:
        made = Lab(harness, folder)
        providing = asyncio.create_task(made.provider.run())
        yield made
        providing.cancel()
        await asyncio.gather(providing, return_exceptions=True)


def steeper(bundle: Bundle, folder: Path) -> Bundle:
    update = bundle.tensors() | {"slope": np.full((2, 1), 3, np.float32)}
    return derive_bundle(bundle, update, out=folder, probe=make_probe)


def remade(bundle: Bundle, folder: Path, *, rename: str = "estimate", **fields: Any) -> Bundle:
    """The same model with other fields in its manifest, or with an output of another name."""
    model = onnx.load_from_string(bundle.graph_bytes())
    model.graph.node[-1].output[0] = model.graph.output[0].name = rename
    (graph,) = bundle.manifest.graphs
    output = graph.outputs[0].model_copy(update={"name": rename})
    fields = {"graphs": (graph.model_copy(update={"outputs": (output,)}),), **fields}
    return write_bundle(
        folder,
        manifest=bundle.manifest.model_copy(update={"version": 2, **fields}),
        graph=model.SerializeToString(deterministic=True),
        weights=dump_tensors(bundle.tensors()),
    )


@pytest.mark.parametrize("error", [KeyError("classes"), ImportError("no such library")])
async def test_whatever_a_workload_raises_refuses_the_release_alone(
    tmp_path, monkeypatch, error
) -> None:
    load = Line.load

    def strange(self, source, engine, **options):
        if source.ref.version == 2:
            raise error
        return load(self, source, engine, **options)

    monkeypatch.setattr(Line, "load", strange)
    first = line_bundle(tmp_path / "1")
    async with lab(first, tmp_path) as it:
        status = await it.release(steeper(first, tmp_path / "2"), 1)
        assert status.state == "failed"
        assert f"failed its load: {type(error).__name__}: {error}" in status.error
        assert (await it.ask(0, 1, 2)).model.version == 1


async def test_a_model_whose_answer_makes_no_message_is_taken_back(tmp_path) -> None:
    first = line_bundle(tmp_path / "1")
    async with lab(first, tmp_path) as it:
        second = remade(first, tmp_path / "2", rename="other")
        assert (await it.release(second, 1)).state == "updated"
        assert (await it.ask(0, 1, 2)).model.version == 1
        status = await it.status("failed", sequence=1)
        assert status.error == "taken back on its input 1: 'estimate'"


async def test_a_new_model_is_not_taken_back_for_an_input_that_fails_the_old_one_too(
    tmp_path,
) -> None:
    first = line_bundle(tmp_path / "1")
    async with lab(first, tmp_path) as it:
        assert (await it.release(steeper(first, tmp_path / "2"), 1)).state == "updated"
        await it.read(0, 3e38, 0)  # twice that is infinite in 32 bits
        letter = (await it.harness.expect(topics.DEAD_LETTER)).payload
        assert "not finite" in letter.error
        assert (await it.ask(1, 1, 2)).model.version == 2


async def test_a_first_bundle_of_another_workload_does_not_serve(tmp_path) -> None:
    other = remade(line_bundle(tmp_path / "1"), tmp_path / "2", task="circle")
    async with lab(other, tmp_path) as it:
        state = await it.harness.wait_for_state("degraded")
        assert "it is for circle, this service serves line" in state.reason


async def test_a_state_file_that_cannot_be_read_does_not_keep_it_from_starting(tmp_path) -> None:
    (tmp_path / "data" / "server" / "current.json").mkdir(parents=True)
    async with lab(line_bundle(tmp_path / "1"), tmp_path, data_dir=tmp_path / "data") as it:
        assert (await it.ask(0, 1, 2)).value == 7


async def test_an_iterator_that_ends_in_a_workload_does_not_hold_the_service_up(
    tmp_path, monkeypatch
) -> None:
    decode = Line.decode

    def strange(self, payload):
        return decode(self, payload) if payload.index else next(iter(()))

    monkeypatch.setattr(Line, "decode", strange)
    async with lab(line_bundle(tmp_path / "1"), tmp_path) as it:
        await it.read(0, 1, 2)
        letter = (await it.harness.expect(topics.DEAD_LETTER)).payload
        assert "StopIteration" in letter.error
        assert (await it.ask(1, 1, 2)).value == 7
