"""Tables that fit the terminal: figures are never cut, names fold, and width is used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_GAPS = (2, 1)
"""Columns between two columns; fewer where that makes a table fit."""
_WHOLE = 12
"""Cells up to this many columns stay on one line: figures with their units, states, versions."""
_FOLDS = 24
"""A word, such as a name, is folded only where it is longer than this."""
_PROSE = 48
"""A longer cell is a sentence: fewer than `_FOLDS` columns would make a pole of it."""
_FIGURE = re.compile(r"[-+]?\d[\d,]*(\.\d+)?( ?(%|B|kB|MB|GB|ms|s|min|h|/s|px))?|n/a|-|")


class FittedTable:
    """A table that a terminal of any width shows whole.

    Where the columns do not fit beside each other, cells of text wrap and names fold; where not
    even the figures fit, each row becomes a paragraph of headings and values.

    Args:
        headers: Names of the columns; all empty: no line of headings.
        ruled: Draw a line below the headings and between sections.
        expand: Take the whole width.
    """

    def __init__(
        self, headers: Sequence[str], *, ruled: bool = False, expand: bool = False
    ) -> None:
        self._headers = tuple(headers)
        self._ruled, self._expand = ruled, expand
        self._rows: list[tuple[RenderableType, ...] | None] = []

    def add_row(self, *cells: RenderableType, style: str = "") -> None:
        """Add a row; text is taken as it is, not as markup. Missing cells at its end are empty."""
        row = [Text(cell, style) if isinstance(cell, str) else cell for cell in cells]
        row += [Text("")] * (len(self._headers) - len(row))
        self._rows.append(tuple(row))

    def add_section(self) -> None:
        """Begin another part of the table."""
        self._rows.append(None)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        least, natural = self._measures(console, options)
        gaps = len(self._headers) - 1
        least_width = min(sum(least) + min(_GAPS) * gaps, options.max_width)
        return Measurement(least_width, sum(natural) + max(_GAPS) * gaps)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least, natural = self._measures(console, options)
        gaps = [gap * (len(self._headers) - 1) for gap in _GAPS]
        room = next(
            (options.max_width - gap for gap in gaps if sum(least) + gap <= options.max_width), None
        )
        if room is None:
            yield from self._paragraphs()
            return
        gap = (options.max_width - room) // max(1, len(self._headers) - 1)
        widths = _share(least, natural, room, expand=self._expand)
        head = self._part(widths, gap)
        head.add_row(*(Text(header, "bold") for header in self._headers))
        parts = [head] if any(self._headers) else []
        for rows in self._sections():
            part = self._part(widths, gap)
            for row in rows:
                part.add_row(*row)
            parts.append(part)
        rule = Text("─" * (sum(widths) + options.max_width - room), "dim")
        for number, part in enumerate(parts):
            if number and self._ruled:
                yield rule
            yield part

    def _part(self, widths: Sequence[int], gap: int) -> Table:
        """Rows between two lines, without any yet."""
        part = Table.grid(padding=(0, gap, 0, 0), pad_edge=False)
        for number, width in enumerate(widths):
            justify: JustifyMethod = "right" if self._is_figure(number) else "left"
            part.add_column(width=width, overflow="fold", justify=justify)
        return part

    def _sections(self) -> list[list[tuple[RenderableType, ...]]]:
        parts: list[list[tuple[RenderableType, ...]]] = [[]]
        for row in self._rows:
            if row is None:
                parts.append([])
            else:
                parts[-1].append(row)
        return parts

    def _column(self, number: int) -> Iterator[RenderableType]:
        return (row[number] for row in self._rows if row is not None)

    def _is_figure(self, number: int) -> bool:
        cells = list(self._column(number))
        return all(isinstance(c, Text) and _FIGURE.fullmatch(c.plain) for c in cells) and any(
            isinstance(c, Text) and c.plain for c in cells
        )

    def _measures(self, console: Console, options: ConsoleOptions) -> tuple[list[int], list[int]]:
        """Least and natural width of each column."""
        least: list[int] = []
        natural: list[int] = []
        for number, header in enumerate(self._headers):
            words = [cell_len(word) for word in header.split()] or [0]
            cells = [_measure(cell, console, options) for cell in self._column(number)]
            least.append(max(1, *words, *(cell.minimum for cell in cells)))
            # A heading takes a second line before it makes a column wider.
            natural.append(max(least[-1], cell_len(header), *(cell.maximum for cell in cells)))
        return least, natural

    def _paragraphs(self) -> Iterator[RenderableType]:
        """Each row as its first cell and, below it, headings with their values."""
        for row in self._rows:
            if row is None:
                continue
            title = row[0]
            if isinstance(title, Text):
                heading = f"{self._headers[0]} " if self._headers[0] else ""
                title = Text.assemble((heading, "dim"), (title.plain, "bold"), overflow="fold")
            yield title
            pairs: list[Text] = []
            for header, cell in zip(self._headers[1:], row[1:], strict=True):
                if not isinstance(cell, Text):
                    yield Padding(cell, (0, 0, 0, 2))
                elif cell.plain:
                    pairs.append(Text.assemble((f"{header} " if header else "", "dim"), cell))
            if pairs:
                yield Padding(Flow(pairs, gap="   "), (0, 0, 0, 2))


class Flow:
    """Texts beside each other, on as many lines as they need; none is broken where it fits a line.

    Args:
        parts: The texts.
        gap: What stands between two of them on a line.
    """

    def __init__(self, parts: Sequence[Text], *, gap: str) -> None:
        self._parts, self._gap = parts, gap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(overflow="fold")
        for part in self._parts:
            if line and line.cell_len + cell_len(self._gap) + part.cell_len > options.max_width:
                yield line
                line = Text(overflow="fold")
            line.append(self._gap if line else "", "dim")
            line.append_text(part)
        yield line


def _measure(cell: RenderableType, console: Console, options: ConsoleOptions) -> Measurement:
    if not isinstance(cell, Text):
        return Measurement.get(console, options, cell)
    widest = max(cell_len(line) for line in cell.plain.split("\n"))
    longest_word = max((cell_len(word) for word in cell.plain.split()), default=0)
    if widest <= _WHOLE:
        least = widest
    elif widest > _PROSE:
        least = _FOLDS
    else:
        least = max(_WHOLE, min(longest_word, _FOLDS))
    return Measurement(least, widest)


def _share(
    least: Sequence[int], natural: Sequence[int], room: int, *, expand: bool
) -> Sequence[int]:
    """Widths of the columns: what each needs at least, and of the rest as much as it can use."""
    wanted = [most - few for few, most in zip(least, natural, strict=True)]
    spare = room - sum(least)
    if spare >= sum(wanted):
        extra, rest = divmod(spare - sum(wanted), len(least)) if expand else (0, 0)
        return [most + extra + (number < rest) for number, most in enumerate(natural)]
    # The small wishes first: a short column is whole before a long text gets all there is.
    widths = list(least)
    order = sorted(range(len(least)), key=lambda number: wanted[number])
    for left, number in zip(range(len(order), 0, -1), order, strict=True):
        given = min(wanted[number], spare // left)
        widths[number] += given
        spare -= given
    return widths
