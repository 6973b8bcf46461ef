"""Settings of the retrainer."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgebus.contracts import Segment, explain, shared_model
from edgebus.service import ServiceSettings
from edgebus.training.settings import RetrainingSettings
from edgebus.workload import WorkloadUnknownError, load_workload


class RetrainerSettings(RetrainingSettings, ServiceSettings):
    """Settings of the retrainer.

    Of detection, `options` are `labels`, `augment`, `min_measured_boxes` and `leak_distance`, and
    replay folders hold COCO, YOLO, Pascal VOC, CVAT or Label Studio labels.
    """

    workload: Segment = "detection"
    """Workload of the model: how it is trained and measured."""
    bundle: Path | None = None
    """First version, a bundle's folder; null: wait for a release and fetch it."""
    new_domain: Literal["onset", "everything"] = "onset"
    """Inputs of the new domain: those since the model began to fail, or all of them, for streams
    that the model never knew."""
    tick_s: Annotated[float, Field(gt=0)] = 1.0
    """Seconds between two checks of the triggers."""

    @model_validator(mode="after")
    def _knows_its_model(self) -> Self:
        if self.model is None and self.bundle is None:
            msg = "it needs to know its model: set model (to wait for a release) or bundle"
            raise ValueError(msg)
        if self.model is not None and shared_model(self.model)[1]:
            msg = (
                f"model {self.model!r} is a stream's own: name the shared one, "
                f"{shared_model(self.model)[0]!r}, and set stream_models"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _workload_takes_its_options(self) -> Self:
        try:
            workload = load_workload(self.workload)
        except WorkloadUnknownError as error:
            raise ValueError(str(error)) from error
        try:
            workload.training_settings().model_validate(self.options)
        except ValidationError as error:
            msg = f"options of workload {self.workload}: {explain(error)}"
            raise ValueError(msg) from error
        return self
