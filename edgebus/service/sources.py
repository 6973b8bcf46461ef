"""Sources of settings: a YAML file, the environment, the command line; each as a tree."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings.exceptions import SettingsError as SourceError

from edgebus.addresses import hide_argument
from edgebus.service.errors import SettingsError, SettingsProblem
from edgebus.service.yamltext import YamlTextError, read_yaml

ENVIRONMENT_PREFIX = "EDGEBUS_"
_DELIMITER = "__"
SECRET_VARIABLE = "EDGEBUS_SECRET_"
"""Begin of the names of variables that a node's file may refer to, and that are no settings."""

# Variables of the same prefix that are no settings: the folder of test data, and the command
# line's own switch.
_NOT_SETTINGS = frozenset({"EDGEBUS_DATA", "EDGEBUS_DEBUG"})
# What Kubernetes sets in every container for a Service called edgebus or edgebus-broker
# (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
# No setting has such a name, and only a true address stands in one that ends with PORT.
_OF_KUBERNETES = re.compile(
    r"""EDGEBUS(_[A-Z0-9]+)*(
    _SERVICE_HOST=.* | _SERVICE_PORT(_[A-Z0-9_]+)?=\d+
    | _PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://.*
    | _PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=.*
    )""",
    re.VERBOSE,
)
_VARIABLE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}")

Path_ = tuple[str, ...]
"""A setting's key, split: ``("recorder", "threshold")``."""


@dataclass(slots=True)
class SourceTree:
    """Settings of one source.

    Attributes:
        values: Nested, as in the YAML file.
        origins: Origin of each key that the source names.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path_, str] = field(default_factory=dict)


def from_file(path: Path, environment: Mapping[str, str] | None = None) -> SourceTree:
    """Read a node's YAML file; ``${NAME}`` in a text is the environment variable of that name.

    So a password need not stand in the file. ``$${`` is a plain ``${``.

    Args:
        path: The file.
        environment: The process's own by default.

    Raises:
        SettingsError: It cannot be read, is no YAML, no mapping, has a key twice, or names a
            variable that is not set.
    """
    origin = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _problem("config", origin, f"cannot be read: {reason}") from error
    try:
        values = read_yaml(text)
    except YamlTextError as error:
        raise _problem("config", origin, f"is no YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        reason = f"holds a {type(values).__name__}; a node file is a mapping, 'site: lab' and so on"
        raise _problem("config", origin, reason)
    origins = dict.fromkeys(_paths(values), origin)
    variables = os.environ if environment is None else environment
    return SourceTree(values=_filled(values, variables, origin=origin), origins=origins)


def from_environment(
    fields: Mapping[str, FieldInfo], environment: Mapping[str, str] | None = None
) -> SourceTree:
    """Read ``EDGEBUS_SITE``, ``EDGEBUS_BROKER__URL``, ``EDGEBUS_DETECTOR__THRESHOLD``.

    Args:
        fields: The top-level settings; a field's type decides whether its text is JSON.
        environment: The process's own by default.

    Raises:
        SettingsError: A value that should be JSON is not.
    """
    found = {
        name: value
        for name, value in (os.environ if environment is None else environment).items()
        if name.upper().startswith(ENVIRONMENT_PREFIX)
        and name.upper() not in _NOT_SETTINGS
        and not name.upper().startswith(SECRET_VARIABLE)
        and not _OF_KUBERNETES.fullmatch(f"{name}={value}")
    }
    tree = SourceTree()
    texts: dict[str, str] = {}
    for name, value in found.items():
        key = name[len(ENVIRONMENT_PREFIX) :].lower()
        tree.origins[tuple(key.split(_DELIMITER))] = f"environment variable {name}"
        texts[key] = value
    tree.values = _typed(fields, texts, delimiter=_DELIMITER, tree=tree)
    return tree


def from_overrides(fields: Mapping[str, FieldInfo], overrides: Iterable[str]) -> SourceTree:
    """Read ``key=value`` pairs of the command line, such as ``recorder.threshold=0.3``.

    Raises:
        SettingsError: A pair has no key or no ``=``, or its value should be JSON and is not.
    """
    tree = SourceTree()
    texts: dict[str, str] = {}
    for pair in overrides:
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            reason = "is no key=value, such as recorder.threshold=0.3"
            raise _problem(hide_argument(pair), "command line", reason)
        tree.origins[tuple(key.split("."))] = "command line"
        texts[key] = value
    tree.values = _typed(fields, texts, delimiter=".", tree=tree)
    return tree


def merge(trees: Iterable[SourceTree]) -> SourceTree:
    """One tree; later ones win, key by key."""
    merged = SourceTree()
    for tree in trees:
        merged.values = _deep_update(merged.values, tree.values)
        merged.origins |= tree.origins
    return merged


class _TextSource(EnvSettingsSource):
    """pydantic-settings' reading of flat texts into nested values, from any mapping."""

    def __init__(
        self, root: type[BaseSettings], texts: Mapping[str, str], *, delimiter: str
    ) -> None:
        self._texts = texts
        super().__init__(root, case_sensitive=True, env_prefix="", env_nested_delimiter=delimiter)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return dict(self._texts)


def _typed(
    fields: Mapping[str, FieldInfo], texts: Mapping[str, str], *, delimiter: str, tree: SourceTree
) -> dict[str, Any]:
    """Nest the texts; keys that are no setting are kept, so that they are found later."""
    root = type("_Root", (BaseSettings,), _class_body(fields))
    read = {key: _list_or_mapping(text) for key, text in texts.items()}
    lists = {key: value for key, value in read.items() if value is not None}
    plain = {key: text for key, text in texts.items() if key not in lists}
    try:
        values = dict(_TextSource(root, plain, delimiter=delimiter)())
    except RecursionError as error:
        culprit = max(texts, key=lambda key: len(texts[key]))
        origin = tree.origins.get(tuple(culprit.split(delimiter)), "settings")
        reason = "is nested too deeply to be read"
        raise _problem(culprit.replace(delimiter, "."), origin, reason) from error
    except SourceError as error:
        culprit = next((k for k in texts if k.split(delimiter)[0] in str(error)), "settings")
        origin = tree.origins.get(tuple(culprit.split(delimiter)), "settings")
        reason = f"{error.__cause__ or error}; lists and mappings are written [a, b], {{a: 1}}"
        raise _problem(culprit.replace(delimiter, "."), origin, reason) from error
    for key, value in lists.items():
        below: Any = value
        for level in reversed(key.split(delimiter)):
            below = {level: below}
        values = _deep_update(values, below)
    for key, text in texts.items():
        first, *rest = key.split(delimiter)
        if first not in fields:
            values.setdefault(first, {} if rest else text)
    return values


def _list_or_mapping(text: str) -> Any:
    """A list or mapping in brackets, as YAML has it (so JSON, too); None for any other text.

    Without a look at the type: that of an optional or nested setting is not always known here.
    """
    if text.strip()[:1] not in ("[", "{"):
        return None
    try:
        value = read_yaml(text)
    except YamlTextError:
        return None
    return value if isinstance(value, list | dict) else None


def _class_body(fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    return {
        "__module__": __name__,
        "__annotations__": {name: info.annotation for name, info in fields.items()},
        **dict.fromkeys(fields),
    }


def _deep_update(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            result[key] = _deep_update(below, value)
        else:
            result[key] = value
    return result


def _paths(values: Mapping[Any, Any], above: Path_ = ()) -> Iterable[Path_]:
    for key, value in values.items():
        path = (*above, str(key))
        yield path
        if isinstance(value, dict):
            yield from _paths(value, path)


def _filled(value: Any, variables: Mapping[str, str], *, origin: str, key: str = "") -> Any:
    """A tree of settings with its variables replaced."""
    if isinstance(value, dict):
        return {
            name: _filled(below, variables, origin=origin, key=f"{key}.{name}".lstrip("."))
            for name, below in value.items()
        }
    if isinstance(value, list):
        return [_filled(below, variables, origin=origin, key=key) for below in value]
    if not isinstance(value, str):
        return value

    def text(found: re.Match[str]) -> str:
        doubled, name = found.groups()
        if doubled:
            return found[0][1:]
        if name not in variables:
            reason = f"names the environment variable {name}, which is not set; $${{ is a plain ${{"
            raise _problem(key, origin, reason)
        return variables[name]

    return _VARIABLE.sub(text, value)


def _problem(key: str, origin: str, reason: str) -> SettingsError:
    return SettingsError([SettingsProblem(key=key, origin=origin, reason=reason)])
