"""Settings of the labels that samples are given."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgebus.contracts import Segment
from edgebus.service import ServiceSettings

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class LabelSettings(ServiceSettings):
    """Label sources, and the thresholds between object, unknown and background."""

    source: Literal["auto", "truth", "teacher"] = "auto"
    """Label source where no operator has labelled a sample; auto: ground truth where there is any,
    otherwise the teacher."""
    truth_from: tuple[Segment, ...] | None = None
    """Nodes whose samples' own ground truth and feedback are believed; of the others a teacher or
    an operator has to say what is there. null: all nodes; name those with labelled cameras where
    devices of the site are not to be trusted."""
    teacher: Path | None = None
    """Larger model that labels samples: a bundle's folder or an ONNX file."""
    teachers: tuple[Path, ...] = ()
    """Further teachers: what enough of all agree on is a label, what fewer have seen is ignored."""
    min_agreeing: AtLeastOne | None = None
    """Number of teachers that must agree on a box; null: more than half."""
    accept: Fraction = 0.4
    """Lowest score at which a teacher's box is a label."""
    reject: Fraction = 0.1
    """Score below which a teacher's box is background; between the two it is ignored."""
    precision: Annotated[float, Field(gt=0, le=1)] | None = None
    """Choose `accept` class by class, so that this fraction of the teacher's boxes is right where
    truth or operators tell; null: one `accept` for all classes."""
    calibrate_boxes: AtLeastOne = 30
    """Teacher boxes of a class that its own threshold needs; with fewer it keeps `accept`."""
    calibrate_images: Count = 200
    """Most pictures of known truth that the teacher is compared on."""
    flip_tolerance: Annotated[float, Field(ge=0, le=255)] | None = 4.0
    """Ignore boxes that the teacher does not find again in the next sample of that camera, though
    the pixels there differ by at most this many grey levels; null: never."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Other names of the model's classes, for example `motorbike: motorcycle`."""

    classes: tuple[str, ...] | None = None
    """Learn and measure only these classes of samples; null: all of the model."""
    min_boxes: AtLeastOne = 5
    """Ignore classes of which the teacher found fewer boxes in all samples, as its mistakes."""

    @model_validator(mode="after")
    def _ordered(self) -> "LabelSettings":
        if self.reject > self.accept:
            msg = f"reject {self.reject} is above accept {self.accept}; it has to be below"
            raise ValueError(msg)
        if self.source == "teacher" and self.teacher is None:
            msg = "source teacher needs a teacher: a bundle's folder or an ONNX file"
            raise ValueError(msg)
        if self.teachers and self.teacher is None:
            msg = "teachers are further ones; name the first as teacher"
            raise ValueError(msg)
        if self.min_agreeing is not None and self.min_agreeing > 1 + len(self.teachers):
            teachers = 1 + len(self.teachers)
            msg = f"min_agreeing {self.min_agreeing} is more than the {teachers} teachers"
            raise ValueError(msg)
        return self
