"""Commands of `edgebus model` for detection: import from ONNX, novelty."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgebus.cli.console import quiet_logs
from edgebus.cli.model import print_bundle

if TYPE_CHECKING:
    from edgebus_detection.vision import Image


app = typer.Typer()


@app.command("import")
def import_(
    onnx: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX detector.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The bundle's folder; ./NAME by default.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model; the file's name by default.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line, in order.")
    ] = None,
    decoder: Annotated[
        str, typer.Option(help="How its output is read; auto knows the usual heads.")
    ] = "auto",
    version: Annotated[int, typer.Option(min=1, help="Version of the bundle.")] = 1,
    serve_only: Annotated[
        bool, typer.Option("--serve-only", help="Take a graph that cannot be retrained, too.")
    ] = False,
) -> None:
    """Make a bundle of any ONNX detector: graph, weights, manifest.

    Example: edgebus model import yolox_nano_416.onnx --name yolox-nano
    """
    from edgebus.serving import make_probe
    from edgebus_detection.models import import_onnx

    quiet_logs()
    chosen = name or onnx.stem.replace("_", "-")
    bundle = import_onnx(
        onnx,
        name=chosen,
        out=out or Path(chosen),
        classes=_lines(classes) if classes else None,
        decoder=decoder,
        version=version,
        serve_only=serve_only,
        check=_trainability_check(),
        probe=make_probe,
    )
    print_bundle(bundle)


@app.command()
def novelty(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    pictures: Annotated[
        Path,
        typer.Argument(
            metavar="PICTURES", help="Folder of pictures such as the model was trained on."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The new bundle's folder.")],
    version: Annotated[
        int | None, typer.Option(min=1, help="Version of the new bundle; by default one more.")
    ] = None,
) -> None:
    """Add a measure of novelty to a bundle, fitted to known pictures; no labels are needed.

    The new bundle is the next version of the model, so that it can be published after the old one.

    Example: edgebus model novelty yolox-nano coco128/images --out yolox-nano-2
    """
    from edgebus.artifacts import Bundle
    from edgebus_detection.models import NoveltyError, add_novelty, detection_spec

    quiet_logs()
    try:
        bundle = Bundle.open(folder)
        number = version or bundle.manifest.version + 1
        made = add_novelty(bundle, _read(pictures), out=out, version=number)
    except NoveltyError as error:
        raise typer.BadParameter(error.reason, param_hint="PICTURES") from error
    spec = detection_spec(made.manifest).novelty
    assert spec is not None
    typer.echo(f"{out}: version {number}, {spec.pictures} pictures, digest {made.digest[:12]}")


def _read(folder: Path) -> Iterator[Image]:
    from edgebus_detection.datasets.files import pictures_below
    from edgebus_detection.vision import ImageError, read_picture

    for path in pictures_below(folder):
        try:
            yield read_picture(path)
        except ImageError as error:
            typer.echo(f"left out: {path}: {error}", err=True)


def _lines(path: Path) -> list[str]:
    """Names by line; an empty line would shift the classes that follow."""
    from edgebus_detection.datasets.files import read_text

    lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if "" in lines:
        problem = f"{path}, line {lines.index('') + 1} is empty; every class has a name of its own"
        raise typer.BadParameter(problem, param_hint="--classes")
    return lines


def _trainability_check() -> Callable[[bytes], None] | None:
    """What says whether torch can train a graph; None where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    from edgebus.training.graph import check_supported

    return check_supported
