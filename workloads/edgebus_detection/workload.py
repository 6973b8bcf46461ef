"""Object detection as a workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgebus.workload import Workload

if TYPE_CHECKING:
    from edgebus.contracts import SampleFacts
    from edgebus_detection.messages import Sample

__all__ = ["Detection"]


class Detection(Workload):
    """Object detection in pictures of cameras."""

    name: ClassVar[str] = "detection"

    # Samples.

    sample_suffix: ClassVar[str] = ".jpg"

    def sample_facts(self, sample: Sample) -> SampleFacts:
        """The facts of a sample, whose stream is its camera."""
        from edgebus_detection.labels.samples import sample_facts

        return sample_facts(sample)

    def check_sample(self, sample: Sample) -> None:
        """Decode a sample's picture and compare its size with that of its record.

        Raises:
            SampleRefusedError: It cannot be decoded, or has another size.
        """
        from edgebus_detection.labels.samples import check_picture

        check_picture(sample)
