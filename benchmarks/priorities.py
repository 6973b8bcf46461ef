"""What frames and model bundles cost the commands that pass through the same service.

A service answers commands (request and reply on the bus) in three phases that alternate:

- *idle*: nothing else happens;
- *beside*: a bundle of 64 MiB and 60 frames/s of 60 kB pass between two other services over the
  same broker: what sharing broker and processor costs;
- *through*: the same pass through this service and its one connection, once as their sender, once
  as their receiver.

Broker, services and the one who asks are processes of their own; figures are medians over the
rounds. The target is a p99 of at most twice the idle one.

Run ``python benchmarks/priorities.py`` (about three minutes).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks._priorities_side import ASK, Ask, identity_of, make_bundle  # noqa: E402
from benchmarks.bus import broker  # noqa: E402
from edgebus.artifacts import Store  # noqa: E402
from edgebus.bus import BrokerSettings, Bus, BusSettings  # noqa: E402
from edgebus.contracts import Identity  # noqa: E402
from edgebus.mqtt import MqttTransport  # noqa: E402

_TARGET = 2.0
_PER_S = 100
_TIMEOUT_S = 120


class Child:
    """One side in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *arguments: object) -> Child:
        """Start it."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks._priorities_side",
                *map(str, arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
            )
        )

    def tell(self, line: str) -> None:
        """Give it a word."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def expect(self, word: str) -> dict[str, Any]:
        """Its next word, with its data."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_TIMEOUT_S):
            while line := await self._process.stdout.readline():
                if line.startswith(b"{") and (data := json.loads(line))["word"] == word:
                    return dict(data)
        raise RuntimeError(f"a side ended before it said {word!r}")

    async def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def ask(bus: Bus, done: Callable[[], bool]) -> list[float]:
    """Round trips in ms, some hundred a second, one after the other, until it is done."""
    took: list[float] = []
    address, tick = ASK.at(identity_of("service")), time.perf_counter()
    while not done():
        begun = time.perf_counter()
        command = Ask(source=bus.identity.source)
        await bus.request(address, command, timeout=30)
        took.append((time.perf_counter() - begun) * 1000)
        tick = max(tick + 1 / _PER_S, time.perf_counter() - 1)
        await asyncio.sleep(max(0.0, tick - time.perf_counter()))
    return took


def percentiles(took: list[float]) -> dict[str, float]:
    """p50 and p99 in ms."""
    ordered = sorted(took)
    return {
        "count": len(ordered),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }


async def measure(
    direction: str,
    *,
    port: int,
    rounds: int,
    seconds: float,
    bundles: int,
    source: Path,
    folder: Path,
) -> dict[str, Any]:
    """Alternate idle and loaded phases in one direction."""
    sends = direction == "sends"
    # The service, its counterpart, and one who takes the service's place in the load.
    senders = ["service", "stand-in"] if sends else ["other"]
    receivers = ["other"] if sends else ["service", "stand-in"]
    sides: dict[str, Child] = {}
    refs: dict[str, str] = {}
    for name in senders:
        sides[name] = await Child.start(name, port, source)
        refs[name] = (await sides[name].expect("ready"))["ref"]
    for name in receivers:
        for peer in senders:
            key = f"{name}<{peer}"
            own = name if len(senders) == 1 else f"{name}-of-{peer}"
            sides[key] = await Child.start(own, port, folder / own, "--peer", peer)
            await sides[key].expect("ready")
    pairs = {
        "beside": ("stand-in", "other<stand-in") if sends else ("other", "stand-in<other"),
        "through": ("service", "other<service") if sends else ("other", "service<other"),
    }
    found: dict[str, list[dict[str, float]]] = {"idle": [], "beside": [], "through": []}
    loads: list[dict[str, Any]] = []
    tool = Identity(site="bench", node="laptop", service="tool")
    transport = MqttTransport(BrokerSettings(url=f"mqtt://127.0.0.1:{port}"))
    async with Bus(transport, identity=tool, settings=BusSettings(ephemeral=True)) as bus:
        until = time.monotonic() + 1
        await ask(bus, lambda: time.monotonic() > until)
        for _ in range(rounds):
            until = time.monotonic() + seconds
            found["idle"].append(percentiles(await ask(bus, lambda: time.monotonic() > until)))  # noqa: B023
            for phase, (sender, receiver) in pairs.items():
                sides[sender].tell("load")
                sides[receiver].tell(f"{bundles} {refs[sender]}")
                done = asyncio.create_task(sides[receiver].expect("done"))
                found[phase].append(percentiles(await ask(bus, done.done)))
                sides[sender].tell("rest")
                if phase == "through":
                    loads.append(await done)
                await asyncio.sleep(0.3)
    for side in sides.values():
        await side.end()
    return {"direction": direction, "rounds": found, "loads": loads}


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """Medians over the rounds, and the ratio of loaded to idle."""
    medians = {
        phase: {
            name: statistics.median(item[name] for item in items) for name in ("p50", "p99", "max")
        }
        for phase, items in result["rounds"].items()
    }
    each = [
        through["p99"] / idle["p99"]
        for idle, through in zip(result["rounds"]["idle"], result["rounds"]["through"], strict=True)
    ]
    return {
        **result,
        "medians": medians,
        "ratio_p99": {
            phase: found["p99"] / medians["idle"]["p99"] for phase, found in medians.items()
        },
        "ratio_p99_of_rounds": each,
        "seconds": statistics.median(load["seconds"] for load in result["loads"]),
        "frames_per_s": statistics.median(load["frames_per_s"] for load in result["loads"]),
    }


def show(results: list[dict[str, Any]], console: Console) -> None:
    """One table."""
    table = Table("the service", "phase", title="Round trip of a command, medians of the rounds")
    for heading in ("p50 ms", "p99 ms", "worst ms", "p99 of idle", "bundle s", "frames/s"):
        table.add_column(heading, justify="right")
    for result in results:
        for phase, found in result["medians"].items():
            through = phase == "through"
            table.add_row(
                f"{result['direction']} both",
                phase,
                *(f"{found[name]:.2f}" for name in ("p50", "p99", "max")),
                f"{result['ratio_p99'][phase]:.2f}",
                f"{result['seconds']:.1f}" if through else "",
                f"{result['frames_per_s']:.0f}" if through else "",
            )
    console.print(table)


async def run(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Both directions."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        source, folder = Path(name, "source"), Path(name, "fetched")
        bundle = make_bundle(Path(name, "bundle"), size=arguments.mib * 2**20)
        Store(source).put_bundle(bundle)
        del bundle
        for direction in arguments.directions:
            with broker() as (port, _):  # a new one: nothing is left of the sessions before
                found = await measure(
                    direction,
                    port=port,
                    rounds=arguments.rounds,
                    seconds=arguments.seconds,
                    bundles=arguments.bundles,
                    source=source,
                    folder=folder,
                )
            results.append(summarize(found))
            each = " ".join(f"{ratio:.2f}" for ratio in results[-1]["ratio_p99_of_rounds"])
            console.print(f"[dim]{direction}: p99 through / idle of each round: {each}")
    return results


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each idle phase")
    parser.add_argument("--bundles", type=int, default=1, help="in each phase with load")
    parser.add_argument("--mib", type=int, default=64, help="size of the bundle")
    parser.add_argument(
        "--directions", nargs="+", default=["sends", "receives"], choices=["sends", "receives"]
    )
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    results = asyncio.run(run(arguments, console))
    show(results, console)
    console.print(
        f"target {_TARGET:g} x; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
