"""`edgebus up`: a whole topology on this machine, with a view and a report."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgebus.lab.compose import Sources, compose, override
from edgebus.lab.run import Finished, Run, View, make_run_folder
from edgebus.lab.supervisor import log_end
from edgebus.lab.topology import Topology, TopologyError
from edgebus.lab.track import Tracker
from edgebus.lab.view import LiveView, PlainView, closing_table
from edgebus.service.log import configure_logging
from edgebus.service.settings import LogSettings

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
            help="A video, a folder of pictures, rtsp://…, or the number of a USB camera; "
            "repeatable, one edge node each.",
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
    ] = 50,
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

        edgebus up --source rtsp://camera/stream --source 0 --model m.onnx --teacher t.onnx

        edgebus up topology.yaml --set until.timeout_s=600
    """
    if topology is not None and source:
        problem = "give a topology file or --source, not both"
        raise TopologyError(source="command line", problems=[problem])
    if source:
        name = "own"
        folder = make_run_folder(out, name=name)
        bundle, model_name = _bundle(model, folder)
        chosen = compose(
            Sources(
                sources=source,
                model=bundle,
                model_name=model_name,
                teacher=teacher,
                replay=replay,
                truths=truth or (),
                fps=fps,
                seconds=seconds,
                forever=forever,
                min_samples=samples,
            ),
            name=name,
        )
    else:
        _only_with_source(
            model=model, teacher=teacher, truth=truth, replay=replay, fps=fps, forever=forever
        )
        chosen = Topology.load(topology or _ASSETS / "demo.yaml")
        folder = make_run_folder(out, name=chosen.name)
    pairs = list(settings or ())
    if seconds is not None:
        pairs.append(f"until={{seconds: {seconds}}}")
    chosen = override(chosen, pairs)
    finished = _run(chosen, folder, plain=plain)
    _tell(finished, folder)
    until = chosen.until
    if until is not None and until.loop == "closed" and not finished.summary.closed:
        raise typer.Exit(1)


def up(arguments: list[str]) -> None:
    """Run the command with these arguments, as `edgebus up` does."""
    app(args=arguments, prog_name="edgebus up", standalone_mode=False)


def _run(topology: Topology, folder: Path, *, plain: bool) -> Finished:
    console = Console(highlight=False)

    def echo(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    def make_view(tracker: Tracker, title: str) -> View:
        if plain or not console.is_terminal:
            return PlainView(tracker, echo=echo)
        return LiveView(tracker, title=title, console=console)

    echo(f"run folder {folder}")
    with (folder / "lab.log").open("a") as log:
        # Its own log lines would tear the view.
        configure_logging(LogSettings(), stream=log)
        return asyncio.run(Run(topology, folder=folder, make_view=make_view, echo=echo).go())


def _tell(finished: Finished, folder: Path) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=110)
    console.print(closing_table(finished.summary))
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


def _bundle(model: Path | None, folder: Path) -> tuple[Path, str]:
    """The bundle's folder and name; an ONNX file is imported into the run folder."""
    from edgebus.artifacts import Bundle, import_onnx
    from edgebus.inference import make_probe
    from edgebus.inference.graph import check_supported

    path = model or _ASSETS / "street-day"
    if not path.exists():
        problem = f"--model {path}: no such file or folder"
        raise TopologyError(source="command line", problems=[problem])
    if path.is_dir():
        return path, Bundle.open(path).manifest.name
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "model"
    bundle = import_onnx(
        path, name=name, out=folder / "model", check=check_supported, probe=make_probe
    )
    return folder / "model", bundle.manifest.name
