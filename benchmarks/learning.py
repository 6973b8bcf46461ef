"""What the learning loop is worth: errors found at a budget, changes noticed, accuracy regained.

    python benchmarks/learning.py --data DATA [--out FOLDER] [--parts PART …] [--quick] [--resume]

Without ``--data`` only the script ``dusk`` is played, which needs no recordings. Prints tables and
writes `learning.json` and a picture of each part; parts that are not run stay in it as they
were. The part ``regain`` trains models: each is written down when it is done, and ``--resume``
goes on with those that are missing. The part ``quiet`` counts the alarms of five recordings in
which nothing drifts; it needs ``--data``. The part ``round`` starts services as processes: bytes
and seconds of one round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks._learning_drift import STATIONARY_FRAMES, Alarm, measure_drift  # noqa: E402
from benchmarks._learning_mining import (  # noqa: E402
    BUDGETS,
    CONFIDENCE_RULES,
    ORACLE,
    OURS,
    RULES,
    Recall,
    measure_mining,
    summarise,
)
from benchmarks._learning_quiet import EFFECTS, Quiet, measure_quiet  # noqa: E402
from benchmarks._learning_regain_report import (  # noqa: E402
    Plan,
    measure_regain,
    plot_regain,
    regain_table,
    report_of,
    seeds_table,
)
from benchmarks._learning_round import measure_rounds, measure_uploads  # noqa: E402
from benchmarks._learning_round_report import plot_rounds, tables  # noqa: E402
from benchmarks._learning_round_report import report_of as report_of_rounds  # noqa: E402
from benchmarks._learning_streams import SCRIPTS, make_stream  # noqa: E402

PARTS = ("mining", "drift", "quiet", "regain", "round")
ROUNDS, QUICK_ROUNDS = 5, 2
HOURS, QUICK_HOURS = 6.0, 1.0


def mining_table(rows: Sequence[Recall]) -> Table:
    """Recall of errors: rules by scripts and budgets."""
    means = summarise(rows)
    scripts = list(dict.fromkeys(row.script for row in rows))
    table = Table("rule", title="Recall of errors, mean over seeds, by budget (share of frames)")
    for script in scripts:
        for budget in BUDGETS:
            table.add_column(f"{script}\n{budget:.0%}", justify="right")
    for rule in ["random", *RULES, ORACLE]:
        cells = [f"{means[script, rule, b]:.3f}" for script in scripts for b in BUDGETS]
        table.add_row(rule, *cells, style="bold" if rule == OURS else None)
    for words, others in (
        ("of random", ("random",)),
        ("of best confidence", CONFIDENCE_RULES),
        ("of what is possible", (ORACLE,)),
    ):
        cells = []
        for script in scripts:
            for b in BUDGETS:
                best = max(means[script, other, b] for other in others)
                cells.append(f"{means[script, OURS, b] / best:.2f}x" if best else "-")
        table.add_row(f"{OURS}, {words}", *cells, style="green")
    return table


def drift_table(rows: Sequence[Alarm]) -> Table:
    """Delays and false alarms."""
    table = Table(
        "script", "detector", "statistic", title="Drift: delay in frames, and false alarms"
    )
    for heading in ("delay (each seed)", "early", "false in stationary frames"):
        table.add_column(heading, justify="right")
    groups: dict[tuple[str, str, str], list[Alarm]] = {}
    for row in rows:
        groups.setdefault((row.script, row.detector, row.statistic), []).append(row)
    for key, group in groups.items():
        delays = ", ".join("never" if one.delay is None else str(one.delay) for one in group)
        table.add_row(
            *key,
            delays,
            str(sum(one.early for one in group)),
            f"{sum(one.false_alarms for one in group)} in {sum(one.stationary for one in group):,}",
        )
    return table


def quiet_table(rows: Sequence[Quiet]) -> Table:
    """Alarms of recordings in which nothing drifts, and how soon a planted drift is noticed."""
    names = list(rows[0].alarms)
    table = Table("recording", title="Alarms where nothing drifts; delays of a planted drift")
    headings = ["frames", "hours", *names, "after two passes", *(f"{e}, frames" for e in EFFECTS)]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        delays = ("never" if d is None else str(d) for d in row.delays.values())
        counts = (row.frames, f"{row.hours:g}", *row.alarms.values(), row.late)
        table.add_row(row.recording, *map(str, counts), *delays)
    days = sum(row.hours for row in rows) / 24
    each = (f"{sum(row.alarms[name] for row in rows) / days:.1f}" for name in names)
    table.add_row(
        "per camera and day", "", "", *each, f"{sum(row.late for row in rows) / days:.1f}"
    )
    return table


def _apart(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Where labels go that should be at these heights and must not overlap."""
    placed: dict[str, float] = {}
    lowest = 0.0
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        placed[name] = max(height, lowest)
        lowest = placed[name] + gap
    return placed


def plot_mining(rows: Sequence[Recall], out: Path) -> None:
    """Recall over the budget, one panel per script."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    means = summarise(rows)
    scripts = list(dict.fromkeys(row.script for row in rows))
    figure, panels = plt.subplots(1, len(scripts), figsize=(4.2 * len(scripts), 3.6), squeeze=False)
    special = {"random": ("k", ":", 1.5), OURS: ("C3", "-", 2.5), ORACLE: ("k", "-", 1.0)}
    budgets = [100 * b for b in BUDGETS]
    for panel, script in zip(panels[0], scripts, strict=True):
        top = means[script, ORACLE, BUDGETS[-1]] * 1.05
        rules = ("random", *CONFIDENCE_RULES, ORACLE, OURS)
        heights = _apart({rule: means[script, rule, BUDGETS[-1]] for rule in rules}, 0.045 * top)
        for rule in rules:
            colour, line, width = special.get(rule, ("0.5", "--", 1.0))
            recalls = [means[script, rule, b] for b in BUDGETS]
            panel.plot(budgets, recalls, line, color=colour, lw=width, marker="o", ms=3)
            panel.text(10.3, heights[rule], rule, fontsize=6.5, color=colour, va="center")
        panel.set_title(script)
        panel.set_xlabel("frames sent, %")
        panel.set_xlim(1, 14)
        panel.set_ylim(-0.03 * top, top)
        panel.set_xticks(budgets)
        panel.grid(alpha=0.2)
    panels[0][0].set_ylabel("errors sent, share of all")
    figure.tight_layout()
    figure.savefig(out, dpi=130)
    plt.close(figure)


def play_streams(
    options: argparse.Namespace, scripts: Sequence[str], console: Console
) -> dict[str, Any]:
    """The parts that look at streams of frames: mining and drift."""
    recalls: list[Recall] = []
    alarms: list[Alarm] = []
    facts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for script in scripts:
            for seed in options.seeds:
                stream = make_stream(
                    script, seed=seed, data=options.data, work=Path(work), quick=options.quick
                )
                errors = statistics.mean(moment.wrong > 0.5 for moment in stream.moments)
                facts.append({
                    "script": script, "seed": seed, "frames": len(stream.moments),
                    "onset": stream.onset, "errors": errors,
                })  # fmt: skip
                console.print(f"[dim]{facts[-1]}")
                if "mining" in options.parts:
                    recalls += measure_mining(stream)
                if "drift" in options.parts:
                    alarms += measure_drift(
                        stream, stationary=STATIONARY_FRAMES // (50 if options.quick else 1)
                    )
    report: dict[str, Any] = {"streams": facts}
    if recalls:
        console.print(mining_table(recalls))
        plot_mining(recalls, options.out / "mining.png")
        report["mining"] = [asdict(row) for row in recalls]
    if alarms:
        console.print(drift_table(alarms))
        report["drift"] = [asdict(row) for row in alarms]
    return report


def play_loop(
    options: argparse.Namespace, scripts: Sequence[str], console: Console
) -> dict[str, Any]:
    """The part that lets the loop learn: what it regains."""
    plan = Plan(
        scripts=("dusk",) if options.quick else scripts,
        seeds=options.seeds,
        data=options.data,
        out=options.out,
        quick=options.quick,
        resume=options.resume,
        workers=options.workers,
    )
    outcomes = measure_regain(plan, echo=lambda line: console.print(f"[dim]{line}"))
    console.print(seeds_table(outcomes))
    console.print(regain_table(outcomes))
    plot_regain(outcomes, options.out / "regain.png")
    return {"regain": report_of(outcomes)}


def play_quiet(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Alarms of cameras at which nothing happens."""
    hours = QUICK_HOURS if options.quick else HOURS
    with tempfile.TemporaryDirectory() as work:
        rows = measure_quiet(options.data, work=Path(work), hours=hours)
    console.print(quiet_table(rows))
    return {"quiet": [asdict(row) for row in rows]}


def play_rounds(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Bytes and seconds of a round, real services on one broker."""
    uploads = measure_uploads(options.data)
    count = QUICK_ROUNDS if options.quick else ROUNDS
    rounds = measure_rounds(count, say=lambda text: console.print(f"[dim]{text}"))
    for table in tables(uploads, rounds):
        console.print(table)
    plot_rounds(rounds, options.out / "round.png")
    return report_of_rounds(uploads, rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scripts, measure, tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEBUS_DATA"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "learning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scripts", nargs="+", choices=list(SCRIPTS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--quick", action="store_true", help="one seed, fewer frames; regain: dusk, few steps"
    )
    parser.add_argument(
        "--resume", action="store_true", help="regain: keep what an earlier run has written"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1,
        help="regain: trainings at a time, one thread each",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    options.data = None if options.data is None else Path(options.data).resolve()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    scripts = options.scripts or [
        n for n, (needs, *_) in SCRIPTS.items() if options.data or not needs
    ]
    if options.quick:
        options.seeds = options.seeds[:1]
    file = options.out / "learning.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if {"mining", "drift"} & set(options.parts):
        report |= play_streams(options, scripts, console)
    if "quiet" in options.parts and options.data:
        report |= play_quiet(options, console)
    if "regain" in options.parts:
        report |= play_loop(options, scripts, console)
    if "round" in options.parts:
        report["round"] = play_rounds(options, console)
    file.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
