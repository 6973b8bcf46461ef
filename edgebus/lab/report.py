"""The run folder: CSV files, `summary.json` and a `report.html` in one file."""

from __future__ import annotations

import base64
import csv
import mimetypes
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from edgebus.contracts import DomainReport, rfc3339
from edgebus.inspect import human_bytes
from edgebus.lab.round_report import (
    ROUND_COLUMNS,
    clock_skew,
    plot_rounds,
    round_rows,
    round_summary,
)
from edgebus.lab.run_state import RunState
from edgebus.lab.summary import Summary

DOMAINS = {"new": "what the streams show now", "old": "what the model knew before"}
"""Titles of the gate's domains."""

_TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_run(
    state: RunState, summary: Summary, folder: Path, *, template: Path | None = None, **values: Any
) -> list[Path]:
    """Write the files of a run.

    Args:
        state: Of the run.
        summary: Its figures.
        folder: The run folder.
        template: A workload's own report, which extends ``report.html.j2``.
        values: What that template needs.

    Returns:
        The files, the report first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(summary.to_json())
    write_csv(
        folder / "events.csv",
        ("time", "source", "kind", "text"),
        (
            (rfc3339(event.time), event.source, event.kind, event.text)
            for event in sorted(state.events, key=lambda event: event.time)
        ),
    )
    rounds = state.rounds.all(since=summary.started)
    write_csv(folder / "rounds.csv", ROUND_COLUMNS, round_rows(rounds, state.rounds))
    bars = plot_rounds(rounds, folder / "rounds.png")
    report = folder / "report.html"
    report.write_text(render_report(state, summary, template=template, bars=bars, **values))
    names = ("summary.json", "rounds.png", "events.csv", "rounds.csv")
    return [report, *(folder / name for name in names if (folder / name).exists())]


def render_report(
    state: RunState,
    summary: Summary,
    *,
    template: Path | None = None,
    bars: Path | None = None,
    **values: Any,
) -> str:
    """The report as one HTML file: no script, nothing loaded from anywhere."""
    import jinja2

    template = template or _TEMPLATE
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _TEMPLATE.parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure, percent=_percent, size=human_bytes, clock=_clock, seconds=_seconds
    )
    rounds = state.rounds.all(since=summary.started)
    judged, stages = summary.judged, summary.seconds.stages
    whole = sum(stages.values()) or 1.0
    return environment.get_template(template.name).render(
        summary=summary,
        judged=judged,
        figures=shown_figures(judged.gate.domains) if judged and judged.gate else (),
        titles=DOMAINS,
        stages=[(name, value, 100 * value / whole) for name, value in stages.items()],
        bars=data_uri(bars) if bars else None,
        rounds=rounds,
        round_summary=round_summary,
        skew=clock_skew(rounds),
        events=[event for event in state.events if event.kind != "state"][-200:],
        states=[event for event in state.events if event.kind == "state"][-200:],
        **values,
    )


def shown_figures(domains: Sequence[DomainReport]) -> list[str]:
    """Names of the gate's figures that are shown: the deciding one and the next."""
    names = dict.fromkeys(name for each in domains for name in (each.deciding, *each.figures))
    return list(names)[:2]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file with a header."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def data_uri(path: Path) -> str:
    """A picture file as a URL that holds it."""
    kind, _ = mimetypes.guess_type(path.name)
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _figure(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value * 100:.0f} %"


def _seconds(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _clock(value: datetime) -> str:
    return value.strftime("%H:%M:%S.%f")[:-3]
