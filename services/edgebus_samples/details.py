"""Samples read in full: record, picture, label sources and their conflicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgebus.contracts import PayloadError
from edgebus.samples import Catalog, Entry, Query
from edgebus.workload import load_workload
from edgebus_detection.datasets import ExportPicture
from edgebus_detection.labels import CachedAnswers
from edgebus_detection.labels.label_sources import LabelSources, MergedLabels, merge
from edgebus_detection.messages import Box, BoxLabels, Sample, SampleRecord
from edgebus_detection.models import detection_spec
from edgebus_detection.vision import Image, ImageError, decode_picture

_JPEG = b"\xff\xd8"


class SampleUnreadableError(ValueError):
    """A sample's file is missing or corrupt.

    Attributes:
        sample: Its id.
        reason: Why.
    """

    def __init__(self, *, sample: str, reason: str) -> None:
        super().__init__(f"sample {sample} cannot be read: {reason}")
        self.sample = sample
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDetail:
    """A sample with its file and its label sources, merged; None where it has no source."""

    entry: Entry
    sample: Sample
    sources: LabelSources
    merged: MergedLabels | None

    @property
    def record(self) -> SampleRecord:
        """The collector's record."""
        return self.sample.record

    def picture(self) -> Image:
        """The picture, decoded.

        Raises:
            SampleUnreadableError: It is corrupt.
        """
        try:
            return decode_picture(self.sample.jpeg)
        except ImageError as error:
            raise SampleUnreadableError(sample=self.entry.id, reason=str(error)) from error


def picture_of(detail: SampleDetail) -> ExportPicture:
    """A sample for a data set, with the labels that count."""
    merged = detail.merged
    if merged is None:
        return ExportPicture(sample=detail.sample, source="none", boxes=())
    boxes = (*merged.sourced, *merged.regions)
    return ExportPicture(sample=detail.sample, source=merged.source, boxes=boxes)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailQuery(Query):
    """Conditions of samples, their label sources included.

    Attributes:
        conflict: Only samples whose label sources contradict each other.
    """

    conflict: bool = False


class PictureCatalog(Catalog):
    """Samples of the detection workload. Methods do disk I/O and block.

    Args:
        folder: The retrainer's data folder.
        accept: Lowest score at which a teacher's box is a label; others are uncertain.

    Raises:
        NoStoreError: It has no sample store.
        DatabaseVersionError: Its store has another schema version.
    """

    def __init__(self, folder: Path, *, accept: float = 0.4) -> None:
        super().__init__(folder, load_workload("detection"))
        self._answers = CachedAnswers(folder / "labels")
        self._accept = accept

    def details(
        self,
        query: DetailQuery,
        *,
        limit: int | None = None,
        unreadable: list[str],
    ) -> Iterator[SampleDetail]:
        """Samples in full, the newest first.

        Args:
            query: Their conditions.
            limit: The most samples.
            unreadable: Gets a line for each sample whose file is missing or corrupt.
        """
        found = 0
        for entry in self.entries(query, limit=None if query.conflict else limit):
            if query.conflict and not self._may_conflict(entry):
                continue
            try:
                detail = self.read(entry)
            except SampleUnreadableError as error:
                unreadable.append(str(error))
                continue
            if query.conflict and not (detail.merged and detail.merged.conflicts):
                continue
            yield detail
            found += 1
            if found == limit:
                return

    def read(self, entry: Entry) -> SampleDetail:
        """Read a sample in full.

        Raises:
            SampleUnreadableError: Its file is missing or corrupt.
        """
        data = b""
        try:
            data = entry.path.read_bytes()
            sample = Sample.decode(data)
        except (OSError, PayloadError) as error:
            reason = "its file is missing" if isinstance(error, FileNotFoundError) else str(error)
            if data and not data.startswith(_JPEG):
                reason = "it holds no picture; of other workloads' samples only a list is shown"
            raise SampleUnreadableError(sample=entry.id, reason=reason) from error
        record = sample.record
        sources = LabelSources(
            operator=None if entry.labels is None else BoxLabels.of(entry.labels),
            truth=record.truth,
            verdicts=record.feedback,
            detections=record.detections,
        )
        if (taught := self.taught(entry)) is not None:
            by, certain, uncertain = taught
            sources = sources.with_teacher(certain=certain, unsure=uncertain, by=by)
        return SampleDetail(entry=entry, sample=sample, sources=sources, merged=merge(sources))

    def taught(self, entry: Entry) -> tuple[str, tuple[Box, ...], tuple[Box, ...]] | None:
        """The newest teacher's answer of earlier jobs; None: no teacher has seen the sample.

        Returns:
            Its provenance, its certain boxes, and the uncertain ones.
        """
        cached = self._answers.of(entry.path.stem)
        if cached is None:
            return None
        by, answer = cached
        certain = tuple(box for box in answer.boxes if (box.score or 0.0) >= self._accept)
        uncertain = tuple(box for box in answer.boxes if (box.score or 0.0) < self._accept)
        return by, certain, (*uncertain, *answer.unsure)

    def classes(self) -> tuple[str, ...] | None:
        """Classes of the model that is trained further; None while there is none."""
        bundle = self.bundle()
        return None if bundle is None else detection_spec(bundle.manifest).classes

    def _may_conflict(self, entry: Entry) -> bool:
        """Possibility of a conflict, without the sample's file: a teacher may contradict itself."""
        if entry.labels is not None or entry.policy == "feedback":
            return True
        return self._answers.of(entry.path.stem) is not None
