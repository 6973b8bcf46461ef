"""Who is right where operators, truth and a teacher contradict each other."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from edgebus.contracts import operator, teacher
from edgebus_detection.labels.label_sources import (
    LabelSources,
    count_conflicts,
    merge,
    settle_classes,
)
from edgebus_detection.messages import Box, BoxLabels, SourcedBox, Verdict
from edgebus_detection.vision import pair_boxes

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
TEACHER = teacher("f" * 64)


def box(label, x, y, *, size=10, score=None):
    return Box(label=label, x1=x, y1=y, x2=x + size, y2=y + size, score=score)


def by_ann(*boxes):
    claims = tuple(SourcedBox(box=each, by=operator("ann")) for each in boxes)
    return BoxLabels(labels=claims, by=operator("ann"), time=NOW)


def said(verdict, *, second=0, **fields):
    return Verdict(verdict=verdict, by="phone", time=NOW + timedelta(seconds=second), **fields)


CAR, FAR = box("car", 0, 0), box("car", 50, 50)


def test_nobody_said_anything():
    assert merge(LabelSources(verdicts=(said("missed", at=CAR),))) is None


def test_operators_overrule_truth_and_truth_overrules_the_teacher():
    voices = LabelSources(
        operator=by_ann(CAR), truth=(FAR,), teacher=(box("bus", 50, 50),), teacher_by=TEACHER
    )
    found = merge(voices)
    assert found.source == "operator"
    assert [(claim.box, claim.by) for claim in found.sourced] == [(CAR, "operator:ann")]
    assert count_conflicts(found.conflicts) == {
        "operator over truth: missing": 1,
        "operator over truth: denied": 1,
        "operator over teacher: missing": 1,
        "operator over teacher: denied": 1,
        "truth over teacher: class": 1,
    }
    words = [conflict.summary for conflict in found.conflicts]
    assert "operator:ann: no car at (55, 55), against truth" in words
    assert "operator:ann: car at (5, 5), which truth lacks" in words
    assert f"truth: car at (55, 55), which {TEACHER} calls bus" in words


def test_an_operator_who_says_that_nothing_is_there_is_believed():
    found = merge(LabelSources(operator=by_ann(), teacher=(CAR,), teacher_by=TEACHER))
    assert found.source == "operator"
    assert found.sourced == ()
    assert count_conflicts(found.conflicts) == {"operator over teacher: denied": 1}


def test_what_the_teacher_is_unsure_of_is_ignored_and_contradicts_nobody():
    alone = merge(LabelSources(teacher=(CAR,), unsure=(FAR,), teacher_by=TEACHER))
    assert (alone.source, alone.boxes, alone.ignore) == ("teacher", (CAR,), (FAR,))
    truth = merge(LabelSources(truth=(CAR, FAR), teacher=(CAR,), unsure=(FAR,), teacher_by=TEACHER))
    assert (truth.ignore, truth.conflicts) == ((), ())


def test_nearly_the_same_box_is_no_conflict():
    moved = box("car", 2, 1)
    assert merge(LabelSources(truth=(CAR,), teacher=(moved,), teacher_by=TEACHER)).conflicts == ()


def test_boxes_are_paired_by_class_first_and_once_only():
    mine = [box("car", 0, 0), box("person", 1, 1)]
    theirs = [box("person", 0, 0), box("car", 1, 1), box("car", 0, 0)]
    assert sorted(pair_boxes(mine, theirs)) == [(0, 2), (1, 0)]
    assert pair_boxes([], theirs) == []


@pytest.mark.parametrize(
    ("verdict", "labels", "conflict"),
    [
        (said("wrong_box", box=0), [], "operator over teacher: denied"),
        (said("label", box=0, label="bus"), ["bus"], "operator over teacher: class"),
        (said("label", at=box("bus", 0, 0)), ["bus"], "operator over teacher: class"),
        (said("missed", at=FAR), ["car", "car"], "operator over teacher: missing"),
        (said("missed", at=CAR), ["car"], None),
        (said("missed", label="car"), ["car"], None),
        (said("wrong"), ["car"], None),
        (said("wrong_box", box=7), ["car"], None),
    ],
)
def test_verdicts_on_single_boxes_correct_the_teacher(verdict, labels, conflict):
    voices = LabelSources(
        teacher=(CAR,),
        teacher_by=TEACHER,
        verdicts=(verdict,),
        detections=(box("car", 1, 0, score=0.6),),
    )
    found = merge(voices)
    assert [each.label for each in found.boxes] == labels
    assert dict(count_conflicts(found.conflicts)) == ({conflict: 1} if conflict else {})


def test_where_an_operator_sees_nothing_nothing_is_uncertain():
    voices = LabelSources(teacher=(), unsure=(CAR,), verdicts=(said("wrong_box", box=0),))
    assert merge(voices).ignore == (CAR,)
    pointed = LabelSources(
        teacher=(), unsure=(CAR,), verdicts=(said("wrong_box", box=0),), detections=(CAR,)
    )
    assert merge(pointed).ignore == ()


def test_the_last_verdict_on_a_box_counts_and_a_label_set_counts_more():
    verdicts = (said("wrong_box", box=0, second=2), said("label", box=0, label="bus", second=1))
    voices = LabelSources(truth=(CAR,), verdicts=verdicts, detections=(CAR,))
    assert merge(voices).boxes == ()
    whole = LabelSources(operator=by_ann(CAR), truth=(), verdicts=verdicts, detections=(CAR,))
    assert merge(whole).boxes == (CAR,)


@pytest.mark.parametrize("by", ["", "ann", "operator:", "operator: ", "teacher:a b"])
def test_a_claim_names_who_makes_it(by):
    with pytest.raises(ValidationError):
        SourcedBox(box=CAR, by=by)


@pytest.mark.parametrize(
    ("who", "by"),
    [
        ("ann", "operator:ann"),
        ("", "operator:unknown"),
        (" a\nb ", "operator:a b"),
        ("x" * 999, "operator:" + "x" * 120),
    ],
)
def test_a_name_may_come_from_anywhere(who, by):
    assert operator(who) == by
    verdict = said("missed", at=FAR).model_copy(update={"by": who})
    found = merge(LabelSources(truth=(CAR,), verdicts=(verdict,)))
    assert [claim.by for claim in found.sourced] == ["truth", by]


def test_an_object_that_a_teacher_gives_two_classes_has_the_surer_one():
    car, truck = box("car", 0, 0, score=0.5), box("truck", 0, 1, score=0.6)
    rider = box("person", 0, 4, score=0.9)
    sources = LabelSources().with_teacher(certain=(car, truck, rider), unsure=(), by=TEACHER)
    found = merge(sources)
    assert found.boxes == (truck, rider)
    assert count_conflicts(found.conflicts) == {"teacher over teacher: class": 1}
    (conflict,) = found.conflicts
    assert conflict.summary == f"{TEACHER}: truck at (5, 6), which it also calls car"
    # Somebody who knows better settles it anyhow.
    found = merge(replace(sources, truth=(CAR, box("person", 0, 4))))
    assert count_conflicts(found.conflicts) == {"truth over teacher: class": 1}


@pytest.mark.parametrize(
    ("boxes", "kept", "conflicts"),
    [
        ((), (), 0),
        ((CAR,), (0,), 0),
        ((CAR, FAR, box("bus", 0, 3)), (0, 1, 2), 0),
        ((box("car", 0, 0, score=0.4), box("car", 0, 1, score=0.8)), (1,), 0),
        (
            (
                box("bus", 0, 0, score=0.4),
                box("car", 0, 1, score=0.8),
                box("truck", 0, 1, score=0.6),
            ),
            (1,),
            2,
        ),
    ],
)
def test_each_object_has_one_class(boxes, kept, conflicts):
    found, lost = settle_classes(boxes, by=TEACHER)
    assert found == tuple(boxes[place] for place in kept)
    assert len(lost) == conflicts


def test_regions_to_ignore_are_no_objects_and_contradict_nobody():
    crowd = box("car", 48, 48, size=30).model_copy(update={"ignore": True})
    found = merge(LabelSources(truth=(CAR, crowd), teacher=(CAR, FAR), teacher_by=TEACHER))
    assert found.boxes == (CAR,)
    assert found.ignore == (crowd,)
    assert [each.by for each in found.regions] == ["truth"]
    assert found.conflicts == ()
