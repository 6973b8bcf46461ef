from datetime import UTC, datetime

from edgebus.contracts import Drift, DriftState
from edgebus.training.drifts import Drifts
from retrainer_samples import MODEL, sample

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def drift(statistic="confidence", *, camera="front", node="pi-01", model=MODEL, returned=False):
    return Drift(
        source=f"lab/{node}/collector",
        stream=camera,
        statistic=statistic,
        method="adwin",
        before=0.8,
        after=0.4,
        count=30,
        input="frame-1",
        index=1,
        since=NOW,
        returned=returned,
        model=model,
    )


def watched(*statistics):
    state = DriftState(means=dict.fromkeys(statistics, 0.5))
    return sample().record.model_copy(update={"drift": state})


def test_confidence_counts_where_nothing_better_is_watched():
    drifts = Drifts(by="best")
    assert drifts.observe(drift())
    assert not drifts.observe(drift())  # no news
    assert drifts.any(MODEL)
    drifts.observe_sample(watched("confidence"))
    assert drifts.any(MODEL)
    # It turns out that this camera's collector watches novelty too, which says nothing.
    drifts.observe_sample(watched("confidence", "novelty"))
    assert not drifts.any(MODEL)
    assert drifts.observe(drift("novelty"))
    assert drifts.any(MODEL)
    assert not drifts.observe(drift("novelty", returned=True))
    assert not drifts.any(MODEL)
    # Another camera's collector is another matter.
    assert drifts.observe(drift(camera="side"))
    assert drifts.any(MODEL)
    assert not drifts.any(MODEL, stream="pi-01.front")


def test_any_statistic_may_be_told_to_count():
    drifts = Drifts(by="any")
    drifts.observe_sample(watched("confidence", "novelty"))
    assert drifts.observe(drift())
    assert drifts.any(MODEL)


def test_what_an_older_version_missed_is_over():
    drifts = Drifts(by="best")
    drifts.observe(drift())
    assert not drifts.any(MODEL.model_copy(update={"version": 2}))
    assert not drifts.any(MODEL.model_copy(update={"name": "tiny@pi-01.front"}))


def test_what_is_remembered_is_bounded():
    drifts = Drifts(by="best")
    for number in range(5000):
        drifts.observe(drift(node=f"pi-{number}"))
    assert not drifts.any(MODEL, stream="pi-0.front")
    assert drifts.any(MODEL, stream="pi-4999.front")
