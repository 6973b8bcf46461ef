from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgebus.contracts import BundleRef, ModelRef, ModelStatus
from edgebus.database import DatabaseVersionError
from edgebus_distributor.records import Intake, RegistryRefusedError
from edgebus_distributor.registry import Registry
from edgebus_distributor.rollout import Rollouts
from edgebus_distributor.tables import open_database

ME = "lab/gpu-01/distributor"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def ref(version: int, *, parent: int | None = None, model: str = "tiny", salt: str = "0"):
    return BundleRef(
        model=ModelRef(name=model, version=version, digest=digest(version, salt)),
        provider="lab/gpu-01/retrainer",
        index_size=100,
        size=1000,
        parent=None if parent is None else digest(parent),
    )


def digest(version: int, salt: str = "0") -> str:
    return f"{salt}{version:063x}"


def intake(bundle: BundleRef, *, candidate: bool = True, channel: str = "stable") -> Intake:
    return Intake(bundle=bundle, channel=channel, origin="job 7", candidate=candidate)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


@pytest.fixture
def registry(path: Path) -> Registry:
    return Registry(open_database(path), provider=ME)


def accept(registry: Registry, bundle: BundleRef, **options):
    wanted = intake(bundle, **options)
    registry.want(wanted)
    return registry.accept(wanted, bundle, metrics={"map50": 0.5})


def test_a_version_comes_in_once_and_is_released(registry, path):
    decision = accept(registry, ref(1))
    assert decision.sequence == 1
    assert decision.bundle.provider == ME  # from now on, we serve it
    assert registry.intakes() == []
    assert accept(registry, ref(1)).sequence == 1

    again = Registry(open_database(path), provider=ME)
    assert again.current("tiny", "stable") == decision
    assert again.newest("tiny") == 1
    [entry] = again.entries()
    assert entry.channels == ("stable",)
    assert entry.metrics == {"map50": 0.5}
    assert entry.origin == "job 7"


def test_sequences_grow_per_model_over_all_channels(registry):
    assert accept(registry, ref(1)).sequence == 1
    assert accept(registry, ref(2, parent=1), channel="beta").sequence == 2
    assert accept(registry, ref(2, parent=1)).sequence == 3
    assert accept(registry, ref(9, model="other", salt="a")).sequence == 1
    assert {(d.key, d.sequence) for d in registry.all_current()} == {
        (("tiny", "stable"), 3),
        (("tiny", "beta"), 2),
        (("other", "stable"), 1),
    }


@pytest.mark.parametrize(
    ("bundle", "words"),
    [
        (ref(2, parent=1, salt="a"), "is there already as .* give it the version 4"),
        (ref(4, parent=1), "was derived from .* serves version 3 .* train again"),
        (ref(4), "was derived from nothing"),
    ],
)
def test_a_candidate_that_does_not_fit_is_refused(registry, bundle, words):
    accept(registry, ref(1))
    accept(registry, ref(2, parent=1))
    accept(registry, ref(3, parent=2))
    with pytest.raises(RegistryRefusedError, match=words):
        registry.check(bundle, channel="stable", candidate=True)
    with pytest.raises(RegistryRefusedError, match=words):
        registry.accept(intake(bundle), bundle, metrics={})
    assert registry.newest("tiny") == 3


def test_a_candidate_must_be_newer_than_all_even_after_a_rollback(registry):
    accept(registry, ref(1))
    accept(registry, ref(5, parent=1))
    registry.release(model="tiny", channel="stable", digest=digest(1), reason="rollback")
    with pytest.raises(RegistryRefusedError, match="not newer than version 5"):
        registry.check(ref(3, parent=1), channel="stable", candidate=True)
    assert registry.check(ref(6, parent=1), channel="stable", candidate=True)
    # The retained candidate that was rolled back is known: it is not released again.
    assert registry.check(ref(5, parent=1), channel="stable", candidate=True) is False
    # A person may publish whatever has a free number.
    assert registry.check(ref(3), channel="stable", candidate=False)


OWN = "tiny@pi-01.front"


def test_a_cameras_own_model_comes_from_the_shared_version_that_serves(registry):
    first = ref(2, parent=1, model=OWN, salt="b")
    with pytest.raises(RegistryRefusedError, match="stream's own, and channel stable serves no ti"):
        registry.check(first, channel="stable", candidate=True)
    accept(registry, ref(1))
    assert accept(registry, first).key == (OWN, "stable")
    accept(registry, ref(2, parent=1))
    # From the shared version of now, not from the own one of before.
    stale = ref(3, parent=1, model=OWN, salt="b")
    with pytest.raises(RegistryRefusedError, match=r"derived from .* serves tiny version 2 "):
        registry.check(stale, channel="stable", candidate=True)
    chained = ref(3, model=OWN, salt="b").model_copy(update={"parent": first.model.digest})
    with pytest.raises(RegistryRefusedError, match="serves tiny version 2 "):
        registry.check(chained, channel="stable", candidate=True)
    with pytest.raises(RegistryRefusedError, match="not newer than version 2"):
        registry.check(ref(1, parent=2, model=OWN, salt="b"), channel="stable", candidate=True)
    accept(registry, ref(3, parent=2, model=OWN, salt="b"))
    # Its releases are its own: nobody else's move.
    assert {(d.key, d.bundle.model.version) for d in registry.all_current()} == {
        (("tiny", "stable"), 2),
        ((OWN, "stable"), 3),
    }
    back = registry.before(OWN, "stable")
    assert back is not None
    assert back.model == first.model


def test_rollback_goes_back_in_history_and_not_to_and_fro(registry):
    assert registry.before("tiny", "stable") is None
    for version in (1, 2, 3):
        accept(registry, ref(version, parent=version - 1 or None))
    assert registry.before("tiny", "stable").model.version == 2
    second = registry.release(model="tiny", channel="stable", digest=digest(2), reason="rollback")
    assert second.sequence == 4
    assert registry.before("tiny", "stable").model.version == 1
    registry.release(model="tiny", channel="stable", digest=digest(1), reason="rollback")
    assert registry.before("tiny", "stable") is None


def test_edges_that_have_seen_higher_numbers_are_overtaken(registry):
    accept(registry, ref(1))
    kept = registry.release(model="tiny", channel="stable", digest=digest(1), reason="x", above=0)
    assert kept.sequence == 1
    raised = registry.release(model="tiny", channel="stable", digest=digest(1), reason="x", above=9)
    assert raised.sequence == 10


def test_newer_candidates_replace_older_ones_on_their_way(registry, path):
    registry.want(intake(ref(2)))
    registry.want(intake(ref(2), channel="beta"))
    registry.want(intake(ref(7, salt="c"), candidate=False))
    registry.want(intake(ref(3)))
    registry.want(intake(ref(3)))
    wanted = {
        (item.bundle.model.version, item.channel)
        for item in Registry(open_database(path), provider=ME).intakes()
    }
    assert wanted == {(3, "stable"), (2, "beta"), (7, "stable")}
    registry.done(intake(ref(3)))
    assert len(registry.intakes()) == 2


def test_what_serves_what_served_before_and_the_newest_are_kept(registry):
    for version in range(1, 9):
        accept(registry, ref(version, parent=version - 1 or None))
    registry.release(model="tiny", channel="stable", digest=digest(3), reason="rollback")
    registry.want(intake(ref(20)))
    assert registry.kept(versions=2) == {digest(v) for v in (8, 7, 3, 2, 20)}


def test_a_file_of_another_version_is_refused(path):
    open_database(path).dispose()
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(DatabaseVersionError, match="schema version 99"):
        open_database(path)


class TestRollouts:
    def status(self, node: str, *, serving: int | None, seconds: int = 0, **options) -> ModelStatus:
        fields = {"state": "updated", "model": "tiny"} | options
        return ModelStatus(
            source=f"lab/{node}/detector",
            time=NOW + timedelta(seconds=seconds),
            serving=None if serving is None else ref(serving).model,
            **fields,
        )

    @pytest.fixture
    def rollouts(self, registry) -> Rollouts:
        accept(registry, ref(1))
        rollouts = Rollouts()
        rollouts.begin(accept(registry, ref(2, parent=1)), served=1000)
        return rollouts

    def say(self, rollouts: Rollouts, *, served: int = 1500):
        return rollouts.status(("tiny", "stable"), served=served, now=NOW)

    def test_counts_the_edges_of_its_model_and_channel(self, rollouts):
        key = {("tiny", "stable")}
        assert rollouts.update(self.status("pi-01", serving=1)) == key
        assert rollouts.update(self.status("pi-02", serving=2)) == key
        assert rollouts.update(self.status("pi-03", serving=None, state="idle")) == key
        assert rollouts.update(self.status("pi-04", serving=2, channel="beta")) == set()
        assert rollouts.update(self.status("pi-05", serving=None, model=None)) == set()
        said = self.say(rollouts)
        assert (said.total, said.converged, said.failed) == (3, 1, 0)
        assert said.served_bytes == 500
        assert said.finished is None
        assert [edge.state for edge in said.edges] == ["idle", "updated", "idle"]

    def test_is_finished_once_all_edges_serve_it_also_the_late_one(self, rollouts):
        rollouts.update(self.status("pi-01", serving=2))
        assert self.say(rollouts).finished == NOW
        rollouts.update(self.status("pi-02", serving=1))
        late = self.say(rollouts)
        assert (late.total, late.converged) == (2, 1)
        rollouts.update(self.status("pi-02", serving=2, seconds=60))
        assert self.say(rollouts).converged == 2

    def test_no_edge_is_not_all_edges(self, rollouts):
        assert self.say(rollouts).finished is None

    def test_old_news_are_ignored(self, rollouts):
        rollouts.update(self.status("pi-01", serving=2, seconds=5))
        old = self.status("pi-01", serving=1, seconds=4)
        assert rollouts.update(old, retained=True) == set()
        assert self.say(rollouts).converged == 1

    def test_a_clock_that_is_set_back_is_not_old_news(self, rollouts):
        in_2199 = 173 * 365 * 86400
        rollouts.update(self.status("pi-01", serving=1, seconds=in_2199))
        assert rollouts.update(self.status("pi-01", serving=2)) == {("tiny", "stable")}
        assert self.say(rollouts).converged == 1

    def test_one_device_is_no_fleet(self, rollouts):
        """It may name as many services and streams as it likes."""
        for n in range(1000):
            status = self.status("pi-evil", serving=1).model_copy(
                update={"source": f"lab/pi-evil/ghost-{n}"}
            )
            rollouts.update(status)
        assert rollouts.left_out == 700
        rollouts.update(self.status("pi-01", serving=2))
        assert (self.say(rollouts).total, self.say(rollouts).converged) == (301, 1)

    def test_ten_thousand_edges_fit_into_a_message_the_late_ones_first(self, rollouts):
        error = "\x1b[31m" + "é" * 9_000
        for n in range(10_000):
            late = n >= 9_990
            rollouts.update(
                self.status(
                    f"pi-{n:05}-{'x' * 60}",
                    serving=1 if late else 2,
                    state="failed" if late else "updated",
                    sequence=2,
                    error=error,
                )
            )
        said = self.say(rollouts)
        assert (said.total, said.converged, said.failed) == (10_000, 9_990, 10)
        assert len(said.encode()) < 300_000
        assert [edge.state for edge in said.edges[:11]] == ["failed"] * 10 + ["updated"]
        assert "\x1b" not in (said.edges[0].error or "")

    def test_failures_count_only_if_they_are_about_this_release(self, rollouts):
        rollouts.update(self.status("pi-01", serving=1, state="failed", sequence=1, error="old"))
        assert self.say(rollouts).failed == 0
        rollouts.update(
            self.status("pi-01", serving=1, state="failed", sequence=2, error="NaN", seconds=1)
        )
        said = self.say(rollouts)
        assert said.failed == 1
        assert said.edges[0].error == "NaN"

    def test_an_edge_that_changes_its_channel_leaves(self, rollouts):
        rollouts.update(self.status("pi-01", serving=1))
        moved = self.status("pi-01", serving=1, channel="beta", seconds=1)
        assert rollouts.update(moved) == {("tiny", "stable")}
        assert self.say(rollouts).total == 0
