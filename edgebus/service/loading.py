"""Settings of one service on one node, from all sources, with errors that name the right key."""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from edgebus.addresses import SECRET_NAME, hide_credentials
from edgebus.service.discovery import load_service, service_entry_points
from edgebus.service.errors import SettingsError, SettingsProblem
from edgebus.service.settings import NodeSettings, ServiceSettings
from edgebus.service.sources import (
    Path_,
    SourceTree,
    from_environment,
    from_file,
    from_overrides,
    merge,
)

S = TypeVar("S", bound=ServiceSettings)

_LONGEST_VALUE = 80
_LONGEST_REASON = 2000


def load_settings(
    service: str,
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Iterable[str] = (),
    settings_type: type[S] | None = None,
) -> tuple[NodeSettings, S]:
    """Read a node's settings and one service's section.

    The command line wins over the environment, that over the file, that over the defaults.

    Args:
        service: Name of the service, which is also its section in the file.
        config: The node's YAML file.
        environment: The process's own by default.
        overrides: ``key=value`` pairs, dotted from the top: ``recorder.threshold=0.3``.
        settings_type: Type of the section; that of the installed service by default.

    Raises:
        SettingsError: Unknown keys, wrong values or an unreadable file; all problems at once.
        UnknownServiceError: No such service is installed.
    """
    kind = settings_type or cast("type[S]", load_service(service).settings_type)
    sections = {*service_entry_points(), service}
    tree = _read(config, environment, overrides, sections=dict.fromkeys(sections) | {service: kind})
    node_values = {key: value for key, value in tree.values.items() if key not in sections}
    section = tree.values.get(service)
    problems: list[SettingsProblem] = []
    node, found = _validate(NodeSettings, node_values, tree, above=(), siblings=sections)
    problems += found
    settings, found = _validate(
        kind, {} if section is None else section, tree, above=(service,), siblings=()
    )
    problems += found
    if node is None or settings is None:
        raise SettingsError(problems)
    return node, settings


def load_node(
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Iterable[str] = (),
    sections: Collection[str] | None = None,
) -> NodeSettings:
    """Read a node's settings alone, for tools; the services' sections are not judged.

    Args:
        config: The node's YAML file.
        environment: The process's own by default.
        overrides: ``key=value`` pairs.
        sections: Names of services that may have a section; the installed ones by default.

    Raises:
        SettingsError: Unknown keys, wrong values or an unreadable file; all problems at once.
    """
    known = set(service_entry_points() if sections is None else sections)
    tree = _read(config, environment, overrides, sections=dict.fromkeys(known))
    values = {key: value for key, value in tree.values.items() if key not in known}
    node, problems = _validate(NodeSettings, values, tree, above=(), siblings=known)
    if node is None:
        raise SettingsError(problems)
    return node


def _read(
    config: Path | None,
    environment: Mapping[str, str] | None,
    overrides: Iterable[str],
    *,
    sections: Mapping[str, type[BaseModel] | None],
) -> SourceTree:
    fields = dict(NodeSettings.model_fields)
    for name, kind in sections.items():
        fields[name] = FieldInfo(annotation=kind or dict[str, Any], default=None)
    return merge(
        [
            from_file(config, environment) if config else SourceTree(),
            from_environment(fields, environment),
            from_overrides(fields, overrides),
        ]
    )


_LISTS = frozenset({"tuple_type", "list_type", "set_type", "frozen_set_type"})

M = TypeVar("M", bound=BaseModel)


def _validate(
    kind: type[M], values: object, tree: SourceTree, *, above: Path_, siblings: Collection[str]
) -> tuple[M | None, list[SettingsProblem]]:
    try:
        return kind.model_validate(values), []
    except ValidationError as error:
        return None, explain(kind, error, tree, above=above, siblings=siblings)


def explain(
    kind: type[BaseModel],
    error: ValidationError,
    tree: SourceTree | None = None,
    *,
    above: Path_ = (),
    siblings: Collection[str] = (),
) -> list[SettingsProblem]:
    """The mistakes in a tree of settings, each with the nearest right key.

    Args:
        kind: The model that refused it.
        error: Its error.
        tree: Where the values came from.
        above: Keys above the tree.
        siblings: Keys that are right beside those of the model.
    """
    details = error.errors(include_url=False)
    tree = tree or SourceTree()
    return [
        _explain(kind, detail, tree, above=above, siblings=siblings)
        for detail in details
        # Follows from another mistake: a default that depends on what is wrong.
        if detail["type"] != "default_factory_not_called"
    ]


def _explain(
    kind: type[BaseModel],
    detail: ErrorDetails,
    tree: SourceTree,
    *,
    above: Path_,
    siblings: Collection[str],
) -> SettingsProblem:
    # "[key]" is pydantic's word for: the key itself is wrong, not what it leads to.
    below = tuple(str(part) for part in detail["loc"] if part != "[key]")
    key = (*above, *below)
    if detail["type"] == "extra_forbidden":
        names = _keys_at(kind, below[:-1])
        if len(below) == 1:
            names = [*names, *siblings]
        reason = _unknown(below[-1], names)
    else:
        reason = detail["msg"].removeprefix("Value error, ")
        value = detail["input"]
        if isinstance(value, str) and len(value) > _LONGEST_VALUE:
            # A file that was garbled may have anything for a value.
            reason = reason.replace(value, f"{hide_credentials(value)[:_LONGEST_VALUE]}…")
        if detail["type"] != "missing" and not _is_secret(key) and not isinstance(value, dict):
            # Hidden first: of an address that is cut, nobody can tell what was its password.
            shown = hide_credentials(repr(str(value)))
            shown = shown if len(shown) <= _LONGEST_VALUE + 2 else f"{shown[:_LONGEST_VALUE]}…'"
            reason += "" if shown in reason else f", got {shown}"
            if detail["type"] in _LISTS and isinstance(value, str):
                reason += "; a list is written [a, b]"
    return SettingsProblem(
        key=".".join(key),
        origin=_origin(key, tree),
        reason=hide_credentials(reason)[:_LONGEST_REASON],
    )


def _unknown(name: str, names: Iterable[str]) -> str:
    known = sorted(set(names))
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; known here: {', '.join(known) or 'none'}"


def _keys_at(kind: type[BaseModel], path: Path_) -> list[str]:
    """The keys of every model that may stand at this path below `kind`."""
    models = [kind]
    for part in path:
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        # A part that is no field is the tag of a union or the index of a list: stay where we are.
        if fields:
            models = [m for info in fields for m in _models_in(info.annotation)]
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _origin(key: Path_, tree: SourceTree) -> str:
    """Origin of a key: its own, else that of what is above it, else of what is below it."""
    for length in range(len(key), 0, -1):
        if (origin := tree.origins.get(key[:length])) is not None:
            return origin
    below = (origin for path, origin in tree.origins.items() if path[: len(key)] == key)
    return next(below, "default")


def _is_secret(key: Path_) -> bool:
    return any(SECRET_NAME.search(part) for part in key)
