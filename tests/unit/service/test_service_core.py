"""The parts of the service runtime that need no bus: metrics, presence, declarations, the lock."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
import structlog

from edgebus.bus import BusStats, SubscriptionStats
from edgebus.contracts import Command, CommandTopic, Identity, Reply, ServiceState
from edgebus.service import (
    DeclarationError,
    DuplicateIdentityError,
    MetricsRegistry,
    NodeSettings,
    Service,
    ServiceSettings,
    SettingsError,
    command,
    every,
    on,
)
from edgebus.service.declare import declarations_of
from edgebus.service.identity import folder_lock, judge
from edgebus.service.log import configure_logging
from edgebus.service.presence import Presence
from edgebus.service.settings import LogSettings
from edgebus.service.vitals import Vitals, bus_figures
from edgebus_detection.messages import CAMERA_FRAME, SAMPLES

IDENTITY = Identity(site="lab", node="pi", service="camera")


# Metrics


def test_metrics_add_up() -> None:
    metrics = MetricsRegistry()
    metrics.counter("frames")
    metrics.counter("frames", 2)
    metrics.gauge("fps", 9.5)
    for ms in range(1, 101):
        metrics.observe("inference", ms)
    snapshot = metrics.snapshot()
    assert snapshot.counters == {"frames": 3, "inference.count": 100, "inference.ms": 5050}
    assert snapshot.gauges == {
        "fps": 9.5,
        "inference.p50_ms": 51,
        "inference.p95_ms": 96,
        "inference.max_ms": 100,
    }


@pytest.mark.parametrize("by", [-1, float("nan"), float("inf")])
def test_a_counter_only_grows(by: float) -> None:
    with pytest.raises(ValueError, match="frames"):
        MetricsRegistry().counter("frames", by)
    with pytest.raises(ValueError, match="frames"):
        MetricsRegistry().observe("frames", by)


def test_what_is_not_finite_is_not_sent() -> None:
    metrics = MetricsRegistry()
    metrics.gauge("map", 0.5)
    metrics.gauge("map", float("nan"))
    message = Vitals(metrics).message(session=1, stats=BusStats())
    assert "map" not in message.gauges
    assert message.rss_bytes > 1_000_000


def test_the_bus_tells_what_it_dropped_and_where() -> None:
    stats = BusStats(connects=3, dead_letters=2)
    stats.subscriptions["frames"] = SubscriptionStats(dropped=5, queued=1)
    stats.subscriptions["events"] = SubscriptionStats(failed=1, invalid=1, queued=2)
    counters, gauges = bus_figures(stats)
    assert counters["bus.reconnects"] == 2
    assert counters["bus.dropped"] == counters["bus.dropped.frames"] == 5
    assert "bus.dropped.events" not in counters
    assert counters["bus.dead_letters.events"] == 2
    assert gauges["bus.queued"] == 3


# Presence


def presence(**changes: object) -> Presence:
    one = Presence(identity=IDENTITY, version="1", state="ready")
    one.session = 10
    return replace(one, **changes)  # type: ignore[arg-type]


def test_since_moves_with_the_state_and_not_with_the_reason() -> None:
    one = presence()
    first = one.since
    assert not one.change("ready")
    assert one.change("ready", "still")
    assert one.since == first
    assert one.change("degraded", "no model")
    assert one.since > first
    message = one.message()
    assert (message.state, message.reason, message.session) == ("degraded", "no model", 10)
    assert one.will(11).state == "offline"
    assert one.will(11).instance == message.instance


def seen(other: Presence, **changes: object) -> ServiceState:
    return other.message().model_copy(update=changes)


def test_an_older_process_stays_and_a_younger_one_yields() -> None:
    older = presence()
    younger = presence(instance=Presence(identity=IDENTITY, version="1").instance)
    assert older.instance < younger.instance
    assert judge(younger, seen(older), retained=False) == "yield"
    assert judge(older, seen(younger), retained=False) == "reassert"


def test_the_own_voice_is_ignored() -> None:
    own = presence()
    assert judge(own, own.message(), retained=False) == "ignore"
    assert judge(own, own.will(11), retained=False) == "ignore"


def test_a_late_will_is_answered() -> None:
    own = presence()
    assert judge(own, own.will(9), retained=False) == "reassert"
    dead = presence(instance="0")
    assert judge(own, dead.will(3), retained=False) == "reassert"
    assert judge(presence(state="stopped"), dead.will(3), retained=False) == "ignore"


def test_what_was_said_before_the_own_start_is_history() -> None:
    own = presence()
    dead = presence(instance="0")
    assert judge(own, seen(dead), retained=True) == "ignore"
    queued = seen(dead, time=own.started - timedelta(seconds=1))
    assert judge(own, queued, retained=False) == "ignore"


# The lock


@contextmanager
def held_elsewhere(folder: Path, **names: str) -> Iterator[int]:
    """The folder of a node's camera, held by another process; its id."""
    code = (
        "import json, sys; from edgebus.contracts import Identity\n"
        "from edgebus.service import NodeSettings\n"
        "from edgebus.service.identity import folder_lock\n"
        "node = NodeSettings(**json.loads(sys.argv[1]))\n"
        "identity = Identity(base=node.base, site=node.site, node=node.node, service='camera')\n"
        "with folder_lock(node, identity):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(names | {"data_dir": str(folder)})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    try:
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


def locked(node: NodeSettings) -> AbstractContextManager[None]:
    identity = Identity(base=node.base, site=node.site, node=node.node, service="camera")
    return folder_lock(node, identity)


def test_a_folder_has_one_process(tmp_path: Path) -> None:
    node = NodeSettings(site="lab", node="pi", data_dir=tmp_path)
    with held_elsewhere(tmp_path, site="lab", node="pi") as pid:
        with pytest.raises(DuplicateIdentityError) as error, locked(node):
            pass
        assert f"lab/pi/camera already runs (process {pid} holds {tmp_path}/camera)" in str(
            error.value
        )
        # Another name alone would meet the same folder.
        assert "--set node=NAME and a folder of its own with --set data_dir=FOLDER" in str(
            error.value
        )
    with locked(node):
        pass


@pytest.mark.parametrize(
    "other",
    [
        {"site": "lab", "node": "pi-02"},
        {"site": "works", "node": "pi"},
        {"base": "acme", "site": "lab", "node": "pi"},
    ],
)
def test_a_folder_of_another_node_is_told_from_a_second_process(
    tmp_path: Path, other: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_elsewhere(tmp_path, **other) as pid:
        node = NodeSettings(site="lab", node="pi", data_dir=tmp_path)
        with pytest.raises(SettingsError) as error, locked(node):
            pass
        holder = "/".join([other.get("base", "edgebus"), other["site"], other["node"], "camera"])
        text = str(error.value)
        assert f"data_dir ({tmp_path}/camera): belongs to {holder} (process {pid})" in text
        assert "edgebus/lab/pi/camera cannot use it too" in text
        # Both ways out work.
        assert "--set data_dir=FOLDER, or leave data_dir out" in text
        with locked(node.model_copy(update={"data_dir": tmp_path / "own"})):
            pass
        monkeypatch.setenv("HOME", str(tmp_path))
        with locked(NodeSettings(site="lab", node="pi")):
            pass


def test_nodes_of_one_host_share_no_folder_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [
        {"node": "pi-01"},
        {"node": "pi-02"},
        {"site": "works", "node": "pi-01"},
        {"base": "acme", "node": "pi-01"},
    ]
    nodes = [NodeSettings(**each) for each in names]
    assert nodes[0].data_dir == tmp_path / ".local/share/edgebus/lab/pi-01"
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(locked(node))
    with held_elsewhere(nodes[0].data_dir, node="pi-01"):
        with pytest.raises(DuplicateIdentityError) as error, locked(nodes[0]):
            pass
        assert str(error.value).endswith("another node name with --set node=NAME")


# Declarations


class Tuned(ServiceSettings):
    pace_s: float = 1.0


def test_declarations_are_found_in_order_and_inherited() -> None:
    class Base(Service[Tuned]):
        """First line.

        More.
        """

        @on(CAMERA_FRAME, scope="node")
        @on(SAMPLES)
        async def see(self, event): ...

        @every(seconds="pace_s")
        async def tick(self): ...

    class Child(Base):
        name = "child"

        @every(seconds=2)
        async def tick(self): ...

    found = declarations_of(Child)
    assert [name for name, _ in found] == ["see", "see", "tick"]
    assert found[0][1].topic is CAMERA_FRAME
    assert found[2][1].seconds == 2
    assert Child.settings_type is Tuned
    assert Base.summary() == "First line."


ELSEWHERE = CommandTopic(
    "{node}/retrainer/cmd/rest", Command, reply=Reply, doc="To one service only."
)


def test_a_wrong_declaration_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(DeclarationError, match="async def see"):

        class Sync(Service[Tuned]):
            @on(SAMPLES)
            def see(self, event): ...

    with pytest.raises(DeclarationError, match="carries Sample, no command"):

        class NoCommand(Service[Tuned]):
            name = "x"

            @command(SAMPLES)
            async def see(self, event): ...

    with pytest.raises(DeclarationError, match="addressed to retrainer"):

        class Wrong(Service[Tuned]):
            name = "x"

            @command(ELSEWHERE)
            async def see(self, event): ...

    with pytest.raises(DeclarationError, match="no setting 'pase_s'"):

        class Typo(Service[Tuned]):
            name = "x"

            @every(seconds="pase_s")
            async def see(self): ...

    with pytest.raises(DeclarationError, match="no interval"):

        class Never(Service[Tuned]):
            name = "x"

            @every(seconds=0)
            async def see(self): ...

    with pytest.raises(DeclarationError, match="holds '/'"):

        class Slash(Service[Tuned]):
            name = "a/b"


# Logs


def test_logs_are_one_json_object_per_line() -> None:
    stream = StringIO()
    configure_logging(LogSettings(format="json"), stream=stream)
    log = structlog.get_logger().bind(service="x")
    log.info("ready", model="yolox@3")
    log.debug("not shown")
    __import__("logging").getLogger("paho").warning("odd %s", "thing")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["event"] == "ready"
    assert first["level"] == "info"
    assert first["model"] == "yolox@3"
    assert first["time"].endswith("Z")
    assert second["event"] == "odd thing"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_ends_nobody() -> None:
    stream = Path("/dev/full").open("w")  # noqa: SIM115 its own closing fails
    configure_logging(LogSettings(format="json"), stream=stream)
    try:
        with pytest.raises(OSError, match="No space"):
            print("x", file=stream, flush=True)
        for _ in range(10):
            structlog.get_logger().error("outbox in memory only")
    finally:
        with suppress(OSError):
            stream.close()


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_shows_no_local_variables(style: str) -> None:
    stream = StringIO()
    configure_logging(LogSettings(format=style), stream=stream)  # type: ignore[arg-type]
    password = "hunter2"
    try:
        raise OSError(len(password))
    except OSError as error:
        structlog.get_logger().error("went down", exc_info=error)
    assert "OSError: 7" in stream.getvalue()
    # The traceback quotes the line that raised, not what the variables held.
    assert "hunter2" not in stream.getvalue()
