"""`edgebus schema`: the contracts as files for other tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgebus.cli.console import CommandGroup, table
from edgebus.cli.errors import describe
from edgebus.files import write_file, writing

commands = typer.Typer(
    cls=CommandGroup, no_args_is_help=True, help="The contracts as JSON Schema and AsyncAPI."
)


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.add_typer(commands, name="schema", rich_help_panel="Look")


@commands.command("list")
def list_schemas() -> None:
    """List every message's schema."""
    import inspect

    from edgebus.contracts.registry import all_messages

    rows = [
        (identifier, kind.__name__, inspect.cleandoc(kind.__doc__ or "").split("\n")[0])
        for identifier, kind in all_messages().items()
    ]
    table(("schema", "class", "what it says"), rows)


@commands.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; made if need be.")] = Path(
        "schemas"
    ),
) -> None:
    """Write a JSON Schema (2020-12) per message and asyncapi.yaml (AsyncAPI 3.0).

    Also settings.json and topology.json, by which editors complete and check YAML files.

    Example: edgebus schema export build/schemas
    """
    from edgebus.schema import schema_files
    from edgebus.service import find_services

    for name, error in find_services()[1].items():
        print(f"left out: service {name}, {describe(error)}", file=sys.stderr)
    files = schema_files()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_file(folder / name, text.encode())
    print(f"{len(files)} files in {folder}")


@commands.command()
def check(
    against: Annotated[
        str,
        typer.Option(
            "--against", metavar="REV|DIR", help="A git revision, or a folder of schemas."
        ),
    ],
    *,
    folder: Annotated[
        str, typer.Option("--folder", help="Where the schemas are at that revision, from here.")
    ] = "schemas",
    breaks_only: Annotated[
        bool, typer.Option("--breaks-only", help="Leave out what is only worth knowing.")
    ] = False,
) -> None:
    """Find changes of the contracts that services of another version cannot read.

    An old reader must read what the new version says, and a new reader what an old one says: fleets
    are updated piece by piece. What must change so needs a new major version of its schema.
    Exit code 1 when there is such a change.

    Example: edgebus schema check --against v0.1.0
    """
    from edgebus.schema import compare, current, published

    changes = compare(published(against, folder=folder), current())
    shown = [c for c in changes if c.kind == "break" or not breaks_only]
    if shown:
        table(("", "where", "what"), [(change.kind, change.where, change.what) for change in shown])
    breaks = sum(change.kind == "break" for change in changes)
    if breaks:
        print(f"{breaks} changes since {against} break services of the other version")
        raise typer.Exit(1)
    print(f"nothing since {against} breaks services of the other version")
