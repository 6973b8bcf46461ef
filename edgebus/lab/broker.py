"""A broker without root or installation: nats-server from PyPI, which speaks MQTT 3.1.1."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import shutil
import socket
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Self

from edgebus.lab.process import start_process, stop_process
from edgebus.service import install_command

_PROGRAM = "nats-server"
_USUAL_PORTS = range(1883, 1900)
# Below the ports that the kernel gives to outgoing connections, so that one that is free stays free
# until its server starts; chosen by chance, because several may be looked for at once.
_FREE_PORTS = range(10_000, 32_000)
# CONNECT, MQTT 3.1.1, clean session, no client id, keep-alive 10 s; the broker answers CONNACK 0.
_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"
_CONNACK = b"\x20\x02\x00\x00"
_DISCONNECT = b"\xe0\x00"

_CONFIG = """\
server_name: "edgebus-embedded"
host: "{host}"
port: -1
max_payload: 8388608
max_pending: 67108864
write_deadline: "10s"
log_file: "{log}"
logfile_size_limit: 8MB
jetstream {{
  store_dir: "{store}"
  max_memory_store: 256MB
  max_file_store: 2GB
}}
mqtt {{
  host: "{host}"
  port: {port}
  max_ack_pending: 1024
  ack_wait: "{ack_wait_ms}ms"
}}
"""


class BrokerNotInstalledError(RuntimeError):
    """The program `nats-server` is not there."""

    def __init__(self) -> None:
        super().__init__(
            f"{_PROGRAM} is not installed; the embedded broker comes with "
            f"{install_command('lab')}, or give an own broker: broker: {{url: mqtt://host:1883}}"
        )


class BrokerStartError(RuntimeError):
    """The embedded broker did not come up.

    Attributes:
        log: The end of its log, or the way out.
    """

    def __init__(self, *, reason: str, log: str) -> None:
        super().__init__(f"the embedded broker {reason}; {log}")
        self.log = log


def find_server() -> Path:
    """The `nats-server` of this Python environment, else the one on PATH.

    Raises:
        BrokerNotInstalledError: There is none.
    """
    name = f"{_PROGRAM}.exe" if sys.platform == "win32" else _PROGRAM
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        if (candidate := Path(folder) / name).is_file():
            return candidate
    found = shutil.which(_PROGRAM)
    if found is None:
        raise BrokerNotInstalledError
    return Path(found)


class EmbeddedBroker:
    """An MQTT 3.1.1 broker as a child process, for one laptop.

    Retained messages, sessions and queued messages lie in `data_dir`: they survive a restart and
    kill -9. The port is chosen once and kept over restarts, so clients find it again.

    Shared subscriptions (``$share``) are accepted by this broker and then deliver nothing; MQTT 5
    is refused. Use Mosquitto where those are needed.

    Args:
        data_dir: Folder for its store, configuration and log.
        host: Address to listen on.
        port: MQTT port; 0 takes a free one.
        start_timeout_s: How long it may take to answer its first CONNECT.
        ack_wait_s: After this long an event that a client has not acknowledged is sent again.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        start_timeout_s: float = 15.0,
        ack_wait_s: float = 30.0,
    ) -> None:
        self.data_dir = data_dir
        self.host = host
        self.port = port
        self.start_timeout_s = start_timeout_s
        self.ack_wait_s = ack_wait_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Address for clients: ``mqtt://host:port``."""
        return f"mqtt://{self.host}:{self.port}"

    @property
    def log_file(self) -> Path:
        """Path of the broker's log."""
        return self.data_dir / "broker.log"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it and wait until it answers an MQTT CONNECT.

        Raises:
            BrokerNotInstalledError: The program is missing.
            BrokerStartError: It ended, or does not answer in time.
        """
        if self.running:
            return
        server = find_server()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self.port == 0:
            [self.port] = free_ports(1, host=self.host)
        elif not is_free(self.port, host=self.host):
            # Whoever listens there would answer in its place.
            reason = f"cannot listen on {self.host}:{self.port}: address already in use"
            raise BrokerStartError(reason=reason, log="choose another with broker.port")
        config = self.data_dir / "broker.conf"
        config.write_text(self.config())
        self._process = process = await start_process(
            str(server), "--config", str(config), output=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(self.start_timeout_s):
                while not await self.ready():
                    if process.returncode is not None:
                        reason = f"ended with code {process.returncode}"
                        raise BrokerStartError(reason=reason, log=self.log_end())
                    await asyncio.sleep(0.05)
        except TimeoutError:
            await self.stop()
            reason = f"does not answer on {self.url} after {self.start_timeout_s:g} s"
            raise BrokerStartError(reason=reason, log=self.log_end()) from None

    async def wait(self) -> int:
        """Wait until the process ends; its exit code."""
        if self._process is None:
            msg = "the broker was not started"
            raise RuntimeError(msg)
        return await self._process.wait()

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """End it, softly first."""
        if self._process is not None:
            await stop_process(self._process, grace_s=grace_s)

    async def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        if self._process is not None and self.running:
            self._process.kill()
            await self._process.wait()

    async def ready(self) -> bool:
        """Whether it accepts an MQTT 3.1.1 connection."""
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        try:
            writer.write(_CONNECT)
            async with asyncio.timeout(5):
                answer = await reader.readexactly(len(_CONNACK))
            writer.write(_DISCONNECT)
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()
        return answer == _CONNACK

    def config(self) -> str:
        """The text of its configuration file."""
        return _CONFIG.format(
            host=self.host,
            port=self.port,
            log=self.log_file.absolute(),
            store=(self.data_dir / "store").absolute(),
            ack_wait_ms=round(self.ack_wait_s * 1000),
        )

    def log_end(self) -> str:
        """The last three lines of its log, in one."""
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = self.log_file.read_text(errors="replace").splitlines()[-3:]
        return f"its log ends: {' | '.join(lines) or '(empty)'}"


def usual_port(host: str) -> int:
    """MQTT's own port, else the first free one above it, else any (0)."""
    return next((port for port in _USUAL_PORTS if is_free(port, host=host)), 0)


def is_free(port: int, *, host: str) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_ports(count: int, *, host: str) -> list[int]:
    """Different TCP ports that nobody listens on now."""
    chance = random.SystemRandom()
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = chance.choice(_FREE_PORTS)
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                ports.append(port)
        return ports
