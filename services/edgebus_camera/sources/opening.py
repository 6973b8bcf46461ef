"""Opening of the source that a camera's settings name, and the procedural street as one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import cv2

from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources.base import Source, SourceError, SourceFrame
from edgebus_camera.sources.folder import FolderSource
from edgebus_camera.sources.http import HttpSource
from edgebus_camera.sources.listing import ListSource
from edgebus_camera.sources.live import LiveSource
from edgebus_camera.sources.video import VideoSource
from edgebus_detection.datasets import read_mot
from edgebus_detection.datasets.coco import COCO_CLASSES
from edgebus_detection.emulation.street import Scene

DEFAULT_FPS: Final = 10.0
"""Frames per second of sources without a rate of their own."""

_STREET_SIZE: Final = (320, 240)


class StreetSource:
    """Endless pictures of a street, with their true boxes.

    Args:
        scene: The street; its frame rate is the source's.
    """

    live = False
    length = None
    trouble = ""

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


def open_source(settings: ViewSettings) -> Source:
    """Open the source that a camera's settings name.

    A live camera or an address is not connected to yet: it may be absent now and appear later.

    Raises:
        SourceError: It does not exist or cannot be read.
    """
    # What FFmpeg says of each damaged frame would fill the log; the sources report it once.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    source = settings.source
    if source == "scene":
        width, height = _street_size(settings)
        fps = settings.fps or DEFAULT_FPS
        return StreetSource(Scene(seed=settings.seed, width=width, height=height, fps=fps))
    if isinstance(source, str) and source.partition("://")[0] in {"http", "https"}:
        return HttpSource(source, loop=settings.loop, stride=settings.stride)
    if isinstance(source, int) or settings.is_live:
        return LiveSource(source)
    path = Path(source).expanduser()
    names = _names(settings)
    if path.is_dir():
        return FolderSource(
            path,
            loop=settings.loop,
            stride=settings.stride,
            truth=settings.truth,
            classes=names,
        )
    if path.suffix.lower() == ".txt":
        if settings.truth is not None:
            reason = "is a list, which has no truth; remove 'truth', or give a folder or a video"
            raise SourceError(source=str(path), reason=reason)
        return ListSource(path, loop=settings.loop, stride=settings.stride)
    truth = None
    if settings.truth is not None:
        truth = read_mot(settings.truth, names=names, min_score=settings.min_score)
    return VideoSource(path, loop=settings.loop, stride=settings.stride, truth=truth)


def _street_size(settings: ViewSettings) -> tuple[int, int]:
    width, height = settings.width, settings.height
    if width is None:
        width = _STREET_SIZE[0] if height is None else max(64, round(height * 4 / 3))
    if height is None:
        height = max(64, round(width * 3 / 4))
    return width, height


def _names(settings: ViewSettings) -> Mapping[int, str] | None:
    if settings.classes is None:
        return None
    names = COCO_CLASSES if settings.classes == "coco" else settings.classes
    return dict(enumerate(names))
