"""What the first loop of this kind could not be set to: rates below one, and a refusal of none."""

from pathlib import Path

import pytest

from edgebus.service import SettingsError, load_settings
from edgebus_camera.pacing import Pacer
from edgebus_camera.settings import CameraSettings


def node_file(folder: Path, fps: str) -> Path:
    path = folder / "pi-07.yaml"
    path.write_text(
        f"site: lab\nnode: pi-07\ncamera:\n  cameras:\n    front: {{source: scene, fps: {fps}}}\n"
    )
    return path


@pytest.mark.parametrize(("fps", "interval"), [("0.5", 2.0), ("1", 1.0), ("7.5", 1 / 7.5)])
def test_a_rate_is_any_positive_number(fps, interval):
    pacer = Pacer(fps=float(fps), start=100.0)
    due = [pacer.next(100.0 + number * interval).due for number in range(4)]
    assert due == pytest.approx([100.0 + number * interval for number in range(4)])


@pytest.mark.parametrize("fps", ["0.5", "30"])
def test_a_file_may_say_it(tmp_path, fps):
    node, camera = load_settings("camera", config=node_file(tmp_path, fps), environment={})
    assert node.node == "pi-07"
    assert isinstance(camera, CameraSettings)
    assert camera.cameras["front"].fps == float(fps)


@pytest.mark.parametrize("fps", ["0", "-1", "fast"])
def test_another_is_refused_by_name(tmp_path, fps):
    with pytest.raises(SettingsError, match=r"camera\.cameras\.front\.fps"):
        load_settings("camera", config=node_file(tmp_path, fps), environment={})
