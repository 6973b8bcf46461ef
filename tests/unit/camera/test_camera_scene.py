from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from edgebus_detection.emulation.street import CLASSES, Scene
from edgebus_detection.emulation.street.canvas import Canvas
from edgebus_detection.emulation.street.layout import make_layout


def test_a_frame_is_the_same_in_any_order_and_from_any_scene() -> None:
    forwards, backwards = Scene(seed=5), Scene(seed=5)
    indices = [0, 1, 77, 4000]
    first = {index: forwards.render(index) for index in indices}
    for index in reversed(indices):
        again = backwards.render(index)
        assert np.array_equal(again.image, first[index].image)
        assert again.boxes == first[index].boxes


def test_rendering_lights_in_between_changes_nothing() -> None:
    plain, lit = Scene(seed=5), Scene(seed=5)
    lit.lights(9)
    assert np.array_equal(plain.render(10).image, lit.render(10).image)


def test_seeds_give_other_streets() -> None:
    assert make_layout(1, width=320) != make_layout(2, width=320)
    difference = cv2.absdiff(Scene(seed=1).render(0).image, Scene(seed=2).render(0).image)
    assert difference.mean() > 10


@pytest.mark.parametrize("size", [(320, 240), (640, 360), (96, 128)])
def test_pictures_have_the_size_that_was_asked_for(size: tuple[int, int]) -> None:
    width, height = size
    frame = Scene(seed=3, width=width, height=height).render(30)
    assert frame.image.shape == (height, width, 3)
    assert frame.image.dtype == np.uint8
    for box in frame.boxes:
        assert 0 <= box.x1 < box.x2 <= width
        assert 0 <= box.y1 < box.y2 <= height


def test_every_class_passes_and_the_street_is_neither_empty_nor_crowded() -> None:
    labels: Counter[str] = Counter()
    counts = []
    for seed in (1, 2):
        scene = Scene(seed=seed)
        for index in range(0, 1200, 6):
            boxes = scene.render(index).boxes
            labels.update(box.label for box in boxes)
            counts.append(len(boxes))
    assert set(labels) == set(CLASSES)
    assert min(labels.values()) > 40
    assert 3.5 < np.mean(counts) < 6.5
    assert max(counts) <= 10


def test_things_move_as_fast_as_the_frame_rate_says() -> None:
    slow, quick = Scene(seed=4, fps=5), Scene(seed=4, fps=10)
    # The same moment of the same street: frame 20 at 5 fps is frame 40 at 10 fps.
    assert slow.render(20).boxes == quick.render(40).boxes


def test_boxes_are_where_something_was_drawn() -> None:
    """Inside its box, each object differs from the empty street; little differs elsewhere."""
    scene = Scene(seed=2)
    empty = scene._backdrop.image.copy()
    for item in scene._placed(0):
        if item.label is None:
            target, sprite = empty[item.window], item.sprite
            cv2.multiply(target, sprite.keep[item.part], dst=target, scale=1 / 255)
            cv2.add(target, sprite.colour[item.part], dst=target)
    checked = 0
    for index in range(0, 400, 40):
        frame = scene.render(index)
        changed = cv2.absdiff(frame.image, empty).max(axis=2) > 45
        outside = changed.copy()
        for box in frame.boxes:
            inside = slice(int(box.y1), int(box.y2)), slice(int(box.x1), int(box.x2))
            assert changed[inside].mean() > 0.2
            outside[inside] = False
            checked += 1
        # Objects that are mostly hidden or outside have no box.
        assert outside.mean() < 0.02
    assert checked > 20


def test_a_hidden_object_has_no_box() -> None:
    """Over time, labels are fewer than objects in view: something is always behind something."""
    scene = Scene(seed=1)
    hidden = 0
    for index in range(0, 1500, 5):
        placed = [item for item in scene._placed(index) if item.label is not None]
        shown = scene.render(index).boxes
        assert len(shown) <= len(placed)
        hidden += len(placed) - len(shown)
    assert hidden > 50


def test_the_box_of_a_covered_object_is_that_of_its_visible_part() -> None:
    scene = Scene(seed=1)
    for index in range(600):
        for box in scene.render(index).boxes:
            if box.label == "bus" and box.x1 == 0.0 and 20 < box.x2 < 60:
                return  # a bus that drives in is cut at the border
    pytest.fail("no bus ever drove in from the left")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 10}, "at least 64"),
        ({"height": 0}, "at least 64"),
        ({"fps": 0.0}, "positive"),
        ({"fps": float("nan")}, "positive"),
    ],
)
def test_impossible_scenes_are_refused(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scene(seed=0, **arguments)  # type: ignore[arg-type]


def test_a_sprite_is_solid_inside_and_clear_outside() -> None:
    canvas = Canvas(width=20, height=20, scale=1, origin=(10, 20))
    canvas.rectangle((10, 20, 30), -5, -10, 5, 0)
    sprite = canvas.sprite()
    assert sprite.anchor == (10, 20)
    assert sprite.area == 100
    assert sprite.mask[15, 10]
    assert not sprite.mask[5, 10]
    assert sprite.keep[15, 10].tolist() == [0, 0, 0]
    assert sprite.keep[5, 10].tolist() == [255, 255, 255]
    assert sprite.colour[15, 10].tolist() == [10, 20, 30]
