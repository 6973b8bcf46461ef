"""Services keep their events on disk by default, and say when they cannot."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import OutboxFileError
from edgebus.bus import _journal as journal_module
from edgebus.bus._journal import EventFile
from edgebus.contracts import Message, Topic
from edgebus.service import Service, ServiceSettings
from edgebus.service.testing import ServiceHarness

FILE = "outbox.edgebus.lab.pi-01.notary.sqlite"


class Note(Message, version=1):
    """A message for tests."""

    n: int


NOTE = Topic("{node}/{service}/notes", Note, qos=1, doc="A note.")


class NotarySettings(ServiceSettings):
    """None."""


class Notary(Service[NotarySettings]):
    """Publishes notes."""

    name = "notary"
    publishes = (NOTE,)

    async def note(self, n: int) -> None:
        await self.publish(NOTE, Note(n=n))


def harness(folder: Path, **node: Any) -> ServiceHarness[NotarySettings]:
    return ServiceHarness(Notary, NotarySettings(), data_dir=folder, drain_s=0.0, **node)


async def note(one: ServiceHarness[NotarySettings], n: int) -> None:
    assert isinstance(one.service, Notary)
    await one.service.note(n)


async def eventually_empty(one: ServiceHarness[NotarySettings]) -> None:
    async with asyncio.timeout(10):
        while one.service.bus.stats.outbox_messages:
            await asyncio.sleep(0.005)


async def test_events_of_a_service_wait_in_its_data_folder(tmp_path: Path) -> None:
    async with harness(tmp_path) as one:
        assert one.service.bus.outbox.durable
        one.broker.stop()
        await one.service.bus.connection.down()
        for n in range(3):
            await note(one, n)
    async with harness(tmp_path) as one:
        assert [(await one.expect(NOTE)).payload.n for _ in range(3)] == [0, 1, 2]
    assert (tmp_path / "notary" / FILE).exists()


async def test_it_can_be_turned_off(tmp_path: Path) -> None:
    async with harness(tmp_path, bus={"outbox": {"durable": False}}) as one:
        assert not one.service.bus.outbox.durable
    assert not list(tmp_path.rglob("*.sqlite"))


async def test_a_damaged_file_makes_it_degraded_whatever_it_says_of_itself(tmp_path: Path) -> None:
    file = tmp_path / "notary" / FILE
    file.parent.mkdir()
    file.write_bytes(b"junk" * 1000)
    async with harness(tmp_path) as one:
        said = await one.wait_for_state("degraded")
        assert str(file) in said.reason
        await one.service.set_state("degraded", "no stamp")
        await one.service.set_state("ready")
        await note(one, 1)
        await one.expect(NOTE)
        assert (await one.wait_for_state("degraded")).reason == said.reason


async def test_it_is_ready_again_once_the_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_RETRY_S", 0.01)
    works = asyncio.Event()
    apply = EventFile.apply

    def failing(self: EventFile, **change: object) -> None:
        if not works.is_set():
            raise OutboxFileError(path=self.path, reason="no space left on device")
        apply(self, **change)  # type: ignore[arg-type]

    monkeypatch.setattr(EventFile, "apply", failing)
    async with harness(tmp_path) as one:
        one.broker.stop()
        await one.service.bus.connection.down()
        await note(one, 1)
        assert "no space" in one.service.bus.outbox.trouble
        one.broker.start()
        await one.wait_for_state("degraded")
        # Although nothing waits any more: it is tried whether the disk takes something.
        await eventually_empty(one)
        works.set()
        await one.wait_for_state("ready")
