"""Services are found by entry point, so a third party's package adds one without touching ours."""

from __future__ import annotations

import json
from difflib import get_close_matches
from importlib.metadata import EntryPoint, distribution, entry_points
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from edgebus.contracts.registry import entry_point
from edgebus.service.errors import DeclarationError, UnknownServiceError

if TYPE_CHECKING:
    from edgebus.service.service import Service

ENTRY_POINT_GROUP = "edgebus.services"


def service_entry_points() -> dict[str, EntryPoint]:
    """The entry point of every installed service by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def load_service(name: str) -> type[Service[Any]]:
    """Import one service.

    Raises:
        UnknownServiceError: No installed package offers it.
        DeclarationError: The entry point names something else than a service of that name.
        RegistryError: Two packages offer it.
        ImportError: Its package misses a dependency.
    """
    from edgebus.service.service import Service

    point = entry_point(ENTRY_POINT_GROUP, name)
    if point is None:
        points = service_entry_points()
        near = get_close_matches(name, points, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownServiceError(name, known=tuple(points), hint=hint)
    loaded = point.load()
    if not (isinstance(loaded, type) and issubclass(loaded, Service)):
        msg = f"entry point {name} = {point.value} is no subclass of edgebus.service.Service"
        raise DeclarationError(msg)
    if loaded.name != name:
        msg = f"entry point {name} = {point.value} loads a service that calls itself {loaded.name}"
        raise DeclarationError(msg)
    return loaded


def find_services() -> tuple[dict[str, type[Service[Any]]], dict[str, Exception]]:
    """Import every installed service.

    Returns:
        The services by name, and the errors of those that cannot be imported, by name: most often
        a dependency is not installed.
    """
    found: dict[str, type[Service[Any]]] = {}
    failed: dict[str, Exception] = {}
    for name in sorted(service_entry_points()):
        try:
            found[name] = load_service(name)
        except Exception as error:  # noqa: BLE001 a stranger's module may raise anything
            failed[name] = error
    return found, failed


def install_command(extra: str = "") -> str:
    """The command that installs EdgeBus with an extra, from where this one was installed.

    It names a checkout, an archive or a repository, as pip has written it down: a bare name would
    be looked for at PyPI.
    """
    brackets = f"[{extra}]" if extra else ""
    text = distribution("edgebus").read_text("direct_url.json")
    if text is None:
        return f"pip install '.{brackets}' in a checkout of EdgeBus"
    origin = json.loads(text)
    url = str(origin["url"])
    if (vcs := origin.get("vcs_info")) is not None:
        return f"pip install 'edgebus{brackets} @ {vcs['vcs']}+{url}'"
    if not url.startswith("file:"):
        return f"pip install 'edgebus{brackets} @ {url}'"
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f"pip install {editable}'{unquote(urlsplit(url).path)}{brackets}'"
