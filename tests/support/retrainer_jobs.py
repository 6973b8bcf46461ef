"""Jobs on the tiny model's world, for tests."""

from edgebus.contracts import StoredSample
from edgebus.samples import SampleFiles
from edgebus.training.settings import TrainSettings
from edgebus_detection.models.testing import tiny_bundle
from edgebus_retrainer.settings import GateSettings
from edgebus_retrainer.spec import JobSpec
from retrainer_samples import DUSK, sample, write_day

TRAIN = TrainSettings(steps=120, batch=4, learning_rate=0.1, threads=1, nice=0)
# Two squares on grey have few places to be: many of these pictures nearly are another.
GATE = GateSettings(min_images=4, leak_distance=-1)


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
        "base": world / "base",
        "folder": folder,
        "version": 7,
        "train": files(world, dusk[:24]),
        "new_holdout": files(world, dusk[24:]),
        "replay": world / "day",
        "label_cache": folder / "labels",
        "settings": TRAIN,
        "gate": GATE,
    }
    return JobSpec(**(fields | changes))
