"""Rounds for people: `rounds.csv`, a picture, and a line in the terminal."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from edgebus.contracts import rfc3339
from edgebus.lab.rounds import CLOUD_STAGES, EDGE_STAGES, Round, Rounds, Stage

ROUND_COLUMNS = (
    "round",
    "job",
    "version",
    "outcome",
    "edge",
    "place",
    "stage",
    "began",
    "ended",
    "seconds",
    "measured_s",
    "clock",
    "clock_lag_s",
)

# After Paul Tol's muted colours, in the order of the stages; neighbours differ in lightness.
_COLORS = (
    "#DDDDDD", "#BBBBBB", "#6699CC", "#EECC66", "#997700", "#117733", "#44AA99", "#DDCC77",
    "#CC6677", "#882255", "#AA4499", "#88CCEE", "#332288", "#999933", "#661100",
)  # fmt: skip
NARROW = 4.2
"""Width of a plot for a phone, in inches; its letters are as high as those of the text there."""

_DPI = 150
_LONG = frozenset({"collecting", "training"})
_NAMES = tuple(name for name, _ in CLOUD_STAGES + EDGE_STAGES)


def round_rows(rounds: Sequence[Round], source: Rounds) -> Iterator[tuple[str, ...]]:
    """Rows of `rounds.csv`.

    A round's common stages come once, without an edge; each edge's own follow, and after these the
    whole way to that edge, `total`, which is the sum of both.

    Args:
        rounds: The rounds.
        source: Where they come from; knows how clocks differ.
    """
    for number, one in enumerate(rounds, 1):
        head = (str(number), one.job, "" if one.version is None else str(one.version), one.outcome)
        for stage in one.stages:
            yield (*head, "", *_row(stage, source))
        for edge, stages in one.edges.items():
            for stage in stages:
                yield (*head, edge, *_row(stage, source))
        for way in _ways(one):
            path = one.path(way)
            if not path:
                continue
            total = sum(stage.seconds for stage in path)
            began, ended = rfc3339(path[0].began), rfc3339(path[-1].ended)
            yield (*head, way or "", "", "total", began, ended, f"{total:.6f}", "", "", "")


def _ways(one: Round) -> Sequence[str | None]:
    """The edges that a round came to; None for one that came to none."""
    return list(one.edges) or [None]


def _row(stage: Stage, source: Rounds) -> tuple[str, ...]:
    lag = source.lag_s(stage.node)
    return (
        stage.place,
        stage.name,
        rfc3339(stage.began),
        rfc3339(stage.ended),
        f"{stage.seconds:.6f}",
        "" if stage.measured_s is None else f"{stage.measured_s:.3f}",
        stage.node,
        "" if lag is None else f"{lag:.6f}",
    )


def round_summary(one: Round) -> str:
    """A round in one line: the whole, what was not collecting or training, and its longest stages.

    For example ``v2: 64.0 s, of these 15.0 s neither collecting nor training (judging 4.0 s, …)``.
    """
    name = one.outcome if one.version is None else f"v{one.version}"
    rest = sorted(
        (stage for stage in one.path() if stage.name not in _LONG),
        key=lambda stage: stage.seconds,
        reverse=True,
    )
    longest = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in rest[:3])
    return (
        f"{name}: {one.seconds():.1f} s, of these {one.seconds(without=_LONG):.1f} s neither "
        f"collecting nor training ({longest})"
    )


def clock_skew(rounds: Iterable[Round]) -> str:
    """The disagreement of clocks, in words; empty where none shows."""
    backwards = [stage for one in rounds for stage in one.backwards]
    if not backwards:
        return ""
    worst = min(backwards, key=lambda stage: stage.seconds)
    return (
        f"Clocks disagree by {-worst.seconds:.3f} s or more: by that of {worst.node}, "
        f"{worst.name} ended before it began."
    )


def plot_rounds(rounds: Sequence[Round], path: Path) -> Shown | None:
    """Draw each round as a bar of its stages, whole and without the two long ones.

    Returns:
        The picture, or None where there is no round.
    """
    if not rounds:
        return None
    return draw_twice(path, lambda target, narrow: _draw_rounds(rounds, target, narrow=narrow))


def _draw_rounds(rounds: Sequence[Round], target: Path | BytesIO, *, narrow: bool) -> None:
    from matplotlib.patches import Patch

    bars = [
        (f"{number} {one.outcome if one.version is None else f'v{one.version}'}\n{edge or ''}", way)
        for number, one in enumerate(rounds, 1)
        for edge in _ways(one)
        if (way := one.path(edge))
    ]
    size, shape = (9.6, 1.6 + 0.42 * len(bars)), (1, 2)
    if narrow:
        size, shape = (NARROW, 3.4 + 0.7 * len(bars)), (2, 1)
    with figure_at(target, *shape, sharey=True, figsize=size) as (figure, axes):
        for axis, left_out in zip(axes.flat, (frozenset[str](), _LONG), strict=True):
            for row, (_, stages) in enumerate(bars):
                at = 0.0
                for stage in stages:
                    if stage.name in left_out or stage.seconds <= 0:
                        continue
                    color = _COLORS[_NAMES.index(stage.name.split("+")[-1])]
                    axis.barh(row, stage.seconds, left=at, color=color, height=0.7)
                    at += stage.seconds
            axis.set_xlabel("seconds" if not left_out else "seconds, without collecting, training")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0, 0].set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
        axes[0, 0].invert_yaxis()
        handles = [Patch(color=color) for color in _COLORS]
        columns, lines = (3, 5) if narrow else (8, 2)
        figure.tight_layout(rect=(0, (0.1 + 0.17 * lines) / figure.get_figheight(), 1, 1))
        figure.legend(handles, _NAMES, loc="lower center", ncols=columns, fontsize=7, frameon=False)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture in a report, as URLs that hold it.

    Attributes:
        wide: For a page as wide as a screen.
        narrow: For one as wide as a phone; None: the same.
    """

    wide: str
    narrow: str | None = None


def draw_twice(path: Path, draw: Callable[[Path | BytesIO, bool], None]) -> Shown:
    """A plot drawn twice, since letters that fit a wide page are specks on a phone.

    Args:
        path: Where the wide one is written.
        draw: Draws it to a target; true: as narrow as `NARROW` inches.
    """
    narrow = BytesIO()
    draw(path, False)
    draw(narrow, True)
    return Shown(data_uri(path), data_uri(path, narrow.getvalue()))


def data_uri(path: Path, content: bytes | None = None) -> str:
    """A picture as a URL that holds it: the file's, or other content of its kind."""
    kind, _ = mimetypes.guess_type(path.name)
    data = path.read_bytes() if content is None else content
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@contextmanager
def figure_at(
    target: Path | BytesIO, rows: int, columns: int, **options: Any
) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure and its axes ``[rows, columns]``, written as PNG at the end."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(rows, columns, squeeze=False, **options)
    try:
        yield figure, axes
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, format="png", dpi=_DPI)
    finally:
        plt.close(figure)
