"""Attacks on what a disk gives back: recordings, the outbox, what a serving service remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from edgebus.bus import OutboxFileError, RawMessage
from edgebus.bus._journal import EventFile, Stored
from edgebus.bus.transport import Outgoing
from edgebus.contracts import Identity, ServiceState, topics, utc_now
from edgebus.recording import Recording, RecordingUnreadableError, RecordingWriter
from edgebus.serving import ServingState, StateFile
from tests.soak.making import Maker
from tests.soak.mutating import mutated_bytes
from tests.soak.target import Target, WrongError, scratch_folder

__all__ = ["file_targets"]

_ME = Identity(site="lab", node="pi-01", service="soak")


def file_targets() -> list[Target]:
    """A damaged file is refused, or read as far as it goes; never more than that."""
    folder = scratch_folder()
    return [
        Target("recording", _recording(folder), share=0.3),
        Target("outbox on disk", _outbox(folder), share=0.02),
        Target("state of a serving service", _state(folder), share=0.1),
    ]


def _recording(folder: Path) -> Callable[[Random], int]:
    path = folder / "whole.mcap"
    writer = RecordingWriter(path)
    states = [Maker(Random(number)).model(ServiceState) for number in range(20)]
    for state in states:
        topic = topics.SERVICE_STATE.at(_ME).name
        writer.add(RawMessage(topic, state.encode(), 1, False, False, utc_now(), None))
        writer.add(RawMessage("third/party", b"21.5", 0, True, False, utc_now(), None))
    writer.finish()
    whole = path.read_bytes()
    damaged = folder / "damaged.mcap"

    def attack(random: Random) -> int:
        data = mutated_bytes(random, whole)
        damaged.write_bytes(data)
        try:
            recording = Recording(damaged)
        except RecordingUnreadableError as error:
            str(error).encode()
            return 0
        read = sum(len(message.payload) for message in recording)
        if data == whole and (recording.trouble or not read):
            msg = f"the whole file is in trouble: {recording.trouble}"
            raise WrongError(msg)
        return int(read > 0)

    return attack


def _outbox(folder: Path) -> Callable[[Random], int]:
    path = folder / "outbox.db"

    def attack(random: Random) -> int:
        for old in folder.glob("outbox.db*"):
            old.unlink()
        file = EventFile(path)
        file.open()
        events = [
            Stored(number, Outgoing(topic=f"a/{number}", payload=random.randbytes(50), qos=1), None)
            for number in range(20)
        ]
        file.apply(add=events, remove=[])
        file.close()
        path.write_bytes(mutated_bytes(random, path.read_bytes()))
        again = EventFile(path)
        try:
            found = again.open()
            again.apply(add=events[:1], remove=[3])
        except OutboxFileError as error:
            str(error).encode()
            return 0
        finally:
            again.close()
        if not all(isinstance(event.message.payload, bytes) for event in found):
            msg = "something that is no payload comes out of the outbox"
            raise WrongError(msg)
        return 1

    return attack


def _state(folder: Path) -> Callable[[Random], int]:
    path = folder / "current.json"
    file = StateFile(path)

    def attack(random: Random) -> int:
        state = Maker(random).model(ServingState, model="tiny")
        file.write(state)
        if file.read(model="tiny") != (state, ""):
            msg = "the state came back as another"
            raise WrongError(msg)
        path.write_bytes(mutated_bytes(random, path.read_bytes()))
        found, trouble = file.read(model="tiny")
        file.peek()
        str(trouble).encode()
        return int(found != ServingState(model="tiny"))

    return attack
