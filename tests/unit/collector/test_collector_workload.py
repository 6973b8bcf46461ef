"""The collector with a workload that knows no picture: numbers, predicted and known."""

import asyncio
from types import SimpleNamespace
from typing import ClassVar

import pytest
from pydantic import ValidationError

from edgebus.contracts import (
    Message,
    ModelRef,
    SampleRecord,
    Segment,
    Timestamp,
    Topic,
    split_of,
    utc_now,
)
from edgebus.mining import ScorePolicy
from edgebus.service.testing import ServiceHarness
from edgebus.workload import Workload
from edgebus_collector import Collector, CollectorSettings, selection, service
from edgebus_collector import settings as settings_module

MODEL = ModelRef(name="line", version=1, digest="a" * 64)


class Reading(Message, version=1):
    stream: Segment
    index: int
    captured: Timestamp
    x: float

    @property
    def input(self):
        return self.id


class Estimate(Message, version=1):
    stream: Segment
    input: str
    index: int
    captured: Timestamp
    y: float
    model: ModelRef = MODEL


class LineSample(SampleRecord, version=1):
    x: float
    y: float | None


class ErrorPolicy(ScorePolicy):
    name = "error"
    threshold = 0.5

    def score(self, example):
        return None if example.truth is None else abs(example.prediction.y - example.truth.y)


class Line(Workload):
    name: ClassVar[str] = "line"
    inputs = Topic("{node}/{service}/{stream}/reading", Reading, qos=0, doc="A reading.")
    predictions = Topic("{node}/{service}/{stream}/estimate", Estimate, qos=0, doc="An estimate.")
    truths = Topic("{node}/{service}/{stream}/right", Estimate, qos=0, doc="What is right.")
    samples = Topic("{node}/{service}/samples/line", LineSample, qos=1, doc="A sample.")

    def policies(self):
        return {"error": ErrorPolicy}

    def sample(self, example, facts):
        return LineSample(**facts, x=example.input.x, y=example.truth and example.truth.y)


@pytest.fixture
def config(monkeypatch):
    line = Line()
    for module in (settings_module, selection, service):
        monkeypatch.setattr(module, "load_workload", lambda name: line)
    return CollectorSettings(workload="line", receiver=None, holdout_share=0)


async def measure(h, index, *, predicted, true):
    about = {"stream": "main", "index": index, "captured": utc_now(), "source": "lab/pi-01/meter"}
    one = Reading(x=index, **about)
    where = h.node("pi-01")
    await h.publish(Line.truths.at(where, stream="main"), Estimate(input=one.id, y=true, **about))
    await h.publish(Line.inputs.at(where, stream="main"), one)
    said = Estimate(input=one.id, y=predicted, **about)
    await h.publish(Line.predictions.at(where, stream="main"), said)
    return one


async def test_what_is_far_from_the_truth_becomes_a_sample(config):
    train = [index for index in range(100) if split_of("main", index) == "train"]
    async with ServiceHarness(Collector, config, also=[Line.samples]) as h:
        await measure(h, train[0], predicted=1.0, true=1.2)
        wrong = await measure(h, train[1], predicted=1.0, true=3.0)
        sample = (await h.expect(Line.samples)).payload
        assert (sample.input, sample.stream, sample.x) == (wrong.id, "main", train[1])
        assert (sample.policy, sample.score, sample.y) == ("error", 2.0, 3.0)
        assert sample.reason == "error 2 (threshold 0.5)"
        # Without fingerprints nothing is a near-duplicate.
        await measure(h, train[2], predicted=1.0, true=3.0)
        assert (await h.expect(Line.samples)).payload.index == train[2]


def broken(*args):
    raise KeyError("colour")


@pytest.mark.parametrize("part", ["policy", "sample", "fingerprint"])
async def test_an_input_that_breaks_a_strangers_code_is_counted(config, monkeypatch, part):
    train = [index for index in range(100) if split_of("main", index) == "train"]
    async with ServiceHarness(Collector, config, also=[Line.samples]) as h:
        with monkeypatch.context() as strange:
            if part == "policy":
                strange.setattr(ErrorPolicy, "score", broken)
            elif part == "sample":
                strange.setattr(Line, "sample", broken)
            else:
                strange.setattr(h.service._selector, "_fingerprint", broken)
            await measure(h, train[0], predicted=1.0, true=3.0)
            async with asyncio.timeout(5):
                while not h.service.metrics.snapshot().counters.get("failed"):
                    await asyncio.sleep(0.01)
        await measure(h, train[1], predicted=1.0, true=3.0)
        assert (await h.expect(Line.samples)).payload.index == train[1]
        counters = h.service.metrics.snapshot().counters
        assert (counters["failed"], counters["considered"]) == (1, 2)


async def test_a_reference_model_that_fails_does_not_end_the_service(config):
    train = [index for index in range(100) if split_of("main", index) == "train"]
    async with ServiceHarness(Collector, config, also=[Line.samples]) as h:
        h.service.spawn(h.service._ask_reference(SimpleNamespace(predict=broken)), name="reference")
        h.service._for_reference.put_nowait(SimpleNamespace(input=None))
        async with asyncio.timeout(5):
            while not h.service.metrics.snapshot().counters.get("reference.failed"):
                await asyncio.sleep(0.01)
        await measure(h, train[0], predicted=1.0, true=3.0)
        assert (await h.expect(Line.samples)).payload.index == train[0]


def test_what_a_workload_does_not_have_is_refused_in_the_settings(config):
    with pytest.raises(ValidationError, match="the workload derives: no statistics"):
        CollectorSettings(workload="line", drift={})


def test_a_workload_that_is_not_installed_names_the_nearest():
    with pytest.raises(ValidationError, match="did you mean 'detection'"):
        CollectorSettings(workload="detektion")


def test_drift_of_an_unknown_statistic_is_refused():
    with pytest.raises(ValidationError, match="drift of colour cannot be watched"):
        CollectorSettings(drift={"statistics": ["colour"]})
