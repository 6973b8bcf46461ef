"""A command's own short connection to the bus."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from edgebus.bus import Bus, Event
from edgebus.contracts import Identity, ModelStatus, ServiceState, topics
from edgebus.mqtt import MqttTransport
from edgebus.service import ServiceError

if TYPE_CHECKING:
    from edgebus.service import NodeSettings

_PATIENCE_S = 3.0
_FIND_S = 2.0
_SETTLE_S = 0.5
"""A broker sends what it keeps in one go after SUBACK."""
_ALIVE = frozenset({"ready", "degraded"})


class ServiceNotFoundError(ServiceError):
    """No service of that name is there to take the command, or more than one is.

    Attributes:
        service: Its name.
        nodes: The nodes that run one.
    """

    def __init__(
        self, service: str, *, site: str, nodes: list[str], elsewhere: Sequence[str] = ()
    ) -> None:
        if nodes:
            said = f"{len(nodes)} nodes run a {service}: {', '.join(nodes)}; choose with --node"
        elif elsewhere:
            said = (
                f"no {service} is ready at site {site}; there is one at {', '.join(elsewhere)}: "
                f"choose with --set site={elsewhere[0]}"
            )
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
    states: dict[tuple[str, str], ServiceState] = {}
    found = asyncio.Event()

    async def see(event: Event[ServiceState]) -> None:
        states[event.names["site"], event.names["node"]] = event.payload
        if event.names["site"] == site and event.payload.state in _ALIVE:
            found.set()

    await bus.subscribe(topics.SERVICE_STATE.any(base=base, service=service), see)
    try:
        async with asyncio.timeout(_FIND_S):
            await found.wait()
            # The broker sends what it keeps in one go; a second node would be here by now.
            await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    alive = sorted(where for where, state in states.items() if state.state in _ALIVE)
    nodes = [node for at, node in alive if at == site]
    if len(nodes) != 1:
        elsewhere = sorted({at for at, _ in alive} - {site})
        raise ServiceNotFoundError(service, site=site, nodes=nodes, elsewhere=elsewhere)
    return nodes[0]


async def find_followers(bus: Bus) -> dict[tuple[str, str], list[str]]:
    """Edges of the site by the model and channel whose releases they follow.

    Of the statuses that the broker keeps: an edge that is off keeps its own, and follows as soon as
    it is back.
    """
    found: dict[tuple[str, str], set[str]] = {}

    async def see(event: Event[ModelStatus]) -> None:
        status = event.payload
        reference = status.serving or status.target
        name = status.model or (reference and reference.name)
        if name:
            edge = f"{event.names['node']}/{event.names['service']}"
            found.setdefault((name, status.channel), set()).add(edge)

    at = {"base": bus.identity.base, "site": bus.identity.site}
    for topic in (topics.MODEL_STATUS, topics.STREAM_MODEL):
        await bus.subscribe(topic.any(**at), see)
    known = -1
    await asyncio.sleep(_SETTLE_S)
    while known != len(found):  # on a busy machine they come late
        known = len(found)
        await asyncio.sleep(_SETTLE_S)
    return {key: sorted(edges) for key, edges in found.items()}
