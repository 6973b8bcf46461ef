"""The commands, put together; their modules are imported when one of them is used."""

from __future__ import annotations

import typer

from edgebus_retrainer.commands import labelling, looking, moving

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Look at the samples of a retrainer on this host, label them, exchange them.",
)
app.command("list")(looking.list_samples)
app.command("show")(looking.show)
app.command("sheet")(looking.sheet)
app.command("label")(labelling.label)
app.command("export")(moving.export)
app.command("import")(moving.import_)
