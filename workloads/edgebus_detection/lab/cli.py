"""`edgebus up` with options for the user's own cameras and models."""

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from edgebus.addresses import local_path
from edgebus.files import writing
from edgebus.lab.cli import (
    Out,
    Plain,
    RunOptions,
    Seconds,
    Settings,
    TopologyFile,
    WorkloadName,
    echo,
    load_topology,
    start,
)
from edgebus.lab.run import make_run_folder
from edgebus.service.log import configure_logging
from edgebus.service.settings import LogSettings
from edgebus.topology import TopologyError
from edgebus_detection.lab.compose import (
    Sources,
    check_files,
    compose,
    little_data,
    why_not_learning,
)
from edgebus_detection.lab.lab import ASSETS, DetectionLab
from edgebus_detection.lab.reference_pictures import with_reference
from edgebus_detection.lab.user_models import UserModels, open_models

_OWN = "Your own cameras"


def up(
    topology: TopologyFile = None,
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
            help="The edges' first model: an ONNX file or a bundle's folder; "
            "the demo's model without.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="A larger model that labels the samples: an ONNX file or a bundle.",
            rich_help_panel=_OWN,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes to detect, for example person,bicycle,car: nothing else is learnt or "
            "measured. All classes of the model without.",
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
            help="A folder of labelled pictures that the model must not forget.",
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
    workload: WorkloadName = None,
    out: Out = Path("runs"),
    seconds: Seconds = None,
    plain: Plain = False,
    settings: Settings = None,
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
    options = RunOptions(
        workload=workload, out=out, seconds=seconds, plain=plain, settings=settings or ()
    )
    if not source:
        _only_with_source(
            model=model,
            teacher=teacher,
            classes=classes,
            truth=truth,
            replay=replay,
            fps=fps,
            forever=forever,
        )
        start(load_topology(topology, DetectionLab()), options, source=topology)
        return
    if topology is not None:
        problem = "give a topology file or --source, not both"
        raise TopologyError(source="command line", problems=[problem])
    source = [local_path(one) for one in source]
    check_files(source, truths=truth or (), replay=replay)
    wanted = [name.strip() for name in (classes or "").split(",") if name.strip()]
    models, folder = _import_models(model or ASSETS / "street-day", teacher, out, classes=wanted)
    given = Sources(
        sources=source,
        models=models,
        classes=wanted,
        replay=replay,
        truths=truth or (),
        fps=fps,
        forever=forever,
        min_samples=samples,
    )
    if obstacle := why_not_learning(given):
        echo(f"no training, samples are collected all the same: {obstacle}")
    else:
        for note in little_data(given):
            echo(f"too little data: {note}")
    served = _add_reference(given, folder)
    given = replace(given, models=replace(models, served=served))
    start(compose(given, name="own"), options, folder=folder)


def _import_models(
    model: Path, teacher: Path | None, out: Path, *, classes: list[str]
) -> tuple[UserModels, Path]:
    """The models in the run's folder, which is made once they are known to be good."""
    with TemporaryDirectory(prefix="edgebus-") as scratch:
        imports = Path(scratch)
        with (imports / "import.log").open("w") as log:
            configure_logging(LogSettings(), stream=log)
            models = open_models(model, teacher=teacher, folder=imports, echo=echo, classes=classes)
        # Not before: a mistake on the command line leaves no folder behind.
        folder = make_run_folder(out, name="own")
        for bundle in ("model", "teacher"):
            if (imports / bundle).exists():
                with writing(folder / bundle):
                    shutil.move(imports / bundle, folder / bundle)
    return models.moved(imports, folder), folder


def _add_reference(given: Sources, folder: Path) -> Path:
    with (folder / "lab.log").open("a") as log:
        configure_logging(LogSettings(), stream=log)
        return with_reference(
            given.models.served,
            sources=given.sources,
            replay=given.replay,
            folder=folder / "model",
            echo=echo,
        )


def _only_with_source(**options: object) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        problem = f"--{given[0]} goes with --source; in a topology it is a setting of a service"
        raise TopologyError(source="command line", problems=[problem])
