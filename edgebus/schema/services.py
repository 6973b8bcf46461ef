"""Topics of the installed services, by their declarations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgebus.contracts import Topic
from edgebus.contracts.registry import all_topics
from edgebus.service import Service, ServiceError, load_service, service_entry_points
from edgebus.service.declare import EveryDeclaration


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
    """Every installed service, by name; one whose dependencies are not installed is left out."""
    found = []
    for name in sorted(service_entry_points()):
        try:
            found.append(ServiceTopics.of(load_service(name)))
        except (ServiceError, ImportError):
            continue  # `edgebus services` says why
    return found
