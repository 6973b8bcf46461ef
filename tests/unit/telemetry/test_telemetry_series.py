"""Any message as a row and as a point."""

from __future__ import annotations

import csv
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from edgebus.bus import Event
from edgebus.contracts import Message, Metrics, Record, Segment, Timestamp, Topic, topics
from edgebus.contracts.registry import all_topics
from edgebus_detection import Detection
from edgebus_detection.messages import DETECTIONS
from edgebus_telemetry.csvfiles import CsvTable
from edgebus_telemetry.series import Point, Series, series_of
from lab_story import answer, at, born, status

WHO = "edgebus/demo/edge-1"


class Pump(Record):
    """A part with a name."""

    name: Segment
    power: float


class Soil(Record):
    """A part without one."""

    depth: float
    power: float


class Bed(Message, version=1):
    """What a bed of plants is like."""

    bed: Segment
    node: Segment
    damp: float
    watered: bool = False
    count: int = 0
    note: str | None = None
    since: Timestamp | None = None
    pump: Pump | None = None
    soil: Soil | None = None
    pumps: tuple[Pump, ...] = ()
    plants: dict[str, int] = Field(default_factory=dict)


BEDS = Topic("{node}/{service}/{plot}/bed/{job}", Bed, qos=1, doc="What a bed is like.")
FULL = Bed(
    source="demo/edge-1/garden",
    bed="roses",
    node="other",
    damp=1,
    note="dry",
    since=at(3),
    pump=Pump(name="north", power=2),
    soil=Soil(depth=0.25, power=3),
    pumps=(Pump(name="a", power=1), Pump(name="b", power=2)),
    plants={"rose": 3, "herb": 1},
)


def series(topic: Topic[Any], **figures: Any) -> Series:
    return series_of([topic], {topic.payload.schema_id(): figures})[topic.payload]


def event(topic: Topic[Any], name: str, payload: Any, *, heard: datetime | None = None) -> Any:
    names = topic.parse(name)
    assert names is not None
    return Event(payload, name, names, False, False, heard or at(9), 0)


def cells(topic: Topic[Any], name: str, payload: Any) -> dict[str, str]:
    made = series(topic)
    (row,) = made.rows(event(topic, name, payload))
    return dict(zip(made.columns, row, strict=True))


def point(topic: Topic[Any], name: str, payload: Any, **more: Any) -> Point:
    return series(topic, **more).point(event(topic, name, payload))


def test_a_row_of_a_strangers_message() -> None:
    row = cells(BEDS, f"{WHO}/garden/east/bed/7", FULL)
    assert (row["site"], row["node"]) == ("demo", "edge-1")
    assert row["time"].endswith("Z")
    assert {name: row[name] for name in row if name not in {"heard", "time"}} == {
        "site": "demo",
        "node": "edge-1",
        "service": "garden",
        "plot": "east",
        "job": "7",
        "bed": "roses",
        "its_node": "other",
        "damp": "1",
        "watered": "false",
        "count": "0",
        "note": "dry",
        "since": row["since"],
        "pump": "north",
        "pump_power": "2",
        "depth": "0.25",
        "soil_power": "3",
        "pumps": "2",
        "plants": "herb=1 rose=3",
    }


def test_what_is_absent_is_an_empty_cell_and_no_field() -> None:
    bare = Bed(source="demo/edge-1/garden", bed="roses", node="x", damp=0.5)
    row = cells(BEDS, f"{WHO}/garden/east/bed/7", bare)
    assert (row["note"], row["pump"], row["depth"], row["since"]) == ("", "", "", "")
    made = point(BEDS, f"{WHO}/garden/east/bed/7", bare)
    assert set(made.fields) == {"damp", "watered", "count", "pumps"}
    assert "pump" not in made.tags


def test_a_point_of_a_strangers_message() -> None:
    made = point(BEDS, f"{WHO}/garden/east/bed/7", FULL, dry=lambda bed: bed.damp < 2)
    assert made.measurement == "bed"
    assert made.time == FULL.time
    # Names are tags, but for those that never end, such as that of a job.
    assert made.tags == {
        "site": "demo",
        "node": "edge-1",
        "service": "garden",
        "plot": "east",
        "bed": "roses",
        "its_node": "other",
        "pump": "north",
    }
    assert made.fields == {
        "damp": 1.0,
        "watered": False,
        "count": 0,
        "note": "dry",
        "pump_power": 2.0,
        "depth": 0.25,
        "soil_power": 3.0,
        "pumps": 2,
        "a.power": 1.0,
        "b.power": 2.0,
        "plants.herb": 1.0,
        "plants.rose": 3.0,
        "dry": True,
    }
    assert isinstance(made.fields["damp"], float)


def test_tags_are_bounded() -> None:
    made = series(BEDS)
    for number in range(1100):
        bed = FULL.model_copy(update={"bed": f"b{number}"})
        found = made.point(event(BEDS, f"{WHO}/garden/east/bed/7", bed)).tags["bed"]
        assert found == (f"b{number}" if number < 1000 else "(other)")
    again = FULL.model_copy(update={"bed": "b1"})
    assert made.point(event(BEDS, f"{WHO}/garden/east/bed/7", again)).tags["bed"] == "b1"


def test_a_detection_tells_where_its_time_went() -> None:
    seen = answer("north", 8, late_s=0.02)
    figures = Detection.figures["detections/1"]
    made = point(DETECTIONS, f"{WHO}/detector/north/detections", seen, **figures)
    assert made.time == seen.time
    assert made.tags["camera"] == "north"
    assert made.fields["send_ms"] == 3.0
    assert made.fields["transport_ms"] == 1.0
    assert made.fields["process_ms"] == 20.0
    assert made.fields["latency_ms"] == 24.0
    assert made.fields["boxes"] == len(seen.boxes)


def test_rows_of_detections_are_read_back_by_a_csv_reader(tmp_path: Path) -> None:
    made = series(DETECTIONS, **Detection.figures["detections/1"])
    target = CsvTable(tmp_path, made.table, made.columns, max_bytes=1_000_000, keep=2)
    for index in range(5):
        # A clock of another zone must not show up in the files.
        heard = at(9).astimezone(timezone(timedelta(hours=5)))
        name = f"{WHO}/detector/north/detections"
        seen = event(DETECTIONS, name, answer("north", index), heard=heard)
        for row in made.rows(seen):
            target.add(row)
    target.write(target.take())
    with target.path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["index"] for row in read] == ["0", "1", "2", "3", "4"]
    stamps = [read[0][name] for name in ("captured", "sent", "received", "detected", "heard")]
    assert stamps == sorted(stamps)
    assert read[0]["heard"] == "2026-11-22T10:00:09.000000Z"
    assert read[0]["labels"] == "car:1 person:1"
    for name in ("model", "version", "digest", "boxes", "best_score", "decode_ms", "dropped"):
        assert read[0][name]


def test_field_types_never_depend_on_the_value() -> None:
    def types(**values: float) -> dict[str, type]:
        metrics = Metrics(
            source="a/b/c", session=1, uptime_s=values["u"], gauges={"g": values["g"]}
        )
        made = point(topics.SERVICE_METRICS, f"{WHO}/detector/metrics", metrics)
        assert made.measurement == "services"
        return {name: type(value) for name, value in made.fields.items()}

    assert types(u=1, g=2) == types(u=1.5, g=2.5)


def test_a_heartbeat_has_a_row_per_figure() -> None:
    metrics = Metrics(source="a/b/c", session=1, uptime_s=1, counters={"n": 2}, gauges={"g": 0.5})
    made = series(topics.SERVICE_METRICS)
    name = f"{WHO}/detector/metrics"
    rows = made.rows(event(topics.SERVICE_METRICS, name, metrics))
    assert [row[-3:] for row in rows] == [["n", "counter", "2"], ["g", "gauge", "0.5"]]
    (bare,) = made.rows(
        event(
            topics.SERVICE_METRICS, name, metrics.model_copy(update={"counters": {}, "gauges": {}})
        )
    )
    assert bare[-3:] == ["", "", ""]
    assert {len(row) for row in [*rows, bare]} == {len(made.columns)}


def test_a_will_counts_from_when_it_was_heard() -> None:
    name = f"{WHO}/detector/state"
    will = born(1).model_copy(update={"state": "offline"})
    made = series(topics.SERVICE_STATE)
    gone = made.point(event(topics.SERVICE_STATE, name, will, heard=at(50)))
    assert (gone.time, gone.fields["up"]) == (at(50), False)
    there = made.point(event(topics.SERVICE_STATE, name, born(1), heard=at(50)))
    assert (there.time, there.fields["up"]) == (at(1), True)


def test_an_edge_without_a_model_has_no_version() -> None:
    name = f"{WHO}/detector/model"
    bare = point(topics.MODEL_STATUS, name, status(1, serving=None))
    assert not {"serving", "serving_version"} & {*bare.fields, *bare.tags}
    made = point(topics.MODEL_STATUS, name, status(1))
    assert made.fields["serving_version"] == 1


@pytest.mark.parametrize("name", sorted(all_topics()))
def test_every_registered_message_has_columns_of_its_own(name: str) -> None:
    topic = all_topics()[name]
    if issubclass(topic.payload, Message):
        columns = series(topic).columns
        assert len(set(columns)) == len(columns) > 5


def test_a_figure_that_raises_leaves_its_cell_empty_and_the_rest_as_it_is() -> None:
    one = series(BEDS, wet=lambda bed: bed.moisture, dry=lambda bed: 1 - bed.damp)
    heard = event(BEDS, f"{WHO}/garden/a/bed/7", FULL)
    (row,) = one.rows(heard)
    cell = dict(zip(one.columns, row, strict=True))
    assert (cell["wet"], cell["dry"], cell["note"]) == ("", "0", "dry")
    fields = one.point(heard).fields
    assert "wet" not in fields
    assert fields["dry"] == 0
    assert one.failed == 2


def test_a_message_named_like_a_table_of_ours_gets_a_table_of_its_own() -> None:
    class Models(Message, version=1):
        shape: str

    class Later(Message, version=2, name="models"):
        shape: str
        colour: str

    kinds = (Models, Later)
    strange = [
        Topic(f"{{node}}/{{service}}/shape-{kind.__name__}", kind, qos=1, doc="") for kind in kinds
    ]
    made = series_of([topics.MODEL_STATUS, *strange], {}).values()
    assert [one.table for one in made] == ["models", "models_1", "models_2"]
    assert len({one.measurement for one in made}) == 3
