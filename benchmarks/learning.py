"""What the learning loop is worth: errors found at a budget, and changes noticed.

    python benchmarks/learning.py --data DATA [--out FOLDER] [--quick]

Without ``--data`` only the script ``dusk`` is played, which needs no recordings. Prints tables and
writes `learning.json` and `mining.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
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
    OURS,
    RULES,
    Recall,
    measure_mining,
    summarise,
)
from benchmarks._learning_streams import SCRIPTS, make_stream  # noqa: E402


def mining_table(rows: Sequence[Recall]) -> Table:
    """Recall of errors: rules by scripts and budgets."""
    means = summarise(rows)
    scripts = list(dict.fromkeys(row.script for row in rows))
    table = Table("rule", title="Recall of errors, mean over seeds, by budget (share of frames)")
    for script in scripts:
        for budget in BUDGETS:
            table.add_column(f"{script}\n{budget:.0%}", justify="right")
    for rule in [*RULES, "random"]:
        cells = [f"{means[script, rule, b]:.3f}" for script in scripts for b in BUDGETS]
        table.add_row(rule, *cells, style="bold" if rule == OURS else None)
    for words, others in (("of random", ("random",)), ("of best confidence", CONFIDENCE_RULES)):
        cells = []
        for script in scripts:
            for b in BUDGETS:
                best = max(means[script, other, b] for other in others)
                cells.append(f"{means[script, OURS, b] / best:.1f}x" if best else "-")
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


def plot_mining(rows: Sequence[Recall], out: Path) -> None:
    """Recall over the budget, one panel per script."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    means = summarise(rows)
    scripts = list(dict.fromkeys(row.script for row in rows))
    figure, panels = plt.subplots(
        1, len(scripts), figsize=(4.2 * len(scripts), 3.6), sharey=True, squeeze=False
    )
    for panel, script in zip(panels[0], scripts, strict=True):
        for rule in ("random", *CONFIDENCE_RULES, "feature", OURS):
            style = {"random": ("k", ":", 1.5), OURS: ("C3", "-", 2.5), "feature": ("C0", "-", 1.5)}
            colour, line, width = style.get(rule, ("0.6", "--", 1.0))
            recalls = [means[script, rule, b] for b in BUDGETS]
            panel.plot(
                [100 * b for b in BUDGETS], recalls, line, color=colour, lw=width, marker="o", ms=3
            )
            panel.annotate(
                rule, (100 * BUDGETS[-1], recalls[-1]), xytext=(3, 0), textcoords="offset points",
                fontsize=6, color=colour, va="center",
            )  # fmt: skip
        panel.set_title(script)
        panel.set_xlabel("frames sent, %")
        panel.set_xlim(1, 19)
        panel.set_xticks([100 * b for b in BUDGETS])
        panel.grid(alpha=0.2)
    panels[0][0].set_ylabel("errors sent, share of all")
    figure.tight_layout()
    figure.savefig(out, dpi=130)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scripts, measure, tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEBUS_DATA"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "learning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scripts", nargs="+", choices=list(SCRIPTS))
    parser.add_argument("--quick", action="store_true", help="one seed, a third of the frames")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    data = None if options.data is None else Path(options.data)
    scripts = options.scripts or [n for n, (needs, *_) in SCRIPTS.items() if data or not needs]
    seeds = options.seeds[:1] if options.quick else options.seeds
    recalls: list[Recall] = []
    alarms: list[Alarm] = []
    facts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for script in scripts:
            for seed in seeds:
                stream = make_stream(
                    script, seed=seed, data=data, work=Path(work), quick=options.quick
                )
                errors = statistics.mean(moment.wrong > 0.5 for moment in stream.moments)
                facts.append({
                    "script": script, "seed": seed, "frames": len(stream.moments),
                    "onset": stream.onset, "errors": errors,
                })  # fmt: skip
                console.print(f"[dim]{facts[-1]}")
                recalls += measure_mining(stream)
                alarms += measure_drift(
                    stream, stationary=STATIONARY_FRAMES // (50 if options.quick else 1)
                )
    console.print(mining_table(recalls))
    console.print(drift_table(alarms))
    options.out.mkdir(parents=True, exist_ok=True)
    plot_mining(recalls, options.out / "mining.png")
    report = {
        "streams": facts,
        "mining": [asdict(row) for row in recalls],
        "drift": [asdict(row) for row in alarms],
    }
    (options.out / "learning.json").write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
