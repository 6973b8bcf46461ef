"""Object detection as a workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgebus.workload import Workload

if TYPE_CHECKING:
    from edgebus_detection.messages import Sample, SampleRecord

__all__ = ["Detection"]


class Detection(Workload):
    """Object detection in pictures of cameras."""

    name: ClassVar[str] = "detection"

    # Samples.

    sample_suffix: ClassVar[str] = ".jpg"

    def count_truths(self, record: SampleRecord) -> int | None:
        """Number of true boxes; None where the camera knows none."""
        return None if record.truth is None else len(record.truth)

    def check_sample(self, sample: Sample) -> None:
        """Decode a sample's picture and compare its size with that of its record.

        Raises:
            SampleRefusedError: It cannot be decoded, or has another size.
        """
        from edgebus_detection.labels.check import check_picture

        check_picture(sample)
