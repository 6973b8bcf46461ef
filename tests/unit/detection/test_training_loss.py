"""Assignment and loss: what each prediction is asked to say."""

import pytest
import torch

from edgebus_detection.training.yolox import Target, YoloxHead, decode_boxes, yolox_loss
from edgebus_detection.training.yolox.assign import assign, iou_of

HEAD = YoloxHead(height=64, width=96, classes=3, strides=(8, 16, 32))
ANCHORS = HEAD.anchors(torch.device("cpu"))


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def target(found=(), labels=(), ignore=()):
    return Target(boxes(*found), torch.tensor(labels, dtype=torch.int64), boxes(*ignore))


def encode(box, cell):
    """Raw prediction of a cell that gives a box: the inverse of `decode_boxes`."""
    corner, stride = ANCHORS.corners[cell], ANCHORS.strides[cell, 0]
    box = torch.tensor(box)
    centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    return torch.cat([centre / stride - corner, (size / stride).log()])


def cells_at(x, y):
    """The cell of each level that holds a point."""
    inside = (ANCHORS.corners * ANCHORS.strides <= torch.tensor([x, y])).all(1) & (
        (ANCHORS.corners + 1) * ANCHORS.strides > torch.tensor([x, y])
    ).all(1)
    return inside.nonzero()[:, 0].tolist()


def quiet(batch=1, objectness=-4.0):
    """Predictions of one small box in each cell, that nobody believes in."""
    raw = torch.zeros(batch, HEAD.predictions, 8)
    raw[..., 4] = objectness
    return raw


def test_the_head_counts_its_cells():
    assert HEAD.predictions == 8 * 12 + 4 * 6 + 2 * 3 == len(ANCHORS.centres)
    # Row by row, levels in order.
    assert ANCHORS.centres[1].tolist() == [12.0, 4.0]
    assert ANCHORS.centres[12].tolist() == [4.0, 12.0]
    assert ANCHORS.centres[96].tolist() == [8.0, 8.0]


def test_boxes_survive_encoding():
    box = [10.0, 12.0, 50.0, 40.0]
    for cell in (0, 30, 100, 121):
        decoded = decode_boxes(encode(box, cell), _one(cell))
        torch.testing.assert_close(decoded, torch.tensor([box]), rtol=1e-4, atol=1e-3)


def _one(cell):
    return type(ANCHORS)(ANCHORS.corners[cell : cell + 1], ANCHORS.strides[cell : cell + 1])


def test_overlap_of_pairs():
    first = boxes((0, 0, 10, 10), (5, 5, 5, 9))
    second = boxes((0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 30, 30))
    found = iou_of(first[:, None], second)
    torch.testing.assert_close(found[0], torch.tensor([1.0, 1 / 3, 0.0]))
    assert found[1].tolist() == [0.0, 0.0, 0.0]


def assigned(raw, truth):
    return assign(
        predicted=decode_boxes(raw[..., :4], ANCHORS),
        objectness=raw[..., 4],
        classes=raw[..., 5:],
        anchors=ANCHORS,
        boxes=truth.boxes,
        labels=truth.labels,
    )


def test_a_box_takes_the_predictions_that_fit_it():
    box = [14.0, 14.0, 50.0, 50.0]
    good = cells_at(33.0, 33.0)
    raw = quiet()[0]
    for cell in good:
        raw[cell, :4] = encode(box, cell)
    found = assigned(raw, target([box], [1]))
    # Three predictions fit perfectly (the sum of the best overlaps is a little over 3).
    assert set(good) <= set(found.predictions.tolist())
    assert len(found.predictions) <= 5
    assert found.boxes.unique().tolist() == [0]
    torch.testing.assert_close(found.iou.max(), torch.tensor(1.0))


def test_of_equal_boxes_the_class_decides():
    box = [14.0, 14.0, 50.0, 50.0]
    raw = quiet(objectness=2.0)[0]
    right, wrong = cells_at(28.0, 28.0)[0], cells_at(36.0, 36.0)[0]
    for cell, label in ((right, 2), (wrong, 0)):
        raw[cell, :4] = encode(box, cell)
        raw[cell, 5:] = -4.0
        raw[cell, 5 + label] = 4.0
    raw[:, :2] += 1e-4
    only = assigned(raw, target([box], [2]))
    order = dict(zip(only.predictions.tolist(), only.iou.tolist(), strict=True))
    assert right in order
    # Two boxes of two classes at one place: each takes its own prediction.
    both = assigned(raw, target([box, box], [2, 0]))
    owner = dict(zip(both.predictions.tolist(), both.boxes.tolist(), strict=True))
    assert owner[right] == 0
    assert owner[wrong] == 1


def test_every_box_gets_a_prediction_and_no_prediction_two_boxes():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        corner = torch.rand(6, 2, generator=generator) * torch.tensor([80.0, 50.0])
        size = torch.rand(6, 2, generator=generator) * 30 + 6
        truth = Target(
            torch.cat([corner, corner + size], 1),
            torch.randint(0, 3, (6,), generator=generator),
            boxes(),
        )
        raw = torch.randn(HEAD.predictions, 8, generator=generator)
        found = assigned(raw, truth)
        assert len(found.predictions) == len(found.predictions.unique()) > 0
        assert len(found.predictions) <= 60


def test_a_box_outside_the_picture_takes_nothing():
    found = assigned(quiet()[0], target([(500, 500, 540, 540)], [0]))
    assert len(found.predictions) == 0


def test_empty_pictures_are_negatives():
    raw = quiet(2, objectness=0.0).requires_grad_()
    parts = yolox_loss(raw, [target(), target()], ANCHORS)
    assert parts.parts["matched"] == 0
    # ln 2 for each of the undecided predictions of a picture.
    assert float(parts.total.detach()) == pytest.approx(HEAD.predictions * 0.6931, rel=1e-3)
    parts.total.backward()
    assert bool((raw.grad[..., 4] > 0).all())
    assert bool((raw.grad[..., :4] == 0).all())


def test_nothing_is_said_of_ignore_regions():
    region = (0.0, 0.0, 40.0, 40.0)
    raw = quiet(1, objectness=0.0).requires_grad_()
    yolox_loss(raw, [target(ignore=[region])], ANCHORS).total.backward()
    inside = (ANCHORS.centres < 40).all(1)
    assert bool((raw.grad[0, inside, 4] == 0).all())
    far = (ANCHORS.centres > 60).any(1)
    assert bool((raw.grad[0, far, 4] > 0).all())


def test_a_prediction_that_reaches_into_an_ignore_region_is_not_judged():
    region = (8.0, 8.0, 40.0, 40.0)
    outside = cells_at(45.0, 20.0)[0]
    raw = quiet(1, objectness=0.0)
    raw[0, outside, :4] = encode([10.0, 10.0, 42.0, 42.0], outside)
    raw.requires_grad_()
    yolox_loss(raw, [target(ignore=[region])], ANCHORS).total.backward()
    assert float(raw.grad[0, outside, 4]) == 0.0


def test_a_true_box_in_an_ignore_region_is_still_learnt():
    box = (16.0, 16.0, 40.0, 40.0)
    raw = quiet(1, objectness=0.0).requires_grad_()
    parts = yolox_loss(raw, [target([box], [0], [(0.0, 0.0, 64.0, 64.0)])], ANCHORS)
    parts.total.backward()
    assert parts.parts["matched"] > 0
    assert int((raw.grad[0, :, 4] < 0).sum()) == parts.parts["matched"]


def test_a_perfect_answer_costs_next_to_nothing():
    box = [14.0, 14.0, 50.0, 50.0]
    raw = quiet(1, objectness=-12.0)
    good = cells_at(33.0, 33.0)
    for cell in good:
        raw[0, cell] = torch.cat([encode(box, cell), torch.tensor([12.0, -12.0, 12.0, -12.0])])
    # Elsewhere nothing overlaps, so that just the three are asked for.
    rest = [cell for cell in range(HEAD.predictions) if cell not in good]
    raw[0, rest, 2:4] = -6.0
    parts = yolox_loss(raw, [target([box], [1])], ANCHORS)
    assert parts.parts["matched"] == len(good)
    assert float(parts.total) < 1e-2
    moved = raw.clone()
    moved[0, good, 0] += 0.5
    assert float(yolox_loss(moved, [target([box], [1])], ANCHORS).total) > 0.5
