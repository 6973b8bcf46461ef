import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from edgebus.contracts import (
    LabelSet,
    ModelRef,
    SampleRefusedError,
    TrainingResult,
    new_id,
    operator,
    split_of,
)
from edgebus.database import DatabaseVersionError
from edgebus.samples import (
    LabelBook,
    SampleFiles,
    SampleStore,
    SampleUnknownError,
    open_database,
)
from edgebus.training.journal import Job, JobJournal
from edgebus.workload import load_workload
from edgebus_detection.messages import Sample
from retrainer_samples import MODEL, START, sample, square


def open_store(folder, *, max_samples=1000, max_bytes=10**9, **options):
    engine = open_database(folder / "samples.db")
    files = SampleFiles(folder / "samples")
    kind = load_workload("detection")
    return SampleStore(engine, files, kind, max_samples=max_samples, max_bytes=max_bytes, **options)


def fill(store, count, **options):
    samples = [sample(index, **options) for index in range(count)]
    for each in samples:
        assert store.add(each, received=START) == "added"
    return samples


def labels(who, *boxes):
    rows = tuple(box.model_dump() for box in boxes)
    return LabelSet(labels=rows, by=operator(who), time=START)


def environment():
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def begin(journal, *, job=None, version=2, model=MODEL.name):
    job = Job(
        id=job or new_id(),
        model=model,
        base=MODEL,
        version=version,
        trigger="count",
        started=START,
        attempts=1,
    )
    journal.begin(job)
    return job


def result(job, outcome="accepted"):
    return TrainingResult(
        source="lab/gpu/retrainer",
        job=job.id,
        model=MODEL,
        outcome=outcome,
        reason="why",
        trigger=job.trigger,
        samples=1,
        replay=0,
        started=job.started,
    )


def test_a_sample_is_kept_once_with_its_record_inside(tmp_path):
    store = open_store(tmp_path)
    (kept,) = fill(store, 1, split="train")
    assert store.add(kept, received=START) == "duplicate"
    counts = store.counts("tiny")
    assert (counts.samples, counts.train, counts.untrained) == (1, 1, 1)
    assert counts.bytes == len(kept.jpeg)
    assert counts.per_policy == {"truth": 1}
    (stored,) = store.fresh("tiny", since=START, limit=10)
    assert Sample.decode(stored.path.read_bytes()).record == kept.record


def test_the_store_is_the_same_after_a_restart(tmp_path):
    fill(open_store(tmp_path), 80)
    again = open_store(tmp_path).counts("tiny")
    assert again.samples == 80
    assert again.train + again.holdout == 80
    assert again.holdout > 0


def test_models_do_not_mix(tmp_path):
    store = open_store(tmp_path)
    store.add(sample(model=ModelRef(name="other", version=1, digest="b" * 64)), received=START)
    assert store.counts("tiny").samples == 0
    assert store.counts("other").samples == 1


def test_pools_are_disjoint_and_newest_first_wins(tmp_path):
    store = open_store(tmp_path)
    samples = fill(store, 10, split="train")
    journal = JobJournal(open_database(tmp_path / "samples.db"))
    job = begin(journal)
    journal.finish(result(job), untrained=6, trained=[s.record.id for s in samples[:4]])
    earlier = store.earlier("tiny", before=START, limit=99)
    assert [s.id for s in earlier] == [s.record.id for s in samples[:4]]
    fresh = store.fresh("tiny", since=START, limit=3)
    assert [s.id for s in fresh] == [s.record.id for s in samples[-3:]]
    assert store.counts("tiny").untrained == 6


def test_audited_samples_start_nothing_and_are_replayed_or_learnt_by_their_age(tmp_path):
    store = open_store(tmp_path)
    fill(store, 10, split="train", policy="audit")
    assert store.counts("tiny").untrained == 0
    assert store.new_domain_since("tiny") is None
    for index in range(10, 20):
        policy = "audit" if index % 2 else "truth"
        store.add(sample(index, split="train", policy=policy), received=START)
    since = store.new_domain_since("tiny")
    assert since == START + timedelta(seconds=10)
    assert len(store.fresh("tiny", since=since, limit=99)) == 10
    assert len(store.earlier("tiny", before=since, limit=99)) == 10


def test_where_the_model_was_never_at_home_everything_is_new(tmp_path):
    store = open_store(tmp_path, everything_new=True)
    assert store.new_domain_since("tiny") is None
    for index in range(100):
        split = "train" if index >= 80 else "holdout"
        store.add(sample(index, split=split), received=START)
    assert store.new_domain_since("tiny") == START
    assert store.measurable("tiny", since=START) == 80


def test_the_new_domain_starts_with_the_bulk_of_the_errors(tmp_path):
    store = open_store(tmp_path)
    assert store.new_domain_since("tiny") is None
    store.add(sample(0, split="train"), received=START)
    for index in range(1, 100):
        split = "train" if index >= 80 else "holdout"
        store.add(sample(index, split=split), received=START)
    since = store.new_domain_since("tiny")
    assert since == START + timedelta(seconds=80)
    for index in range(100, 105):
        store.add(sample(index, split="holdout"), received=START)
    store.add(sample(105, split="holdout", boxes=()), received=START)
    store.add(sample(106, split="holdout", truth=False), received=START)
    assert len(store.holdout("tiny", since=since, limit=99)) == 7
    assert store.measurable("tiny", since=since) == 6
    assert store.measurable("tiny", before=since) == 79
    assert len(store.holdout("tiny", before=since, limit=99)) == 79


def test_the_quota_evicts_what_was_trained_on_first(tmp_path):
    store = open_store(tmp_path, max_samples=5)
    samples = fill(store, 4, split="train")
    held_out = sample(10, split="holdout")
    store.add(held_out, received=START)
    journal = JobJournal(open_database(tmp_path / "samples.db"))
    journal.finish(result(begin(journal)), untrained=3, trained=[samples[3].record.id])
    for index in (20, 21, 22):
        store.add(sample(index, split="train"), received=START)
    left = {s.id for s in store.all("tiny")}
    assert len(left) == 5
    assert samples[3].record.id not in left
    assert held_out.record.id not in left
    assert samples[0].record.id not in left
    assert store.evicted == 3
    files = list((tmp_path / "samples").rglob("*.jpg"))
    assert len(files) == 5


def test_the_quota_counts_bytes(tmp_path):
    size = len(sample(0).jpeg)
    store = open_store(tmp_path, max_bytes=3 * size + size // 2)
    fill(store, 8, split="train")
    assert store.counts("tiny").samples <= 4
    assert store.counts("tiny").bytes <= 3.5 * size


@pytest.mark.parametrize("cut", [400, 900])
def test_a_corrupt_picture_is_refused_by_name(tmp_path, cut):
    whole = sample()
    broken = Sample(jpeg=whole.jpeg[:cut] + b"\xff\xd9", record=whole.record)
    with pytest.raises(SampleRefusedError, match=whole.record.id):
        open_store(tmp_path).add(broken, received=START)


def test_a_picture_of_another_size_than_its_record_is_refused(tmp_path):
    whole = sample()
    lying = whole.record.model_copy(update={"width": 128, "height": 96})
    with pytest.raises(SampleRefusedError, match="64 x 48, its record says 128 x 96"):
        open_store(tmp_path).add(Sample(jpeg=whole.jpeg, record=lying), received=START)


def test_a_store_of_another_version_is_refused(tmp_path):
    open_store(tmp_path)
    connection = sqlite3.connect(tmp_path / "samples.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(DatabaseVersionError, match="schema version 99"):
        open_store(tmp_path)


def of_camera(index, *, node="pi-01", camera="front", **changes):
    one = sample(index, split="train", **changes)
    update = {"source": f"lab/{node}/collector", "stream": camera}
    return Sample(jpeg=one.jpeg, record=one.record.model_copy(update=update))


def test_a_cameras_own_model_has_the_samples_of_that_camera_alone(tmp_path):
    store = open_store(tmp_path)
    north = [of_camera(index) for index in range(3)]
    south = [of_camera(index, node="pi-02") for index in range(10, 12)]
    side = of_camera(20, camera="side", model=MODEL.model_copy(update={"name": "tiny@pi-01.side"}))
    for each in (*north, *south, side, of_camera(30, policy="audit")):
        store.add(each, received=START)
    other = MODEL.model_copy(update={"name": "tiny2"})
    store.add(of_camera(40, model=other), received=START)
    shared = store.counts("tiny")
    assert (shared.samples, shared.untrained) == (7, 6)
    assert shared.untrained_per_edge == {"pi-01": 4, "pi-02": 2}
    own = "tiny@pi-01.front"
    assert (store.counts(own).samples, store.counts(own).untrained) == (4, 3)
    places = {"pi-01.front": 3, "pi-02.front": 2, "pi-01.side": 1}
    assert store.untrained_per_stream("tiny") == places
    journal = JobJournal(open_database(tmp_path / "samples.db"))
    ids = [each.record.id for each in north]
    journal.finish(result(begin(journal, model=own)), untrained=3, trained=ids)
    assert store.counts(own).untrained == 0
    assert store.untrained_per_stream("tiny") == {"pi-02.front": 2, "pi-01.side": 1}
    # The shared model has not seen them, and the own one begins with the shared one's weights.
    assert store.counts("tiny").untrained == 6
    assert [s.id for s in store.fresh(own, since=START, limit=9)][:3] == ids
    assert journal.models("tiny") == [own]
    assert journal.was_tried(own, base=MODEL.digest)
    assert not journal.was_tried(own, base="b" * 64)


def test_held_out_samples_that_came_or_were_labelled_are_news(tmp_path):
    store = open_store(tmp_path)
    kept = [sample(index, split="holdout", truth=False) for index in range(3)]
    for each in kept:
        store.add(each, received=START)
    skipped = START + timedelta(minutes=1)
    assert store.measurable_news("tiny", since=skipped) == 0
    later = skipped + timedelta(seconds=1)
    store.add(sample(4, split="holdout"), received=later)
    store.add(sample(5, split="holdout", boxes=()), received=later)
    assert store.measurable_news("tiny", since=skipped) == 1
    first, second, third = (each.record.id for each in kept)
    said = labels("ann", square("car", 1, 1)).model_copy(update={"time": later})
    empty = labels("ann").model_copy(update={"time": later})
    old = labels("ann", square("car", 1, 1))
    LabelBook(open_database(tmp_path / "samples.db")).write(
        {first: said, second: empty, third: old}
    )
    assert store.measurable_news("tiny", since=skipped) == 2


def test_the_newest_labels_count_and_the_older_ones_are_history(tmp_path):
    store = open_store(tmp_path)
    first, second, _ = (each.record.id for each in fill(store, 3))
    book = LabelBook(open_database(tmp_path / "samples.db"))
    book.write({first: labels("ann"), second: labels("ann")})
    book.write({first: labels("bob", square("car", 1, 1))})
    book.write({second: None})
    assert book.read([first, second, "nobody"]) == {first: labels("bob", square("car", 1, 1))}
    assert [each and each.by for each in book.history(first)] == ["operator:ann", "operator:bob"]
    assert book.history(second) == [labels("ann"), None]


def test_labels_of_an_unknown_sample_change_nothing(tmp_path):
    known = fill(open_store(tmp_path), 1)[0].record.id
    book = LabelBook(open_database(tmp_path / "samples.db"))
    with pytest.raises(SampleUnknownError, match="no sample gone; it may have been evicted"):
        book.write({known: labels("ann"), "gone": labels("ann")})
    assert book.read([known]) == {}


def test_what_an_operator_labelled_is_evicted_last_and_takes_its_labels_along(tmp_path):
    store = open_store(tmp_path, max_samples=3)
    samples = fill(store, 3, split="train")
    engine = open_database(tmp_path / "samples.db")
    book = LabelBook(engine)
    oldest = samples[0].record.id
    book.write({oldest: labels("ann")})
    for index in (10, 11, 12):
        store.add(sample(index, split="train"), received=START)
    assert oldest in {each.id for each in store.all("tiny")}
    strict = open_store(tmp_path, max_samples=1)
    strict.add(sample(20, split="train"), received=START)
    assert book.history(oldest) == []


def test_an_operator_labels_while_the_retrainer_stores(tmp_path):
    script = (
        "import sys, pathlib\n"
        "from retrainer_samples import START, sample\n"
        "from test_sample_store import open_store\n"
        "store = open_store(pathlib.Path(sys.argv[1]))\n"
        "for i in range(1, 60):\n"
        "    store.add(sample(i), received=START)\n"
        "    print(i, flush=True)\n"
    )
    known = fill(open_store(tmp_path), 1)[0].record.id
    book = LabelBook(open_database(tmp_path / "samples.db"))
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    written = 0
    while child.stdout.readline():
        book.write({known: labels(f"ann {written}")})
        written += 1
    assert child.wait() == 0
    child.stdout.close()
    assert written == 59
    assert len(book.history(known)) == 59
    assert open_store(tmp_path).counts("tiny").samples == 60


def test_kill_minus_nine_loses_nothing_that_was_added(tmp_path):
    script = (
        "import sys, pathlib\n"
        "from retrainer_samples import START, sample\n"
        "from test_sample_store import open_store\n"
        "store = open_store(pathlib.Path(sys.argv[1]))\n"
        "for i in range(10**6):\n"
        "    s = sample(i, split='train')\n"
        "    store.add(s, received=START)\n"
        "    print(s.record.id, flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    added = [child.stdout.readline().decode().strip() for _ in range(20)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    stored = open_store(tmp_path).all("tiny")
    assert {s.id for s in stored} >= set(added)
    for each in stored:
        assert Sample.decode(each.path.read_bytes()).record.id == each.id


def test_the_journal_knows_an_interrupted_job(tmp_path):
    engine = open_database(tmp_path / "samples.db")
    journal = JobJournal(engine)
    assert journal.unfinished(["tiny"]) is None
    job = begin(journal)
    again = JobJournal(open_database(tmp_path / "samples.db"))
    assert again.unfinished(["tiny"]) == job
    again.again(job.id)
    assert again.unfinished(["tiny"]).attempts == 2
    again.finish(result(job), untrained=3)
    assert again.unfinished(["tiny"]) is None
    assert again.last("tiny").outcome == "accepted"
    assert again.untrained_at_refusal("tiny") is None
    second = begin(journal, version=3)
    journal.finish(result(second, "refused"), untrained=7)
    assert journal.untrained_at_refusal("tiny") == 7
    assert journal.lacked("tiny") is None
    third = begin(journal, version=3)
    journal.finish(result(third, "skipped"), untrained=7, lacking=5)
    assert journal.untrained_at_refusal("tiny") is None
    assert journal.lacked("tiny") == (5, START)
    assert (journal.accepted("tiny"), journal.highest_version("tiny")) == (1, 3)
    assert journal.highest_version("other") == 0
    assert {r.outcome for r in journal.results("tiny", limit=9)} == {
        "accepted",
        "refused",
        "skipped",
    }
    assert json.loads(journal.results("tiny", limit=1)[0].encode())["schema"] == "training/1"


HONEST, EVIL = "lab/pi-01/collector", "lab/pi-evil/collector"
IN_2199, IN_1970 = datetime(2199, 6, 1, tzinfo=UTC), datetime(1970, 1, 2, tzinfo=UTC)


def send(store, index, *, source=HONEST, seconds=0, captured=None, **changes):
    """A sample as a device sends it."""
    at = START + timedelta(seconds=seconds)
    one = sample(index, **changes)
    record = one.record.model_copy(
        update={"id": new_id(), "source": source, "captured": captured or at}
    )
    store.add(one.with_record(record), received=at, by_device=True)
    return record


def by_node(store):
    found = Counter()
    for each in store.all("tiny"):
        found[Sample.decode(each.path.read_bytes()).record.source] += 1
    return dict(found)


@pytest.mark.parametrize("clock", [IN_2199, IN_1970])
def test_a_device_pushes_out_only_what_it_has_sent_itself(tmp_path, clock):
    store = open_store(tmp_path, max_samples=40)
    for n in range(15):
        send(store, n, seconds=n)
    for n in range(60):
        source = EVIL if n % 2 else f"lab/pi-evil/service-{n}"
        send(store, n, source=source, seconds=20 + n, captured=clock + timedelta(seconds=n))
    assert by_node(store)[HONEST] == 15
    for n in range(15, 25):
        send(store, n, seconds=100 + n)
    assert by_node(store)[HONEST] == 20  # half of it: the fair share of two
    assert store.oddities["pi-evil"]["clock"] == 60
    assert "pi-01" not in store.oddities


def test_the_quota_of_bytes_is_shared_too(tmp_path):
    size = len(sample(0).jpeg)
    store = open_store(tmp_path, max_bytes=20 * size)
    for n in range(8):
        send(store, n, seconds=n)
    for n in range(40):
        send(store, n, source=EVIL, seconds=20 + n)
    assert by_node(store)[HONEST] == 8


@pytest.mark.parametrize("clock", [IN_2199, IN_1970])
def test_no_clock_moves_the_change_point(tmp_path, clock):
    """Errors every ten minutes, then every five seconds; and one from another century."""
    store = open_store(tmp_path)
    times = [n * 600 for n in range(10)] + [6000 + n * 5 for n in range(30)]
    for n, seconds in enumerate(times):
        send(store, n % 20, seconds=seconds)
    before = store.new_domain_since("tiny")
    send(store, 3, source=EVIL, seconds=6150, captured=clock)
    assert store.new_domain_since("tiny") == before


def test_what_is_held_out_is_not_the_devices_to_say(tmp_path):
    store = open_store(tmp_path)
    for index in range(80):
        send(store, index, split="holdout")
    counts = store.counts("tiny")
    assert (counts.train, counts.holdout) == (60, 20)
    assert store.oddities["pi-01"] == {"split": 60}


def test_a_device_fills_no_pool_alone(tmp_path):
    store = open_store(tmp_path)
    train = [n for n in range(200) if split_of("front", n) == "train"]
    for n, index in enumerate(train[:20]):
        send(store, index, seconds=n)
    for n, index in enumerate(train):
        send(store, index, source=EVIL, seconds=100 + n)
    pool = store.fresh("tiny", since=START, limit=30)
    sources = Counter(Sample.decode(each.path.read_bytes()).record.source for each in pool)
    assert sources == {HONEST: 15, EVIL: 15}
