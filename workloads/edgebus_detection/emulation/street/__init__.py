"""A procedural street with exact ground truth.

Frame k is a pure function of seed, size, frame rate and k: frames can be drawn in any order, by any
number of processes, and are always the same.
"""

from edgebus_detection.emulation.street.scene import Lights, Scene, SceneFrame
from edgebus_detection.emulation.street.traffic import CLASSES

__all__ = ["CLASSES", "Lights", "Scene", "SceneFrame"]
