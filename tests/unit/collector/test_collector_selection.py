import cv2
import numpy as np
import pytest

from collector_examples import box, detections, example, frame, picture, truth
from edgebus.contracts import split_of
from edgebus.mining.near_duplicates import NearDuplicates
from edgebus_collector import CollectorSettings
from edgebus_collector.budget import Budget, BudgetSettings, TokenBucket
from edgebus_collector.joining import Joiner
from edgebus_collector.selection import Choice, Selector, Suppressed, share_of
from edgebus_detection import Detection
from edgebus_detection.messages import Sample
from edgebus_detection.vision import ImageError, difference_hash

TRAIN = [index for index in range(400) if split_of("front", index) == "train"]
HOLDOUT = [index for index in range(400) if split_of("front", index) == "holdout"]


def selector(*, holdout_share=1.0, audit_share=0.0, per_minute=600.0, distance=-1):
    return Selector(
        CollectorSettings(
            policies={"truth": {}},
            budget={"samples_per_minute": per_minute, "bytes_per_hour": 1e9},
            duplicate_distance=distance,
            duplicate_memory=32,
            holdout_share=holdout_share,
            audit_share=audit_share,
        )
    )


def test_wrong_frames_for_training_are_chosen_and_right_ones_are_not():
    select = selector()
    wrong = select.decide(example(true=[box()], index=TRAIN[0]), now=0)
    assert isinstance(wrong, Choice)
    assert (wrong.policy, wrong.split, wrong.score) == ("truth", "train", 1.0)
    assert select.decide(example(index=TRAIN[1], true=[]), now=0) is None


def test_held_out_frames_are_drawn_by_share_whatever_the_policy_says():
    select = selector(holdout_share=0.3, per_minute=1e6)
    right = [select.decide(example(index=i, true=[]), now=0) for i in HOLDOUT]
    wrong = [select.decide(example(index=i, true=[box()]), now=0) for i in HOLDOUT]
    assert [c is None for c in right] == [c is None for c in wrong]
    drawn = [c for c in right if c is not None]
    assert 0.15 * len(HOLDOUT) < len(drawn) < 0.45 * len(HOLDOUT)
    assert {(c.policy, c.split) for c in drawn} == {("audit", "holdout")}


def test_the_audit_includes_easy_training_frames():
    select = selector(audit_share=1.0)
    choice = select.decide(example(index=TRAIN[0], true=[]), now=0)
    assert (choice.policy, choice.split) == ("audit", "train")


def test_shares_are_even():
    shares = [share_of("front", index) for index in range(4000)]
    assert np.histogram(shares, bins=4, range=(0, 1))[0].min() > 900


def test_near_duplicates_are_suppressed_per_camera_and_split():
    select = selector(distance=4)
    jpeg = picture(7)
    first = example(true=[box()], index=TRAIN[0], jpeg=jpeg)
    assert isinstance(select.decide(first, now=0), Choice)
    again = select.decide(example(true=[box()], index=TRAIN[1], jpeg=jpeg), now=0)
    assert again == Suppressed(cause="duplicate", policy="truth")
    back = next(i for i in range(400) if split_of("back", i) == "train")
    other = example(true=[box()], index=back, camera="back", jpeg=jpeg)
    assert isinstance(select.decide(other, now=0), Choice)
    held_out = example(true=[box()], index=HOLDOUT[0], jpeg=jpeg)
    assert isinstance(select.decide(held_out, now=0), Choice)


def test_ten_thousand_near_identical_samples_stay_one():
    seen = NearDuplicates(distance=6, memory=16)
    value = difference_hash(picture(1))
    taken = 0
    for number in range(10_000):
        noisy = value.copy()
        noisy[number % 4] ^= np.uint64(1 << (number % 64))
        if not seen.seen("front", noisy):
            seen.remember("front", noisy)
            taken += 1
    assert taken == 1


def test_the_hash_survives_noise_and_brightness_but_not_another_scene():
    image = cv2.imdecode(np.frombuffer(picture(3), np.uint8), cv2.IMREAD_COLOR)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    darker = np.clip(image * 0.8 + noise, 0, 255).astype(np.uint8)
    same = difference_hash(cv2.imencode(".jpg", darker)[1].tobytes())
    near = np.bitwise_count(difference_hash(picture(3)) ^ same).sum()
    far = np.bitwise_count(difference_hash(picture(3)) ^ difference_hash(picture(4))).sum()
    assert near < 16 < 80 < far


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xd9", picture()[:60]])
def test_a_picture_that_cannot_be_decoded_says_so(data):
    with pytest.raises(ImageError, match=f"{len(data)} bytes: "):
        difference_hash(data)


def make_budget(**settings):
    return Budget(BudgetSettings(**settings))


def take(budget, *, size=1, kind="train", camera="front", now=0):
    return budget.take(size=size, kind=kind, stream=camera, now=now)


def test_the_budget_refills_with_time_and_keeps_the_held_out_share():
    budget = make_budget(samples_per_minute=8, bytes_per_hour=1e9, holdout_share=0.25)
    assert [take(budget, size=1, kind="train", now=0) for _ in range(7)] == [True] * 6 + [False]
    assert [take(budget, size=1, kind="holdout", now=0) for _ in range(3)] == [True] * 2 + [False]
    assert not take(budget, size=1, kind="train", now=9)
    assert take(budget, size=1, kind="train", now=10)
    assert not take(budget, size=1, kind="holdout", now=20)
    assert take(budget, size=1, kind="holdout", now=30)


def test_the_budget_counts_bytes_and_lets_a_large_picture_through_once():
    budget = make_budget(samples_per_minute=1e6, bytes_per_hour=4000, holdout_share=0.5)
    assert budget.take(
        size=1500, kind="train", stream="front", now=0
    )  # 500 saved up: goes 1000 into debt
    assert not take(budget, size=1, kind="train", now=1000)
    assert take(budget, size=1, kind="train", now=1900)


def test_a_clock_that_steps_back_gives_nothing():
    bucket = TokenBucket(rate=1, capacity=10)
    assert bucket.available(100) == 10
    bucket.spend(10)
    assert bucket.available(50) == 0
    assert bucket.available(101) == 1


def test_a_bucket_that_lets_nothing_through_is_refused():
    with pytest.raises(ValueError, match="lets nothing through"):
        TokenBucket(rate=0, capacity=1)


def test_over_budget_is_told_from_duplicate():
    select = selector(per_minute=2)
    assert isinstance(select.decide(example(true=[box()], index=TRAIN[0]), now=0), Choice)
    second = select.decide(example(true=[box()], index=TRAIN[1]), now=0)
    assert second == Suppressed(cause="budget", policy="truth")


def test_a_command_takes_the_next_frame_of_its_camera_without_budget():
    select = selector(per_minute=1e-9, distance=256)
    select.ask("front")
    assert select.decide(example(true=[], index=0, camera="back"), now=0) is None
    choice = select.decide(example(true=[], index=TRAIN[0]), now=0)
    assert choice.policy == "command"
    assert select.decide(example(true=[], index=TRAIN[1]), now=0) is None


def test_a_sample_is_the_frames_picture_with_its_own_record():
    said, true = box(score=0.4), box("person")
    chosen = selector().decide(example(said=[said], true=[true], index=TRAIN[0]), now=0)
    sample = Detection().sample(chosen.example, chosen.facts() | {"source": "lab/pi-01/collector"})
    back = Sample.decode(sample.encode())
    assert back.record == sample.record
    assert back.record.detections == (said,)
    assert back.record.truth == (true,)
    assert back.record.input == chosen.example.input.record.id
    plain = cv2.imdecode(np.frombuffer(back.jpeg, np.uint8), cv2.IMREAD_COLOR)
    frame_jpeg = np.frombuffer(chosen.example.input.jpeg, np.uint8)
    assert (plain == cv2.imdecode(frame_jpeg, cv2.IMREAD_COLOR)).all()


def joiner(frames=8, size=10**6):
    return Joiner(inputs=frames, size=size)


def test_parts_join_in_any_order():
    of = frame()
    first = joiner()
    assert first.add_truth(truth(of)) == []
    assert first.add_input(of) == []
    (done,) = first.add_prediction(detections(of))
    assert done.truth is not None
    second = joiner()
    second.add_truth(truth(frame(index=9)))
    assert second.add_prediction(detections(of)) == []
    assert second.add_input(of) == []
    (late,) = second.add_truth(truth(of))
    assert late.input is of
    assert second.pending == 1


def test_a_camera_without_truth_is_not_waited_for():
    of = frame()
    join = joiner()
    join.add_input(of)
    (done,) = join.add_prediction(detections(of))
    assert done.truth is None
    assert join.pending == 0


def test_a_lost_truth_delays_a_frame_but_does_not_lose_it():
    join = joiner(frames=3)
    join.add_truth(truth(frame(index=0)))
    of = frame(index=1)
    join.add_input(of)
    assert join.add_prediction(detections(of)) == []
    done = [e for i in range(2, 6) for e in join.add_input(frame(index=i))]
    assert [(e.index, e.truth) for e in done] == [(1, None)]


def test_buffers_are_bounded_in_frames_and_bytes():
    join = joiner(frames=4)
    for index in range(10):
        join.add_input(frame(index=index))
    assert join.pending == 4
    assert join.expired == 6
    one = len(frame().jpeg)
    small = joiner(frames=100, size=3 * one)
    for _ in range(10):
        small.add_input(frame(index=0))
    assert small.pending <= 3


def test_a_frame_delivered_twice_is_counted_once():
    join = joiner(size=3 * len(frame().jpeg))
    of = frame()
    for _ in range(10):
        join.add_input(of)
    assert join.pending == 1
    assert join.expired == 0


def test_a_camera_that_floods_gets_its_share_and_no_more():
    budget = make_budget(samples_per_minute=60, bytes_per_hour=1e9, holdout_share=0.25)
    sent = {"flood": 0, "a": 0, "b": 0}
    for second in range(3600):
        # Twenty a second from one, one in ten seconds from each of the others.
        for _ in range(20):
            sent["flood"] += take(budget, camera="flood", now=second)
        if second % 10 == 0:
            for camera in ("a", "b"):
                sent[camera] += take(budget, camera=camera, now=second)
    assert sent["a"] >= 0.95 * 360
    assert sent["b"] >= 0.95 * 360
    # A third of three quarters of 60 a minute, and what is saved up at first.
    assert 15 * 60 <= sent["flood"] <= 15 * 60 + 60


def test_a_camera_that_is_alone_has_everything():
    budget = make_budget(samples_per_minute=60, bytes_per_hour=1e9, holdout_share=0.25)
    take(budget, camera="other", now=0)
    sent = sum(take(budget, now=second / 2) for second in range(2 * 7200))
    assert sent >= 0.9 * 45 * 120
    # Names alone take nothing away in the long run, and no memory.
    for number in range(1000):
        take(budget, camera=f"c{number}", now=7200)
    assert sum(take(budget, now=8000 + second) for second in range(600)) >= 0.9 * 450


def test_an_hourly_budget_is_spent_evenly_where_it_shall():
    def sent(**changes):
        budget = make_budget(
            samples_per_minute=600,
            samples_per_hour=120,
            bytes_per_hour=1e9,
            holdout_share=0.5,
            **changes,
        )
        # A burst of ten minutes, then one frame a minute.
        burst = sum(take(budget, now=second) for second in range(600))
        return burst, sum(take(budget, now=60 * minute) for minute in range(10, 60))

    assert sent() == (24, 50)  # 15 saved up, and one a minute
    burst, after = sent(burst_s=60)
    assert burst == 10
    assert after == 50


def test_the_audit_may_have_a_part_of_its_own():
    shared = make_budget(samples_per_minute=8, bytes_per_hour=1e9, holdout_share=0.25)
    assert sum(take(shared, kind="train") for _ in range(9)) == 6
    assert not take(shared, kind="audit")
    apart = make_budget(samples_per_minute=8, bytes_per_hour=1e9, audit_share=0.25)
    assert sum(take(apart, kind="train") for _ in range(9)) == 4
    assert sum(take(apart, kind="audit") for _ in range(9)) == 2


def test_ten_thousand_frames_that_are_all_alike_become_one_sample():
    select = selector(distance=8, per_minute=1e6)
    jpeg = picture(3)
    one = example(true=[box()], index=TRAIN[0], jpeg=jpeg)
    decisions = [select.decide(one, now=at / 10) for at in range(10_000)]
    assert sum(isinstance(decision, Choice) for decision in decisions) == 1
    assert {d.cause for d in decisions[1:]} == {"duplicate"}
