"""What one side of a bus benchmark is asked to do, and the messages that it sends."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Literal

from edgebus.contracts import Message, Qos, Topic, utc_now
from edgebus_detection.messages import Frame, FrameRecord

__all__ = ["EVENT", "FRAME", "JPEG", "RAW", "Job", "Meter", "Pings", "Reading", "frame", "reading"]

SIZE_JSON = 256
SIZE_JPEG = 60_000
SOURCE = "bench/pi-01/camera"


class Reading(Message, version=1, name="bench-reading"):
    """A message of a sensor, about 256 bytes of JSON."""

    n: int
    name: str
    values: list[float]
    note: str


QOS: tuple[Qos, ...] = (0, 1)
EVENT = {qos: Topic("{node}/{service}/readings", Reading, qos=qos, doc="Bench.") for qos in QOS}
FRAME = {qos: Topic("{node}/{service}/frames", Frame, qos=qos, doc="Bench.") for qos in QOS}

# Start, frame header of 640 by 480, start of scan; nobody here decodes the picture.
_HEAD = bytes.fromhex("ffd8 ffc00011 08 01e0 0280 03 012200 021101 031101 ffda00040000")
JPEG = _HEAD + b"\x55" * (SIZE_JPEG - 250 - len(_HEAD)) + b"\xff\xd9"
RAW = {"json": b"x" * (SIZE_JSON - 8), "jpeg": b"x" * (SIZE_JPEG - 8)}


def reading(n: int) -> Reading:
    """A new message, as a service would make it: with an id and a time of its own."""
    return Reading(source=SOURCE, n=n, name="front", values=[1.25, 2.5, 3.75], note="x" * 56)


def frame(n: int) -> Frame:
    """A new frame of 60 kB, its record inside."""
    record = FrameRecord(
        source=SOURCE, camera="front", index=n, captured=utc_now(), width=640, height=480
    )
    return Frame.build(JPEG, record)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One side's part of one measurement.

    Attributes:
        role: ``source`` floods and ``sink`` counts; ``ping`` asks and ``echo`` answers.
        payload: ``json`` or ``jpeg``.
        count: Messages of a flood.
        window: QoS 1 messages in flight.
        rate: Pings per second.
        seconds: How long pings are sent.
        topic: Of the measurement; answers go to the same with ``/back`` behind it.
    """

    role: Literal["source", "sink", "ping", "echo"]
    client: str
    port: int
    payload: Literal["json", "jpeg"]
    qos: Literal[0, 1]
    topic: str
    count: int = 0
    window: int = 100
    rate: int = 100
    seconds: float = 5.0
    uvloop: bool = False
    core: int | None = None

    def to_json(self) -> str:
        """For the command line of the child."""
        return json.dumps(asdict(self))

    def raw(self, n: int) -> bytes:
        """The payload that clients without types send."""
        return b"%08d" % n + RAW[self.payload]

    def typed(self, n: int) -> Reading | Frame:
        """The payload that clients with types send."""
        return reading(n) if self.payload == "json" else frame(n)


@dataclass
class Meter:
    """Counts what a sink gets; times are CLOCK_MONOTONIC, which all processes share."""

    count: int
    received: int = 0
    first: float = 0.0
    last: float = 0.0
    cpu_first: float = 0.0
    cpu_last: float = 0.0

    def add(self) -> bool:
        """Count one message; whether it was the last."""
        if not self.received:
            self.first, self.cpu_first = time.monotonic(), time.process_time()
        self.received += 1
        if self.received < self.count:
            return False
        self.stop()
        return True

    def stop(self) -> None:
        """The end of it."""
        self.last, self.cpu_last = time.monotonic(), time.process_time()


@dataclass
class Pings:
    """Sent and answered pings."""

    sent: dict[int, float] = field(default_factory=dict)
    took_ms: list[float] = field(default_factory=list)

    def send(self, n: int) -> None:
        """Ping `n` goes out now."""
        self.sent[n] = time.perf_counter()

    def answer(self, n: int) -> None:
        """Ping `n` is back."""
        self.took_ms.append((time.perf_counter() - self.sent.pop(n)) * 1000)


def say(word: str, **data: object) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps({"word": word, **data}) + "\n")
    sys.stdout.flush()


def wait_for_go() -> None:
    """Wait for the parent."""
    if not sys.stdin.readline():
        raise SystemExit
