"""Fixtures for all tests: a real Mosquitto on a free port."""

from __future__ import annotations

import getpass
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from edgebus.bus import BrokerSettings
from edgebus.lab.broker import free_ports
from edgebus.mqtt import MqttTransport

_CONFIG = """\
listener {port} 127.0.0.1
user {user}
allow_anonymous true
persistence false
set_tcp_nodelay true
max_queued_messages 0
max_queued_bytes {queued_bytes}
max_inflight_messages {in_flight}
{extra}
"""
_START_S = 10.0


def pytest_configure() -> None:
    """The same surroundings for every test: alone, beside others, and in a worker.

    Tracebacks in the tests' logs are plain: rich ones cost a tenth of a second each. The size of
    the terminal is nobody's: pytest loads readline, which puts it into the environment of every
    process that pytest starts, and a command's output would be folded there and not here.
    """
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
        os.unsetenv(name)  # readline's own is not in `os.environ`
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Logs that a test or a command in it has set up end with the test.

    They would go on to a stream that is closed by then, and below their level nothing is captured.
    """
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    logging.basicConfig(handlers=[], level=logging.WARNING, force=True)


def find_free_port() -> int:
    """A TCP port on the loopback that nobody uses now."""
    [port] = free_ports(1, host="127.0.0.1")
    return port


class Mosquitto:
    """A Mosquitto of its own: stop, kill and start it as the test needs; the port stays."""

    def __init__(
        self,
        folder: Path,
        *,
        in_flight: int = 1000,
        queued_bytes: int = 256 * 1024 * 1024,
        extra: str = "",
    ) -> None:
        self.host = "127.0.0.1"
        self.port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / f"mosquitto-{self.port}.log"
        self._config = folder / f"mosquitto-{self.port}.conf"
        self._config.write_text(
            _CONFIG.format(
                # Run as root it would else become a user that cannot read the tests' folders.
                user=getpass.getuser(),
                port=self.port,
                in_flight=in_flight,
                queued_bytes=queued_bytes,
                extra=extra,
            )
        )

    @property
    def url(self) -> str:
        """``mqtt://127.0.0.1:port``."""
        return f"mqtt://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def transport(self, **settings: object) -> MqttTransport:
        """A transport to it; the arguments are those of `BrokerSettings`."""
        return MqttTransport(BrokerSettings.model_validate({"url": self.url, **settings}))

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        if not os.access(program, os.X_OK):
            pytest.fail(
                "the tests need the Mosquitto broker: apt-get install mosquitto "
                "(or brew install mosquitto)",
                pytrace=False,
            )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"mosquitto did not start: {self.log}", pytrace=False)
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """End it softly."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A Mosquitto for the whole session; use a site name of your own on it."""
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def mosquitto_factory(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Makes Mosquittos that are the test's own; they are not started yet."""
    made: list[Mosquitto] = []

    def make(**options: object) -> Mosquitto:
        broker = Mosquitto(tmp_path, **options)  # type: ignore[arg-type]
        made.append(broker)
        return broker

    yield make
    for broker in made:
        broker.kill()


@pytest.fixture
def free_port() -> int:
    """A TCP port on the loopback that nobody uses now."""
    return find_free_port()
