"""Cameras on the bus: an emulated street, videos, folders of pictures, RTSP and USB.

The drawing parts (`edgebus_detection.emulation`) work without a bus.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgebus_camera.service import Camera
    from edgebus_camera.settings import CameraSettings, ViewSettings

__all__ = ["Camera", "CameraSettings", "ViewSettings"]


def __getattr__(name: str) -> Any:
    """Load the service when it is asked for: the drawing parts need no MQTT client."""
    if name == "Camera":
        from edgebus_camera.service import Camera

        return Camera
    if name in {"CameraSettings", "ViewSettings"}:
        from edgebus_camera import settings

        return getattr(settings, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
