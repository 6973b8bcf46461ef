"""Brokers that a run may kill and start again on the same port."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edgebus.bus import BrokerSettings
from edgebus.lab.broker import find_server
from edgebus.lab.process import dying_with_parent

__all__ = ["Broker", "BrokerFailedError", "Mosquitto", "Nats"]

# As durable as Mosquitto can be: what changes is on disk (fsync included) at the end of the round
# of its loop in which it changed. It acknowledges within the round, so a moment earlier.
_MOSQUITTO = """\
listener {port} 127.0.0.1
user {user}
allow_anonymous true
persistence {persistence}
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
set_tcp_nodelay true
max_queued_messages 0
max_queued_bytes 268435456
max_inflight_messages 1000
"""

# With one event at a time on its way to a client, what is sent again cannot come behind newer ones.
_NATS = """\
server_name: "soak"
host: "127.0.0.1"
port: -1
max_payload: 8388608
jetstream {{ store_dir: "{folder}/store", max_memory_store: 256MB, max_file_store: 2GB }}
mqtt {{ host: "127.0.0.1", port: {port}, max_ack_pending: {window}, ack_wait: "{ack_wait_s}s" }}
"""
_START_S = 15.0


class BrokerFailedError(RuntimeError):
    """A broker is not installed, or does not come up."""


class Broker(Protocol):
    """What a run needs of a broker.

    Attributes:
        name: For tables.
        host: Where it listens.
        port: Where it listens.
    """

    name: str
    host: str
    port: int

    def settings(self, url: str | None = None, **more: object) -> BrokerSettings:
        """How to reach it, or a proxy before it."""

    async def start(self) -> None:
        """Start it; returns when it listens."""

    async def kill(self) -> None:
        """End it with SIGKILL."""


class _Server:
    """A broker as a child process."""

    name = ""
    host = "127.0.0.1"
    version = "5"

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    def command(self) -> list[str]:
        """Write its configuration; how to start it."""
        raise NotImplementedError

    def settings(self, url: str | None = None, **more: object) -> BrokerSettings:
        """How to reach it, or a proxy before it."""
        known = {"url": url or f"mqtt://{self.host}:{self.port}", "version": self.version}
        return BrokerSettings.model_validate(known | more)

    async def start(self) -> None:
        """Start it; returns when it listens.

        Raises:
            BrokerFailedError: It is not installed or does not come up.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        command = self.command()
        with (self._folder / "broker.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *dying_with_parent(*command),
                stdout=log,
                stderr=log,
                stdin=asyncio.subprocess.DEVNULL,
            )
        try:
            async with asyncio.timeout(_START_S):
                while not await self._listens():
                    if self._process.returncode is not None:
                        msg = f"{command[0]} ended with code {self._process.returncode}: {log.name}"
                        raise BrokerFailedError(msg)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            msg = f"{command[0]} does not listen on port {self.port}, see {log.name}"
            raise BrokerFailedError(msg) from None

    async def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.kill()

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        writer.close()
        return True


class Mosquitto(_Server):
    """A Mosquitto of its own, over MQTT 5.

    Args:
        folder: For its configuration, log and store.
        persistence: Whether it keeps sessions and what is queued on disk.
    """

    name = "Mosquitto"

    def __init__(self, folder: Path, *, persistence: bool = True) -> None:
        super().__init__(folder)
        self._persistence = persistence

    def command(self) -> list[str]:
        """Write its configuration; how to start it."""
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        if not os.access(program, os.X_OK):
            msg = "this run needs Mosquitto: apt-get install mosquitto, or brew install mosquitto"
            raise BrokerFailedError(msg)
        config = self._folder / "mosquitto.conf"
        config.write_text(
            _MOSQUITTO.format(
                port=self.port,
                # Run as root it would else become a user that cannot write to the folder.
                user=getpass.getuser(),
                folder=self._folder,
                persistence="true" if self._persistence else "false",
            )
        )
        return [program, "-c", str(config)]


class Nats(_Server):
    """A NATS server with JetStream: sessions and what is queued lie on disk. MQTT 3.1.1.

    Args:
        folder: For its configuration, log and store.
        window: Events that it sends ahead of their acknowledgement.
        ack_wait_s: After this long it sends again what is not acknowledged.
    """

    name = "NATS"
    version = "3.1.1"

    def __init__(self, folder: Path, *, window: int = 1, ack_wait_s: int = 1) -> None:
        super().__init__(folder)
        self._window = window
        self._ack_wait_s = ack_wait_s

    def command(self) -> list[str]:
        """Write its configuration; how to start it."""
        config = self._folder / "nats.conf"
        config.write_text(
            _NATS.format(
                folder=self._folder,
                port=self.port,
                window=self._window,
                ack_wait_s=self._ack_wait_s,
            )
        )
        return [str(find_server()), "--config", str(config)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
