"""The commands of `edgebus samples`."""

from __future__ import annotations

import typer

from edgebus_samples.import_export import export, import_
from edgebus_samples.label import label
from edgebus_samples.list_show import list_samples, sheet, show

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Look at the samples of a retrainer on this host, label them, exchange them.",
)
app.command("list")(list_samples)
app.command("show")(show)
app.command("sheet")(sheet)
app.command("label")(label)
app.command("export")(export)
app.command("import")(import_)
