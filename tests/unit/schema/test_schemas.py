"""The published schemas: valid by the official rules, fresh, and true of what is sent."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, validators

from edgebus.contracts import (
    BundleRef,
    Command,
    CommandTopic,
    Message,
    ModelRef,
    PayloadError,
    PublishCommand,
    Release,
    ServiceState,
    utc_now,
)
from edgebus.contracts.registry import all_messages, all_topics
from edgebus.schema import asyncapi_document, schema_documents
from edgebus_detection.messages import Box, Detections

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def official() -> Any:
    schema = json.loads((ROOT / "tests/data/asyncapi-3.0.0.schema.json").read_text())
    return validators.validator_for(schema)(schema)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "scripts/generate_schemas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_files_are_fresh(generator: ModuleType) -> None:
    assert generator.stale(ROOT) == []


def test_stale_missing_and_left_over_files_are_named(generator: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "schemas", tmp_path / "schemas")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "schemas/state-1.json").write_text("{}")
    (tmp_path / "schemas/frame-1.json").unlink()
    (tmp_path / "schemas/gone-1.json").write_text("{}")
    assert generator.stale(tmp_path) == [
        "schemas/frame-1.json is missing",
        "schemas/state-1.json is not what the contracts say",
        "schemas/gone-1.json belongs to no message",
    ]
    generator.write(tmp_path)
    assert generator.stale(tmp_path) == []


def test_asyncapi_is_valid_by_the_official_schema(official: Any) -> None:
    written = yaml.safe_load((ROOT / "schemas/asyncapi.yaml").read_text())
    assert [e.message for e in official.iter_errors(written)] == []


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("operations", "sendServiceState", "bindings", "mqtt", "qos"), 3),
        (("operations", "sendServiceState", "action"), "publish"),
        (("channels", "serviceState", "address"), 5),
    ],
)
def test_the_official_schema_refuses_a_broken_document(
    official: Any, where: tuple[str, ...], value: object
) -> None:
    document = asyncapi_document()
    part: Any = document
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    assert list(official.iter_errors(document))


def test_asyncapi_follows_the_mqtt_binding() -> None:
    """Binding 0.2.0: a channel carries no MQTT fields; retain belongs to who publishes."""
    document = asyncapi_document()
    assert all("bindings" not in channel for channel in document["channels"].values())
    for name, operation in document["operations"].items():
        allowed = {"qos", "bindingVersion"} | ({"retain"} if name.startswith("send") else set())
        assert set(operation["bindings"]["mqtt"]) == allowed


def test_asyncapi_says_what_the_topics_say() -> None:
    document = asyncapi_document()
    channels = document["channels"]
    assert [c["address"] for c in channels.values()] == [
        topic.address for topic in all_topics().values()
    ]
    for channel, topic in zip(channels, all_topics().values(), strict=True):
        send = document["operations"][f"send{channel[0].upper()}{channel[1:]}"]
        assert send["bindings"]["mqtt"]["qos"] == topic.qos
        assert send["bindings"]["mqtt"]["retain"] == topic.retain


def test_every_reference_in_asyncapi_resolves() -> None:
    document = asyncapi_document()

    def check(part: Any) -> int:
        if isinstance(part, list):
            return sum(check(item) for item in part)
        if not isinstance(part, dict):
            return 0
        count = sum(check(item) for item in part.values())
        if isinstance(reference := part.get("$ref"), str):
            target: Any = document
            for key in reference.removeprefix("#/").split("/"):
                target = target[key]
            count += 1
        return count

    assert check(document) > 100


@pytest.mark.parametrize("identifier", all_messages())
def test_each_schema_is_valid_2020_12(identifier: str) -> None:
    Draft202012Validator.check_schema(schema_documents()[identifier])


def test_every_json_topic_has_a_schema() -> None:
    carried = {
        topic.payload.schema_id()
        for topic in all_topics().values()
        if topic.payload.content_type != "application/octet-stream"
    }
    assert carried <= set(schema_documents())


@pytest.mark.parametrize("identifier", all_messages())
def test_the_example_of_a_message_is_one(identifier: str) -> None:
    kind = all_messages()[identifier]
    messages = asyncapi_document()["components"]["messages"]
    (shown,) = messages[kind.__name__]["examples"]
    message = kind.decode(json.dumps(shown["payload"]).encode())
    assert message.schema_ == identifier
    Draft202012Validator(schema_documents()[identifier]).validate(shown["payload"])


def test_numbers_that_need_64_bits_say_so() -> None:
    def check(node: Any) -> int:
        if isinstance(node, list):
            return sum(check(part) for part in node)
        if not isinstance(node, dict):
            return 0
        count = sum(check(part) for part in node.values())
        if node.get("type") == "integer":
            wide = node.get("maximum", 2**53) >= 2**31
            assert (node.get("format") == "int64") == wide, node
            count += wide
        return count

    assert check(schema_documents()) > 20
    assert check(asyncapi_document()) > 20
    assert schema_documents()["state/1"]["properties"]["session"]["format"] == "int64"


def test_every_record_inside_of_bytes_is_a_message_too() -> None:
    messages = asyncapi_document()["components"]["messages"]
    records = [
        each["x-edgebus-record"]["$ref"] for each in messages.values() if "x-edgebus-record" in each
    ]
    assert len(records) >= 2
    for reference in records:
        assert messages[reference.rpartition("/")[2]]["payload"] == {"$ref": reference}


def test_every_command_names_where_its_answer_goes() -> None:
    operations = asyncapi_document()["operations"]
    commands = [name for name in operations if "Cmd" in name]
    assert commands
    for name in commands:
        reply = operations[name]["reply"]
        assert reply["address"]["location"] == "$message.payload#/reply_to"
        assert reply["messages"]


MODEL = ModelRef(name="yolox", version=3, digest="ab" * 32)
BUNDLE = BundleRef(model=MODEL, provider="lab/gpu/distributor", index_size=900, size=4_000_000)
NOW = utc_now()
EXAMPLES: list[Message] = [
    Detections(
        source="lab/pi/detector",
        frame="f",
        camera="front",
        index=7,
        width=640,
        height=480,
        boxes=(Box(label="car", x1=1, y1=2, x2=30, y2=40, score=0.5),),
        model=MODEL,
        captured=NOW,
        sent=NOW,
        received=NOW,
        detected=NOW,
    ),
    Release(source="lab/gpu/distributor", channel="stable", bundle=BUNDLE, sequence=1),
    PublishCommand(source="lab/laptop/cli-1", bundle=BUNDLE),
    ServiceState(
        source="lab/pi/camera", state="ready", session=1, instance="i", since=NOW, version="0.1.0"
    ),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.schema_id())
def test_what_is_sent_validates(message: Message) -> None:
    validator = Draft202012Validator(schema_documents()[message.schema_id()])
    body = json.loads(message.encode())
    validator.validate(body)
    for name in ("id", "time", "source", "schema"):
        without = {key: value for key, value in body.items() if key != name}
        assert bool(list(validator.iter_errors(without))) == (name not in message.OPTIONAL), name
    assert list(validator.iter_errors(body | {"schema": "other/1"}))


@pytest.mark.parametrize(
    "topic", [t for t in all_topics().values() if isinstance(t, CommandTopic)], ids=str
)
def test_the_schema_of_a_command_asks_for_what_the_code_asks_for(
    topic: CommandTopic[Any, Any],
) -> None:
    kind: type[Command] = topic.payload
    validator = Draft202012Validator(schema_documents()[kind.schema_id()])
    fields = {
        "stream": "front",
        "bundle": BUNDLE.model_dump(mode="json", exclude_none=True),
        "model": "yolox",
    }
    own = set(kind.model_fields)
    least = {"source": "lab/me/op"} | {key: fields[key] for key in own & set(fields)}
    assert kind.decode(json.dumps(least).encode())
    validator.validate(least)
    del least["source"]
    with pytest.raises(PayloadError, match="source"):
        kind.decode(json.dumps(least).encode())
    assert list(validator.iter_errors(least))
