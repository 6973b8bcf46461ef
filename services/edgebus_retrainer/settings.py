"""What a retrainer can be set to."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgebus.contracts import Segment, shared_model
from edgebus.service import ServiceSettings
from edgebus.training.settings import TrainSettings
from edgebus_detection.labels.settings import LabelSettings
from edgebus_detection.training.augment import AugmentSettings

__all__ = [
    "GateSettings",
    "RetrainerSettings",
    "SpecialiseSettings",
    "StoreSettings",
    "TrainSettings",
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


class GateSettings(ServiceSettings):
    """What a candidate has to show on pictures that were not trained on."""

    min_gain: Fraction = 0.0
    """mAP50 that the new domain must gain; it must gain anything in any case."""
    tolerance: Fraction = 0.02
    """mAP50 that the old domain may lose."""
    min_images: AtLeastOne = 10
    """Held-out pictures with boxes that each domain must have at least."""
    min_boxes: AtLeastOne = 5
    """Classes with fewer boxes on the held-out pictures of a domain are not measured there: mAP is
    a mean over classes, and the precision of a class of two boxes is chance."""
    max_images: AtLeastOne = 200
    """At most so many held-out pictures of each domain are measured."""
    require_old: bool = True
    """Whether a candidate may pass only if there is an old domain to measure."""
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = 0.9
    """Of the interval of each gain, by a paired bootstrap over pictures; null: none."""
    sure: bool = True
    """Whether that interval of the new domain's gain must lie above 0."""
    class_tolerance: Fraction = 0.1
    """mAP50 that any one class may lose, in either domain."""
    class_boxes: AtLeastOne = 20
    """Classes and cameras with fewer boxes in a domain are not judged alone."""
    camera_tolerance: Fraction = 0.1
    """mAP50 that any one camera may lose, whatever the others gain."""
    max_slowdown: Annotated[float, Field(gt=0)] | None = 1.5
    """Largest latency through the edge's engine, as a multiple of the incumbent's; null: any."""
    max_calibration_loss: Fraction | None = None
    """How much the calibration error of the scores may rise; null: it is told, not judged."""
    leak_distance: Annotated[int, Field(ge=-1, le=256)] = 8
    """Training pictures whose hashes differ from a held-out one's in at most so many of 256 bits
    are left out; -1: none."""
    max_leaking: Fraction = 0.5
    """Where more than this part of the training pictures is, the split is no split, and no job
    is run on it."""
    interpolate: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.75, 0.5, 0.25)
    """Where a candidate gains but forgets too much, so far between old and new is tried next, one
    after the other until one passes."""


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
