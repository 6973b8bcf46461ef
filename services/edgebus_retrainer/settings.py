"""What a retrainer can be set to."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgebus.contracts import Segment, shared_model
from edgebus.service import ServiceSettings
from edgebus.training.settings import GateSettings, TrainSettings
from edgebus_detection.training.augment import AugmentSettings

__all__ = [
    "LabelSettings",
    "RetrainerSettings",
    "SpecialiseSettings",
    "StoreSettings",
    "TriggerSettings",
]

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class TriggerSettings(ServiceSettings):
    """When a job starts. `edgebus retrain` starts one in any case."""

    min_samples: AtLeastOne | None = 50
    """So many untrained training samples, of all edges, start a job; null: their number starts
    none."""
    min_per_edge: AtLeastOne | None = None
    """So many untrained training samples of one edge (node) start a job; null: the number of an
    edge starts none."""
    cooldown_samples: AtLeastOne = 20
    """So many more are waited for after a job that was refused or failed."""
    on_drift: bool = True
    """Whether a camera that has drifted, as its collector says, lowers what is waited for."""
    drift_by: Literal["best", "any"] = "best"
    """Which statistic of a camera may tell: any; or the best that its collector watches, which is
    `novelty` where there is one, since `confidence` is blind where the model is sure of its
    mistakes, and cries wolf where it is not."""
    drift_samples: AtLeastOne = 20
    """So many untrained samples are enough then; and so many more after a refusal."""
    interval_s: Seconds | None = None
    """Seconds after a job until the next starts, if there is anything new; null: never."""
    max_jobs: AtLeastOne | None = None
    """After so many accepted candidates none is made without a command; null: no limit."""
    release_wait_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds to wait for the release of an accepted candidate before training further without."""


class SpecialiseSettings(ServiceSettings):
    """Cameras get models of their own, each made from the shared one; see ADR 12."""

    per: Literal["camera"] = "camera"
    """What gets a model of its own."""
    min_samples: AtLeastOne | None = 50
    """So many untrained training samples of a camera start a job for it; null: their number
    starts none."""
    cooldown_samples: AtLeastOne = 20
    """So many more are waited for after a job of that camera that was refused or failed."""
    cameras: tuple[Annotated[str, Field(pattern=r"^[^/\s.]+(\.[^/\s]+)?$")], ...] | None = None
    """Only these cameras, each as `camera` or `node.camera`; null: all."""
    max_models: AtLeastOne = 64
    """At most so many cameras have one. Each is one more model in the memory of its detector."""
    min_gain: Fraction | None = None
    """mAP50 that it has to gain over what serves that camera now; null: as `gate.min_gain`."""

    def takes(self, place: str) -> bool:
        """Whether a camera, as `node.camera`, may have a model of its own."""
        if self.cameras is None:
            return True
        return place in self.cameras or place.partition(".")[2] in self.cameras


class LabelSettings(ServiceSettings):
    """Where labels come from."""

    source: Literal["auto", "truth", "teacher"] = "auto"
    """auto: ground truth where a sample has it, otherwise the teacher."""
    teacher: Path | None = None
    """A larger model: a bundle's folder or an ONNX file."""
    teachers: tuple[Path, ...] = ()
    """Further ones: what enough of all agree on is a label, what fewer have seen is ignored."""
    agree: AtLeastOne | None = None
    """So many of them must agree; null: more than half."""
    accept: Fraction = 0.4
    """Teacher boxes of at least this score are labels."""
    reject: Fraction = 0.1
    """Teacher boxes below this score are nothing; between the two they are ignored regions."""
    precision: Annotated[float, Field(gt=0, le=1)] | None = None
    """Accept from that score on, class by class, at which so many of the teacher's boxes are right
    where truth or operators tell; null: `accept` for all classes."""
    calibrate_boxes: AtLeastOne = 30
    """Classes of which the teacher saw fewer boxes there keep `accept`."""
    calibrate_images: Count = 200
    """At most so many pictures with known truth are shown to the teacher for that."""
    flip_tolerance: Annotated[float, Field(ge=0, le=255)] | None = 4.0
    """Boxes that the teacher does not see again in the next sample of that camera, though the
    pixels there differ by no more than so many grey levels, are ignored; null: not looked for."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Other names of the model's classes, for example `motorbike: motorcycle`."""

    classes: tuple[str, ...] | None = None
    """Only these classes are learnt from samples, and measured on them; null: all of the model."""
    min_boxes: AtLeastOne = 5
    """Classes of which the teacher saw fewer boxes in all samples are taken for its mistakes."""

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
        if self.agree is not None and self.agree > 1 + len(self.teachers):
            msg = f"agree {self.agree} is more than the {1 + len(self.teachers)} teachers"
            raise ValueError(msg)
        return self


class StoreSettings(ServiceSettings):
    """How much is kept."""

    max_samples: AtLeastOne = 20_000
    """The most samples; what was trained on goes first, then what was held out."""
    max_bytes: AtLeastOne = 8 * 2**30
    """The most bytes of pictures."""
    results: AtLeastOne = 10
    """So many results stay retained on the bus."""


class RetrainerSettings(ServiceSettings):
    """Settings of the retrainer."""

    model: Segment | None = None
    """Name of the model that it looks after; by default that of `bundle`."""
    channel: Segment = "stable"
    """The channel that its candidates are for, and whose releases it follows."""
    bundle: Path | None = None
    """The first version, a bundle's folder; null: wait for a release and fetch it."""
    replay: Path | None = None
    """Earlier data: a folder with COCO annotations.json or YOLO labels."""
    replay_holdout: Path | None = None
    """Another such folder to measure forgetting on; null: a part of `replay` is held out."""
    new_domain: Literal["onset", "everything"] = "onset"
    """What is new: what the cameras show since the model began to fail, or all of it, for cameras
    at which the model was never at home."""
    trigger: TriggerSettings = TriggerSettings()
    """When a job starts."""
    specialise: SpecialiseSettings | None = None
    """Which cameras get models of their own, and when; null: none."""
    labels: LabelSettings = LabelSettings()
    """Where labels come from."""
    train: TrainSettings = TrainSettings()
    """How to train."""
    augment: AugmentSettings = AugmentSettings()
    """How far pictures may be changed."""
    gate: GateSettings = GateSettings()
    """What a candidate has to show."""
    store: StoreSettings = StoreSettings()
    """How much is kept."""
    tick_s: Seconds = 1.0
    """Seconds between two looks at the triggers."""

    @model_validator(mode="after")
    def _knows_its_model(self) -> "RetrainerSettings":
        if self.model is None and self.bundle is None:
            msg = "it needs to know its model: set model (to wait for a release) or bundle"
            raise ValueError(msg)
        if self.model is not None and shared_model(self.model)[1]:
            msg = (
                f"model {self.model!r} is a camera's own: name the shared one, "
                f"{shared_model(self.model)[0]!r}, and set specialise"
            )
            raise ValueError(msg)
        return self
