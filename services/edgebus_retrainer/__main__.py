"""``python -m edgebus_retrainer``: what a retrainer has collected, as a data set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgebus.contracts import NameRefusedError, check_segment
from edgebus_retrainer.export import export_samples
from edgebus_retrainer.files import PictureStore
from edgebus_retrainer.store import SampleStore, StoreVersionError, open_database
from edgebus_retrainer.tables import SampleRow

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_UNLIMITED = 2**62


class Style(StrEnum):
    """Formats of a data set."""

    COCO = "coco"
    YOLO = "yolo"


@app.callback()
def _main() -> None:
    """Tools of the retrainer."""


@app.command()
def export(
    *,
    data: Annotated[Path, typer.Option(help="The retrainer's data folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    style: Annotated[Style, typer.Option(help="Format of the labels.")] = Style.COCO,
    model: Annotated[str | None, typer.Option(help="Only samples of this model.")] = None,
) -> None:
    """Write the samples that have ground truth as COCO or YOLO; the service may be running."""
    database = data / "samples.db"
    if not database.is_file():
        raise typer.BadParameter(f"{database} is not there; name a retrainer's data folder")
    try:
        engine = open_database(database)
        names = [check_segment(model, what="model")] if model is not None else None
    except (StoreVersionError, NameRefusedError) as error:
        raise typer.BadParameter(str(error)) from error
    if names is None:
        with Session(engine) as session:
            names = sorted(session.scalars(select(SampleRow.model).distinct()))
    store = SampleStore(
        engine,
        PictureStore(data / "pictures"),
        max_samples=_UNLIMITED,
        max_bytes=_UNLIMITED,
    )
    samples = [sample for name in names for sample in store.all(name)]
    try:
        written = export_samples(samples, out, style=style.value)
    except FileExistsError as error:
        raise typer.BadParameter(f"{out} exists; name another folder") from error
    typer.echo(f"{written} of {len(samples)} samples in {out}")


if __name__ == "__main__":
    app()
