from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgebus_detection.emulation.drift import (
    EFFECTS,
    DriftScript,
    DriftStep,
    EffectName,
    condition_of,
)
from edgebus_detection.emulation.effects import Effects, move_boxes
from edgebus_detection.emulation.street import Scene
from edgebus_detection.messages import Box

SCENE = Scene(seed=1)
FRAME = SCENE.render(371)


def _apply(name: EffectName, strength: float, *, seed: int = 3, index: int = 371) -> np.ndarray:
    lights = SCENE.lights(371)
    image, _ = Effects(seed=seed).apply(
        FRAME.image, FRAME.boxes, {name: strength}, index=index, lights=lights
    )
    return image


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_repeats_itself_and_leaves_its_input_alone(name: EffectName) -> None:
    before = FRAME.image.copy()
    first, second = _apply(name, 0.7), _apply(name, 0.7)
    assert np.array_equal(first, second)
    assert np.array_equal(FRAME.image, before)
    assert first.shape == before.shape
    assert first.dtype == np.uint8


@pytest.mark.parametrize("name", EFFECTS)
def test_more_strength_changes_more(name: EffectName) -> None:
    changes = [
        np.abs(_apply(name, strength).astype(int) - FRAME.image).mean()
        for strength in (0.0, 0.2, 0.6, 1.0)
    ]
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert changes[-1] > 5


@pytest.mark.parametrize("name", ["dusk", "infrared", "noise"])
def test_noise_differs_from_frame_to_frame(name: EffectName) -> None:
    assert not np.array_equal(_apply(name, 1.0, index=1), _apply(name, 1.0, index=2))


@pytest.mark.parametrize("name", [name for name in EFFECTS if name != "moved"])
def test_only_a_moved_camera_moves_boxes(name: EffectName) -> None:
    _, boxes = Effects(seed=3).apply(FRAME.image, FRAME.boxes, {name: 1.0}, index=0)
    assert boxes == FRAME.boxes


def test_dusk_is_dark_and_blue_but_not_black() -> None:
    # Without lamps, so that only the light of the sky counts.
    image, _ = Effects(seed=3).apply(FRAME.image, [], {"dusk": 1.0}, index=0)
    assert 15 < image.mean() < 50
    assert image[:, :, 0].mean() > 1.4 * image[:, :, 2].mean()
    (box,) = (box for box in FRAME.boxes if box.label == "person")
    person = image[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)].astype(float)
    assert person.std() > 6


def test_lamps_light_the_dusk() -> None:
    dark, _ = Effects(seed=3).apply(FRAME.image, [], {"dusk": 1.0}, index=0)
    lit, _ = Effects(seed=3).apply(
        FRAME.image, [], {"dusk": 1.0}, index=0, lights=SCENE.lights(371)
    )
    assert lit.mean() > dark.mean() + 3
    assert (lit > 200).any()


def test_fog_hides_the_far_end_more() -> None:
    image = _apply("fog", 1.0)
    assert image[60:120].std() < 0.6 * FRAME.image[60:120].std()
    assert image[60:100].mean() > image[200:].mean()


def test_a_moved_camera_shows_no_border() -> None:
    """On a picture that is white inside, any border would be seen as it is drawn in."""
    white = np.full((240, 320, 3), 200, np.uint8)
    white[[0, -1], :] = white[:, [0, -1]] = 0
    for seed in range(8):
        for strength in (0.3, 1.0):
            image, _ = Effects(seed=seed).apply(white, [], {"moved": strength}, index=0)
            assert (image[4:-4, 4:-4] == 200).all()


@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_a_moved_camera(seed: int) -> None:
    """Coloured ellipses on black: the new box is the one around the new ellipse."""
    for centre, radii in (((160, 120), (30, 12)), ((90, 150), (10, 30)), ((220, 90), (20, 20))):
        image = np.zeros((240, 320, 3), np.uint8)
        y, x = np.mgrid[:240, :320]
        inside = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1
        image[inside] = 255
        box = Box(
            label="car",
            x1=centre[0] - radii[0],
            y1=centre[1] - radii[1],
            x2=centre[0] + radii[0],
            y2=centre[1] + radii[1],
        )
        moved, (new,) = Effects(seed=seed).apply(image, [box], {"moved": 1.0}, index=0)
        rows, columns = np.nonzero(moved[:, :, 0] > 127)
        assert abs(new.x1 - columns.min()) <= 2
        assert abs(new.x2 - columns.max() - 1) <= 2
        assert abs(new.y1 - rows.min()) <= 2
        assert abs(new.y2 - rows.max() - 1) <= 2


def test_boxes_that_leave_the_picture_are_left_out_and_others_are_clipped() -> None:
    boxes = [
        Box(label="car", x1=0, y1=0, x2=20, y2=20),
        Box(label="bus", x1=80, y1=0, x2=100, y2=20),
    ]
    shift = np.array([[1.0, 0.0, -16.0], [0.0, 1.0, 0.0]])
    (bus,) = move_boxes(boxes, shift, width=100, height=100)
    assert (bus.label, bus.x1, bus.x2) == ("bus", 64.0, 84.0)
    (car, _) = move_boxes(boxes, np.array([[1.0, 0, -10], [0, 1, 0]]), width=100, height=100)
    assert (car.x1, car.x2) == (0.0, 10.0)


@given(
    angle=st.floats(-0.5, 0.5),
    zoom=st.floats(0.5, 2),
    shift=st.tuples(st.floats(-200, 200), st.floats(-200, 200)),
    corner=st.tuples(st.floats(0, 300), st.floats(0, 220)),
    sides=st.tuples(st.floats(1, 200), st.floats(1, 200)),
)
def test_moved_boxes_stay_in_the_picture(
    angle: float,
    zoom: float,
    shift: tuple[float, float],
    corner: tuple[float, float],
    sides: tuple[float, float],
) -> None:
    box = Box(
        label="car", x1=corner[0], y1=corner[1], x2=corner[0] + sides[0], y2=corner[1] + sides[1]
    )
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    matrix = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])
    for moved in move_boxes([box], matrix, width=320, height=240):
        assert 0 <= moved.x1 < moved.x2 <= 320
        assert 0 <= moved.y1 < moved.y2 <= 240


@pytest.mark.parametrize("strengths", [{"dusk": 1.1}, {"fog": -0.1}, {"blur": float("nan")}])
def test_strengths_outside_0_to_1_are_refused(strengths: dict[EffectName, float]) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Effects(seed=0).apply(FRAME.image, [], strengths, index=0)


def test_unknown_effects_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no effect 'rain'; there are moved, fog, dusk"):
        Effects(seed=0).apply(FRAME.image, [], {"rain": 1.0}, index=0)  # type: ignore[dict-item]


def test_a_script_ramps_holds_and_returns() -> None:
    script = DriftScript(
        steps=(
            DriftStep(effect="dusk", start_s=60, ramp_s=10, to=0.4),
            DriftStep(effect="dusk", start_s=10, ramp_s=20, to=0.8),
            DriftStep(effect="fog", start_s=30, to=0.5),
        )
    )
    assert script.at(0) == {}
    assert script.at(10) == {}
    assert script.at(20) == {"dusk": pytest.approx(0.4)}
    assert script.at(30) == {"fog": 0.5, "dusk": pytest.approx(0.8)}
    assert script.at(65)["dusk"] == pytest.approx(0.6)
    assert script.at(1e6)["dusk"] == pytest.approx(0.4)


def test_a_step_takes_over_from_an_unfinished_one() -> None:
    script = DriftScript(
        steps=(
            DriftStep(effect="fog", start_s=0, ramp_s=10, to=1.0),
            DriftStep(effect="fog", start_s=5, ramp_s=5, to=0.0),
        )
    )
    assert script.at(4.99)["fog"] == pytest.approx(0.499)
    assert script.at(5)["fog"] == pytest.approx(0.5)
    assert script.at(7.5)["fog"] == pytest.approx(0.25)
    assert script.at(10) == {}


def test_effects_come_in_the_order_of_application() -> None:
    steps = tuple(DriftStep(effect=name) for name in reversed(EFFECTS))
    assert tuple(DriftScript(steps=steps).at(1)) == EFFECTS
    assert condition_of(DriftScript(steps=steps[-2:]).at(1)) == "moved+fog"
    assert condition_of({}, plain="day") == "day"


@pytest.mark.parametrize(
    "step",
    [{"effect": "rain"}, {"effect": "dusk", "to": 2}, {"effect": "dusk", "strength": 1},
     {"effect": "fog", "start_s": -1}],
)  # fmt: skip
def test_wrong_steps_are_refused(step: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DriftStep.model_validate(step)
