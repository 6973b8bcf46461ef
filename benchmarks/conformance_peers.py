"""Ask the requirements of docs/delivery.md of other frameworks: FastStream on MQTT, and EdgeBus.

Every probe looks from outside: a real Mosquitto of its own, a plain paho client that sends and
hears, a TCP link that can be cut. Each framework does what is asked for in its own documented way.
*Not offered* is what a framework does not claim to do; *fails* is what it claims, or MQTT
promises, and does not do.

Run ``python benchmarks/conformance_peers.py`` (some three minutes; ``pip install
'edgebus[bench]'`` and Mosquitto).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import warnings
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import _peers_probes_in, _peers_probes_out  # noqa: E402
from benchmarks._peers_driver import Driver, Outcome, Probe, Stage  # noqa: E402  # noqa: E402
from benchmarks._peers_edgebus import EdgeBusDriver  # noqa: E402
from benchmarks._peers_faststream import FastStreamDriver  # noqa: E402

_PROBES = [*_peers_probes_in.PROBES, *_peers_probes_out.PROBES]
_PROBE_S = 45.0
_LONG_S = 90.0
_STYLES = {"pass": "green", "fails": "red", "not offered": "yellow"}


@dataclass(frozen=True)
class Finding:
    """What one framework did in one probe."""

    number: str
    title: str
    framework: str
    verdict: str
    seen: str


async def examine(driver: Driver, probe: Probe) -> Finding:
    """Run one probe on a broker of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            stage = Stage(driver, Path(folder), stack)
            await stage.broker.start()
            stack.callback(stage.broker.kill)
            await stage.stranger.start()
            stack.push_async_callback(stage.stranger.close)
            try:
                async with asyncio.timeout(_LONG_S if probe.long else _PROBE_S):
                    outcome = await probe.run(stage)
            except Exception as error:  # noqa: BLE001 a framework may fail as it likes
                outcome = Outcome(False, f"{type(error).__name__}: {error}"[:120])
    instead = driver.not_offered.get(f"{probe.number} {probe.title}")
    if outcome.passed:
        verdict, seen = "pass", outcome.seen
    elif instead is not None:
        verdict, seen = "not offered", f"{instead}; {outcome.seen}"
    else:
        verdict, seen = "fails", outcome.seen
    return Finding(probe.number, probe.title, driver.name, verdict, seen)


async def collect(drivers: list[Driver], probes: list[Probe], console: Console) -> list[Finding]:
    """All findings, in the probes' order; those that mostly wait run beside the others."""
    found: dict[tuple[str, str, str], Finding] = {}

    async def note(driver: Driver, probe: Probe) -> None:
        finding = await examine(driver, probe)
        found[probe.number, probe.title, driver.name] = finding
        colour = _STYLES[finding.verdict]
        console.print(
            f"[dim]{probe.number} {driver.name}:[/] [{colour}]{finding.verdict}[/] {finding.seen}"
        )

    async with asyncio.TaskGroup() as group:
        for driver in drivers:
            for probe in probes:
                if probe.long:
                    group.create_task(note(driver, probe), name=f"{driver.name} {probe.title}")
        for probe in probes:
            for driver in drivers:
                if not probe.long:
                    await note(driver, probe)
    return [found[p.number, p.title, d.name] for p in probes for d in drivers]


def show(findings: list[Finding], drivers: list[Driver], console: Console) -> None:
    """The table and the totals."""
    names = [driver.name for driver in drivers]
    table = Table("", "probe", *names, "observed", title="docs/delivery.md, probed")
    rows = {(f.number, f.title): [g for g in findings if g.title == f.title] for f in findings}
    for (number, title), row in rows.items():
        cells = [f"[{_STYLES[f.verdict]}]{f.verdict}[/]" for f in row]
        observed = "\n".join(f.seen for f in row if f.verdict != "pass")
        table.add_row(number, title, *cells, observed)
    console.print(table)
    for driver in drivers:
        own = [f.verdict for f in findings if f.framework == driver.name]
        counts = ", ".join(f"{own.count(word)} {word}" for word in _STYLES)
        console.print(f"{driver.name} {version(driver.package)}: {counts}, of {len(own)}")


def main() -> None:
    """Probe and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    drivers: list[Driver] = [EdgeBusDriver(), FastStreamDriver()]
    names = [driver.name.lower() for driver in drivers]
    parser.add_argument("--only", nargs="+", default=[], help="requirements, such as R1 C2")
    parser.add_argument("--frameworks", nargs="+", default=names, choices=names)
    parser.add_argument("--json", type=Path, help="write the findings there, too")
    arguments = parser.parse_args()
    # Frameworks tell of the failures that the probes make; the table tells what became of them.
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    warnings.simplefilter("ignore")
    console = Console(width=None if sys.stdout.isatty() else 150)
    chosen = [driver for driver in drivers if driver.name.lower() in arguments.frameworks]
    probes = [p for p in _PROBES if not arguments.only or p.number in arguments.only]
    findings = asyncio.run(collect(chosen, probes, console))
    show(findings, chosen, console)
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if arguments.json:
        report = {
            "packages": {d.name: version(d.package) for d in chosen},
            "findings": [asdict(finding) for finding in findings],
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if any(f.verdict != "pass" for f in findings if f.framework == EdgeBusDriver.name):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
