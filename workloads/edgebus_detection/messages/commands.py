"""Commands of the detection workload."""

from edgebus.contracts import Command, Segment

__all__ = ["CaptureCommand"]


class CaptureCommand(Command, version=1, name="capture"):
    """Ask a collector to send the next frame of a camera as a sample."""

    camera: Segment
