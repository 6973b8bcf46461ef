"""Published form of the contracts: JSON Schema per message, AsyncAPI, a page of topics.

Everything here is derived from the registered topics and the installed services; the files are
generated and checked, never edited.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from edgebus.contracts import CommandTopic, Message, PayloadError, RecordPayload, Reply, Topic
from edgebus.contracts.registry import all_messages, all_topics
from edgebus.schema.examples import example
from edgebus.schema.settings import settings_schema, topology_schema
from edgebus.service import Service, find_services
from edgebus.service.declare import EveryDeclaration

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BINDING = "0.2.0"
_32_BITS = 2**31 - 1
# What each payload on the wire has, though a reader would fill most of it in.
_BASE_FIELDS = ("id", "time", "source", "schema")

_PARAMETERS = {
    "base": "Root of the bus on a shared broker, 'edgebus' by default.",
    "site": "The place.",
    "node": "The host that publishes; for commands, the host that is addressed.",
    "service": "The service on that host.",
    "stream": "Name of the series of inputs.",
    "model": "Name of the model.",
    "channel": "Release channel, 'stable' by default.",
    "job": "Name of the training job.",
    "digest": "SHA-256 of the blob, hexadecimal.",
    "index": "Number of the block, from 0.",
    "letter": "Place of the dead letter among those that are kept, from 0.",
    "request": "id of the command that is answered.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTopics:
    """Topics that one service sends and receives.

    Attributes:
        name: Its name.
        sends: Topics that it declares to publish on.
        receives: Topics of its handlers and commands, and others that it says it subscribes to.
    """

    name: str
    sends: tuple[Topic[Any], ...]
    receives: tuple[Topic[Any], ...]

    @classmethod
    def of(cls, service: type[Service[Any]]) -> ServiceTopics:
        """By the declarations of a class, of registered topics alone: others have no channel."""
        known = set(all_topics().values())
        handled = [
            declaration.topic
            for _, declaration in service.declarations
            if not isinstance(declaration, EveryDeclaration)
            and isinstance(declaration.topic, Topic)
        ]
        receives = dict.fromkeys((*handled, *service.subscribes))
        return cls(
            name=service.name,
            sends=tuple(topic for topic in service.publishes if topic in known),
            receives=tuple(topic for topic in receives if topic in known),
        )


def service_topics() -> list[ServiceTopics]:
    """Every installed service that can be imported, by name."""
    services, _ = find_services()
    return [ServiceTopics.of(service) for service in services.values()]


def schema_documents() -> dict[str, dict[str, Any]]:
    """A JSON Schema (2020-12) per schema identifier."""
    documents: dict[str, dict[str, Any]] = {}
    for identifier, kind in all_messages().items():
        body = kind.model_json_schema(by_alias=True, mode="validation")
        _require_base(kind, body)
        _mark_wide(body)
        name, _, major = identifier.partition("/")
        documents[identifier] = {
            "$schema": _DIALECT,
            "$id": f"urn:edgebus:schema:{name}:{major}",
            **body,
        }
    return documents


def asyncapi_document() -> dict[str, Any]:
    """The whole bus as AsyncAPI 3.0.

    Channel bindings stay empty and QoS and retain stand at the operations, as the MQTT binding
    0.2.0 asks for. The tags of an operation are the installed services that do it.
    """
    services = service_topics()
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for constant, topic in all_topics().items():
        channel = _camel(constant)
        messages = {kind.__name__: _component("messages", kind) for kind in _carried(topic)}
        channels[channel] = {
            "address": topic.address,
            "description": topic.doc,
            "parameters": {
                name: {"description": _PARAMETERS.get(name, f"The {name}.")} for name in topic.names
            },
            "messages": messages,
        }
        refs = [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages]
        for action, by in (("send", "sends"), ("receive", "receives")):
            tags = [{"name": s.name} for s in services if topic in getattr(s, by)]
            bindings: dict[str, Any] = {"qos": topic.qos, "bindingVersion": _BINDING}
            if action == "send":
                bindings["retain"] = topic.retain
            operations[f"{action}{channel[0].upper()}{channel[1:]}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel}"},
                "summary": topic.doc,
                "description": _how(topic, action),
                **({"tags": tags} if tags else {}),
                "messages": refs,
                "bindings": {"mqtt": bindings},
                **({"reply": _reply(topic)} if isinstance(topic, CommandTopic) else {}),
            }
    payloads = dict.fromkeys(kind for t in all_topics().values() for kind in _carried(t))
    # The records inside of bytes too: generators write the types of messages.
    records = [kind.record_type for kind in payloads if issubclass(kind, RecordPayload)]
    documents = schema_documents()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "EdgeBus",
            # The contracts have versions of their own; a release that changes none of them
            # changes nothing here.
            "version": "1",
            "description": "What services of EdgeBus say on an MQTT bus. Any MQTT tool may listen.",
            "contact": {"name": "The maintainers of EdgeBus"},
            "license": {
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
            "tags": [{"name": service.name} for service in services],
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "localhost:1883",
                "protocol": "mqtt",
                "description": "The site's broker; MQTT 5 or 3.1.1.",
            },
            "secure": {
                "host": "localhost:8883",
                "protocol": "secure-mqtt",
                "description": "The same over TLS, with a user, a certificate, or both.",
                "security": [
                    {"$ref": "#/components/securitySchemes/user"},
                    {"$ref": "#/components/securitySchemes/certificate"},
                ],
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "securitySchemes": {
                "user": {"type": "userPassword", "description": "The node is the user."},
                "certificate": {"type": "X509", "description": "Its CN is the node."},
            },
            "messages": {
                kind.__name__: _message(kind, documents)
                for kind in dict.fromkeys((*payloads, *records))
            },
            "schemas": _shared_schemas(),
        },
    }


def schema_files() -> dict[str, str]:
    """Name and text of every file of the ``schemas`` folder."""
    documents = {
        f"{identifier.replace('/', '-')}.json": document
        for identifier, document in schema_documents().items()
    }
    documents |= {"settings.json": settings_schema(), "topology.json": topology_schema()}
    files = {
        name: json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        for name, document in documents.items()
    }
    head = "# Generated from edgebus.contracts by scripts/generate_schemas.py; do not edit.\n"
    files["asyncapi.yaml"] = head + yaml.safe_dump(
        asyncapi_document(), sort_keys=False, allow_unicode=True, width=100
    )
    return files


def topics_page() -> str:
    """The Markdown page of all topics and messages."""
    lines = [
        "<!-- Generated from edgebus.contracts by scripts/generate_schemas.py; do not edit. -->",
        "# Topics and messages",
        "",
        "Every topic begins with `{base}/{site}/{node}/{service}` of its publisher; `base`",
        "is `edgebus` by default. Commands (`…/cmd/…`) are the exception: they stand below the",
        "service that is asked. JSON is flat UTF-8; fields without a value are left out; unknown",
        "fields are to be ignored. Any message may have a `traceparent` (W3C Trace Context), which",
        "tells what it was made because of. The same as files for tools: `schemas/*.json` (JSON",
        "Schema 2020-12) and `schemas/asyncapi.yaml` (AsyncAPI 3.0).",
        "",
        "| topic | payload | QoS | retained | |",
        "|---|---|---|---|---|",
    ]
    for topic in all_topics().values():
        kinds = ", ".join(_link(kind) for kind in _carried(topic))
        retained = "yes" if topic.retain else "no"
        doc = topic.doc
        if isinstance(topic, CommandTopic):
            doc += f" Answer: {_link(topic.reply)}."
        lines.append(f"| `{topic.address}` | {kinds} | {topic.qos} | {retained} | {doc} |")
    lines += ["", *_services_section(service_topics()), "## Messages", ""]
    documents = schema_documents()
    for identifier, kind in all_messages().items():
        lines += _message_section(identifier, kind, documents[identifier])
    return "\n".join(lines).rstrip("\n") + "\n"


def _message_section(
    identifier: str, kind: type[Message], document: dict[str, Any]
) -> Iterable[str]:
    yield f"### {identifier}"
    yield ""
    yield inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    yield ""
    required = set(document.get("required", ()))
    common = (*_BASE_FIELDS, "traceparent")
    own = {k: v for k, v in document["properties"].items() if k not in common}
    if kind.OPTIONAL:
        yield f"`source`, optionally `id`, `time` and `schema` = `{identifier}`, and:"
    else:
        yield f"`id`, `time`, `source`, `schema` = `{identifier}`" + (", and:" if own else ".")
    yield ""
    if own:
        yield "| field | type | |"
        yield "|---|---|---|"
        for name, field in own.items():
            mark = "" if name in required else " (optional)"
            meaning = str(field.get("description", "")).replace("\n", " ")
            yield f"| `{name}` | {_type_words(field)}{mark} | {meaning} |"
        yield ""
    for name, part in document.get("$defs", {}).items():
        fields = ", ".join(f"`{f}` {_type_words(s)}" for f, s in part.get("properties", {}).items())
        yield f"`{name}`: {fields}"
        yield ""


def _type_words(field: dict[str, Any]) -> str:
    """A JSON Schema's type in a few words."""
    if "$ref" in field:
        return str(field["$ref"]).rsplit("/", 1)[-1]
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        kinds = [part for part in field["anyOf"] if part.get("type") != "null"]
        return " \\| ".join(_type_words(part) for part in kinds)
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"list of {_type_words(field.get('items', {}))}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {_type_words(field['additionalProperties'])}"
    return kind if kind == "integer" else str(field.get("format", kind))


def _reply(topic: CommandTopic[Any, Any]) -> dict[str, Any]:
    """The answer to a command: where it says, below the answering service's prefix."""
    channel = _camel("REPLY")
    return {
        "address": {
            "description": "Topic that the command names.",
            "location": "$message.payload#/reply_to",
        },
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{topic.reply.__name__}"}],
    }


def _services_section(services: Iterable[ServiceTopics]) -> Iterable[str]:
    yield "## Services"
    yield ""
    yield "What each of them publishes and listens to, beside its own state, metrics and letters."
    yield ""
    yield "| service | publishes | listens to | takes commands |"
    yield "|---|---|---|---|"
    for each in services:
        columns = (
            each.sends,
            [topic for topic in each.receives if not isinstance(topic, CommandTopic)],
            [topic for topic in each.receives if isinstance(topic, CommandTopic)],
        )
        cells = (", ".join(f"`{topic.pattern}`" for topic in column) for column in columns)
        yield f"| {each.name} | {' | '.join(cells)} |"
    yield ""


def _link(kind: type[Any]) -> str:
    if issubclass(kind, Message):
        return f"[{kind.schema_id()}](#{kind.schema_id().replace('/', '')})"
    if issubclass(kind, RecordPayload):
        return f"{kind.format_name} with {_link(kind.record_type)}"
    return "bytes"


def _carried(topic: Topic[Any]) -> list[type[Any]]:
    """The payload types of a topic; the topic of replies carries more than one."""
    if topic.payload is not Reply:
        return [topic.payload]
    return [kind for kind in all_messages().values() if issubclass(kind, Reply)]


def _component(section: str, kind: type[Any]) -> dict[str, str]:
    return {"$ref": f"#/components/{section}/{kind.__name__}"}


def _how(topic: Topic[Any], action: str) -> str:
    """What a client does for an operation, in words."""
    if action == "receive":
        kept = ", and get the retained value at once" if topic.retain else ""
        return f"Subscribe with QoS {topic.qos}{kept}. {topic.doc}"
    kept = ", retained" if topic.retain else ""
    return f"Publish with QoS {topic.qos}{kept}. {topic.doc}"


def _message(kind: type[Any], documents: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    summary = inspect.cleandoc(kind.__doc__ or "").split("\n")[0]
    bindings: dict[str, Any] = {"contentType": kind.content_type, "bindingVersion": _BINDING}
    body: dict[str, Any] = {
        "name": kind.schema_id(),
        "title": kind.__name__,
        "summary": summary,
        "contentType": kind.content_type,
    }
    if issubclass(kind, Message):
        bindings["payloadFormatIndicator"] = 1
        body["payload"] = _component("schemas", kind)
        made = example(documents[kind.schema_id()])
        with suppress(PayloadError):  # a third party's may have rules that no schema says
            kind.decode(json.dumps(made).encode())
            body["examples"] = [{"name": "least", "payload": made}]
    else:
        body["payload"] = {"type": "string", "format": "binary"}
    if issubclass(kind, RecordPayload):
        body["description"] = (
            f"{kind.format_doc} The record's schema is components/schemas/"
            f"{kind.record_type.__name__}."
        )
        body["x-edgebus-record"] = _component("schemas", kind.record_type)
    body["bindings"] = {"mqtt": bindings}
    return body


def _shared_schemas() -> dict[str, Any]:
    kinds = list(all_messages().values())
    _, shared = models_json_schema(
        [(kind, "validation") for kind in kinds],
        by_alias=True,
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = shared["$defs"]
    for kind in kinds:
        _require_base(kind, schemas[kind.__name__])
    _mark_wide(schemas)
    return dict(sorted(schemas.items()))


def _mark_wide(node: Any) -> None:
    """Say of each integer that 32 bits may be too few, as generators of code need it."""
    if isinstance(node, list):
        for part in node:
            _mark_wide(part)
    elif isinstance(node, dict):
        if node.get("type") == "integer" and node.get("maximum", _32_BITS + 1) > _32_BITS:
            node.setdefault("format", "int64")
        for part in node.values():
            _mark_wide(part)


def _require_base(kind: type[Message], body: dict[str, Any]) -> None:
    """Require what each message on the wire has, though a reader or the bus would fill it in."""
    stated = body.get("required", ())
    wanted = dict.fromkeys((*_BASE_FIELDS, *kind.STAMPED, *stated))
    body["required"] = [name for name in wanted if name not in kind.OPTIONAL]


def _camel(constant: str) -> str:
    first, *rest = constant.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)
