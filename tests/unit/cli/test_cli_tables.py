"""Tables and help at the widths that terminals have."""

from __future__ import annotations

import io
import random
import re

import pytest
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from edgebus.cli.app import app
from edgebus.cli.console import help_style, table
from edgebus.inspect.tables import FittedTable
from edgebus.lab import load_lab
from edgebus.lab.cli import make_command

WIDTHS = (60, 80, 120, 200)


def drawn(made: FittedTable, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(made)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def name(chance: random.Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz-/_.中é"
    return "".join(chance.choices(letters, k=chance.randint(1, 90)))


@pytest.mark.parametrize("width", [*WIDTHS, 30, 40])
@pytest.mark.parametrize("seed", range(12))
def test_no_figure_is_cut_and_no_letter_of_a_name_is_lost(seed: int, width: int) -> None:
    chance = random.Random(seed)
    headers = ["camera", "before drift", "recovered", "latency", "bytes down", "what it says"]
    made = FittedTable(headers, ruled=chance.random() < 0.5, expand=chance.random() < 0.5)
    rows = [
        (
            name(chance),
            f"{chance.random():.3f}",
            f"{chance.randint(0, 100)}%",
            f"{chance.randint(1, 9999)} ms",
            f"{chance.uniform(1, 999):.1f} MB",
            " ".join(name(chance)[:12] for _ in range(chance.randint(1, 20))),
        )
        for _ in range(4)
    ]
    for row in rows:
        made.add_row(*row)
    text = drawn(made, width)
    assert "…" not in text
    assert max(cell_len(line) for line in text.splitlines()) <= width
    letters = sorted("".join(text.replace("─", "").split()))
    for row in rows:
        for figure in row[1:5]:
            assert figure in text  # on one line
        for cell in row:
            for letter in "".join(cell.split()):
                letters.remove(letter)
    for header in headers:
        for word in header.split():
            assert word in text


def test_columns_of_figures_are_aligned_right_and_take_no_more_than_they_need() -> None:
    made = FittedTable(("model", "mAP", "size"))
    made.add_row("street", "0.981", "1.4 MB")
    made.add_row("a-longer-name", "0.24", Text("23.3 kB", "bold"))
    assert drawn(made, 80).splitlines() == [
        "model            mAP     size",
        "street         0.981   1.4 MB",
        "a-longer-name   0.24  23.3 kB",
    ]


def test_what_does_not_fit_becomes_a_paragraph_with_its_headings() -> None:
    made = FittedTable(("stream", "state", "delivery", "received", "latency", "rate", "switch"))
    made.add_row("gate", "degraded", "downloading", "100.4 MB", "1200 ms", "12.5/s", "10.5 ms")
    assert [line.rstrip() for line in drawn(made, 40).splitlines()] == [
        "stream gate",
        "  state degraded   delivery downloading",
        "  received 100.4 MB   latency 1200 ms",
        "  rate 12.5/s   switch 10.5 ms",
    ]


def test_a_piped_table_has_a_line_per_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table(("topic", "what it carries"), [("a/" * 200, "words " * 100)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("a/" * 200)
    monkeypatch.setenv("COLUMNS", "60")
    table(("topic", "what it carries"), [("a/" * 200, "words " * 100)])
    assert max(map(len, capsys.readouterr().out.splitlines())) == 60


def every_command() -> list[tuple[str, typer.core.TyperCommand]]:
    found = []

    def walk(title: str, command: typer.core.TyperCommand) -> None:
        found.append((title, command))
        for key, inner in getattr(command, "commands", {}).items():
            walk(f"{title} {key}", inner)

    walk("edgebus", typer.main.get_command(app))  # type: ignore[arg-type]
    for workload in ("detection", None):
        lab = load_lab(workload)
        walk("edgebus up", make_command(lab, help_style=help_style()))
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_the_help_of_every_command_is_whole(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(app, "rich_markup_mode", help_style())
    assert (help_style() is None) == (width < 80)
    seen = set()
    for title, command in every_command():
        seen.add(title)
        context = command.make_context(title, [], resilient_parsing=True)
        print(command.get_help(context) or "")
        text = capsys.readouterr().out
        assert max(cell_len(line) for line in text.splitlines()) <= max(width, 78), title
        plain = "".join(re.sub(r"[│╭╮╰╯─]", "", text).split())
        docs = [command.help or "", *(getattr(one, "help", "") or "" for one in command.params)]
        for words in docs:
            for word in re.split(r"[\s`]+", words):
                assert word.strip("*_") in plain, (title, word)
        for one in command.params:
            for option in one.opts if one.param_type_name == "option" else ():
                assert option in plain, (title, option)
    assert {"edgebus model publish", "edgebus samples export", "edgebus topics list"} <= seen
