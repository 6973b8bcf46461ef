"""Published form of the settings: JSON Schema for editors of YAML, and a page for people.

Both are derived from the settings of the node, of every installed service and of every installed
workload; the files are generated and checked, never edited.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from edgebus.mining import installed_policies
from edgebus.service import NodeSettings, find_services
from edgebus.topology import Topology
from edgebus.workload import installed_workloads

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

# By the end of a setting's name, else by a word of its description.
_UNITS_BY_NAME = (
    (r"bytes_per_s$", "bytes/s"),
    (r"bytes_per_hour$", "bytes/h"),
    (r"_per_s$", "1/s"),
    (r"_per_minute$", "1/min"),
    (r"_per_hour$", "1/h"),
    (r"_ms$", "ms"),
    (r"_s$", "s"),
    (r"(^|_)bytes$", "bytes"),
)
_UNITS_BY_DESCRIPTION = (
    (r"^Frames per second\b", "1/s"),
    (r"^Seconds\b|\bin seconds\b", "s"),
    (r"\bin pixels\b", "pixels"),
    (r"\bin bytes\b|^Bytes\b", "bytes"),
    (r"^Bits\b", "bits"),
)


def settings_schema() -> Schema:
    """JSON Schema of a node's file: what all services share, and a section for each of them."""
    services, _ = find_services()
    refs, shared = _schemas(
        [NodeSettings, *(service.settings_type for service in services.values())]
    )
    node = _resolved(refs[NodeSettings], shared)
    sections = {
        # `collector:` with nothing behind it means the defaults.
        name: {"anyOf": [refs[service.settings_type], {"type": "null"}]}
        | {"description": service.summary()}
        for name, service in services.items()
    }
    return {
        "$schema": _DIALECT,
        "$id": "urn:edgebus:settings",
        "title": "A node's file, for edgebus run --config",
        "type": "object",
        "properties": node["properties"] | sections,
        "additionalProperties": False,
        "$defs": shared,
    }


def topology_schema() -> Schema:
    """JSON Schema of a topology's file: nodes, their services and the services' settings."""
    file = _with_placeholders(settings_schema())
    refs, shared = _schemas([Topology])
    topology = _resolved(refs[Topology], shared)
    services, _ = find_services()
    sections = {name: file["properties"][name] for name in services}
    properties = dict(topology["properties"])
    node = {"type": "object", "properties": sections, "additionalProperties": False}
    properties["nodes"] = properties["nodes"] | {"additionalProperties": node}
    properties["node_settings"] = properties["node_settings"] | {
        "properties": dict(file["properties"]),
        "additionalProperties": False,
    }
    return {
        "$schema": _DIALECT,
        "$id": "urn:edgebus:topology",
        "title": "A topology, for edgebus up",
        "type": "object",
        "properties": properties,
        "required": topology["required"],
        "additionalProperties": False,
        "$defs": shared | file["$defs"],
    }


def _with_placeholders(part: Any) -> Any:
    """A schema in which a text like ``{start}`` may stand for any number."""
    if isinstance(part, list):
        return [_with_placeholders(each) for each in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") in ("integer", "number"):
        words = {key: part[key] for key in ("description", "default", "title") if key in part}
        number = {key: value for key, value in part.items() if key not in words}
        return words | {"anyOf": [number, {"type": "string", "pattern": "^\\{[a-z]+\\}$"}]}
    return {key: _with_placeholders(value) for key, value in part.items()}


def settings_page() -> str:
    """The Markdown page of every setting."""
    file = settings_schema()
    services, _ = find_services()
    shared = {key: value for key, value in file["properties"].items() if key not in services}
    lines = [*_HEAD, "## Every service of a node", ""]
    lines += _table(_rows({"properties": shared}, file["$defs"]))
    for name, service in services.items():
        lines += [f"## {name}", "", service.summary(), ""]
        section = _resolved(file["properties"][name], file["$defs"])
        lines += _table(_rows(section, file["$defs"], f"{name}."))
    for workload in installed_workloads():
        lines += _workload_section(workload.name, workload.training_settings())
    topology = topology_schema()
    lines += [
        "## A topology",
        "",
        "The file of `edgebus up`. `{here}` in it is the file's own folder.",
        "",
    ]
    for name in ("nodes", "node_settings"):
        # Their keys are those of the sections above.
        topology["properties"][name] = _resolved(
            {k: v for k, v in topology["properties"][name].items() if k != "properties"}, {}
        ) | {"additionalProperties": True}
    lines += _table(_rows(topology, topology["$defs"]))
    return "\n".join(lines).rstrip("\n") + "\n"


_HEAD = """\
<!-- Generated from the settings' classes by scripts/generate_schemas.py; do not edit. -->
# Settings

A node has one YAML file: what all of its services share, and a section for each of them.

```yaml title="pi-01.yaml"
# yaml-language-server: $schema=schemas/settings.json
site: lab
node: pi-01
broker:
  url: mqtt://localhost:1883
telemetry:
  flush_s: 5
```

The first line is for editors with the YAML language server (VS Code, Neovim, Helix, Emacs): they
complete keys, show what they do and mark mistakes. `edgebus schema export schemas` writes the file
that it names, with the sections of all services that are installed there, your own included. In a
topology the line is `# yaml-language-server: $schema=schemas/topology.json`.

A setting is taken from the command line (`--set telemetry.flush_s=5`), else from the environment
(`EDGEBUS_TELEMETRY__FLUSH_S=5`), else from the file (`--config pi-01.yaml`), else it has its
default. Lists and mappings are written as JSON on the command line and in the environment. An
unknown key is an error that names the nearest right one. Relative paths count from the folder in
which the command runs.

Several nodes may run on one host. Each needs a name of its own (`node`), and by that name it has
its own topics and its own folder, such as `~/.local/share/edgebus/lab/pi-01`. Who sets `data_dir`
gives each node another one: a folder that another node uses is refused.

""".splitlines()


def _schemas(kinds: Iterable[type[BaseModel]]) -> tuple[dict[type[BaseModel], Schema], Schema]:
    """A reference to each model's schema, and the schemas that they refer to."""
    wanted = list(dict.fromkeys(kinds))
    refs, body = models_json_schema(
        [(kind, "validation") for kind in wanted], schema_generator=_Generator
    )
    shared = body.get("$defs", {})
    for part in _parts(shared):
        if "x-default" in part:  # depends on the machine
            part.pop("default", None)
    return {kind: refs[kind, "validation"] for kind in wanted}, shared


class _Generator(GenerateJsonSchema):
    """Schemas with the defaults that are made by a factory, too, and without made-up titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """False: editors would show it beside the key that it is made of."""
        return False

    def get_default_value(self, schema: Any) -> Any:
        """The default, whether written down or made."""
        if "default_factory" in schema and not schema.get("default_factory_takes_data"):
            return schema["default_factory"]()
        default = super().get_default_value(schema)
        return sorted(default) if isinstance(default, frozenset) else default


def _parts(part: Any) -> Iterator[Schema]:
    if isinstance(part, dict):
        yield part
    for child in part.values() if isinstance(part, dict) else part:
        if isinstance(child, dict | list):
            yield from _parts(child)


def _resolved(part: Schema, shared: Mapping[str, Schema]) -> Schema:
    """What a part refers to, its own words on top; of `X | null`, X."""
    kinds = [kind for kind in part.get("anyOf", ()) if kind.get("type") != "null"]
    own = {key: value for key, value in part.items() if key not in ("$ref", "anyOf")}
    if len(kinds) == 1:
        return _resolved(kinds[0], shared) | own
    if "$ref" in part:
        return _resolved(shared[part["$ref"].rpartition("/")[2]], shared) | own
    return part


Row = tuple[str, str, str, str, str]
"""Key, type, unit, default, effect."""


def _rows(schema: Schema, shared: Mapping[str, Schema], above: str = "") -> Iterator[Row]:
    for name, part in schema["properties"].items():
        key = f"{above}{name}"
        kind = _resolved(part, shared)
        description = " ".join(str(kind.get("description", "")).replace("``", "`").split())
        required = name in schema.get("required", ())
        items = _resolved(kind.get("items", {}), shared)
        values = kind.get("additionalProperties")
        values = _resolved(values, shared) if isinstance(values, dict) else {}
        inner = next(
            (
                (each, path)
                for each, path in (
                    (kind, f"{key}."),
                    (items, f"{key}[]."),
                    (values, f"{key}.NAME."),
                )
                if "properties" in each
            ),
            None,
        )
        default = "required" if required else _default(kind, section=inner is not None)
        if inner is None:
            words, unit = _type_words(part, shared), _unit(name, description)
        else:
            words, unit = _section_words(kind), ""
        nullable = any(each.get("type") == "null" for each in part.get("anyOf", ()))
        yield key, f"{words}, or null" if nullable else words, unit, default, description
        if inner is not None:
            yield from _rows(inner[0], shared, inner[1])


def _unit(name: str, description: str) -> str:
    for text, units in ((name, _UNITS_BY_NAME), (description, _UNITS_BY_DESCRIPTION)):
        for pattern, unit in units:
            if re.search(pattern, text):
                return unit
    return ""


def _default(kind: Schema, *, section: bool) -> str:
    if "x-default" in kind:
        return str(kind["x-default"])
    value = kind.get("default")
    if section:
        # Its keys have defaults of their own.
        return "" if value is not None else "`null`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _section_words(kind: Schema) -> str:
    if "properties" in kind:
        return "section"
    return "list of sections" if kind.get("type") == "array" else "section per NAME"


def _type_words(part: Schema, shared: Mapping[str, Schema]) -> str:
    """A type in a few words."""
    kind = _resolved(part, shared)
    if "anyOf" in kind:
        kinds = [each for each in kind["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(_type_words(each, shared) for each in kinds))
    if "const" in kind:
        return f"`{kind['const']}`"
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    name = str(kind.get("type", "anything"))
    if name == "array":
        return f"list of {_type_words(kind.get('items', {}), shared)}"
    if name == "object":
        values = kind.get("additionalProperties")
        return (
            f"mapping, each: {_type_words(values, shared)}"
            if isinstance(values, dict)
            else "mapping"
        )
    if name == "string":
        return {"path": "path", "password": "secret"}.get(str(kind.get("format")), "text")
    return {"boolean": "true, false"}.get(name, name) + _bounds(kind)


def _bounds(kind: Schema) -> str:
    low, above = kind.get("minimum"), kind.get("exclusiveMinimum")
    high, below = kind.get("maximum"), kind.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f", {low} to {high}"
    words = [
        f"{sign} {value}"
        for sign, value in ((">", above), ("≥", low), ("<", below), ("≤", high))
        if value is not None
    ]
    return f" {' and '.join(words)}" if words else ""


def _table(rows: Iterable[Row]) -> list[str]:
    lines = ["| key | type | unit | default | effect |", "|---|---|---|---|---|"]
    for key, *rest in rows:
        cells = [f"`{key}`", *rest]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def _workload_section(name: str, training: type[BaseModel]) -> Iterator[str]:
    kinds = {
        policy: kind.settings_type for policy, kind in sorted(installed_policies(name).items())
    }
    for title, models in (
        (f"Training of {name} (`retrainer.options`)", {"retrainer.options": training}),
        (
            f"Policies of {name} (`collector.policies`)",
            {f"collector.policies.{policy}": kind for policy, kind in kinds.items()},
        ),
    ):
        refs, shared = _schemas(models.values())
        rows = [
            row
            for above, model in models.items()
            for row in _rows(
                {"properties": {}} | _resolved(refs[model], shared), shared, f"{above}."
            )
        ]
        if rows:
            yield from (f"## {title}", "", *_table(rows))
