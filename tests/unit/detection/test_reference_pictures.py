"""What is normal at a user's cameras, as a reference in the model of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebus.artifacts import Bundle
from edgebus_detection.lab.reference_pictures import FIRST_FRAMES, with_reference
from edgebus_detection.models import DetectionModel, detection_spec
from edgebus_detection.models.testing import tiny_bundle
from edgebus_detection.vision import encode_jpeg


def pictures(folder: Path, *, count: int, low: int = 60, high: int = 200) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.integers(low, high, (48, 64, 3), dtype=np.uint8)
        (folder / f"{number:04d}.jpg").write_bytes(encode_jpeg(image, quality=95))
    return folder


def strangeness(bundle: Path, colour: tuple[int, int, int]) -> float:
    image = np.full((48, 64, 3), colour, np.uint8)
    found = DetectionModel.load(Bundle.open(bundle)).predict(image).novelty
    assert found is not None
    return found


def test_the_first_frames_of_recordings_are_normal(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "tiny")
    first = pictures(tmp_path / "first", count=FIRST_FRAMES + 5)
    # What comes later in the recording is none of it.
    (tmp_path / "view.txt").write_text("first\nlater\n")
    pictures(tmp_path / "later", count=30, low=0, high=20)
    said: list[str] = []
    home = with_reference(
        tmp_path / "tiny",
        sources=[str(tmp_path / "view.txt"), "rtsp://camera/stream"],
        replay=first,
        folder=tmp_path / "run" / "model",
        echo=said.append,
    )
    assert home == tmp_path / "run" / "model"
    assert said == [f"normal is what {FIRST_FRAMES} pictures show: the first frames of view.txt"]
    assert strangeness(home, (0, 0, 250)) > 10
    # The user's own bundle is left alone, and the new one is the same model.
    old, new = Bundle.open(tmp_path / "tiny"), Bundle.open(home)
    assert detection_spec(old.manifest).novelty is None
    assert old.manifest.version == new.manifest.version
    # Once more, with a reference in it: nothing is done, and nothing told.
    again = with_reference(
        home, sources=["none.mp4"], replay=None, folder=tmp_path / "other", echo=said.append
    )
    assert (again, len(said)) == (home, 1)


def test_of_a_day_and_a_night_in_one_list_the_day_is_normal(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "tiny")
    pictures(tmp_path / "day", count=60)
    pictures(tmp_path / "night", count=60, low=0, high=20)
    (tmp_path / "view.txt").write_text("day\nnight\n")
    said: list[str] = []
    home = with_reference(
        tmp_path / "tiny",
        sources=[str(tmp_path / "view.txt")],
        replay=None,
        folder=tmp_path / "model",
        echo=said.append,
    )
    assert said == ["normal is what 60 pictures show: the first frames of view.txt"]
    assert strangeness(home, (10, 10, 10)) > 10


def test_an_imported_model_is_replaced_where_it_is(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    tiny_bundle(model)
    replay = pictures(tmp_path / "replay", count=40)
    said: list[str] = []
    home = with_reference(model, sources=["0"], replay=replay, folder=model, echo=said.append)
    assert home == model
    assert said == ["normal is what 40 pictures show: the pictures of replay"]
    assert detection_spec(Bundle.open(model).manifest).novelty is not None


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("0", "what is normal here is not known"),
        ("few", "5 pictures are too few"),
        ("none.mp4", "0 pictures are too few"),
        ("broken.mp4", "0 pictures are too few"),
    ],
)
def test_without_pictures_the_model_stays_and_the_reason_is_told(
    tmp_path: Path, source: str, words: str
) -> None:
    tiny_bundle(tmp_path / "tiny")
    pictures(tmp_path / "few", count=5)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    said: list[str] = []
    home = with_reference(
        tmp_path / "tiny",
        sources=[source if source == "0" else str(tmp_path / source)],
        replay=None,
        folder=tmp_path / "model",
        echo=said.append,
    )
    assert home == tmp_path / "tiny"
    assert len(said) == 1
    assert words in said[0]
    assert not (tmp_path / "model").exists()
