"""The learning benchmark's own arithmetic, on a stream that is made up."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _learning_quiet
from benchmarks._learning_drift import measure_drift
from benchmarks._learning_mining import (
    BUDGETS,
    ORACLE,
    OURS,
    RULES,
    measure_mining,
    summarise,
)
from benchmarks._learning_streams import Moment, Stream, make_stream
from benchmarks.learning import _apart, mining_table
from collector_examples import box, example
from edgebus_detection.messages import GroundTruth
from edgebus_detection.mining import Example


def stream(*, home: int = 300, away: int = 100) -> Stream:
    """Sure and right, then unsure, strange and wrong."""
    rng = np.random.default_rng(3)
    moments = []
    for index in range(home + away):
        drifted = index >= home
        low, novelty = (0.4, 3.0) if drifted else (0.8, 0.7)
        plain = example(index=index, said=[box(score=float(rng.uniform(low, low + 0.15)))])
        said = plain.prediction.model_copy(update={"novelty": float(rng.normal(novelty, 0.1))})
        truth = GroundTruth(
            source="s/n/camera", frame=plain.input.record.id, camera=plain.stream, index=index,
            captured=said.captured, width=said.width, height=said.height, boxes=(),
        )  # fmt: skip
        moments.append(
            Moment(
                example=Example(input=plain.input, prediction=said),
                truth=truth,
                drifted=drifted,
                wrong=1.0 if drifted else 0.0,
            )
        )
    return Stream("made up", 0, Path(), tuple(moments))


def test_no_rule_sends_more_than_its_budget_and_ours_saves_it_for_the_change() -> None:
    rows = {(row.rule, row.budget): row for row in measure_mining(stream())}
    for row in rows.values():
        assert row.sent <= row.budget + 1e-9
    for budget in BUDGETS:
        best = budget * 400 / 100  # so many errors fit
        assert rows[ORACLE, budget].recall == pytest.approx(best)
        assert rows[OURS, budget].recall > 0.8 * best
        assert rows["random", budget].recall == pytest.approx(budget, abs=0.02)
        for rule in RULES:
            assert rows[rule, budget].recall <= best + 1e-9


def test_the_oracle_too_can_only_send_what_has_been_saved_up() -> None:
    first_wrong = Stream("made up", 0, Path(), tuple(reversed(stream().moments)))
    rows = {row.budget: row for row in measure_mining(first_wrong) if row.rule == ORACLE}
    assert rows[0.10].recall == pytest.approx(10 / 100)  # of the first hundred frames a tenth


def test_a_summary_is_a_mean_over_seeds() -> None:
    moments = stream(home=40, away=10).moments
    rows = [
        row
        for seed in (0, 1)
        for row in measure_mining(Stream("made up", seed, Path(), moments), budgets=[0.1])
    ]
    means = summarise(rows)
    one, two = (row.recall for row in rows if row.rule == "random")
    assert means["made up", "random", 0.1] == pytest.approx((one + two) / 2)
    table = mining_table(measure_mining(stream()))
    assert table.row_count == len(RULES) + 5


def test_labels_do_not_overlap() -> None:
    placed = _apart({"b": 0.11, "a": 0.1, "c": 0.5}, 0.05)
    assert placed == pytest.approx({"a": 0.1, "b": 0.15, "c": 0.5})


def test_a_change_that_is_there_is_noticed_and_none_that_is_not() -> None:
    found = measure_drift(stream(), stationary=1000)
    adwin = [row for row in found if row.detector == "adwin"]
    assert {row.statistic for row in adwin} == {"confidence", "novelty"}
    for row in adwin:
        assert row.delay is not None
        assert row.delay <= 50
        assert row.early == row.false_alarms == 0


def test_a_script_on_recordings_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs the folder of the test data: --data"):
        make_stream("infrared", seed=0, data=None, work=tmp_path, quick=True)


@pytest.mark.skipif("EDGEBUS_DATA" not in os.environ, reason="EDGEBUS_DATA is not set")
def test_a_car_park_that_repeats_is_quiet_and_its_dusk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_learning_quiet, "RECORDINGS", ("person-bicycle-car-detection.mp4",))
    monkeypatch.setattr(_learning_quiet, "EFFECTS", ("dusk",))
    [row] = _learning_quiet.measure_quiet(
        Path(os.environ["EDGEBUS_DATA"]), work=tmp_path, hours=0.5
    )
    assert row.frames == 459
    assert sum(row.alarms.values()) <= 2
    assert row.late == 0
    delay = row.delays["dusk"]
    assert delay is not None
    assert delay < 60
