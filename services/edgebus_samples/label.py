"""`edgebus samples label`."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgebus.contracts import operator, utc_now
from edgebus_detection.datasets import SourceError
from edgebus_detection.datasets.files import read_text
from edgebus_detection.labels import BoxesRefusedError, check_boxes, parse_words, read_rows
from edgebus_detection.messages import BoxLabels, SourcedBox
from edgebus_samples.details import PictureCatalog
from edgebus_samples.options import Data, Which

Who = Annotated[
    str,
    typer.Option(
        "--who",
        help="Name of the labelling person.",
        default_factory=getpass.getuser,
        show_default="you",
    ),
]
AnyClass = Annotated[
    bool, typer.Option("--any-class", help="Take classes that the model does not have.")
]


def label(
    which: Which,
    boxes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CLASS X1 Y1 X2 Y2]...", help="All boxes there are, in pixels."),
    ] = None,
    *,
    data: Data,
    who: Who,
    from_json: Annotated[
        Path | None,
        typer.Option(
            "--json", help='Boxes from a file: [{"label": "car", "x1": 1, ...}]; - for stdin.'
        ),
    ] = None,
    nothing: Annotated[
        bool, typer.Option("--nothing", help="There is nothing in the picture.")
    ] = False,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="Withdraw them: truth or the teacher count again.")
    ] = False,
    note: Annotated[str, typer.Option(help="In words.")] = "",
    any_class: AnyClass = False,
) -> None:
    """Label a sample's picture: all its boxes, in place of those of truth and teacher.

    The retrainer may be running; its next job counts it. Earlier labels are kept as history.

    Example: edgebus samples label 39f8998 car 10 20 130 80 --data /var/lib/edgebus/retrainer
    """
    given = [bool(boxes), from_json is not None, nothing, take_back]
    if sum(given) != 1:
        msg = "give boxes, or --json FILE, or --nothing, or --take-back: one of these"
        raise typer.BadParameter(msg)
    catalog = PictureCatalog(data)
    entry = catalog.find(which)
    if take_back:
        catalog.book.write({entry.id: None})
        print(f"{entry.id}: taken back")
        return
    rows: list[dict[str, Any]] = []
    if from_json is not None:
        rows = _read(from_json)
    elif boxes:
        rows = parse_words(boxes)
    record = catalog.read(entry).record
    checked, reasons = check_boxes(
        rows,
        size=(record.width, record.height),
        classes=None if any_class else catalog.classes(),
        where=f"sample {entry.id[-8:]}",
    )
    if reasons:
        raise BoxesRefusedError(reasons)
    by = operator(who)
    labels = tuple(SourcedBox(box=box, by=by) for box in checked)
    catalog.book.write({entry.id: BoxLabels(labels=labels, by=by, time=utc_now(), note=note[:500])})
    print(f"{entry.id}: {len(labels)} boxes by {by}")
    detail = catalog.read(catalog.find(entry.id))
    for conflict in () if detail.merged is None else detail.merged.conflicts:
        print(f"conflict: {conflict.summary}")


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        data = sys.stdin.read() if str(path) == "-" else read_text(path)
        rows, reasons = read_rows(json.loads(data), where=str(path))
    except ValueError as error:
        reason = str(error) if isinstance(error, SourceError) else f"{path} is no JSON: {error}"
        rows, reasons = [], [reason]
    if reasons:
        raise BoxesRefusedError(reasons)
    return rows
