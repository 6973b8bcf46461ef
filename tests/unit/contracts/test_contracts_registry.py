"""The registry: what installed packages say on the bus."""

import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from edgebus.bus import RawMessage
from edgebus.cli.app import app
from edgebus.contracts import (
    Command,
    CommandTopic,
    Message,
    Reply,
    Topic,
    registry,
    topics,
    utc_now,
)
from edgebus.contracts.registry import RegistryError, all_messages, all_topics, topic_of
from edgebus.inspect import Traffic, as_json, as_line
from edgebus.recording import Recording, RecordingWriter
from edgebus.schema import asyncapi_document, schema_documents, topics_page


class Humidity(Message, version=1):
    """How damp it is."""

    percent: float


class Water(Command, version=1):
    """Water the plants."""


class Watered(Reply, version=1):
    """How much it took."""

    litres: float


HUMIDITY = Topic("{node}/{service}/{plant}/humidity", Humidity, qos=1, doc="How damp it is.")
CMD_WATER = CommandTopic("{node}/garden/cmd/water", Water, reply=Watered, doc="Water the plants.")

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs packages, by the names of their modules, with the topics in them."""

    def forget() -> None:
        for each in (all_topics, topic_of, all_messages, registry._by_length):
            each.cache_clear()

    def installed(**modules: dict[str, Any] | None) -> None:
        points = list(registry.entry_points(group=registry.ENTRY_POINTS))
        for name, contents in modules.items():
            if contents is not None:
                module = ModuleType(name)
                vars(module).update(contents)
                monkeypatch.setitem(sys.modules, name, module)
            points.append(EntryPoint(name, name, registry.ENTRY_POINTS))
        monkeypatch.setattr(registry, "entry_points", lambda group: points)
        forget()

    yield installed
    monkeypatch.undo()
    forget()


def test_a_third_party_is_known_like_our_own(install: Install) -> None:
    install(garden={"HUMIDITY": HUMIDITY, "CMD_WATER": CMD_WATER})
    assert all_topics()["HUMIDITY"] is HUMIDITY
    assert topic_of("edgebus/home/pi/garden/fern/humidity") is HUMIDITY
    assert all_messages()["humidity/1"] is Humidity
    assert all_messages()["watered/1"] is Watered


def test_a_broken_package_is_left_out_with_one_warning(install: Install) -> None:
    install(garden={"HUMIDITY": HUMIDITY}, no_such_garden=None)
    with pytest.warns(RuntimeWarning, match="no_such_garden are left out: ModuleNotFound"):
        known = all_topics()
    assert "HUMIDITY" in known
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert topic_of("edgebus/home/pi/garden/fern/humidity") is HUMIDITY
        assert "humidity/1" in all_messages()


def test_a_name_that_is_taken_gets_its_package_in_front(install: Install) -> None:
    other = Topic("{node}/{service}/other/wetness", Humidity, qos=1, doc="Other.")
    install(garden={"HUMIDITY": HUMIDITY}, orchard={"HUMIDITY": other})
    assert all_topics()["HUMIDITY"] is HUMIDITY
    assert all_topics()["ORCHARD_HUMIDITY"] is other


def test_a_pattern_within_another_is_an_error_that_names_both(install: Install) -> None:
    # Whoever subscribes to the humidity of every plant would get this one too.
    other = Topic("{node}/{service}/shed/humidity", Watered, qos=1, doc="Other.")
    install(garden={"HUMIDITY": HUMIDITY}, orchard={"SHED": other})
    with pytest.raises(RegistryError, match=r"HUMIDITY .* and SHED .* cannot be told apart"):
        all_topics()


def test_a_pattern_twice_is_an_error_that_names_both(install: Install) -> None:
    other = Topic("{node}/{service}/{tree}/humidity", Humidity, qos=1, doc="Other.")
    install(garden={"HUMIDITY": HUMIDITY}, orchard={"TREE": other})
    with pytest.raises(RegistryError, match=r"HUMIDITY .* and TREE .* cannot be told apart"):
        all_topics()


def test_a_schema_twice_is_an_error_that_names_both(install: Install) -> None:
    class Impostor(Message, version=1, name="humidity"):
        """Something else."""

    other = Topic("{node}/{service}/impostor", Impostor, qos=1, doc="Other.")
    install(garden={"HUMIDITY": HUMIDITY}, orchard={"IMPOSTOR": other})
    with pytest.raises(RegistryError, match=r"Humidity and .*Impostor both are humidity/1"):
        all_messages()


def test_a_topic_that_a_package_imports_is_no_second_one(install: Install) -> None:
    install(garden={"SERVICE_STATE": topics.SERVICE_STATE, "HUMIDITY": HUMIDITY})
    assert all_topics()["SERVICE_STATE"] is topics.SERVICE_STATE


def _concrete(topic: Topic[Any], other: Topic[Any]) -> str | None:
    """A name that both patterns match."""
    levels = []
    for mine, yours in zip(topic.levels, other.levels, strict=True):
        if not mine.startswith("{") and not yours.startswith("{") and mine != yours:
            return None
        levels.append(yours if mine.startswith("{") else mine)
    return "/".join(level.strip("{}") for level in levels)


def test_every_name_belongs_to_one_topic() -> None:
    """Where two patterns overlap, which of them is meant is said by a level of its own."""
    for one, two in itertools.combinations(all_topics().values(), 2):
        if len(one.levels) != len(two.levels) or (name := _concrete(one, two)) is None:
            continue
        differing = [
            (a is None, b is None)
            for a, b in zip(one.placeholders, two.placeholders, strict=True)
            if (a is None) != (b is None)
        ]
        assert differing, f"{one.address} and {two.address} are the same"
        found = topic_of(name)
        assert found is not None
        assert found not in (one, two) or found is (one if differing[0][0] else two)
    for topic in all_topics().values():
        name = "/".join(level.strip("{}") for level in topic.levels)
        assert topic_of(name) is topic


DAMP = Humidity(source="home/pi/garden", percent=40.5)
FERN = "edgebus/home/pi/garden/fern/humidity"


def test_every_tool_knows_a_third_party(install: Install, tmp_path: Path) -> None:
    install(garden={"HUMIDITY": HUMIDITY, "CMD_WATER": CMD_WATER})
    # topics watch, topics list
    assert as_line(FERN, DAMP.encode()) == "humidity/1 percent=40.5"
    assert json.loads(as_json(FERN, DAMP.encode(), {}))["payload"]["percent"] == 40.5
    assert "not a humidity/1 payload" in as_line(FERN, b"{}")
    listed = CliRunner().invoke(app, ["topics", "list"])
    assert "{plant}/humidity" in listed.stdout
    # schema
    assert schema_documents()["humidity/1"]["properties"]["percent"]["type"] == "number"
    asyncapi = asyncapi_document()
    assert asyncapi["channels"]["humidity"]["address"].endswith("{plant}/humidity")
    answer = asyncapi["operations"]["sendCmdWater"]["reply"]
    assert answer["messages"] == [{"$ref": "#/channels/reply/messages/Watered"}]
    assert "Watered" in asyncapi["channels"]["reply"]["messages"]
    assert "{plant}/humidity" in topics_page()
    # record
    writer = RecordingWriter(tmp_path / "a.mcap")
    writer.add(RawMessage(FERN, DAMP.encode(), 1, False, False, utc_now()))
    writer.finish()
    (recorded,) = Recording(tmp_path / "a.mcap")
    assert (recorded.schema, recorded.payload) == ("humidity/1", DAMP.encode())
    # traffic
    traffic = Traffic()
    traffic.add(FERN, DAMP.encode(), now=1.0, received=DAMP.time.timestamp(), retained=False)
    assert traffic.lines(2.0)[0].name == HUMIDITY.address


def test_a_broken_package_costs_a_command_one_line(install: Install) -> None:
    install(no_such_garden=None)
    done = CliRunner().invoke(app, ["topics", "list"])
    assert done.exit_code == 0
    assert done.stderr.count("no_such_garden are left out") == 1
    assert "Traceback" not in done.stderr
    assert ".py:" not in done.stderr
