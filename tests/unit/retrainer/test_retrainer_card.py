"""Model cards: written for what was accepted and for what was refused, from what was measured."""

import xml.etree.ElementTree as ET

import pytest

from edgebus.artifacts import Bundle
from edgebus.training.job import CARD, run_job
from edgebus_detection.training.card import ModelCard
from edgebus_detection.training.curves import draw_curves
from retrainer_jobs import TRAIN, job, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def run(spec):
    return run_job(spec, threads=1, report=lambda _: None)


def test_an_accepted_version_has_a_card(world, tmp_path):
    outcome = run(job(world, tmp_path))
    card = ModelCard.model_validate_json((tmp_path / CARD / "card.json").read_bytes())
    assert (card.model, card.version, card.outcome) == ("tiny", 7, "accepted")
    assert card.gate == outcome.gate
    assert card.parent.digest == Bundle.open(world / "base").digest
    weights = Bundle.open(outcome.bundle).index.file("weights.safetensors").digest
    assert card.weights == weights
    assert len(card.losses) == 120
    new, replay, held_new, held_old = card.data
    assert (new.pictures, new.with_boxes) == (24, 24)
    assert new.sources == {"lab/pi-01/collector/front": 24}
    assert new.labels == {"truth": 24}
    assert new.boxes == {"person": 24, "car": 24}
    assert (replay.pictures, held_new.pictures, held_old.pictures) == (60, 12, 20)
    text = (tmp_path / CARD / "card.md").read_text()
    assert text.startswith("# tiny v7: accepted\n")
    assert "| new | 24 | 24 | truth 24 | lab/pi-01/collector/front 24 |" in text
    assert f"`{weights[:16]}`" in text
    after = outcome.gate.domains[0].decision.after
    assert f"| mAP50 | 0.000 | {after:.3f} | +{after:.3f} | 24 |" in text
    assert "**new domain**, 12 pictures, labels: truth; gain in mAP50 +" in text
    assert "None were set aside for early stopping: there were too few." in text
    assert "![Loss per step](curves.svg)" in text
    # Every table has as many cells in each row as in its head.
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") - row.count("\\|") for row in rows}) <= 1, block


def test_a_refused_candidate_has_one_too(world, tmp_path):
    few = TRAIN.model_copy(update={"steps": 2})
    outcome = run(job(world, tmp_path, settings=few))
    assert outcome.outcome == "refused"
    text = (tmp_path / CARD / "card.md").read_text()
    assert text.startswith("# tiny v7: refused\n")
    assert f"\n{outcome.reason}.\n" in text
    assert "| weights | none written |" in text


def test_pictures_that_were_set_aside_are_on_it(world, tmp_path):
    settings = TRAIN.model_copy(
        update={"validation_share": 0.5, "validation_min_items": 1, "patience": None}
    )
    run(job(world, tmp_path, settings=settings))
    card = ModelCard.model_validate_json((tmp_path / CARD / "card.json").read_bytes())
    assert card.validated_on > 0
    assert [step for step, _ in card.validation] == list(range(12, 121, 12))
    assert card.best_step in range(12, 121, 12)
    text = (tmp_path / CARD / "card.md").read_text()
    assert f"{card.validated_on} were set aside" in text
    assert f"the weights after step {card.best_step}" in text
    assert 'stroke="#b2182b" stroke-width="2"' in (tmp_path / CARD / "curves.svg").read_text()


def test_a_card_that_cannot_be_written_costs_no_version(world, tmp_path):
    (tmp_path / CARD).write_text("a file where the folder should be")
    outcome = run(job(world, tmp_path))
    assert outcome.outcome == "accepted"
    assert "the model card cannot be written" in outcome.unusable[-1]


@pytest.mark.parametrize(
    ("losses", "validation"),
    [([], []), ([1.5], []), ([0.0, 0.0], [(1, 0.0)]), ([9 / n for n in range(1, 2000)], [(5, 2)])],
    ids=["none", "one", "zero", "many"],
)
def test_curves_are_a_picture_whatever_there_is(losses, validation):
    drawn = draw_curves(losses, validation, resumed_at=1, best_step=1)
    root = ET.fromstring(drawn)
    assert root.tag.endswith("svg")
    numbers = [
        float(number)
        for line in root.iter("{http://www.w3.org/2000/svg}polyline")
        for point in line.attrib["points"].split()
        for number in point.split(",")
    ]
    assert all(0 <= number <= 720 for number in numbers)
    assert len(drawn) < 40_000
