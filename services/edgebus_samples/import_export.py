"""`edgebus samples export|import`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from edgebus.contracts import utc_now
from edgebus_detection.datasets import (
    ExportPicture,
    Style,
    read_dataset,
    write_dataset,
)
from edgebus_detection.datasets.files import unpacked
from edgebus_samples.details import DetailQuery, PictureCatalog, SampleDetail, picture_of
from edgebus_samples.importing import import_dataset
from edgebus_samples.label import AnyClass, Who
from edgebus_samples.options import Accept, Data, choosing, report_unreadable

_PARTS = {"train": "to train on", "val": "held out", "unlabelled": "without labels"}

Include = Literal["labelled", "teacher", "all"]


@choosing
def export(
    *,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not exist.")],
    style: Annotated[Style, typer.Option(help="Format of the labels.")] = "coco",
    include: Annotated[
        Include,
        typer.Option(
            help="Samples that truth or an operator has labelled; those that a teacher has, too; "
            "or all."
        ),
    ] = "labelled",
    query: DetailQuery,
    every: Annotated[
        bool,
        typer.Option("--every/--distinct", help="Or one of each 20 consecutive frames only."),
    ] = True,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Most samples.")] = None,
    accept: Accept = 0.4,
) -> None:
    """Write samples with their labels and provenance for another tool; pictures are copied.

    Example: edgebus samples export --data /var/lib/edgebus/retrainer --style labelstudio
    --include all --out to-label
    """
    catalog = PictureCatalog(data, accept=accept)
    query = replace(query, distinct=not every)
    unreadable: list[str] = []
    details = catalog.details(query, limit=limit, unreadable=unreadable)
    # All classes of the model, so that a labelling tool offers those that were missed, too.
    chosen = _exported(details, include, unreadable)
    written = write_dataset(chosen, out, style=style, classes=catalog.classes() or ())
    report_unreadable(unreadable)
    parts = ", ".join(f"{count} {_PARTS[part]}" for part, count in written.items())
    print(f"{sum(written.values())} samples in {out}{f': {parts}' if parts else ''}")
    if style == "yolo" and not written.keys() >= {"train", "val"}:
        print("a training needs both, to train on and held out: wait for more, or choose others")


def import_(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A data set's folder, label file, or zip.")
    ],
    *,
    data: Data,
    who: Who,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm", help="Somebody has looked at every picture, at unchanged ones, too."
        ),
    ] = False,
    any_class: AnyClass = False,
) -> None:
    """Take over labels that a person has corrected in another tool: all of them, or none.

    Pictures are told by the sample's id in their names, so leave these as they were exported.

    Example: edgebus samples import to-label --data /var/lib/edgebus/retrainer --who ann
    """
    catalog = PictureCatalog(data)
    with unpacked(path) as folder:
        dataset = read_dataset(folder)
        print(dataset.summary)
        report = import_dataset(
            catalog,
            dataset.pictures,
            wrong=dataset.wrong,
            who=who,
            time=utc_now(),
            classes=None if any_class else catalog.classes(),
            confirm=confirm,
        )
    print(
        f"{len(report.changed)} samples labelled by operator:{who}, {len(report.unchanged)} "
        f"unchanged, {len(report.added)} new in the store"
    )
    if report.unchanged and not confirm:
        print("unchanged ones are nobody's word; if you have looked at all of them: --confirm")


def _exported(
    details: Iterator[SampleDetail], include: Include, left_out: list[str]
) -> Iterator[ExportPicture]:
    sources = {"operator", "truth"} | ({"teacher"} if include == "teacher" else set())
    for detail in details:
        if detail.record.consent == "refused":
            left_out.append(f"sample {detail.entry.id}: the persons in it have refused")
            continue
        picture = picture_of(detail)
        if include == "all" or picture.source in sources:
            yield picture
