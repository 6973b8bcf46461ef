"""Supervision of a topology's processes: restarted when they die, stopped together."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgebus.lab.broker import EmbeddedBroker
from edgebus.lab.process import start_process, stop_process

_USAGE_ERROR = 2
"""Exit code of a service whose settings are wrong: starting it again changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to keep running.

    Attributes:
        name: ``node/service``.
        command: Program and arguments.
        log: File that its output is appended to.
        environment: Its whole environment.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEvent:
    """A start, death or stop of a process.

    Attributes:
        name: ``node/service``, or ``broker``.
        kind: Which of these.
        code: Exit code of one that ended; negative for a signal.
        wait_s: Seconds until it is started again.
    """

    name: str
    kind: Literal["started", "died", "stopped"]
    pid: int = 0
    code: int | None = None
    wait_s: float = 0.0


class ServiceFailedError(RuntimeError):
    """A process that ends again and again, or cannot start at all.

    Attributes:
        name: ``node/service``.
        code: Its last exit code.
        log: Where it wrote what happened.
    """

    def __init__(self, *, name: str, code: int, log: Path, reason: str) -> None:
        super().__init__(f"{name} {reason} (exit code {code}): {log_end(log)} [{log}]")
        self.name = name
        self.code = code
        self.log = log


class SetupFailedError(RuntimeError):
    """A set-up command of the topology failed."""

    def __init__(self, *, command: Sequence[str], code: int, log: Path) -> None:
        super().__init__(
            f"set-up command {' '.join(command)} ended with code {code}: {log_end(log)} [{log}]"
        )


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Wait before a restart: doubles with every quick death, starts over after a long life.

    Attributes:
        first_s: First wait.
        cap_s: Longest wait.
        healthy_s: A process that lived this long starts over at `first_s`.
        limit: Quick deaths in a row after which it is given up.
    """

    first_s: float = 0.2
    cap_s: float = 5.0
    healthy_s: float = 5.0
    limit: int = 8
    deaths: int = field(default=0, init=False)

    def after(self, lived_s: float) -> float | None:
        """Seconds to wait, or None to give up.

        Args:
            lived_s: How long the process lived.
        """
        self.deaths = 1 if lived_s >= self.healthy_s else self.deaths + 1
        if self.deaths > self.limit:
            return None
        return min(self.cap_s, self.first_s * 2.0 ** (self.deaths - 1))


class Supervisor:
    """Keeps processes and the embedded broker alive until it is cancelled.

    Args:
        specs: The processes.
        broker: A started embedded broker to keep alive as well.
        grace_s: How long a process may drain after SIGTERM.
        on_event: Called for every start and death.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        *,
        broker: EmbeddedBroker | None = None,
        grace_s: float = 10.0,
        on_event: Callable[[ProcessEvent], None] = lambda _event: None,
    ) -> None:
        self._specs = tuple(specs)
        self._broker = broker
        self._grace_s = grace_s
        self._on_event = on_event
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def run(self) -> None:
        """Run until cancelled; then drain the services, and leave the broker to its owner.

        Raises:
            ServiceFailedError: In a group, when a process cannot be kept alive.
        """
        try:
            async with asyncio.TaskGroup() as group:
                if self._broker is not None:
                    group.create_task(self._keep_broker(self._broker), name="broker")
                for spec in self._specs:
                    group.create_task(self._keep(spec), name=spec.name)
        finally:
            await self._stop_all()

    async def _keep(self, spec: ProcessSpec) -> None:
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            born = loop.time()
            process = await self._start(spec)
            code = await process.wait()
            del self._running[spec.name]
            if code == 0:  # it had nothing more to do
                self._on_event(ProcessEvent(name=spec.name, kind="stopped", code=code))
                return
            if code == _USAGE_ERROR:
                raise ServiceFailedError(
                    name=spec.name, code=code, log=spec.log, reason="cannot start"
                )
            wait_s = backoff.after(loop.time() - born)
            if wait_s is None:
                raise ServiceFailedError(
                    name=spec.name,
                    code=code,
                    log=spec.log,
                    reason=f"died {backoff.limit} times in a row",
                )
            self._on_event(ProcessEvent(name=spec.name, kind="died", code=code, wait_s=wait_s))
            await asyncio.sleep(wait_s)

    async def _keep_broker(self, broker: EmbeddedBroker) -> None:
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            born = loop.time()
            code = await broker.wait()
            wait_s = backoff.after(loop.time() - born)
            if wait_s is None:
                raise ServiceFailedError(
                    name="broker", code=code, log=broker.log_file, reason="dies again and again"
                )
            self._on_event(ProcessEvent(name="broker", kind="died", code=code, wait_s=wait_s))
            await asyncio.sleep(wait_s)
            await broker.start()
            self._on_event(ProcessEvent(name="broker", kind="started", pid=broker.pid or 0))

    async def _start(self, spec: ProcessSpec) -> asyncio.subprocess.Process:
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            process = await start_process(*spec.command, output=log, environment=spec.environment)
        self._running[spec.name] = process
        self._on_event(ProcessEvent(name=spec.name, kind="started", pid=process.pid))
        return process

    async def _stop_all(self) -> None:
        """SIGTERM to all at once: each drains, then ends; what does not is killed."""
        running = list(self._running.items())
        codes = await asyncio.gather(
            *(stop_process(process, grace_s=self._grace_s) for _, process in running)
        )
        self._running.clear()
        for (name, _), code in zip(running, codes, strict=True):
            self._on_event(ProcessEvent(name=name, kind="stopped", code=code))


async def run_setup(command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
    """Run one set-up command to its end.

    Raises:
        SetupFailedError: It ended with another code than 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = await start_process(
            sys.executable, "-m", *command, output=output, environment=environment
        )
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        await stop_process(process, grace_s=1)
        raise
    if code != 0:
        raise SetupFailedError(command=command, code=code, log=log)


def log_end(log: Path, *, lines: int = 3, limit: int = 600) -> str:
    """The last lines of a log in one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192), os.SEEK_SET)
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error.strerror})"
    kept = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    if kept and (reason := _last_reason(kept[-1])):
        return reason[:limit]
    return " | ".join(kept)[-limit:] or "(its log is empty)"


def _last_reason(line: str) -> str:
    """The reason of its end that a service wrote to a JSON log; empty for any other line."""
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    reason = entry.get("reason") if isinstance(entry, dict) else None
    return f"{entry.get('event', '')}: {reason}" if reason else ""
