"""Services are found by entry point, so a third party's package adds one without touching ours."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from edgebus.service.errors import DeclarationError, UnknownServiceError

if TYPE_CHECKING:
    from edgebus.service.service import Service

ENTRY_POINT_GROUP = "edgebus.services"


def service_entry_points() -> dict[str, EntryPoint]:
    """The entry point of every installed service by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def load_service(
    name: str, *, points: Mapping[str, EntryPoint] | None = None
) -> type[Service[Any]]:
    """Import one service.

    Raises:
        UnknownServiceError: No installed package offers it.
        DeclarationError: The entry point names something else than a service of that name.
        ImportError: Its package misses a dependency.
    """
    from edgebus.service.service import Service

    points = service_entry_points() if points is None else points
    point = points.get(name)
    if point is None:
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


def find_services() -> dict[str, type[Service[Any]]]:
    """Every installed service by name, imported.

    Raises:
        DeclarationError: An entry point names something else than a service of that name.
        ImportError: A service misses a dependency; `load_service` imports one at a time.
    """
    points = service_entry_points()
    return {name: load_service(name, points=points) for name in sorted(points)}
