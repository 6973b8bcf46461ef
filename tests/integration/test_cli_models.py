"""`edgebus model publish|list|rollback` against a real distributor on a real Mosquitto."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edgebus.bus import Bus, BusSettings, Event
from edgebus.contracts import Identity, Release, ServiceState, topics
from edgebus.service import NodeSettings, Runtime
from edgebus_detection.models.testing import tiny_bundle
from edgebus_distributor import Distributor, DistributorSettings
from program import run_edgebus


@asynccontextmanager
async def distributor(mosquitto: Any, folder: Path) -> AsyncIterator[asyncio.Queue[Release]]:
    """A distributor at site ``shop``, and the releases that it announces."""
    node = NodeSettings(site="shop", node="gpu", data_dir=folder)
    runtime = Runtime(
        Distributor, node=node, settings=DistributorSettings(), transport=mosquitto.transport()
    )
    ready = asyncio.Event()
    releases: asyncio.Queue[Release] = asyncio.Queue()

    async def see(event: Event[ServiceState]) -> None:
        if event.payload.state == "ready":
            ready.set()

    async def release(event: Event[Release]) -> None:
        releases.put_nowait(event.payload)

    ear = Identity(site="shop", node="test", service="test")
    stop = asyncio.Event()
    async with Bus(
        mosquitto.transport(), identity=ear, settings=BusSettings(ephemeral=True)
    ) as bus:
        await bus.subscribe(topics.SERVICE_STATE.any(site="shop", node="gpu"), see)
        await bus.subscribe(topics.RELEASE.any(site="shop"), release)
        life = asyncio.create_task(runtime.run(stop, look_first=False))
        await asyncio.wait_for(ready.wait(), 30)
        try:
            yield releases
        finally:
            stop.set()
            await life


async def test_publish_list_and_rollback(mosquitto: Any, tmp_path: Path) -> None:
    first = tiny_bundle(tmp_path / "first", version=1)
    second = tiny_bundle(tmp_path / "second", version=2)
    where = ("--broker", mosquitto.url, "--set", "site=shop")
    async with distributor(mosquitto, tmp_path / "data") as releases:
        code, out, err = await run_edgebus("model", "list", *where)
        assert (code, err) == (0, "")
        assert "the registry is empty" in out
        for bundle, folder in ((first, "first"), (second, "second")):
            code, out, err = await run_edgebus("model", "publish", str(tmp_path / folder), *where)
            assert (code, err) == (0, ""), err
            announced = await asyncio.wait_for(releases.get(), 10)
            assert announced.bundle.model.digest == bundle.digest
            assert announced.bundle.provider == "shop/gpu/distributor"
        code, out, _ = await run_edgebus("model", "list", *where)
        rows = [row.split() for row in out.splitlines()[1:]]
        assert [(row[1], row[2]) for row in rows] == [("2", "stable"), ("1", first.digest[:12])]
        code, out, _ = await run_edgebus("model", "rollback", first.manifest.name, *where)
        assert code == 0
        back = await asyncio.wait_for(releases.get(), 10)
        assert back.bundle.model.digest == first.digest
        assert back.sequence == announced.sequence + 1
        code, out, err = await run_edgebus("model", "rollback", "nothing", *where)
        assert (code, out) == (1, "")
        assert err.startswith("edgebus: distributor on gpu refuses: ")
        assert len(err.splitlines()) == 1


async def test_nobody_there(mosquitto: Any, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "one")
    where = ("--broker", mosquitto.url, "--set", "site=empty-shop")
    code, out, err = await run_edgebus("model", "publish", str(tmp_path / "one"), *where)
    assert (code, out) == (1, "")
    assert err == (
        "edgebus: no distributor is ready at site empty-shop; see: edgebus topics watch\n"
    )
