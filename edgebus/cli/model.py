"""`edgebus model`: bundles on disk; the registry's commands come from `edgebus.cli.registry`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgebus.cli import registry
from edgebus.cli.console import quiet_logs, table
from edgebus_detection.cli import novelty

if TYPE_CHECKING:
    from edgebus.artifacts import Bundle

__all__ = ["add_to"]

Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")]

commands = typer.Typer(
    no_args_is_help=True, help="Import models, look at them, release them, take them back."
)


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.add_typer(commands, name="model", rich_help_panel="Models")
    novelty.add_to(commands)
    registry.add_to(commands)
    app.command("retrain", rich_help_panel="Models")(registry.retrain)


@commands.command("import")
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
    _print_bundle(bundle)


@commands.command()
def show(folder: Folder) -> None:
    """Show what a bundle says of itself; its digests are checked."""
    from edgebus.artifacts import Bundle

    _print_bundle(Bundle.open(folder))


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _trainability_check() -> Callable[[bytes], None] | None:
    """What says whether torch can train a graph; None where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    from edgebus.training.graph import check_supported

    return check_supported


def _print_bundle(bundle: Bundle) -> None:
    from edgebus.inspect.describe import human_bytes

    manifest = bundle.manifest
    shape = manifest.input
    size = sum(entry.size for entry in bundle.index.files)
    rows = [
        ("model", f"{manifest.name} version {manifest.version} ({manifest.task})"),
        ("digest", bundle.digest),
        ("size", f"{human_bytes(size)} in {len(bundle.index.files)} files"),
        (
            "input",
            f"{shape.name} {shape.width}x{shape.height} {shape.color} {shape.dtype} {shape.layout}",
        ),
        ("decoder", manifest.decoder.kind),
        ("classes", f"{len(manifest.classes)}: {', '.join(manifest.classes[:12])}"),
        ("parent", manifest.parent or "none"),
        ("created", f"{manifest.created:%Y-%m-%d %H:%M:%S} UTC"),
        *((f"metric {key}", f"{value:.4f}") for key, value in sorted(manifest.metrics.items())),
    ]
    table(("", ""), rows)
