"""A retrainer's data folder on disk: samples, a teacher's answers, an incumbent."""

from edgebus.artifacts import Store
from edgebus.serving import ServingState, StateFile
from edgebus_detection.messages import Box
from edgebus_detection.models.testing import tiny_bundle
from edgebus_retrainer.claims import teacher
from edgebus_retrainer.files import PictureStore
from edgebus_retrainer.labels import Answer, answer_folder
from edgebus_retrainer.samples import SampleStore, open_database
from retrainer_samples import START, sample

TEACHER = teacher("d" * 64)


def box(label, x1, y1, x2, y2, score=None):
    return Box(label=label, x1=x1, y1=y1, x2=x2, y2=y2, score=score)


class DataFolder:
    """What `edgebus samples` is pointed at."""

    def __init__(self, path, *, incumbent=True):
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.pictures = PictureStore(path / "pictures")
        self.store = SampleStore(
            open_database(path / "samples.db"),
            self.pictures,
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
        (folder / f"{self.pictures.put(each.jpeg)}.json").write_text(answer.model_dump_json())

    def file_of(self, each):
        return self.pictures.path(self.pictures.put(each.jpeg))
