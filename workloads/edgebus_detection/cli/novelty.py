"""`edgebus model novelty`: teach a bundle which pictures it knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgebus.cli.console import quiet_logs

if TYPE_CHECKING:
    from edgebus_detection.vision import Image

__all__ = ["add_to"]

_PICTURES = {".jpg", ".jpeg"}


def add_to(commands: typer.Typer) -> None:
    """Mount the command."""
    commands.command("novelty")(novelty)


def novelty(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    pictures: Annotated[
        Path,
        typer.Argument(
            metavar="PICTURES", help="Folder of JPEGs such as the model was trained on."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The new bundle's folder.")],
) -> None:
    """Add to a bundle what tells strange pictures from known ones; no labels are needed.

    Example: edgebus model novelty yolox-nano coco128/images --out yolox-nano-2
    """
    from edgebus.artifacts import Bundle
    from edgebus_detection.models import NoveltyError, add_novelty

    quiet_logs()
    try:
        made = add_novelty(Bundle.open(folder), _read(pictures), out=out)
    except NoveltyError as error:
        raise typer.BadParameter(error.reason, param_hint="PICTURES") from error
    assert made.manifest.novelty is not None
    typer.echo(f"{out}: {made.manifest.novelty.pictures} pictures, digest {made.digest[:12]}")


def _read(folder: Path) -> Iterator[Image]:
    from edgebus_detection.vision import ImageError, decode_jpeg

    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _PICTURES):
        try:
            yield decode_jpeg(path.read_bytes())
        except ImageError as error:
            typer.echo(f"left out: {path}: {error}", err=True)
