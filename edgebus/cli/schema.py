"""`edgebus schema`: the contracts as files for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgebus.cli.console import table

__all__ = ["add_to"]

commands = typer.Typer(no_args_is_help=True, help="The contracts as JSON Schema and AsyncAPI.")


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.add_typer(commands, name="schema", rich_help_panel="Look")


@commands.command("list")
def list_schemas() -> None:
    """List every message's schema."""
    import inspect

    from edgebus.cli.schema_files import message_types

    rows = [
        (identifier, kind.__name__, inspect.cleandoc(kind.__doc__ or "").split("\n")[0])
        for identifier, kind in message_types().items()
    ]
    table(("schema", "class", "what it says"), rows)


@commands.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if need be.")] = Path(
        "schemas"
    ),
) -> None:
    """Write a JSON Schema (2020-12) per message and asyncapi.yaml (AsyncAPI 3.0).

    Example: edgebus schema export build/schemas
    """
    from edgebus.cli.schema_files import schema_files

    folder.mkdir(parents=True, exist_ok=True)
    files = schema_files()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(files)} files in {folder}")
