"""One process per identity: who was here first, before, at and after the start of a service.

Three ways to find another process of the same identity, from the cheapest to the surest: the
service's data folder is locked (same host), the retained state names a process that shows a sign
of life (before connecting with the own client id), and births on the own state topic prove that an
older process lives (as long as the service runs).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from socket import gethostname
from typing import Literal

from edgebus.bus import Bus, BusSettings, Event, Transport
from edgebus.contracts import Identity, Metrics, ServiceState, topics
from edgebus.service.errors import DuplicateIdentityError, SettingsError, SettingsProblem
from edgebus.service.host import process_alive
from edgebus.service.presence import ALIVE, Presence
from edgebus.service.settings import NodeSettings

Verdict = Literal["ignore", "reassert", "yield"]

_RETAINED_S = 0.5
# A process id and four levels of at most 96 characters, of at most four bytes each.
_LOCK_BYTES = 2048
_BEATS = 2.5


@contextmanager
def folder_lock(node: NodeSettings, identity: Identity) -> Iterator[None]:
    """Hold a service's data folder; the kernel lets go of it when the process ends, however.

    Args:
        node: Names the node's folder; the service's own below it is made if need be.
        identity: The service.

    Raises:
        DuplicateIdentityError: Another process of this identity holds it.
        SettingsError: A service of another identity holds it, or it cannot be written.
    """
    folder = node.data_dir / identity.service
    name = identity.prefix
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        reason = f"{error.strerror}; choose a folder that this user may write"
        raise _wrong_folder(folder, reason) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, holder = os.read(handle, _LOCK_BYTES).decode("utf-8", "replace").partition(" ")
            other = f"process {pid or 'unknown'} holds {folder}"
            if holder in ("", name):
                shares_folder = "data_dir" in node.model_fields_set
                raise DuplicateIdentityError(
                    identity.source, other=other, shares_folder=shares_folder
                ) from None
            reason = (
                f"belongs to {holder} (process {pid}), so {name} cannot use it too; give each "
                "node a folder of its own with --set data_dir=FOLDER, or leave data_dir out: "
                "by default it is named like the node"
            )
            raise _wrong_folder(folder, reason) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {name}".encode(), 0)
        yield
    finally:
        os.close(handle)


def _wrong_folder(folder: Path, reason: str) -> SettingsError:
    return SettingsError([SettingsProblem(key="data_dir", origin=str(folder), reason=reason)])


async def find_running_instance(
    transport: Transport, *, identity: Identity, settings: BusSettings, heartbeat_s: float
) -> str | None:
    """Find a process that lives under this identity.

    A connection of its own, with another client id, reads the state that the broker keeps: to
    connect with the service's client id would throw the other one off. A state that means *alive*
    may be a dead one's, if the broker died with it; then a sign of life decides: the process's id
    where it is of this host, else a heartbeat within two and a half intervals.

    Args:
        transport: To the broker.
        identity: The identity in question.
        settings: The bus's settings.
        heartbeat_s: Seconds between two heartbeats.

    Returns:
        Host and process id of the one that lives, or None.
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
        where = asdict(identity)
        await bus.subscribe(topics.SERVICE_METRICS.any(**where), see_beat)
        await bus.subscribe(topics.SERVICE_STATE.any(**where), see_state)
        try:
            async with asyncio.timeout(_RETAINED_S):
                found = await state
        except TimeoutError:
            return None
        if found.state not in ALIVE:
            return None
        if found.host == gethostname() and (
            found.pid == os.getpid() or not process_alive(found.pid)
        ):
            return None
        try:
            async with asyncio.timeout(_BEATS * heartbeat_s):
                await beat.wait()
        except TimeoutError:
            return None
        return (
            f"process {found.pid} on {found.host}, {found.state} since {found.since:%H:%M:%S} UTC"
        )


def is_elder(seen: ServiceState, *, own: ServiceState) -> bool:
    """True where a state on the own topic proves that an older process has this identity.

    A broker ends the older connection when a client id connects again (MQTT-3.1.4-3), so two
    processes that both reconnect would fight for ever, and few brokers give a reason when they
    hang up. But each of them has a birth and a will. One that connected after this process did,
    and is not this process, is alive; of two, the one with the smaller instance stays (instances
    are UUIDv7, so that is the older one).

    Args:
        seen: What arrived on the topic, retained or not.
        own: The first state of this process: its instance, and the session it began with.
    """
    if seen.instance == own.instance or seen.state == "stopped":
        return False
    # A will (offline) counts: a broker publishes it for whoever it throws out for us, and often
    # nothing else of the other can be seen.
    return seen.session > own.session and seen.instance < own.instance


class IdentityGuard:
    """Follows the states on the own topic, until they prove that an older process lives.

    What the broker kept from before proves nothing, whatever its session number: the clock that
    the number was taken from may have run ahead, and its process may be dead. One that lives is
    thrown out by this process, connects again, and publishes a higher number.
    """

    def __init__(self) -> None:
        self._kept: ServiceState | None = None

    def proves(self, seen: ServiceState, *, own: ServiceState, retained: bool) -> bool:
        """True where `seen` is the proof.

        Args:
            seen: What arrived on the topic.
            own: The first state of this process.
            retained: The broker had kept it.
        """
        if self._kept is None and retained:
            self._kept = seen
        kept = self._kept
        if kept is not None and seen.instance == kept.instance and seen.session <= kept.session:
            return False
        return is_elder(seen, own=own)

    def check(self, event: Event[ServiceState], own: ServiceState) -> str | None:
        """The older process, in words, as the bus's `identity_check`; None: none is known."""
        seen = event.payload
        if not self.proves(seen, own=own, retained=event.retained):
            return None
        return f"process {seen.pid} on {seen.host or 'an unnamed host'}, {seen.state}"


def judge(own: Presence, seen: ServiceState, *, retained: bool) -> Verdict:
    """Decide what a service does about a state on its own topic.

    Args:
        own: The service itself.
        seen: The state that arrived.
        retained: It was kept by the broker, so it is older than this connection.

    Returns:
        ``ignore``; ``reassert``: publish the own state again, because the topic now holds
        another one (a late will, or a younger process, which then yields); ``yield``: another
        process was here first.
    """
    if seen.instance == own.instance:
        stale_will = seen.state == "offline" and seen.session <= own.session
        return "reassert" if stale_will and not retained else "ignore"
    if retained or own.state == "stopped":
        return "ignore"
    if seen.state not in ALIVE:
        return "reassert"
    if seen.time < own.started:
        # Queued in the broker for a process that has died since.
        return "ignore"
    return "yield" if seen.instance < own.instance else "reassert"
