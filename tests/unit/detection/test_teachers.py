"""Teachers: several that vote, thresholds that are measured, answers that do not hold."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from edgebus.contracts import StoredSample, teacher
from edgebus.samples import SampleFiles
from edgebus.serving import EngineSettings
from edgebus_detection.datasets import LabelBuilder
from edgebus_detection.labels import (
    Answer,
    Compared,
    Ensemble,
    Labelling,
    TaughtFrame,
    calibrate,
    fuse,
    inconsistent_boxes,
    open_teacher,
)
from edgebus_detection.labels.settings import LabelSettings
from edgebus_detection.messages import Box, BoxLabels, SourcedBox, Verdict
from edgebus_detection.models.testing import TINY_CLASSES, tiny_bundle
from edgebus_detection.vision import encode_jpeg
from retrainer_samples import START, sample, square

BY = teacher("e" * 64)


def box(label, x, y, *, size=10, score=0.9):
    return Box(label=label, x1=x, y1=y, x2=x + size, y2=y + size, score=score)


# Several that vote.


def test_what_enough_agree_on_is_one_box_between_theirs():
    answer = fuse(
        [[box("car", 0, 0, score=0.9)], [box("car", 2, 0, score=0.3)], []], min_agreeing=2
    )
    (fused,) = answer.boxes
    assert (fused.label, fused.score) == ("car", 0.6)
    assert (fused.x1, fused.x2) == pytest.approx((0.5, 10.5), abs=0.01)
    assert answer.unsure == ()


def test_what_too_few_have_seen_is_unsure():
    answer = fuse([[box("car", 0, 0)], [box("car", 30, 0)], []], min_agreeing=2)
    assert answer.boxes == ()
    assert sorted(each.x1 for each in answer.unsure) == [0, 30]


def test_who_is_outvoted_leaves_no_doubt_and_a_draw_does():
    outvoted = fuse([[box("car", 0, 0)], [box("car", 1, 0)], [box("bus", 0, 1)]], min_agreeing=2)
    assert ([each.label for each in outvoted.boxes], outvoted.unsure) == (["car"], ())
    draw = fuse([[box("car", 0, 0)], [box("bus", 0, 0)]], min_agreeing=2)
    assert draw.boxes == ()
    assert sorted(each.label for each in draw.unsure) == ["bus", "car"]


def test_two_boxes_of_one_teacher_are_two_objects():
    near = [box("car", 0, 0), box("car", 3, 0, score=0.8)]
    assert fuse([near, []], min_agreeing=2).boxes == ()
    assert len(fuse([near, near], min_agreeing=2).boxes) == 2


class Fake:
    """A teacher that says what it is told."""

    def __init__(self, answers, *, by=BY):
        self.by = by
        self.answers = answers
        self.asked = 0

    def answer(self, jpeg, *, key):
        self.asked += 1
        said = self.answers(key) if callable(self.answers) else self.answers
        return Answer(boxes=said)


def test_an_ensemble_asks_once_and_is_another_teacher_than_its_members(tmp_path):
    members = [Fake((box("car", 0, 0),)), Fake((box("car", 1, 0),), by=teacher("f" * 64))]
    both = Ensemble(members, min_agreeing=2, threshold=0.1, cache=tmp_path)
    answer = both.answer(b"", key="a")
    again = Ensemble(members[::-1], min_agreeing=2, threshold=0.1, cache=tmp_path)
    assert again.answer(b"", key="a") == answer
    assert [member.asked for member in members] == [1, 1]
    one = Ensemble(members, min_agreeing=1, threshold=0.1, cache=tmp_path)
    assert len({BY, both.by, one.by}) == 3


def test_settings_open_one_teacher_several_or_none(tmp_path):
    path = tiny_bundle(tmp_path / "one").path
    engine = EngineSettings(threads=1)

    def opened(**settings):
        return open_teacher(LabelSettings(**settings), cache=tmp_path / "cache", engine=engine)

    assert opened() is None
    assert opened(teacher=path, source="truth") is None
    one, two = opened(teacher=path), opened(teacher=path, teachers=(path,))
    jpeg = sample(3).jpeg
    assert sorted(each.label for each in one.answer(jpeg, key="a").boxes) == ["car", "person"]
    assert two.answer(jpeg, key="a").boxes == pytest.approx(one.answer(jpeg, key="a").boxes)
    assert two.by != one.by
    for wrong, words in (
        ({"teachers": (path,)}, "name the first as teacher"),
        ({"teacher": path, "min_agreeing": 2}, "more than the 1 teachers"),
    ):
        with pytest.raises(ValidationError, match=words):
            LabelSettings(**wrong)


# Thresholds that are measured.


def picture(*scores, right, label="car"):
    """One picture: boxes with these scores, of which those in `right` are really there."""
    said = [box(label, 20 * number, 0, score=score) for number, score in enumerate(scores)]
    return Compared(predicted=said, actual=[box(label, 20 * n, 0, score=None) for n in right])


def test_the_lowest_score_that_is_right_often_enough_is_chosen():
    pictures = [picture(0.9, 0.8, 0.6, 0.3, right=(0, 1, 2))] * 10
    found = calibrate(pictures, precision=0.95, fallback=0.5, min_boxes=30)["car"]
    assert (found.accept, found.why, found.precision, found.recall) == (0.6, "calibrated", 1, 1)
    lower = calibrate(pictures, precision=0.7, fallback=0.5, min_boxes=30)["car"]
    assert (lower.accept, lower.precision) == (0.3, 0.75)
    assert (lower.predicted, lower.actual) == (40, 30)


def test_too_few_boxes_keep_the_setting_and_say_how_good_it_was():
    found = calibrate([picture(0.9, 0.4, right=(0,))], precision=0.9, fallback=0.5, min_boxes=30)
    assert (found["car"].accept, found["car"].why) == (0.5, "too few")
    assert (found["car"].precision, found["car"].recall) == (1.0, 1.0)
    unseen = calibrate([picture(right=(0,))], precision=0.9, fallback=0.5, min_boxes=1)["car"]
    assert (unseen.why, unseen.precision, unseen.recall) == ("too few", None, 0.0)


def test_a_class_that_is_never_right_enough_is_not_believed():
    pictures = [picture(0.9, 0.8, right=())] * 40
    found = calibrate(pictures, precision=0.5, fallback=0.5, min_boxes=30)["car"]
    assert (found.accept, found.why, found.precision, found.actual) == (None, "never", None, 0)


def test_a_second_box_on_the_same_object_is_wrong_and_so_is_another_class():
    car = [box("car", 0, 0)]
    twice = Compared(predicted=[*car, box("car", 1, 0, score=0.8)], actual=car)
    other = Compared(predicted=[box("bus", 0, 0)], actual=car)
    found = calibrate([twice] * 20, precision=0.9, fallback=0.5, min_boxes=30)["car"]
    assert (found.accept, found.recall) == (0.9, 1.0)
    wrong = calibrate([other] * 40, precision=0.9, fallback=0.5, min_boxes=30)
    assert wrong["bus"].why == "never"
    assert wrong["car"].why == "too few"


def test_equal_scores_stand_or_fall_together():
    pictures = [picture(0.9, right=(0,))] * 20 + [picture(0.5, right=(0,)), picture(0.5, right=())]
    found = calibrate(pictures, precision=0.97, fallback=0.5, min_boxes=20)["car"]
    assert found.accept == 0.9


# Answers that do not hold.


def seen(*sure, unsure=(), grey=None):
    plain = np.full((48, 64), 90, np.uint8) if grey is None else grey
    return TaughtFrame(grey=plain, factor=1.0, sure=sure, unsure=unsure)


@pytest.mark.parametrize(
    ("other", "flipped"),
    [
        (seen(box("car", 1, 0)), ([], [])),
        (seen(), ([0], [])),
        (seen(unsure=[box("car", 0, 0, score=0.2)]), ([], [])),
        (seen(unsure=[box("bus", 0, 0, score=0.2)]), ([], [])),
        (seen(box("bus", 0, 0)), ([0], [0])),
        (seen(box("car", 30, 0)), ([0], [0])),
    ],
)
def test_the_same_pixels_and_another_answer_is_a_flip(other, flipped):
    assert inconsistent_boxes(seen(box("car", 0, 0)), other, tolerance=4) == flipped


def test_where_something_moved_another_answer_is_no_flip():
    moved = np.full((48, 64), 90, np.uint8)
    moved[:10, :10] = 140
    assert inconsistent_boxes(seen(box("car", 0, 0)), seen(grey=moved), tolerance=4) == ([], [])
    noise = np.random.default_rng(0).integers(-3, 4, (48, 64)) + 90
    noisy = seen(grey=noise.astype(np.uint8))
    assert inconsistent_boxes(seen(box("car", 0, 0)), noisy, tolerance=4) == ([0], [])
    other_size = seen(grey=np.full((24, 32), 90, np.uint8))
    assert inconsistent_boxes(seen(box("car", 0, 0)), other_size, tolerance=4) == ([], [])


# All of it, for a job.


class World:
    """Samples on disk, labelled with a `Labelling`."""

    def __init__(self, folder):
        self.folder = folder
        self.pictures = SampleFiles(folder / "samples")

    def file(self, each, *, labels=None):
        digest = self.pictures.put(each.jpeg)
        return StoredSample(id=each.record.id, path=self.pictures.path(digest), labels=labels)

    def labelling(self, who=None, /, **settings):
        return Labelling(
            LabelBuilder(TINY_CLASSES, {"automobile": "car"}),
            LabelSettings(**settings),
            who,
            total=10,
            on_picture=lambda done, total: None,
            log=self.folder / "job" / "labels.jsonl",
        )


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def by_ann(*boxes):
    claims = tuple(SourcedBox(box=each, by="operator:ann") for each in boxes)
    return BoxLabels(labels=claims, by="operator:ann", time=START)


CAR = square("car", 1, 1)


def test_a_teacher_is_asked_only_where_nobody_else_knows(world):
    fake = Fake((box("automobile", 0, 0), box("car", 20, 0, score=0.2)))
    labelling = world.labelling(fake, flip_tolerance=None)
    files = [
        world.file(sample(0)),
        world.file(sample(1, truth=False), labels=by_ann(CAR)),
        world.file(sample(2, truth=False)),
    ]
    truth, spoken, taught = labelling.label(files)
    assert fake.asked == 1
    assert [each.provenance for each in (truth, spoken, taught)] == ["truth", "operator", "teacher"]
    assert spoken.truth.boxes.tolist() == [[8, 8, 16, 16]]
    assert (taught.truth.labels.tolist(), len(taught.truth.ignore)) == ([1], 1)
    report = labelling.report()
    assert report.inputs == {"operator": 1, "teacher": 1, "truth": 1}
    assert report.labels == {"truth": 2, "operator:ann": 1, BY: 1}
    assert (report.ignored, report.conflicts) == (1, {})
    lines = (world.folder / "job" / "labels.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    assert [line["source"] for line in said] == ["truth", "operator", "teacher"]
    assert said[2]["boxes"][0]["by"] == BY


def test_what_a_device_that_is_not_named_calls_truth_is_no_label(world):
    def sent_by(node, number):
        one = sample(number)
        source = f"lab/{node}/collector"
        return world.file(one.with_record(one.record.model_copy(update={"source": source})))

    files = [sent_by("pi-01", 0), sent_by("pi-evil", 1)]
    (believed,) = world.labelling(truth_from=("pi-01",)).label(files)
    assert believed.provenance == "truth"
    fake = Fake((box("automobile", 0, 0),))
    labelling = world.labelling(fake, truth_from=("pi-01",), flip_tolerance=None)
    assert [each.provenance for each in labelling.label(files)] == ["truth", "teacher"]
    # A person has agreed.
    said = world.file(sample(1), labels=by_ann(CAR))
    (spoken,) = world.labelling(truth_from=("pi-02",)).label([said])
    assert spoken.provenance == "operator"


def test_two_classes_of_one_object_are_one_label_and_counted(world):
    fake = Fake((box("person", 0, 0, score=0.6), box("automobile", 0, 1, score=0.8)))
    labelling = world.labelling(fake, flip_tolerance=None)
    (taught,) = labelling.label([world.file(sample(0, truth=False))])
    assert taught.truth.labels.tolist() == [1]
    assert labelling.report().conflicts == {"teacher over teacher: class": 1}
    (line,) = (world.folder / "job" / "labels.jsonl").read_text().splitlines()
    (conflict,) = json.loads(line)["conflicts"]
    assert "which it also calls person" in conflict


def test_operators_count_more_than_truth_and_conflicts_are_counted(world):
    labelling = world.labelling()
    (found,) = labelling.label([world.file(sample(0), labels=by_ann())])
    assert (found.provenance, found.truth.boxes.tolist()) == ("operator", [])
    assert labelling.report().conflicts == {"operator over truth: denied": 2}
    lines = (world.folder / "job" / "labels.jsonl").read_text().splitlines()
    assert len(json.loads(lines[0])["conflicts"]) == 2


def test_a_verdict_from_the_bus_corrects_the_teacher(world):
    each = sample(0, truth=False)
    verdict = Verdict(verdict="wrong_box", box=0, by="phone", time=START)
    told = {"feedback": (verdict,), "detections": (box("car", 0, 0),)}
    each = type(each).build(each.jpeg, each.record.model_copy(update=told))
    labelling = world.labelling(Fake((box("car", 0, 0),)))
    (found,) = labelling.label([world.file(each)])
    assert found.truth.boxes.tolist() == []
    assert labelling.report().conflicts == {"operator over teacher: denied": 1}


def test_a_verdict_outside_of_the_picture_is_left_out_and_named(world):
    each = sample(0)
    there = box("car", 300, 300)
    verdict = Verdict(verdict="missed", at=there, by="phone", time=START)
    told = each.record.model_copy(update={"feedback": (verdict,)})
    labelling = world.labelling()
    (found,) = labelling.label([world.file(type(each).build(each.jpeg, told))])
    assert len(found.truth.boxes) == 2
    (reason,) = labelling.unusable
    assert "operator:phone has a car at (300, 300), outside the picture of 64 x 48" in reason


def test_who_is_to_be_asked_is_a_setting_and_operators_count_in_any_case(world):
    fake = Fake((box("car", 0, 0),))
    files = [world.file(sample(0)), world.file(sample(1, truth=False), labels=by_ann(CAR))]
    taught = world.labelling(fake, source="teacher", teacher=Path("x")).label(files)
    assert [each.provenance for each in taught] == ["teacher", "operator"]
    only_truth = world.labelling(fake, source="truth")
    unlabelled = world.file(sample(2, truth=False))
    assert [each.provenance for each in only_truth.label([*files, unlabelled])] == [
        "truth",
        "operator",
    ]
    assert only_truth.waiting == [unlabelled.id]


def test_a_teacher_that_flips_between_equal_frames_is_not_believed_there(world):
    still = encode_jpeg(np.full((48, 64, 3), 90, np.uint8))
    names = ["frame 0", "frame 1", "frame 2"]
    files = [world.file(sample(n, truth=False, jpeg=still)) for n in range(len(names))]
    says = {files[0].path.stem: (box("car", 0, 0),), files[1].path.stem: ()}
    says[files[2].path.stem] = (box("person", 20, 0),)
    labelling = world.labelling(Fake(lambda key: says[key]))
    found = labelling.label(files)
    assert [each.truth.boxes.tolist() for each in found] == [[], [], []]
    assert [len(each.truth.ignore) for each in found] == [1, 0, 1]
    assert labelling.report().inconsistent == 2
    trusting = world.labelling(Fake(lambda key: says[key]), flip_tolerance=None)
    assert [len(each.truth.boxes) for each in trusting.label(files)] == [1, 0, 1]


def test_the_threshold_of_a_class_comes_from_where_truth_and_operators_tell(world):
    def says(key):
        # Right at 0.7, and beside it, at 0.5, a car that is not there.
        return (CAR.model_copy(update={"score": 0.7}), box("car", 40, 30, score=0.5))

    labelling = world.labelling(
        Fake(says), precision=0.9, calibrate_boxes=20, calibrate_images=30, flip_tolerance=None
    )
    known = [world.file(sample(n, boxes=(CAR,))) for n in range(20)]
    spoken = [world.file(sample(n, truth=False), labels=by_ann(CAR)) for n in range(20, 30)]
    labelling.calibrate([*known, *spoken, *(world.file(sample(n, truth=False)) for n in (40, 41))])
    (threshold,) = labelling.report().thresholds
    assert (threshold.label, threshold.accept, threshold.precision) == ("car", 0.7, 1.0)
    assert threshold.actual == 30
    (found,) = labelling.label([world.file(sample(50, truth=False))])
    assert found.truth.boxes.tolist() == [[8, 8, 16, 16]]
    assert len(found.truth.ignore) == 1
    plain = world.labelling(Fake(says), flip_tolerance=None)
    plain.calibrate(known)
    (both,) = plain.label([world.file(sample(50, truth=False))])
    assert len(both.truth.boxes) == 2


def test_missing_and_corrupt_files_are_named_and_the_others_are_labelled(world):
    gone, cut, fine = world.file(sample(0)), world.file(sample(1)), world.file(sample(2))
    gone.path.unlink()
    cut.path.write_bytes(cut.path.read_bytes()[:400])
    labelling = world.labelling(Fake(()), precision=0.9)
    labelling.calibrate([gone, cut, fine])
    assert [each.key for each in labelling.label([gone, cut, fine])] == [fine.id]
    assert [line.split(":")[0] for line in labelling.unusable] == [
        f"sample {gone.id}",
        f"sample {cut.id}",
    ]
