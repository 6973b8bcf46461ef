"""What the bus costs: typed messages per second and round trips, next to other clients.

Every client does the same work against the same Mosquitto, alternated, one process and one core
for each side; the figures are medians over the rounds. TCP_NODELAY is on everywhere. EdgeBus and
FastStream send and validate typed messages; the others carry bytes. Peers are installed with
``pip install 'faststream[mqtt]==0.7.8' aiomqtt==2.5.1 gmqtt==0.8.0 paho-mqtt==2.2.0 uvloop``.

Run ``python benchmarks/bus.py`` (about 15 minutes) or ``--quick``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks._bus_job import Job  # noqa: E402

_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_queued_messages 0
max_inflight_messages 0
"""
CLIENTS = ["paho", "edgebus", "edgebus+uvloop", "faststream", "aiomqtt", "gmqtt"]
PACKAGES = ["paho-mqtt", "faststream", "zmqtt", "aiomqtt", "gmqtt", "uvloop", "pydantic"]
COUNTS = {("json", 0): 60_000, ("json", 1): 20_000, ("jpeg", 0): 6_000, ("jpeg", 1): 4_000}
_TIMEOUT_S = 180


class Side:
    """A child process with one job.

    Args:
        job: What it does.
        module: What plays it.
    """

    def __init__(self, job: Job, *, module: str = "benchmarks._bus_side") -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, job.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._job = job

    def expect(self, word: str) -> dict[str, Any]:
        """The child's next word, with its data."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                data: dict[str, Any] = json.loads(line)
                if data["word"] == word:
                    return data
        raise RuntimeError(f"{self._job.client} {self._job.role} ended before {word!r}")

    def go(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(2)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()


@contextmanager
def broker() -> Iterator[tuple[int, Any]]:
    """A Mosquitto with nothing but the defaults that measuring needs."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "mosquitto.conf")
        config.write_text(_CONFIG.format(port=port))
        with subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL) as process:
            try:
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port), 1).close()
                        break
                    except ConnectionRefusedError:
                        time.sleep(0.02)
                yield port, process
            finally:
                process.terminate()


def measure(
    job: Job, *, pair: tuple[Literal["sink", "echo"], Literal["source", "ping"]]
) -> dict[str, Any]:
    """One measurement: start both sides, let them work, collect what they say."""
    cores = sorted(os.sched_getaffinity(0))
    first = Side(replace(job, role=pair[0], core=cores[-1]))
    second = Side(replace(job, role=pair[1], core=cores[0]))
    try:
        first.expect("ready")
        second.expect("ready")
        second.go()
        done = second.expect("done")
        if pair[0] == "echo":
            return _round_trip(done)
        sunk = first.expect("done")
        seconds = sunk["end"] - done["start"]
        return {
            "rate": sunk["received"] / seconds,
            "lost": job.count - sunk["received"],
            "source_us": done["cpu_s"] / job.count * 1e6,
            "sink_us": sunk["cpu_s"] / max(1, sunk["received"]) * 1e6,
        }
    finally:
        first.end()
        second.end()


def attempt(job: Job, *, kind: str, console: Console) -> dict[str, Any] | None:
    """A measurement, tried again where a client fails; None where it fails again."""
    for _ in range(2):
        try:
            return measure(job, pair=("sink", "source") if kind == "flood" else ("echo", "ping"))
        except RuntimeError as error:
            console.print(f"[red]{error}")
    return None


def _round_trip(done: dict[str, Any]) -> dict[str, Any]:
    took = done["took_ms"]
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return {
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "lost": done["lost"],
        "ping_us": done["cpu_s"] / max(1, len(took)) * 1e6,
    }


def collect(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """All measurements, one row per client and case."""
    rows: dict[tuple[str, str, int, str], dict[str, Any]] = {}
    serial = 0
    with broker() as (port, _):
        for number in range(arguments.rounds):
            for payload in arguments.payloads:
                for qos in (0, 1):
                    for kind in arguments.kinds:
                        for client in arguments.clients:
                            serial += 1
                            job = Job(
                                role="source",
                                client=client.partition("+")[0],
                                uvloop=client.endswith("+uvloop"),
                                port=port,
                                payload=payload,
                                qos=qos,
                                topic=f"bench/{serial}",
                                count=int(COUNTS[payload, qos] * arguments.scale),
                                seconds=arguments.seconds,
                                rate=arguments.rate,
                            )
                            found = attempt(job, kind=kind, console=console)
                            row = rows.setdefault(
                                (payload, kind, qos, client),
                                {
                                    "payload": payload,
                                    "kind": kind,
                                    "qos": qos,
                                    "client": client,
                                    "rounds": [],
                                },
                            )
                            if found is None:
                                continue
                            row["rounds"].append(found)
                            words = " ".join(f"{k} {v:,.1f}" for k, v in found.items())
                            console.print(
                                f"[dim]{number + 1} {payload} QoS {qos} {kind} {client}: {words}"
                            )
    measured = [row for row in rows.values() if row["rounds"]]
    for row in measured:
        for name in row["rounds"][0]:
            row[name] = statistics.median(found[name] for found in row["rounds"])
    return measured


def _paho(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, Any]]:
    return {(r["payload"], r["kind"], r["qos"]): r for r in rows if r["client"] == "paho"}


def of_paho(row: dict[str, Any], paho: dict[str, Any] | None, name: str) -> str:
    """Median over the rounds of a figure as a ratio of paho's in the same round.

    A machine that is slow for a minute is slow for both of a round.
    """
    if paho is None:
        return ""
    pairs = zip(row["rounds"], paho["rounds"], strict=False)
    return f"{statistics.median(mine[name] / its[name] for mine, its in pairs):.2f}"


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Two tables."""
    base = _paho(rows)
    flood = Table("payload", "QoS", "client", title="End to end, medians")
    for heading in ("messages/s", "of paho", "source µs", "sink µs", "lost"):
        flood.add_column(heading, justify="right")
    trip = Table("payload", "QoS", "client", title="Round trips one at a time, medians")
    for heading in ("p50 ms", "p99 ms", "p99 of paho", "ping µs", "lost"):
        trip.add_column(heading, justify="right")
    for row in sorted(rows, key=lambda r: (r["payload"], r["qos"])):
        reference = base.get((row["payload"], row["kind"], row["qos"]))
        start = ("256 B JSON" if row["payload"] == "json" else "60 kB JPEG", str(row["qos"]))
        if row["kind"] == "flood":
            ratio = of_paho(row, reference, "rate")
            flood.add_row(
                *start,
                row["client"],
                f"{row['rate']:,.0f}",
                ratio,
                f"{row['source_us']:.1f}",
                f"{row['sink_us']:.1f}",
                f"{row['lost']:.0f}",
            )
        else:
            ratio = of_paho(row, reference, "p99_ms")
            trip.add_row(
                *start,
                row["client"],
                f"{row['p50_ms']:.2f}",
                f"{row['p99_ms']:.2f}",
                ratio,
                f"{row['ping_us']:.0f}",
                f"{row['lost']:.0f}",
            )
    for table in (flood, trip):
        if table.row_count:
            console.print(table)


def markdown(report: dict[str, Any]) -> str:
    """The tables of `docs/benchmarks.md`."""
    lines = [
        "| payload, QoS | client | messages/s | of paho | CPU µs to publish, to receive "
        "| round trip p50, p99 ms | p99 of paho |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {(r["payload"], r["qos"], r["client"], r["kind"]): r for r in report["rows"]}
    base = _paho(report["rows"])
    for payload, qos, client in dict.fromkeys(key[:3] for key in rows):
        flood = rows.get((payload, qos, client, "flood"))
        trip = rows.get((payload, qos, client, "trip"))
        cells = [f"{'256 B JSON' if payload == 'json' else '60 kB JPEG'}, {qos}", client]
        if flood is None:
            cells += ["", "", ""]
        else:
            ratio = of_paho(flood, base.get((payload, "flood", qos)), "rate")
            cells += [f"{flood['rate']:,.0f}", ratio]
            cells.append(f"{flood['source_us']:.0f}, {flood['sink_us']:.0f}")
        if trip is None:
            cells += ["", ""]
        else:
            cells.append(f"{trip['p50_ms']:.2f}, {trip['p99_ms']:.2f}")
            cells.append(of_paho(trip, base.get((payload, "trip", qos)), "p99_ms"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def about(rounds: int) -> dict[str, Any]:
    """What the figures depend on."""
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "rounds": rounds,
        "packages": versions,
    }


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", nargs="+", default=CLIENTS, choices=CLIENTS)
    parser.add_argument("--payloads", nargs="+", default=["json", "jpeg"], choices=["json", "jpeg"])
    parser.add_argument("--kinds", nargs="+", default=["flood", "trip"], choices=["flood", "trip"])
    parser.add_argument("--scale", type=float, default=1.0, help="of the message counts")
    parser.add_argument("--seconds", type=float, default=5.0, help="of pings per measurement")
    parser.add_argument("--rate", type=int, default=100, help="pings per second")
    parser.add_argument("--quick", action="store_true", help="one round of a tenth")
    parser.add_argument("--show", type=Path, help="only print these results as Markdown")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bus.json")
    arguments = parser.parse_args()
    if arguments.show:
        print(markdown(json.loads(arguments.show.read_text())))
        return
    if arguments.quick:
        arguments.rounds, arguments.scale, arguments.seconds = 1, 0.1, 1.0
    console = Console(width=None if sys.stdout.isatty() else 110)
    rows = collect(arguments, console)
    show(rows, console)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"about": about(arguments.rounds), "rows": rows}
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
