"""Jobs on the tiny model's world, for tests."""

from edgebus.contracts import Change, DomainReport, StoredSample
from edgebus.samples import SampleFiles
from edgebus.training.job_spec import JobSpec
from edgebus.training.settings import GateSettings, TrainSettings
from edgebus_detection.models.testing import tiny_bundle
from retrainer_samples import DUSK, sample, write_day

TRAIN = TrainSettings(steps=120, batch=4, learning_rate=0.1, threads=1, nice=0)
GATE = GateSettings(min_items=4)
# Two squares on grey have few places to be: many of these pictures nearly are another.
OPTIONS = {"leak_distance": -1}


def domain(name, before, after, *, items=50, groups=None, calibration=None, **fields):
    """A domain's report as of detections; groups: kind, name, (before, after, boxes)."""
    figures = {"mAP50": (before, after), "mAP": (before / 2, after / 2)}
    if calibration is not None:
        figures["calibration_error"] = calibration
    return DomainReport(
        name=name,
        items=items,
        labels=100,
        deciding="mAP50",
        figures={figure: Change(before=b, after=a) for figure, (b, a) in figures.items()},
        groups={
            kind: {part: Change(before=b, after=a, labels=n) for part, (b, a, n) in parts.items()}
            for kind, parts in (groups or {}).items()
        },
        lower_is_better=("calibration_error",),
        **fields,
    )


def make_world(folder):
    """A model, and a folder of pictures by day."""
    tiny_bundle(folder / "base")
    write_day(folder / "day", 80)
    return folder


def files(world, samples):
    pictures = SampleFiles(world / "samples")
    return tuple(
        StoredSample(id=each.record.id, path=pictures.path(pictures.put(each.jpeg)))
        for each in samples
    )


def job(world, folder, **changes):
    truth = changes.pop("truth", True)
    dusk = [sample(index, light=DUSK, truth=truth) for index in range(36)]
    fields = {
        "job": "job-1",
        "workload": "detection",
        "base": world / "base",
        "folder": folder,
        "version": 7,
        "train": files(world, dusk[:24]),
        "new_holdout": files(world, dusk[24:]),
        "replay": world / "day",
        "cache": folder / "labels",
        "settings": TRAIN,
        "gate": GATE,
        "options": OPTIONS | changes.pop("options", {}),
    }
    return JobSpec(**(fields | changes))
