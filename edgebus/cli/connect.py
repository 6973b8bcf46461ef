"""A command's own short connection to the bus."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from edgebus.bus import Bus, Event
from edgebus.contracts import Identity, ServiceState, topics
from edgebus.mqtt import MqttTransport
from edgebus.service import ServiceError

if TYPE_CHECKING:
    from edgebus.service import NodeSettings

_PATIENCE_S = 3.0
_FIND_S = 2.0
_ALIVE = frozenset({"ready", "degraded"})


class ServiceNotFoundError(ServiceError):
    """No service of that name is there to take the command, or more than one is.

    Attributes:
        service: Its name.
        nodes: The nodes that run one.
    """

    def __init__(self, service: str, *, site: str, nodes: list[str]) -> None:
        if nodes:
            said = f"{len(nodes)} nodes run a {service}: {', '.join(nodes)}; choose with --node"
        else:
            said = f"no {service} is ready at site {site}; see: edgebus topics watch"
        super().__init__(said)
        self.service = service
        self.nodes = tuple(nodes)


@asynccontextmanager
async def connect(node: NodeSettings) -> AsyncIterator[Bus]:
    """A bus for one command: own client id, no session; fails soon without a broker.

    Raises:
        BrokerUnreachableError: Nobody answers within 3 s.
    """
    identity = Identity(
        base=node.base, site=node.site, node=node.node, service=f"cli-{secrets.token_hex(4)}"
    )
    settings = node.bus.model_copy(update={"ephemeral": True, "connect_wait_s": 0.0})
    async with Bus(MqttTransport(node.broker), identity=identity, settings=settings) as bus:
        await bus.connected(_PATIENCE_S)
        yield bus


async def find_node(bus: Bus, service: str) -> str:
    """The one node of the site that runs a service, by the states that the broker keeps.

    Raises:
        ServiceNotFoundError: None is ready, or more than one.
    """
    base, site = bus.identity.base, bus.identity.site
    states: dict[str, ServiceState] = {}
    found = asyncio.Event()

    async def see(event: Event[ServiceState]) -> None:
        states[event.names["node"]] = event.payload
        if event.payload.state in _ALIVE:
            found.set()

    await bus.subscribe(topics.SERVICE_STATE.any(base=base, site=site, service=service), see)
    try:
        async with asyncio.timeout(_FIND_S):
            await found.wait()
            # The broker sends what it keeps in one go; a second node would be here by now.
            await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    nodes = sorted(node for node, state in states.items() if state.state in _ALIVE)
    if len(nodes) != 1:
        raise ServiceNotFoundError(service, site=site, nodes=nodes)
    return nodes[0]
