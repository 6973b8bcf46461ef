"""`edgebus up`: a whole topology on this machine, with a view and a report."""

import asyncio
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from edgebus.lab.run import Finished, Run, View, make_run_folder
from edgebus.lab.supervisor import log_end
from edgebus.service.log import configure_logging
from edgebus.service.settings import LogSettings
from edgebus.topology import Topology, TopologyError, check_services, override
from edgebus_detection.lab.compose import Sources, check_files, compose, why_not_learning
from edgebus_detection.lab.reference_pictures import with_reference
from edgebus_detection.lab.run_state import Tracker
from edgebus_detection.lab.summary_table import closing_table
from edgebus_detection.lab.user_models import Models, bring
from edgebus_detection.lab.view import LiveView, PlainView

__all__ = ["app", "up"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_ASSETS = Path(__file__).parent / "assets"
_OWN = "Your own cameras"


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def _up(
    topology: Annotated[
        Path | None, typer.Argument(help="A topology file; the demo without one.")
    ] = None,
    *,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="A video, a folder of pictures, a text file that lists such, rtsp://…, or the "
            "number of a USB camera; repeatable, one edge node each.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="What the edges serve first: an ONNX file or a bundle's folder; "
            "the demo's model without.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="A larger model that labels what was collected: an ONNX file or a bundle.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="What the cameras are there for, for example person,bicycle,car: nothing else is "
            "learnt or measured. All classes of the model without.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    truth: Annotated[
        list[Path] | None,
        typer.Option(
            help="True boxes of a video, MOTChallenge text; repeatable, in the order of --source.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="A folder of labelled pictures (COCO or YOLO) that the model must not forget.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, help="Frames per second of every camera.", rich_help_panel=_OWN),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(min=1, help="Samples that start a training job.", rich_help_panel=_OWN),
    ] = 150,
    forever: Annotated[
        bool,
        typer.Option("--forever", help="Run until Ctrl-C, loop after loop.", rich_help_panel=_OWN),
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = Path("runs"),
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Run for this long, whatever happens.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="A setting: detector.threshold=0.3 on every node, edge-1.camera.retry_cap_s=9 "
            "on one, until.timeout_s=600; repeatable.",
        ),
    ] = None,
) -> None:
    """Run a whole topology on this machine and watch it: nodes, services, broker, report.

    Without anything, the demo: two cameras film a street, dusk falls, the models get better by
    themselves. Ends with a table and a report in its own folder below runs/.

        edgebus up

        edgebus up --source street.mp4 --model yolox_nano_416.onnx --teacher better.onnx
        --classes person,bicycle,car --replay coco128/images/train2017

        edgebus up --source rtsp://camera/stream --source 0 --model m.onnx --teacher t.onnx

        edgebus up topology.yaml --set until.timeout_s=600
    """
    if topology is not None and source:
        problem = "give a topology file or --source, not both"
        raise TopologyError(source="command line", problems=[problem])
    if source:
        check_files(source, truths=truth or (), replay=replay)
        with TemporaryDirectory(prefix="edgebus-") as scratch:
            imports = Path(scratch)
            counted = [name.strip() for name in (classes or "").split(",") if name.strip()]
            brought = _quietly_bring(
                model or _ASSETS / "street-day", teacher, imports, classes=counted
            )
            # Not before: a mistake on the command line leaves no folder behind.
            folder = make_run_folder(out, name="own")
            for bundle in ("model", "teacher"):
                if (imports / bundle).exists():
                    shutil.move(imports / bundle, folder / bundle)
        brought = brought.moved(imports, folder)
        given = Sources(
            sources=source,
            model=brought.served,
            model_name=brought.name,
            model_classes=brought.classes,
            untrainable=brought.untrainable,
            teacher=brought.teacher,
            classes=counted,
            replay=replay,
            truths=truth or (),
            fps=fps,
            seconds=seconds,
            forever=forever,
            min_samples=samples,
        )
        if obstacle := why_not_learning(given):
            _echo(f"serving only: {obstacle}")
        else:
            given = replace(given, model=_quietly_refer(given, folder))
        chosen = compose(given, name="own")
    else:
        _only_with_source(
            model=model,
            teacher=teacher,
            classes=classes,
            truth=truth,
            replay=replay,
            fps=fps,
            forever=forever,
        )
        chosen = Topology.load(topology or _ASSETS / "demo.yaml")
        folder = None
    pairs = list(settings or ())
    if seconds is not None:
        pairs.append(f"until={{seconds: {seconds}}}")
    chosen = override(chosen, pairs)
    check_services(chosen, source="command line" if topology is None else str(topology))
    if folder is None:
        folder = make_run_folder(out, name=chosen.name)
    finished = _run(chosen, folder, plain=plain)
    _tell(finished, folder)
    until = chosen.until
    unclosed = until is not None and until.loop == "closed" and not finished.summary.closed
    if unclosed or finished.failed:
        raise typer.Exit(1)


def up(arguments: list[str]) -> None:
    """Run the command with these arguments, as `edgebus up` does."""
    app(args=arguments, prog_name="edgebus up", standalone_mode=False)


def _run(topology: Topology, folder: Path, *, plain: bool) -> Finished:
    console = Console(highlight=False)

    def make_view(tracker: Tracker, title: str) -> View:
        if plain or not console.is_terminal:
            return PlainView(tracker, echo=_echo)
        return LiveView(tracker, title=title, console=console)

    _echo(f"run folder {folder}")
    with (folder / "lab.log").open("a") as log:
        # Its own log lines would tear the view.
        configure_logging(LogSettings(), stream=log)
        return asyncio.run(Run(topology, folder=folder, make_view=make_view, echo=_echo).go())


def _quietly_bring(
    model: Path, teacher: Path | None, folder: Path, *, classes: list[str]
) -> Models:
    with (folder / "import.log").open("w") as log:
        configure_logging(LogSettings(), stream=log)
        return bring(model, teacher=teacher, folder=folder, echo=_echo, classes=classes)


def _quietly_refer(given: Sources, folder: Path) -> Path:
    with (folder / "lab.log").open("a") as log:
        configure_logging(LogSettings(), stream=log)
        return with_reference(
            given.model,
            sources=given.sources,
            replay=given.replay,
            folder=folder / "model",
            echo=_echo,
        )


def _echo(text: str) -> None:
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def _tell(finished: Finished, folder: Path) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=110)
    console.print(closing_table(finished.summary, finished.rounds))
    console.print(f"report: {finished.files[0]}", markup=False, soft_wrap=True)
    if finished.summary.closed or not finished.summary.outcome.startswith("the loop is not closed"):
        return
    for log in sorted((folder / "logs").glob("*-*.log")):
        last = log_end(log, lines=1, limit=200)
        if re.search(r"error|Traceback|failed", last, re.IGNORECASE):
            sys.stderr.write(f"{log.name}: {last}\n")


def _only_with_source(**options: object) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        problem = f"--{given[0]} goes with --source; in a topology it is a setting of a service"
        raise TopologyError(source="command line", problems=[problem])
