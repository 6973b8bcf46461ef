"""`edgebus up`: a whole topology on this machine, with a view and a report."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from edgebus.addresses import hide_credentials
from edgebus.files import check_room
from edgebus.lab.broker import BrokerStartError
from edgebus.lab.lab import Lab, load_lab
from edgebus.lab.run import Run, make_run_folder
from edgebus.lab.supervisor import SetupFailedError, log_end
from edgebus.service.log import configure_logging
from edgebus.service.settings import LogSettings
from edgebus.topology import Topology, TopologyError, check_services, override

HelpStyle = Literal["markdown"] | None

# The options that every workload's `edgebus up` has.
TopologyFile = Annotated[Path | None, typer.Argument(help="A topology file; the demo without one.")]
WorkloadName = Annotated[
    str | None,
    typer.Option(
        "--workload",
        metavar="NAME",
        help="Whose demo, options and report; the topology's own, or detection, by default.",
    ),
]
Out = Annotated[Path, typer.Option(help="Where the run's folder is made.")]
Seconds = Annotated[float | None, typer.Option(min=1, help="Run for this long, whatever happens.")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="A setting: distributor.keep_versions=3 on every node, "
        "edge-1.collector.audit_share=0.2 on one, until.timeout_s=600; repeatable.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The values of the options that every workload's `edgebus up` has."""

    workload: str | None
    out: Path
    seconds: float | None
    plain: bool
    settings: Sequence[str]


def up(
    topology: TopologyFile = None,
    *,
    workload: WorkloadName = None,
    out: Out = Path("runs"),
    seconds: Seconds = None,
    plain: Plain = False,
    settings: Settings = None,
) -> None:
    """Run a whole topology on this machine and watch it: nodes, services, broker, report.

    Without a file, the workload's demo. Ends with a table and a report in its own folder below
    runs/.

        edgebus up topology.yaml --set until.timeout_s=600
    """
    options = RunOptions(
        workload=workload, out=out, seconds=seconds, plain=plain, settings=settings or ()
    )
    start(load_topology(topology, load_lab(workload)), options, source=topology)


def main(arguments: Sequence[str], *, help_style: HelpStyle = "markdown") -> int:
    """Run the command with these arguments; its exit code."""
    command = make_command(load_lab(_workload_in(arguments)), help_style=help_style)
    # Not standalone: usage errors reach the outer program, and an exit comes back as its code.
    code = command.main(args=list(arguments), prog_name="edgebus up", standalone_mode=False)
    return code if isinstance(code, int) else 0


def make_command(lab: Lab, *, help_style: HelpStyle = "markdown") -> Any:
    """`edgebus up` with the options of a workload, as a click command."""
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=help_style
    )
    settings = {"help_option_names": ["-h", "--help"]}
    app.command("up", context_settings=settings)(lab.command())
    return typer.main.get_command(app)


def load_topology(file: Path | None, lab: Lab) -> Topology:
    """A topology file, or the demo of a lab.

    Raises:
        TopologyError: It has mistakes, or there is neither.
    """
    if file is not None:
        return Topology.load(file)
    demo = lab.assets and lab.assets / "demo.yaml"
    if demo is None or not demo.is_file():
        problem = "this workload brings no demo; give a topology file"
        raise TopologyError(source="command line", problems=[problem])
    return Topology.load(demo)


def start(
    topology: Topology,
    options: RunOptions,
    *,
    source: Path | None = None,
    folder: Path | None = None,
) -> None:
    """Run a topology, print its table, and exit.

    Args:
        topology: What to run.
        options: Of the command line.
        source: The file that it came from.
        folder: The run folder, where it exists already.

    Raises:
        TopologyError: It cannot be run.
        typer.Exit: With 1 where a loop that was to close did not, a service failed, or the
            workload found a fault.
    """
    pairs = list(options.settings)
    if options.seconds is not None:
        pairs.append(f"until={{seconds: {options.seconds}}}")
    topology = override(topology, pairs)
    check_services(topology, source="command line" if source is None else str(source))
    lab = load_lab(options.workload or topology.workload)
    if folder is None:
        folder = make_run_folder(options.out, name=topology.name)
    echo(f"run folder {folder}")
    run = Run(topology, lab, folder=folder, plain=options.plain, echo=echo)
    with (folder / "lab.log").open("a") as log:
        # Its own log lines would tear the view.
        configure_logging(LogSettings(), stream=log)
        try:
            files = asyncio.run(run.go())
        except (SetupFailedError, BrokerStartError):
            check_room(folder, least=2**20)  # which no log says that found no room itself
            raise
    _print_result(lab, files[0], folder, models=run.models)
    until = topology.until
    unclosed = until is not None and until.loop == "closed" and not lab.summary.closed
    if lab.summary.faults:
        sys.stderr.write(f"edgebus: {lab.summary.faults}; {folder}/logs say more\n")
    if unclosed or run.failed or lab.summary.faults:
        raise typer.Exit(1)


def echo(text: str) -> None:
    """Print a line as it is, without the secrets of any address."""
    Console(highlight=False).print(hide_credentials(text), markup=False, soft_wrap=True)


def _workload_in(arguments: Sequence[str]) -> str | None:
    """The value of ``--workload``, whose options are needed before the others can be parsed."""
    for number, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == "--workload":
            return value if equals else next(iter(arguments[number + 1 :]), None)
    return None


def _print_result(lab: Lab, report: Path, folder: Path, *, models: Sequence[Path]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=110)
    console.print(lab.table())
    console.print(f"report: {report}", markup=False, soft_wrap=True)
    for store in sorted((folder / "data").glob("*/retrainer")) if lab.state.samples else ():
        text = f"samples: {store}, for edgebus samples list --data {store}"
        console.print(text, markup=False, soft_wrap=True)
    for model in models:
        text = f"model: {model}, a bundle for edgebus model publish; {model}.onnx is plain ONNX"
        console.print(text, markup=False, soft_wrap=True)
    if lab.summary.closed or not lab.summary.outcome.startswith("the loop is not closed"):
        return
    for log in sorted((folder / "logs").glob("*-*.log")):
        last = log_end(log, lines=1, limit=200)
        if re.search(r"error|Traceback|failed", last, re.IGNORECASE):
            sys.stderr.write(f"{log.name}: {last}\n")
