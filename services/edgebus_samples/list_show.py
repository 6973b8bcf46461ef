"""`edgebus samples list|show|sheet`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import cv2
import typer

from edgebus.cli.console import table
from edgebus.files import write_file
from edgebus.samples import Entry
from edgebus_detection.vision import Image
from edgebus_samples.contact_sheet import contact_sheet, one_picture
from edgebus_samples.details import DetailQuery, PictureCatalog, SampleDetail
from edgebus_samples.options import Accept, Data, Which, choosing, report_unreadable
from edgebus_samples.page import sample_page


@choosing
def list_samples(
    *,
    data: Data,
    query: DetailQuery,
    accept: Accept = 0.4,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most samples.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List samples, the newest first.

    Example: edgebus samples list --data /var/lib/edgebus/retrainer --camera front --unlabelled
    """
    catalog = PictureCatalog(data, accept=accept)
    unreadable: list[str] = []
    found = list(_listed(catalog, query, limit, unreadable))
    if as_json:
        for entry, detail in found:
            print(json.dumps(_facts(catalog, entry, detail)))
    elif found:
        headers = ["sample", "captured", "camera", "frame", "split", "policy", "score", "labels"]
        rows = [_row(catalog, entry, detail) for entry, detail in found]
        table((*headers, "conflicts") if query.conflict else headers, rows)
        # A conflict is known once the files are read: then there is no total.
        total = "" if query.conflict else f" of {catalog.count(query)}"
        print(f"{len(found)}{total} samples")
    else:
        print("no such sample")
    report_unreadable(unreadable)


def show(
    which: Which,
    *,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the picture with all boxes: .png, .jpg or .html."),
    ] = None,
    accept: Accept = 0.4,
    width: Annotated[int, typer.Option(min=320, max=8192, help="Width of the picture.")] = 960,
) -> None:
    """Show one sample: its record, its label sources, and its picture with the boxes.

    Example: edgebus samples show 39f8998 --data /var/lib/edgebus/retrainer --out sample.html
    """
    catalog = PictureCatalog(data, accept=accept)
    detail = catalog.read(catalog.find(which))
    record, entry = detail.record, detail.entry
    conflicts = () if detail.merged is None else detail.merged.conflicts
    drift = "not watched" if record.drift is None else ", ".join(record.drift.drifted) or "stable"
    table(
        ("", ""),
        [
            ("sample", entry.id),
            ("camera", f"{entry.stream} frame {entry.index} of {record.source}"),
            ("captured", f"{entry.captured:%Y-%m-%d %H:%M:%S} UTC"),
            ("chosen by", f"{entry.policy}: {entry.reason} (score {entry.score:g})"),
            ("split", entry.split),
            ("model", f"{record.model.name} v{record.model.version} {record.model.digest[:12]}"),
            ("drift", drift),
            ("consent", f"{record.consent}, retention {record.retention}"),
            ("job", entry.job or "none yet"),
            ("labels", _labels(entry, catalog)),
            ("file", str(entry.path)),
        ],
    )
    if detail.merged is not None and detail.merged.sourced:
        table(
            ("class", "x1", "y1", "x2", "y2", "source"),
            [
                (c.box.label, *(f"{v:g}" for v in (c.box.x1, c.box.y1, c.box.x2, c.box.y2)), c.by)
                for c in detail.merged.sourced
            ],
        )
    for conflict in conflicts:
        print(f"conflict: {conflict.summary}")
    if out is None:
        return
    if out.suffix.lower() in {".html", ".htm"}:
        page = sample_page(detail, history=catalog.book.history(entry.id))
        write_file(out, page.encode())
    else:
        _write_picture(out, one_picture(detail, width=width))
    print(f"written: {out}")


@choosing
def sheet(
    *,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write: .jpg or .png.")],
    query: DetailQuery,
    accept: Accept = 0.4,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=400, help="Most tiles.")] = 24,
    columns: Annotated[int | None, typer.Option(min=1, max=40, help="Tiles per row.")] = None,
    tile: Annotated[int, typer.Option(min=120, max=1920, help="Width of a tile.")] = 320,
    every: Annotated[
        bool,
        typer.Option(
            "--every", help="Neighbours, too: by default one of each 20 consecutive frames."
        ),
    ] = False,
) -> None:
    """Write many samples with their boxes as one picture.

    Example: edgebus samples sheet --data /var/lib/edgebus/retrainer --conflict --out sheet.jpg
    """
    catalog = PictureCatalog(data, accept=accept)
    query = replace(query, distinct=not every)
    unreadable: list[str] = []
    details = catalog.details(query, limit=limit, unreadable=unreadable)
    title = f"{catalog.count(query)} samples" + (", conflicts only" if query.conflict else "")
    title = f"newest of {title}{'' if every else ', one of each 20 consecutive frames'}"
    drawn = contact_sheet(details, title=title, columns=columns, tile=tile, unreadable=unreadable)
    report_unreadable(unreadable)
    if drawn is None:
        print("no such sample")
        return
    _write_picture(out, drawn)
    print(f"written: {out}, {drawn.shape[1]} x {drawn.shape[0]}")


def _listed(
    catalog: PictureCatalog, query: DetailQuery, limit: int, unreadable: list[str]
) -> Iterator[tuple[Entry, SampleDetail | None]]:
    """Entries; with their details where conflicts are asked for."""
    if query.conflict:
        for detail in catalog.details(query, limit=limit, unreadable=unreadable):
            yield detail.entry, detail
        return
    for entry in islice(catalog.entries(query, limit=limit), limit):
        if not entry.path.is_file():
            unreadable.append(f"sample {entry.id} cannot be read: its file is missing")
            continue
        yield entry, None


def _row(catalog: PictureCatalog, entry: Entry, detail: SampleDetail | None) -> list[str]:
    row = [
        entry.id,
        f"{entry.captured:%Y-%m-%d %H:%M:%S}",
        entry.stream,
        str(entry.index),
        entry.split,
        entry.policy,
        f"{entry.score:.3g}",
        _labels(entry, catalog),
    ]
    if detail is not None and detail.merged is not None:
        row.append("; ".join(conflict.summary for conflict in detail.merged.conflicts))
    return row


def _labels(entry: Entry, catalog: PictureCatalog) -> str:
    if entry.labels is not None:
        return f"{len(entry.labels.labels)} by {entry.labels.by}"
    if entry.truths is not None:
        return f"{entry.truths} by truth"
    if (taught := catalog.taught(entry)) is not None:
        return f"{len(taught[1])} by {taught[0]}"
    return "none"


def _facts(catalog: PictureCatalog, entry: Entry, detail: SampleDetail | None) -> dict[str, object]:
    facts: dict[str, object] = {
        "id": entry.id,
        "captured": entry.captured.isoformat(),
        "camera": entry.stream,
        "frame": entry.index,
        "model": entry.model,
        "split": entry.split,
        "policy": entry.policy,
        "reason": entry.reason,
        "score": entry.score,
        "labels": _labels(entry, catalog),
        "job": entry.job,
        "file": str(entry.path),
    }
    if detail is not None and detail.merged is not None:
        facts["conflicts"] = [conflict.summary for conflict in detail.merged.conflicts]
    return facts


def _write_picture(out: Path, picture: Image) -> None:
    suffix = out.suffix.lower()
    if suffix not in {".png", ".jpg", ".jpeg"}:
        msg = f"{out}: a picture is written as .png or .jpg"
        raise typer.BadParameter(msg)
    done, data = cv2.imencode(suffix, picture)
    if not done:
        sys.stderr.write(f"{out}: the picture of {picture.shape} cannot be encoded\n")
        raise typer.Exit(1)
    write_file(out, data.tobytes())
