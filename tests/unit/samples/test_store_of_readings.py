"""The store knows no picture: samples of a meter, plain JSON."""

from datetime import UTC, datetime, timedelta

import pytest

from edgebus.contracts import LabelSet, ModelRef, SampleRecord, SampleRefusedError
from edgebus.samples import Catalog, Query, SampleFiles, SampleStore, open_database
from edgebus.workload import Workload

START = datetime(2026, 5, 4, 12, tzinfo=UTC)


class Reading(SampleRecord, version=1):
    """A reading of a meter, and the reading that the model expected."""

    expected: float
    measured: float | None = None


class Meters(Workload):
    name = "meters"
    sample_suffix = ".json"

    def count_truths(self, record):
        return None if record.measured is None else 1

    def check_sample(self, sample):
        if sample.measured is not None and sample.measured < 0:
            raise SampleRefusedError(sample=sample.id, reason="a meter runs forwards only")


def reading(index, **changes):
    fields = {
        "source": "plant/pi-07/collector",
        "stream": "boiler",
        "input": f"reading-{index}",
        "index": index,
        "captured": START + timedelta(minutes=index),
        "split": "holdout" if index % 4 == 3 else "train",
        "policy": "residual",
        "reason": "far from what was expected",
        "score": 2.5,
        "model": ModelRef(name="load", version=1, digest="a" * 64),
        "expected": 3.0,
        "measured": 7.0,
    }
    return Reading(**(fields | changes))


@pytest.fixture
def store(tmp_path):
    return SampleStore(
        open_database(tmp_path / "samples.db"),
        SampleFiles(tmp_path / "samples"),
        Meters(),
        max_samples=100,
        max_bytes=10**6,
    )


def test_any_message_is_a_sample(store, tmp_path):
    readings = [reading(index) for index in range(8)]
    for each in readings:
        assert store.add(each, received=START) == "added"
    assert store.add(readings[0], received=START) == "duplicate"
    counts = store.counts("load")
    assert (counts.train, counts.holdout, counts.per_stream) == (6, 2, {"boiler": 8})
    assert store.untrained_per_stream("load") == {"pi-07.boiler": 6}
    assert store.measurable("load") == 2
    (newest,) = store.fresh("load", since=START, limit=1)
    assert newest.path.suffix == ".json"
    assert Reading.decode(newest.path.read_bytes()) == readings[6]
    collected = store.collected([each.id for each in readings])
    assert (collected.first_captured, collected.last_source) == (START, "plant/pi-07/collector")


def test_a_workload_refuses_what_cannot_be(store):
    with pytest.raises(SampleRefusedError, match="runs forwards only"):
        store.add(reading(0, measured=-1.0), received=START)
    assert store.counts("load").samples == 0


def test_labels_are_of_the_workloads_own_kind(store, tmp_path):
    unknown = reading(3, measured=None)
    store.add(unknown, received=START)
    catalog = Catalog(tmp_path, Meters())
    assert catalog.count(Query(labelled=True)) == 0
    labels = LabelSet(labels=(6.5,), by="operator:ann", time=START)
    catalog.add([reading(4)], {unknown.id: labels}, received=START)
    entries = {entry.id: entry for entry in catalog.entries(Query(labelled=True))}
    assert len(entries) == 2
    assert entries[unknown.id].labels == labels
    (held_out,) = store.holdout("load", limit=9)
    assert held_out.labels == labels
