"""Before a service takes its identity it looks whether somebody has it."""

from __future__ import annotations

import asyncio
import os
import secrets
from socket import gethostname

from edgebus.bus import Bus, BusSettings, Event, Transport
from edgebus.contracts import Identity, Metrics, ServiceState, topics
from edgebus.service.host import process_alive
from edgebus.service.presence import ALIVE

__all__ = ["find_incumbent"]

_RETAINED_S = 0.5
_BEATS = 2.5


async def find_incumbent(
    transport: Transport, *, identity: Identity, settings: BusSettings, heartbeat_s: float
) -> str | None:
    """Who lives under this identity, or None.

    A connection of its own, with another client id, reads the state that the broker keeps: to
    connect with the service's client id would throw the other one off. A state that says *alive*
    may be a dead one's, if the broker died with it; then a sign of life decides: the process's id
    where it is of this host, else a heartbeat within two and a half intervals.

    Args:
        transport: To the broker.
        identity: The identity in question.
        settings: The bus's settings.
        heartbeat_s: Seconds between two heartbeats.

    Returns:
        Host and process id of the one who lives.
    """
    inquirer = Identity(
        base=identity.base,
        site=identity.site,
        node=identity.node,
        service=f"{identity.service}-{secrets.token_hex(4)}",
    )
    ephemeral = settings.model_copy(update={"ephemeral": True})
    state: asyncio.Future[ServiceState] = asyncio.get_running_loop().create_future()
    beat = asyncio.Event()

    async def see_state(event: Event[ServiceState]) -> None:
        if not state.done():
            state.set_result(event.payload)

    async def see_beat(event: Event[Metrics]) -> None:
        beat.set()

    async with Bus(transport, identity=inquirer, settings=ephemeral) as bus:
        await bus.connection.up()
        where = {
            "base": identity.base,
            "site": identity.site,
            "node": identity.node,
            "service": identity.service,
        }
        await bus.subscribe(topics.SERVICE_METRICS.any(**where), see_beat)
        await bus.subscribe(topics.SERVICE_STATE.any(**where), see_state)
        try:
            async with asyncio.timeout(_RETAINED_S):
                said = await state
        except TimeoutError:
            return None
        if said.state not in ALIVE:
            return None
        if said.host == gethostname() and (said.pid == os.getpid() or not process_alive(said.pid)):
            return None
        try:
            async with asyncio.timeout(_BEATS * heartbeat_s):
                await beat.wait()
        except TimeoutError:
            return None
        return f"process {said.pid} on {said.host}, {said.state} since {said.since:%H:%M:%S} UTC"
