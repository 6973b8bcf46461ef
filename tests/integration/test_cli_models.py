"""`edgebus model publish|list|rollback` against a real distributor on a real Mosquitto."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from edgebus.artifacts import Bundle
from edgebus.bus import Bus, BusSettings, Event
from edgebus.contracts import Identity, ModelStatus, Release, ServiceState, topics
from edgebus.service import NodeSettings, Runtime
from edgebus.serving import OrtEngine
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg
from edgebus_distributor import Distributor, DistributorSettings
from program import run_edgebus


@asynccontextmanager
async def distributor(
    mosquitto: Any, folder: Path, *, site: str = "shop"
) -> AsyncIterator[asyncio.Queue[Release]]:
    """A distributor at a site, and the releases that it announces."""
    node = NodeSettings(site=site, node="gpu", data_dir=folder)
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

    ear = Identity(site=site, node="test", service="test")
    stop = asyncio.Event()
    async with Bus(
        mosquitto.transport(), identity=ear, settings=BusSettings(ephemeral=True)
    ) as bus:
        await bus.subscribe(topics.SERVICE_STATE.any(site=site, node="gpu"), see)
        await bus.subscribe(topics.RELEASE.any(site=site), release)
        life = asyncio.create_task(runtime.run(stop, look_first=False))
        await asyncio.wait_for(ready.wait(), 30)
        try:
            yield releases
        finally:
            stop.set()
            await life


async def follow(
    mosquitto: Any, *, model: str, channel: str = "stable", site: str = "shop"
) -> None:
    """An edge ``till/detector`` that follows a model, as its retained status says."""
    edge = Identity(site=site, node="till", service="detector")
    async with Bus(
        mosquitto.transport(), identity=edge, settings=BusSettings(ephemeral=True)
    ) as bus:
        status = ModelStatus(model=model, channel=channel, state="idle")
        await bus.publish(topics.MODEL_STATUS.at(edge), status)


async def test_publish_list_and_rollback(mosquitto: Any, tmp_path: Path) -> None:
    first = tiny_bundle(tmp_path / "first", version=1)
    second = tiny_bundle(tmp_path / "second", version=2)
    where = ("--broker", mosquitto.url, "--set", "site=shop")
    async with distributor(mosquitto, tmp_path / "data") as releases:
        await follow(mosquitto, model=first.manifest.name)
        code, out, err = await run_edgebus("model", "list", *where)
        assert (code, err) == (0, "")
        assert "the registry is empty" in out
        for bundle, folder in ((first, "first"), (second, "second")):
            code, out, err = await run_edgebus("model", "publish", str(tmp_path / folder), *where)
            assert (code, err) == (0, ""), err
            assert out.splitlines()[1] == "1 edge follows it: till/detector"
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


async def test_a_release_that_nobody_follows_is_said_and_has_a_code_of_its_own(
    mosquitto: Any, tmp_path: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "first", version=1)
    name = bundle.manifest.name
    where = ("--broker", mosquitto.url, "--set", "site=lonely")
    async with distributor(mosquitto, tmp_path / "data", site="lonely"):
        publish = ("model", "publish", tmp_path / "first")
        code, out, err = await run_edgebus(*publish, *where)
        assert (code, out) == (4, f"{name} version 1 is released to stable (#1)\n")
        assert f"no edge follows {name} on channel stable: there is no edge yet" in err
        await follow(mosquitto, model="another", site="lonely")
        code, _, err = await run_edgebus(*publish, "--channel", "canary", *where)
        assert code == 4
        assert f"no edge follows {name} on channel canary" in err
        assert "till/detector: another on stable" in err
        await follow(mosquitto, model=name, channel="canary", site="lonely")
        code, out, _ = await run_edgebus("model", "rollback", name, *where)
        assert code == 1  # nothing was there before
        code, out, err = await run_edgebus(*publish, "--channel", "canary", *where)
        assert (code, err) == (0, "")
        assert "1 edge follows it: till/detector" in out


async def test_a_model_is_taken_home_from_the_bus(mosquitto: Any, tmp_path: Path) -> None:
    first = tiny_bundle(tmp_path / "first", version=1)
    second = tiny_bundle(tmp_path / "second", version=2)
    name = first.manifest.name
    where = ("--broker", mosquitto.url, "--set", "site=shop")
    export = ("model", "export")
    async with distributor(mosquitto, tmp_path / "data"):
        await follow(mosquitto, model=name)
        for folder in ("first", "second"):
            assert (await run_edgebus("model", "publish", tmp_path / folder, *where))[0] == 0
        code, out, err = await run_edgebus(*export, name, "-o", tmp_path / "home", *where)
        assert (code, err) == (0, "")
        assert f"{name} version 2" in out
        assert Bundle.open(tmp_path / "home").digest == second.digest
        old = ("--version", "1", "-o", tmp_path / "old.onnx")
        assert (await run_edgebus(*export, name, *old, *where))[0] == 0
        code, _, err = await run_edgebus(*export, name, "-o", tmp_path / "home", *where)
        assert (code, err) == (
            1,
            f"edgebus: {tmp_path}/home is there already; name another place\n",
        )
        code, _, err = await run_edgebus(*export, name, "--version", "7", *where)
        assert code == 2
        assert f"the registry has no {name} version 7" in err
        assert f"it has {name} version 2, {name} version 1" in err
    code, _, err = await run_edgebus(*export, tmp_path / "home", "-o", tmp_path / "new.onnx")
    assert (code, err) == (0, "")
    for file, bundle in (("old.onnx", first), ("new.onnx", second)):
        model = onnx.load(tmp_path / file)  # its weights are inside
        onnx.checker.check_model(model)
        session = ort.InferenceSession(model.SerializeToString())
        kept = session.get_modelmeta().custom_metadata_map
        assert json.loads(kept["edgebus"])["digest"] == bundle.digest
        assert json.loads(kept["classes"]) == bundle.manifest.workload["classes"]
        inputs = {
            port.name: np.full(port.concrete(), 0.5, np.float32) for port in bundle.manifest.inputs
        }
        names = [port.name for port in bundle.manifest.outputs]
        served = OrtEngine(bundle).run(inputs)
        for output, value in zip(names, session.run(names, inputs), strict=True):
            np.testing.assert_array_equal(value, served[output])


async def test_nobody_there(mosquitto: Any, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "one")
    where = ("--broker", mosquitto.url, "--set", "site=empty-shop")
    code, out, err = await run_edgebus("model", "publish", str(tmp_path / "one"), *where)
    assert (code, out) == (1, "")
    assert err == (
        "edgebus: no distributor is ready at site empty-shop; see: edgebus topics watch\n"
    )


async def test_the_other_site_is_named(mosquitto: Any, tmp_path: Path) -> None:
    async with distributor(mosquitto, tmp_path / "data"):
        where = ("--broker", mosquitto.url, "--set", "site=away")
        code, _, err = await run_edgebus("model", "list", *where)
    assert code == 1
    assert "there is one at shop: choose with --set site=shop" in err


async def test_a_model_that_learnt_novelty_is_published_as_the_next_version(
    mosquitto: Any, tmp_path: Path
) -> None:
    tiny_bundle(tmp_path / "first", version=1)
    (tmp_path / "pictures").mkdir()
    for number in range(24):
        picture = tiny_picture(red=(number % 6, number % 8), blue=(number % 5, 7 - number % 8))
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(encode_jpeg(picture))
    where = ("--broker", mosquitto.url, "--set", "site=strange")
    async with distributor(mosquitto, tmp_path / "data", site="strange"):
        await follow(mosquitto, model="tiny", site="strange")
        assert (await run_edgebus("model", "publish", tmp_path / "first", *where))[0] == 0
        code, out, err = await run_edgebus(
            *("model", "novelty", tmp_path / "first", tmp_path / "pictures"),
            *("--out", tmp_path / "second"),
        )
        assert (code, err) == (0, "")
        assert f"{tmp_path / 'second'}: version 2, 24 pictures" in out
        code, out, err = await run_edgebus("model", "publish", tmp_path / "second", *where)
        assert (code, err) == (0, "")
        assert "version 2 is released" in out
    assert Bundle.open(tmp_path / "second").manifest.parent == (
        Bundle.open(tmp_path / "first").digest
    )
