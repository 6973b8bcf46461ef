"""Many cases in several processes: counts, speed, memory, and every case that found a fault.

A case is known by its target and its number, and made from nothing else; so ``--only`` and
``--first`` repeat it.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.soak.target import Target

__all__ = ["Fault", "Plan", "Result", "all_targets", "run"]

_LIMIT_CPU_S = 20.0
"""CPU seconds that one call may take: more is a hang."""
_HEADROOM = 768 * 2**20
"""Bytes that one process may take beyond what it has when everything is imported."""
_EVERY_S = 0.5
_SAY_S = 30.0
"""Seconds between two lines where there is no terminal for a bar."""
_MOST_FAULTS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        cases: In total, spread over the targets by their shares.
        processes: Side by side.
        seed: Of everything.
        only: Targets whose name holds this.
        first: Number of the first call of each target.
    """

    cases: int
    processes: int = 1
    seed: int = 0
    only: str = ""
    first: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A case that found something.

    Attributes:
        target: Name of the target.
        call: Number of the call.
        words: The error in one line.
        where: The traceback.
    """

    target: str
    call: int
    words: str
    where: str


@dataclass(slots=True)
class Tally:
    """What became of a target's cases."""

    cases: int = 0
    accepted: int = 0
    slowest_ms: float = 0.0
    cpu_s: float = 0.0
    grew_bytes: int = 0
    """How much its cases raised a process's peak memory, at most in one process."""


@dataclass(slots=True)
class Result:
    """Of a whole run."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    peak_rss: dict[int, int] = field(default_factory=dict)
    start_rss: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        """Cases that were run."""
        return sum(tally.cases for tally in self.tallies.values())

    def document(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "cases": self.cases,
            "faults": [asdict(fault) for fault in self.faults],
            "seconds": round(self.seconds, 1),
            "peak_rss_bytes": self.peak_rss,
            "start_rss_bytes": self.start_rss,
            "targets": {name: asdict(tally) for name, tally in self.tallies.items()},
        }


class HangError(BaseException):
    """A call took more CPU time than any input is worth; no handler shall catch it."""


def all_targets() -> list[Target]:
    """Everything there is to attack; making them starts no service yet."""
    # Imported here, in each process: models and services are heavy.
    from tests.soak.on_artifacts import artifact_targets
    from tests.soak.on_files import file_targets
    from tests.soak.on_messages import message_targets
    from tests.soak.on_services import service_targets
    from tests.soak.on_settings import settings_targets
    from tests.soak.on_wire import wire_targets

    return [
        *message_targets(),
        *artifact_targets(),
        *settings_targets(),
        *file_targets(),
        *wire_targets(),
        *service_targets(),
    ]


def run(plan: Plan, *, console: Console) -> Result:
    """Run a plan, with a progress bar, and gather what comes of it."""
    result = Result()
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, _Worker] = {}
    for number in range(plan.processes):
        ours, theirs = context.Pipe(duplex=False)
        place = context.Array("q", [0, 0], lock=True)
        process = context.Process(
            target=_work, args=(plan, number, theirs, place), name=f"fuzz {number}", daemon=True
        )
        process.start()
        theirs.close()
        workers[ours] = _Worker(process, place)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("cases", total=plan.cases)
        said, told = time.monotonic(), 0
        while workers:
            for source in wait(list(workers)):
                assert isinstance(source, Connection)
                try:
                    _take(result, source.recv())
                except EOFError:
                    _end(result, workers.pop(source))
            progress.update(bar, completed=result.cases, description=_words(result))
            if not console.is_terminal and time.monotonic() - said > _SAY_S:
                said = time.monotonic()
                console.print(f"{result.cases:,} of {plan.cases:,} {_words(result)}")
                for fault in result.faults[told:]:
                    console.print(f"{fault.target}, call {fault.call}: {fault.words}", markup=False)
                told = len(result.faults)
    result.seconds = time.monotonic() - began
    return result


def report(result: Result, *, console: Console) -> None:
    """Print the table and what was found."""
    table = Table("target", "cases", "accepted", "refused", "slowest", "CPU", "memory")
    for name, tally in result.tallies.items():
        table.add_row(
            name,
            f"{tally.cases:,}",
            f"{tally.accepted:,}",
            f"{tally.cases - tally.accepted:,}",
            f"{tally.slowest_ms:.0f} ms",
            f"{tally.cpu_s:.0f} s",
            f"+{_mib(tally.grew_bytes)} MiB",
        )
    console.print(table)
    for fault in result.faults:
        console.rule(f"{fault.target}, call {fault.call}")
        console.print(fault.where, markup=False, highlight=False)
        console.print(
            f"again: python -m tests.soak fuzz --only '{fault.target}' --first {fault.call} "
            "--cases 1 --processes 1",
            markup=False,
        )
    console.print(
        f"{result.cases:,} cases, {len(result.faults)} faults, {result.seconds:.0f} s, "
        f"peak memory {_mib(max(result.peak_rss.values(), default=0))} MiB per process "
        f"({_mib(max(result.start_rss.values(), default=0))} MiB before the first case)",
        highlight=False,
    )


def write(result: Result, path: Path) -> None:
    """Keep the figures as JSON."""
    path.write_text(json.dumps(result.document(), indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class _Worker:
    process: BaseProcess
    place: SynchronizedArray[int]


def _take(result: Result, news: dict[str, Any]) -> None:
    for name, tally in news["tallies"].items():
        sum_ = result.tallies.setdefault(name, Tally())
        sum_.cases += tally.cases
        sum_.accepted += tally.accepted
        sum_.cpu_s += tally.cpu_s
        sum_.grew_bytes = max(sum_.grew_bytes, tally.grew_bytes)
        sum_.slowest_ms = max(sum_.slowest_ms, tally.slowest_ms)
    if len(result.faults) < _MOST_FAULTS:
        result.faults += news["faults"]
    result.peak_rss[news["pid"]] = news["rss"]
    result.start_rss.setdefault(news["pid"], news["rss"])


def _end(result: Result, worker: _Worker) -> None:
    """A process has closed its pipe: done, or dead."""
    worker.process.join()
    code = worker.process.exitcode
    if code:
        target, call = worker.place[:]
        words = f"the process died with exit code {code}"
        name = f"target number {target}"
        result.faults.append(Fault(name, call, words, words))


def _words(result: Result) -> str:
    peak = _mib(max(result.peak_rss.values(), default=0))
    return f"cases, {len(result.faults)} faults, peak {peak} MiB"


def _mib(size: int) -> int:
    return size // 2**20


# In a worker's process


def _work(plan: Plan, number: int, pipe: Connection, place: SynchronizedArray[int]) -> None:
    # Decoders write their complaints straight to the terminal.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGVTALRM, _hang)
    targets = [target for target in all_targets() if plan.only in target.name]
    if not targets:
        words = f"no target has {plan.only!r} in its name"
        nothing = Fault(target=plan.only, call=0, words=words, where=words)
        pipe.send({"pid": os.getpid(), "rss": 0, "tallies": {}, "faults": [nothing]})
        return
    whole = sum(target.share for target in targets)
    _limit_memory()
    tallies: dict[str, Tally] = {}
    faults: list[Fault] = []

    def tell() -> None:
        pipe.send({"pid": os.getpid(), "rss": _peak(), "tallies": tallies, "faults": faults})

    tell()
    said = time.monotonic()
    # Targets take turns, so that a run that is stopped early has seen them all.
    for target, call in _schedule(plan, targets, whole, number):
        place[0], place[1] = targets.index(target), call
        tally = tallies.setdefault(target.name, Tally())
        fault = _case(plan, target, call, tally)
        if fault is not None:
            faults.append(fault)
        if time.monotonic() - said > _EVERY_S:
            tell()
            tallies, faults = {}, []
            said = time.monotonic()
    tell()
    pipe.close()


def _schedule(
    plan: Plan, targets: list[Target], whole: float, number: int
) -> Iterator[tuple[Target, int]]:
    """The calls of one process: every so manieth of each target."""
    turns = 100
    for turn in range(turns):
        for target in targets:
            calls = math.ceil(plan.cases * target.share / whole / target.cases)
            for call in range(calls * turn // turns, calls * (turn + 1) // turns):
                if call % plan.processes == number:
                    yield target, plan.first + call


def _case(plan: Plan, target: Target, call: int, tally: Tally) -> Fault | None:
    random = Random(f"{plan.seed}/{target.name}/{call}")
    began, cpu, peak = time.perf_counter(), time.process_time(), _peak()
    fault = None
    try:
        with _timed():
            tally.accepted += target.attack(random)
    except (Exception, HangError) as error:  # noqa: BLE001 whatever comes out is what is looked for
        words = f"{type(error).__name__}: {error}"[:2000]
        where = "".join(traceback.format_exception(error, limit=-12))[-6000:]
        fault = Fault(target.name, call, words, where)
    tally.cases += target.cases
    tally.cpu_s += time.process_time() - cpu
    tally.grew_bytes += _peak() - peak
    tally.slowest_ms = max(tally.slowest_ms, (time.perf_counter() - began) * 1e3)
    return fault


def _peak() -> int:
    """Most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _timed() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_VIRTUAL, _LIMIT_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _hang(_number: int, _frame: FrameType | None) -> None:
    msg = f"more than {_LIMIT_CPU_S:g} s of CPU time"
    raise HangError(msg)


def _limit_memory() -> None:
    """From here on an input that takes a lot of memory is a `MemoryError`, and a fault."""
    if not sys.platform.startswith("linux"):
        return
    status = Path("/proc/self/status").read_text()
    used = next(line for line in status.splitlines() if line.startswith("VmData"))
    limit = int(used.split()[1]) * 1024 + _HEADROOM
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
