"""Changes of the contracts that two versions cannot read of each other are found."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from edgebus.cli.app import app
from edgebus.schema import (
    Contracts,
    ContractsNotFoundError,
    compare,
    current,
    published,
    refusals,
    schema_files,
)

NOW = current()


def changed(schema: str, path: str, value: Any) -> Contracts:
    """This version's contracts with one place changed; None takes it away."""
    schemas = copy.deepcopy(dict(NOW.schemas))
    node: Any = schemas[schema]
    *way, last = path.split(".")
    for step in way:
        node = node[step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return Contracts(schemas, NOW.asyncapi)


def breaks(old: Contracts, new: Contracts) -> list[tuple[str, str]]:
    return [(c.where, c.what) for c in compare(old, new) if c.kind == "break"]


def test_nothing_has_changed() -> None:
    assert compare(NOW, NOW) == []


def test_a_new_optional_field_breaks_nothing() -> None:
    new = changed("detections/1", "properties.mood", {"type": "string"})
    assert compare(NOW, new) == []
    assert compare(new, NOW) == []


@pytest.mark.parametrize(
    ("schema", "path", "value", "where", "said"),
    [
        (
            "detections/1",
            "properties.camera",
            None,
            "detections/1 camera",
            "old readers refuse new messages: it is required and not sent",
        ),
        (
            "detections/1",
            "properties.camera",
            {"type": "integer"},
            "detections/1 camera",
            "its type is integer, not string",
        ),
        (
            "detections/1",
            "$defs.Box.properties.label.maxLength",
            200,
            "detections/1 boxes.[].label",
            "maxLength 96 is asked for, it has 200",
        ),
        (
            "state/1",
            "properties.state.enum",
            ["starting", "ready", "degraded", "draining", "stopped", "offline", "asleep"],
            "state/1 state",
            "old readers refuse new messages: it may be 'asleep'",
        ),
        (
            "state/1",
            "properties.state.enum",
            ["starting", "ready", "degraded", "stopped", "offline"],
            "state/1 state",
            "new readers refuse old messages: it may be 'draining'",
        ),
        (
            "state/1",
            "properties.schema.const",
            "state/2",
            "state/1 schema",
            "it may be 'state/2', known are 'state/1'",
        ),
        (
            "frame/1",
            "required",
            ["id", "time", "source", "schema"],
            "frame/1 camera",
            "it is required and may be missing",
        ),
        (
            "frame/1",
            "properties.captured.format",
            "date",
            "frame/1 captured",
            "format 'date-time' is asked for",
        ),
        (
            "detections/1",
            "$defs.Box.properties.score",
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "detections/1 boxes.[].score",
            "its type is string, not number",
        ),
        (
            "metrics/1",
            "properties.counters.additionalProperties",
            {"type": "string"},
            "metrics/1 counters.*",
            "its type is string, not number",
        ),
    ],
)
def test_what_cannot_be_read_is_named(
    schema: str, path: str, value: Any, where: str, said: str
) -> None:
    found = breaks(NOW, changed(schema, path, value))
    assert any(at == where and said in what for at, what in found), found
    assert all("new major version" in what for _, what in found)


def test_a_new_required_field_breaks_the_new_readers() -> None:
    new = changed("frame/1", "required", [*NOW.schemas["frame/1"]["required"], "lens"])
    [(where, what)] = breaks(NOW, new)
    assert where == "frame/1 lens"
    assert what.startswith("new readers refuse old messages: it is required and may be missing")


def test_a_wider_number_breaks_old_readers_only() -> None:
    old = changed("frame/1", "properties.index", {"type": "integer"})
    new = changed("frame/1", "properties.index", {"type": "number"})
    assert [what.partition(":")[0] for _, what in breaks(old, new)] == [
        "old readers refuse new messages"
    ]


def test_a_new_major_version_is_no_break() -> None:
    schemas = dict(NOW.schemas)
    schemas["truth/2"] = schemas.pop("truth/1")
    asyncapi = json.loads(json.dumps(NOW.asyncapi).replace("truth/1", "truth/2"))
    changes = compare(NOW, Contracts(schemas, asyncapi))
    assert {change.kind for change in changes} == {"note"}
    assert any("is replaced by truth/2" in change.what for change in changes)


def test_a_message_that_is_gone() -> None:
    schemas = {name: body for name, body in NOW.schemas.items() if name != "truth/1"}
    [(where, what)] = breaks(NOW, Contracts(schemas, NOW.asyncapi))
    assert (where, "nothing replaces it" in what) == ("truth/1", True)


def channel(**more: Any) -> Contracts:
    asyncapi: Any = copy.deepcopy(NOW.asyncapi)
    for key, value in more.items():
        if key == "address":
            asyncapi["channels"]["serviceState"]["address"] = value
        elif key == "messages":
            asyncapi["channels"]["serviceState"]["messages"] = {name: {} for name in value}
        elif key == "gone":
            del asyncapi["channels"]["serviceState"]
        else:
            asyncapi["operations"]["sendServiceState"]["bindings"]["mqtt"][key] = value
    return Contracts(NOW.schemas, asyncapi)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (channel(address="{base}/{site}/{node}/{service}/status"), "has moved to"),
        (channel(gone=True), "is gone"),
        (channel(retain=False), "no longer retained"),
        (channel(qos=0), "has QoS 0, before 1"),
        (channel(messages=["Metrics"]), "carries no state/1 any more"),
        (channel(messages=["ServiceState", "Metrics"]), "carries metrics/1 too"),
    ],
)
def test_topics_that_change(new: Contracts, said: str) -> None:
    found = breaks(NOW, new)
    assert any(said in what for _, what in found), found
    assert all(where == "{base}/{site}/{node}/{service}/state" for where, _ in found)


def test_a_topic_that_becomes_retained_is_worth_knowing() -> None:
    [change] = compare(channel(retain=False), NOW)
    assert change.kind == "note"


SCALARS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("integer")},
        optional={"minimum": st.integers(-3, 3), "maximum": st.integers(-3, 3)},
    ),
    st.fixed_dictionaries(
        {"type": st.just("number")},
        optional={"exclusiveMinimum": st.integers(-3, 3), "maximum": st.integers(-3, 3)},
    ),
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={"minLength": st.integers(0, 3), "maxLength": st.integers(0, 3)},
    ),
    st.fixed_dictionaries({"enum": st.lists(st.sampled_from(["", "a", "bb"]), min_size=1)}),
    st.fixed_dictionaries({"const": st.sampled_from(["a", "bb"]), "type": st.just("string")}),
    st.just({"type": "boolean"}),
)


def composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(lambda item: {"type": "array", "items": item}, inner),
        st.builds(
            lambda item, n: {"type": "array", "items": item, "minItems": n},
            inner,
            st.integers(0, 2),
        ),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda fields, required: {
                "type": "object",
                "properties": fields,
                "required": sorted(required),
            },
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.sets(st.sampled_from("abc")),
        ),
        st.builds(lambda item: {"type": "object", "additionalProperties": item}, inner),
    )


SCHEMAS = st.recursive(SCALARS, composed, max_leaves=6)
DOCUMENTS = st.recursive(
    st.one_of(st.integers(-4, 4), st.sampled_from(["", "a", "bb", "ccc"]), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
    ),
    max_leaves=6,
)


def closed(schema: Any) -> Any:
    """A schema that allows no fields but those it names, as a writer keeps to."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **made} if schema.get("type") == "object" else made


@given(reader=SCHEMAS, writer=SCHEMAS, documents=st.lists(DOCUMENTS, max_size=20))
def test_where_no_refusal_is_found_none_happens(
    reader: Any, writer: Any, documents: list[Any]
) -> None:
    """The comparison may be too careful, never too careless."""
    if refusals(reader, writer):
        return
    accepts, sends = Draft202012Validator(reader), Draft202012Validator(closed(writer))
    for document in documents:
        if sends.is_valid(document):
            assert accepts.is_valid(document), document


@given(schema=SCHEMAS)
def test_every_schema_reads_itself(schema: Any) -> None:
    assert refusals(schema, schema) == []


def test_a_schema_that_contains_itself() -> None:
    tree = {
        "$ref": "#/$defs/Tree",
        "$defs": {
            "Tree": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
                },
            }
        },
    }
    other = json.loads(json.dumps(tree).replace('"string"', '"integer"'))
    assert refusals(tree, tree) == []
    assert refusals(tree, other) == [("name", "its type is integer, not string")]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with this version's schemas at the tag v1."""
    folder = tmp_path / "schemas"
    folder.mkdir()
    for name, text in schema_files().items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "readme.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["init", "-q"],
        ["add", "schemas"],
        [*who, "commit", "-q", "-m", "schemas"],
        ["tag", "v1"],
    ):
        subprocess.run(["git", *command], check=True, cwd=tmp_path)
    return tmp_path


def test_against_a_revision_and_against_a_folder(repository: Path) -> None:
    assert compare(published("v1"), NOW) == []
    assert compare(published(str(repository / "schemas")), NOW) == []


def test_the_command_fails_on_a_break_and_names_it(repository: Path) -> None:
    path = repository / "schemas" / "state-1.json"
    body = json.loads(path.read_text())
    body["properties"]["state"]["enum"].append("asleep")
    path.write_text(json.dumps(body))
    run = CliRunner()
    good = run.invoke(app, ["schema", "check", "--against", "v1"])
    assert (good.exit_code, "nothing since v1" in good.output) == (0, True)
    bad = run.invoke(app, ["schema", "check", "--against", "schemas"])
    assert bad.exit_code == 1
    assert "state/1 state" in bad.output
    assert "'asleep'" in bad.output


@pytest.mark.parametrize("place", ["v2", "--help", "schemas/none", ""])
def test_a_place_without_schemas_is_named(repository: Path, place: str) -> None:
    with pytest.raises(ContractsNotFoundError, match="no schemas at"):
        published(place)


def test_a_folder_with_broken_or_without_files(tmp_path: Path) -> None:
    with pytest.raises(ContractsNotFoundError, match=r"detections-1\.json"):
        published(str(tmp_path))
    (tmp_path / "state-1.json").write_text("{")
    with pytest.raises(ContractsNotFoundError, match=r"state-1\.json cannot be read"):
        published(str(tmp_path))
