"""Commands of the detection workload."""

from typing import Literal

from edgebus.contracts import Command, Segment, schema

__all__ = ["CaptureCommand"]


class CaptureCommand(Command):
    """Ask a collector to send the next frame of a camera as a sample."""

    schema_: Literal["capture/1"] = schema("capture/1")
    camera: Segment
