"""A retrainer's data folder on disk: samples, a teacher's answers, an incumbent."""

from edgebus.artifacts import Store
from edgebus.contracts import teacher
from edgebus.samples import SampleFiles, SampleStore, open_database
from edgebus.serving import ServingState, StateFile
from edgebus.workload import load_workload
from edgebus_detection.labels import Answer, answer_folder
from edgebus_detection.messages import Box
from edgebus_detection.models.testing import tiny_bundle
from retrainer_samples import START, sample

TEACHER = teacher("d" * 64)


def box(label, x1, y1, x2, y2, score=None):
    return Box(label=label, x1=x1, y1=y1, x2=x2, y2=y2, score=score)


class DataFolder:
    """What `edgebus samples` is pointed at."""

    def __init__(self, path, *, incumbent=True):
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.files = SampleFiles(path / "samples")
        self.store = SampleStore(
            open_database(path / "samples.db"),
            self.files,
            load_workload("detection"),
            max_samples=10**6,
            max_bytes=10**12,
        )
        if incumbent:
            bundle = tiny_bundle(path / "given")
            Store(path / "store").put_bundle(bundle)
            state = ServingState(model=bundle.manifest.name, current=bundle.ref)
            StateFile(path / "incumbent.json").write(state)

    def add(self, index, **options):
        """A sample; see `sample`."""
        each = sample(index, **options)
        assert self.store.add(each, received=START) == "added"
        return each

    def taught(self, each, *boxes, unsure=()):
        """What the teacher said of a sample."""
        folder = answer_folder(self.path / "labels", by=TEACHER, threshold=0.1)
        folder.mkdir(parents=True, exist_ok=True)
        answer = Answer(boxes=boxes, unsure=unsure)
        (folder / f"{self.file_of(each).stem}.json").write_text(answer.model_dump_json())

    def file_of(self, each):
        return self.files.path(self.files.put(each.jpeg, suffix=".jpg"))
