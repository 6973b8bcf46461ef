"""The procedural street as a source."""

from __future__ import annotations

from functools import partial

from edgebus_camera.sources.base import SourceFrame
from edgebus_detection.emulation.street import Scene


class StreetSource:
    """Endless pictures of a street, with their true boxes.

    Args:
        scene: The street; its frame rate is the source's.
    """

    live = False
    length = None

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    @property
    def fps(self) -> float:
        """The scene's frame rate."""
        return self._scene.fps

    def read(self, slot: int) -> SourceFrame:
        """Frame `slot` of the scene."""
        image, boxes, condition = self._scene.render(slot)
        lights = partial(self._scene.lights, slot)
        return SourceFrame(image, boxes, slot, condition, lights)

    def close(self) -> None:
        """Nothing to let go of."""
