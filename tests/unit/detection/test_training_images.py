"""Pictures, augmentation, batches."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebus.training.finetune import Batches, NothingToTrainOnError, UnreadableItemError
from edgebus_detection.training import AugmentSettings
from edgebus_detection.training.yolox import LabelledImage, YoloxHead, YoloxObjective
from edgebus_detection.training.yolox.augment import Example, augment
from edgebus_detection.vision import Truth

NONE = AugmentSettings(flip=0, scale=0, translate=0, brightness=0, contrast=0)
WHITE = 250


class Same:
    """Model input of the picture's own size."""

    def to_input(self, boxes):
        return boxes


def prepare(image):
    return image.astype(np.float32).transpose(2, 0, 1)[None], Same()


def picture(boxes=(), size=(60, 80)):
    image = np.full((*size, 3), 20, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = WHITE
    return image


def labelled(name="a", boxes=(), source=None, ignore=None):
    source = cv2.imencode(".png", picture(boxes))[1].tobytes() if source is None else source
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    unknown = np.zeros((0, 4), np.float32) if ignore is None else ignore
    truth = Truth(corners, np.zeros(len(boxes), np.int64), unknown)
    return LabelledImage(name=name, source=source, truth=truth)


def batches(new, replay=(), **changes):
    augmentation = changes.pop("augmentation", NONE)
    head = YoloxHead(height=60, width=80, classes=1)
    objective = YoloxObjective(head=head, prepare=prepare, augmentation=augmentation)
    options = {"size": 4, "replay_share": 0.5, "seed": 0} | changes
    return Batches(new=new, replay=replay, objective=objective, **options)


def inputs(batch):
    return np.concatenate([row.inputs for row in batch.rows])


def test_pictures_are_decoded_when_asked_for(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", picture([(5, 5, 9, 9)]))[1].tobytes())
    assert labelled(source=path).load().shape == (60, 80, 3)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        labelled(source=path).load()


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff\xe0broken"])
def test_unreadable_pictures_are_named(data):
    with pytest.raises(UnreadableItemError, match="'front/3'"):
        labelled("front/3", source=data).load()


@pytest.mark.parametrize(
    ("boxes", "labels", "words"),
    [
        ([(1, 1, 5, 5)], [], "do not fit"),
        ([(5, 1, 5, 9)], [0], "no area"),
        ([(1, 1, float("nan"), 9)], [0], "no area"),
        ([(1, 1, 5)], [0], "do not fit"),
    ],
)
def test_labels_are_checked(boxes, labels, words):
    with pytest.raises(ValueError, match=words):
        LabelledImage("a", b"", Truth(np.array(boxes, np.float32), np.array(labels)))


def bright(image):
    """The box of what is bright."""
    rows, columns = np.nonzero(image[:, :, 0] > 135)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    x=st.integers(20, 40),
    y=st.integers(16, 30),
    width=st.integers(8, 16),
    height=st.integers(8, 14),
)
def test_boxes_stay_on_what_they_mark(seed, x, y, width, height):
    box = (x, y, x + width, y + height)
    example = Example(picture([box]), Truth(np.float32([box]), np.array([0]), np.float32([box])))
    strength = AugmentSettings(brightness=0.02, contrast=0.05)
    changed = augment(example, strength, np.random.default_rng(seed))
    assert changed.image.shape == example.image.shape
    seen = bright(changed.image)
    # Within the rounding of pixels.
    np.testing.assert_allclose(changed.truth.boxes[0], seen, atol=1.01)
    np.testing.assert_allclose(changed.truth.ignore[0], seen, atol=1.01)


def test_a_mirror_image_mirrors_exactly():
    box = (10, 5, 30, 25)
    example = Example(picture([box]), Truth(np.float32([box]), np.array([0])))
    changed = augment(example, NONE.model_copy(update={"flip": 1.0}), np.random.default_rng(0))
    np.testing.assert_array_equal(changed.image, example.image[:, ::-1])
    assert changed.truth.boxes.tolist() == [[50, 5, 70, 25]]


def test_without_any_change_nothing_changes():
    box = (10, 5, 30, 25)
    example = Example(picture([box]), Truth(np.float32([box]), np.array([2]), np.float32([box])))
    changed = augment(example, NONE, np.random.default_rng(0))
    np.testing.assert_array_equal(changed.image, example.image)
    np.testing.assert_array_equal(changed.truth.boxes, example.truth.boxes)
    assert changed.truth.labels.tolist() == [2]


def test_what_leaves_the_picture_is_neither_object_nor_background():
    # Three boxes: one stays, one is cut off at the border by more than allowed, one is gone.
    boxes = np.float32([(30, 20, 50, 40), (0, 20, 12, 40), (-30, 0, -10, 20)])
    example = Example(picture(), Truth(boxes, np.array([0, 1, 2])))
    left = AugmentSettings(flip=0, scale=0, translate=0.125, brightness=0, contrast=0)

    class Left:
        """Chance that always shifts by the full -10 pixels."""

        def random(self):
            return 0.5

        def uniform(self, low, high, size=None):
            return low if size is None else np.array([low, 0.0])

    changed = augment(example, left, Left())
    assert changed.truth.labels.tolist() == [0]
    np.testing.assert_allclose(changed.truth.ignore, [(0, 20, 2, 40)])


def test_batches_mix_new_and_replay():
    new = [labelled(f"n{i}", [(5, 5, 15, 15)]) for i in range(3)]
    source = batches(new, [labelled(f"r{i}") for i in range(5)], size=8)
    for _ in range(3):
        batch = source.next()
        assert inputs(batch).shape == (8, 3, 60, 80)
        # Replay pictures are the ones without boxes here.
        assert sum(len(row.truth.boxes) == 0 for row in batch.rows) == 4


def test_an_odd_share_is_right_over_time():
    new, replay = [labelled("n", [(5, 5, 15, 15)])], [labelled("r")]
    source = batches(new, replay, size=3, replay_share=0.25)
    drawn = [len(row.truth.boxes) == 0 for _ in range(8) for row in source.next().rows]
    assert sum(drawn) == 6


def test_every_picture_comes_before_any_comes_twice():
    new = [labelled(f"n{i}", [(5, 5, 15 + i, 15)]) for i in range(8)]
    source = batches(new, replay_share=0.0)
    widths = [row.truth.boxes[0, 2] for _ in range(2) for row in source.next().rows]
    assert sorted(widths) == [15 + i for i in range(8)]


def test_one_side_may_be_missing():
    assert len(batches([labelled()]).next().rows) == 4
    assert len(batches([], [labelled()]).next().rows) == 4


def test_equal_seeds_give_equal_batches():
    images = [labelled(f"n{i}", [(5, 5, 15 + i, 15)]) for i in range(8)]
    first, second, other = (
        batches(images, augmentation=AugmentSettings(), seed=seed).next() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(inputs(first), inputs(second))
    assert not np.array_equal(inputs(first), inputs(other))


def test_a_broken_picture_does_not_cost_the_run(tmp_path):
    source = batches(
        [
            labelled("good"),
            labelled("broken", source=b"xx"),
            labelled("gone", source=tmp_path / "x"),
        ]
    )
    source.next()
    source.next()
    assert sorted(source.unreadable) == ["broken", "gone"]


def test_nothing_but_broken_pictures_is_an_error():
    with pytest.raises(NothingToTrainOnError, match="broken"):
        batches([labelled("broken", source=b"xx")]).next()
    with pytest.raises(NothingToTrainOnError, match="collect samples"):
        batches([]).next()
