from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from pydantic import ValidationError

from edgebus.artifacts import Bundle, Store, Update, derive_bundle
from edgebus.bus import Event
from edgebus.contracts import Identity, Release, topics, utc_now
from edgebus.service import ServiceFailedError
from edgebus.service.testing import ServiceHarness
from edgebus.serving import EngineError, EngineSettings
from edgebus.transfer import ArtifactProvider, reference
from edgebus_detection.messages import CAMERA_FRAME, DETECTIONS, Detections, Frame, FrameRecord
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg
from edgebus_detector import Detector, DetectorSettings

ONE = EngineSettings(threads=1)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[int, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: tiny_bundle(folder / f"v{n}", version=n, gain=0.2 + n / 50) for n in (1, 2, 3)}


def frame(
    index: int = 0, *, camera: str = "front", node: str = "pi-01", picture=None, width: int = 64
) -> Frame:
    image = tiny_picture() if picture is None else picture
    now = utc_now()
    record = FrameRecord(
        source=f"lab/{node}/camera",
        camera=camera,
        index=index,
        captured=now - timedelta(milliseconds=5),
        time=now,
        width=width,
        height=48,
    )
    return Frame.build(encode_jpeg(image, quality=98), record)


def harness(
    bundle: Bundle | None = None, *, data_dir: Path | None = None, **settings
) -> ServiceHarness[DetectorSettings]:
    return ServiceHarness(
        Detector,
        DetectorSettings(
            model="tiny", bundle=bundle.path if bundle is not None else None, engine=ONE, **settings
        ),
        data_dir=data_dir,
    )


async def show(edge: ServiceHarness[DetectorSettings], *frames: Frame, node: str = "pi-01") -> None:
    for one in frames:
        address = CAMERA_FRAME.at(edge.node(node), camera=one.record.camera)
        await edge.publish(address, one)


def counters(edge: ServiceHarness[DetectorSettings]) -> dict[str, float]:
    return edge.service.metrics.snapshot().counters


@asynccontextmanager
async def distributor(
    edge: ServiceHarness[DetectorSettings], folder: Path, *bundles: Bundle
) -> AsyncIterator[Distributor]:
    identity = edge.node("cloud", "distributor")
    store = Store(folder / "cloud-store")
    for bundle in bundles:
        store.put_bundle(bundle)
    serving = asyncio.create_task(ArtifactProvider(edge.bus, identity, store).run())
    try:
        yield Distributor(edge, identity, store)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


class Distributor:
    def __init__(
        self, edge: ServiceHarness[DetectorSettings], identity: Identity, store: Store
    ) -> None:
        self.edge, self.identity, self.store = edge, identity, store

    async def release(self, bundle: Bundle, sequence: int, *, channel: str = "stable") -> None:
        message = Release(
            source=self.identity.source,
            channel=channel,
            bundle=reference(self.store, bundle.digest, provider=self.identity),
            sequence=sequence,
        )
        address = topics.RELEASE.at(self.identity, model=bundle.ref.name, channel=channel)
        await self.edge.publish(address, message)

    async def until(self, state: str, sequence: int):
        event = await self.edge.expect(
            topics.MODEL_STATUS,
            where=lambda e: e.payload.state == state and e.payload.sequence == sequence,
        )
        return event.payload


async def test_a_frame_is_answered_with_everything_that_is_known(bundles) -> None:
    async with harness(bundles[1]) as edge:
        one = frame(7)
        await show(edge, one)
        event = await edge.expect(DETECTIONS)
        said: Detections = event.payload
        assert event.topic == "edgebus/lab/pi-01/detector/front/detections"
        assert (said.frame, said.camera, said.index) == (one.record.id, "front", 7)
        assert (said.width, said.height) == (64, 48)
        places = {box.label: (box.x1, box.y1) for box in said.boxes}
        assert places == {"person": (16, 8), "car": (40, 32)}
        assert said.model.digest == bundles[1].digest
        assert said.model.engine == "onnxruntime/CPUExecutionProvider"
        assert said.captured <= said.sent <= said.received <= said.detected
        assert said.captured == one.record.captured
        stages = said.stages
        assert min(stages.decode_ms, stages.preprocess_ms, stages.inference_ms) > 0
        assert counters(edge)["inputs.answered"] == 1


async def test_without_a_model_it_says_so_and_waits(bundles, tmp_path: Path) -> None:
    async with harness() as edge:
        state = await edge.wait_for_state("degraded")
        assert state.reason == "waiting for a first model"
        status = (await edge.expect(topics.MODEL_STATUS)).payload
        assert (status.model, status.channel, status.serving) == ("tiny", "stable", None)
        await show(edge, frame(0))
        async with distributor(edge, tmp_path, bundles[1]) as cloud:
            await cloud.release(bundles[1], 1)
            done = await cloud.until("updated", 1)
            assert done.serving.version == 1
            assert done.received_bytes > 0
            await edge.wait_for_state("ready")
            await show(edge, frame(1))
            said = (await edge.expect(DETECTIONS)).payload
            assert said.index == 1
            assert counters(edge)["inputs.unserved"] == 1


async def test_frames_flow_while_models_change(bundles, tmp_path: Path) -> None:
    async with harness(bundles[1]) as edge:
        stop = asyncio.Event()
        sent: list[Frame] = []
        answers: list[Detections] = []
        news = asyncio.Event()

        async def film() -> None:
            while not stop.is_set():
                sent.append(frame(len(sent)))
                await show(edge, sent[-1])
                await asyncio.sleep(0.005)

        async def note(event: Event[Detections]) -> None:
            answers.append(event.payload)
            news.set()

        async def answered(index: int) -> None:
            async with asyncio.timeout(10):
                while not answers or answers[-1].index < index:
                    news.clear()
                    await news.wait()

        await edge.bus.subscribe(DETECTIONS.any(), note)
        async with distributor(edge, tmp_path, *bundles.values()) as cloud:
            async with asyncio.TaskGroup() as group:
                group.create_task(film())
                await answered(5)
                for sequence, version in enumerate((2, 3, 1), start=1):  # the last is a roll-back
                    await cloud.release(bundles[version], sequence)
                    done = await cloud.until("updated", sequence)
                    assert done.serving.version == version
                    await answered(len(sent) + 5)
                stop.set()
            await answered(sent[-1].record.index)
        counts = counters(edge)
        assert "inputs.failed" not in counts
        assert counts["inputs.answered"] == len(answers)
        assert len(answers) + counts.get("inputs.dropped", 0) == len(sent)
        # No frame was answered by an old model after a new one, nor out of order.
        versions = [version for version, _ in itertools.groupby(a.model.version for a in answers)]
        assert versions == [1, 2, 3, 1]
        assert [a.index for a in answers] == sorted({a.index for a in answers})


async def test_it_starts_with_the_model_it_served_last(bundles, tmp_path: Path) -> None:
    data = tmp_path / "edge"
    async with (
        harness(bundles[1], data_dir=data) as edge,
        distributor(edge, tmp_path, bundles[2]) as cloud,
    ):
        await cloud.release(bundles[2], 4)
        await cloud.until("updated", 4)
    async with harness(bundles[1], data_dir=data) as edge:  # the cloud is gone
        status = (await edge.expect(topics.MODEL_STATUS)).payload
        assert (status.serving.version, status.previous.version, status.sequence) == (2, 1, 4)
        await show(edge, frame())
        assert (await edge.expect(DETECTIONS)).payload.model.version == 2


async def test_releases_of_others_are_none_of_its_business(bundles, tmp_path: Path) -> None:
    cats = tiny_bundle(tmp_path / "cats", name="cats")
    async with (
        harness(bundles[1]) as edge,
        distributor(edge, tmp_path, bundles[2], bundles[3], cats) as cloud,
    ):
        await cloud.release(bundles[2], 8, channel="canary")
        await cloud.release(cats, 9)
        await cloud.release(bundles[3], 1)
        await cloud.until("updated", 1)
        assert edge.service.shared.serving.ref.version == 3
        said = {e.payload.sequence for e in edge.received(topics.MODEL_STATUS)}
        assert said <= {0, 1}


def broken(kind: str) -> bytes:
    good = frame(1).jpeg
    if kind == "size":
        at = good.index(b"\xff\xc0") + 5  # the frame header's height and width
        return good[:at] + struct.pack(">HH", 48, 80) + good[at + 4 :]
    if kind == "scan":  # markers in place, picture data gone
        scan = good.index(b"\xff\xda")
        return good[:scan] + b"\xff\xd9"
    return {"empty": b"", "truncated": good[: len(good) - 40], "text": b"hello"}[kind]


@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "size", "scan"])
async def test_a_broken_frame_becomes_a_dead_letter_and_it_goes_on(bundles, kind) -> None:
    async with harness(bundles[1]) as edge:
        raw = broken(kind)

        class Anything:
            content_type = "image/jpeg"

            def encode(self) -> bytes:
                return raw

        address = CAMERA_FRAME.at(edge.node("pi-01"), camera="front")
        await edge.bus.publish(address, cast("Frame", Anything()))
        letter: Event = await edge.expect(topics.DEAD_LETTER)
        assert letter.payload.topic == address.name
        assert letter.payload.size == len(raw)
        assert letter.payload.error
        await show(edge, frame(2))
        assert (await edge.expect(DETECTIONS)).payload.index == 2


async def test_the_newest_frame_wins_and_drops_are_counted_per_camera(bundles) -> None:
    async with harness(bundles[1]) as edge:
        service = cast("Detector", edge.service)
        gate = asyncio.Event()
        model = service.shared.serving.model
        predict = model.predict
        loop = asyncio.get_running_loop()

        def slow(image):
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)
            return predict(image)

        model.predict = slow
        await show(
            edge, *(frame(n) for n in range(6)), *(frame(n, camera="back") for n in range(3))
        )
        # Everything has arrived once the drops are counted: the first frame is in the worker, the
        # newest of each camera waits.
        async with asyncio.timeout(10):
            while counters(edge).get("inputs.dropped", 0) < 6:
                await asyncio.sleep(0.001)
        gate.set()
        answers = [(await edge.expect(DETECTIONS)).payload for _ in range(3)]
        seen = {(a.camera, a.index): a.dropped for a in answers}
        assert seen == {("front", 0): 4, ("front", 5): 4, ("back", 2): 2}
        assert counters(edge)["inputs.answered"] == 3


async def test_it_watches_its_own_node_unless_told_otherwise(bundles) -> None:
    async with harness(bundles[1]) as edge:
        await show(edge, frame(0, node="pi-02"), node="pi-02")
        await show(edge, frame(1))
        assert (await edge.expect(DETECTIONS)).payload.index == 1
    async with harness(bundles[1], scope="site") as edge:
        await show(edge, frame(0, node="pi-02"), node="pi-02")
        event = await edge.expect(DETECTIONS)
        assert event.topic == "edgebus/lab/pi-01/detector/pi-02.front/detections"


async def test_the_threshold_can_be_set(bundles) -> None:
    async with harness(bundles[1], threshold=1.0) as edge:
        await show(edge, frame(picture=np.full((48, 64, 3), 128, np.uint8)))
        assert (await edge.expect(DETECTIONS)).payload.boxes == ()


async def test_a_model_that_fails_on_its_first_frame_is_taken_back(bundles, tmp_path) -> None:
    async with harness(bundles[1]) as edge:
        service = cast("Detector", edge.service)
        async with distributor(edge, tmp_path, bundles[2]) as cloud:
            await cloud.release(bundles[2], 1)
            await cloud.until("updated", 1)
            engine = service.shared.serving.model.engine
            run = engine.run
            engine.run = lambda inputs: {name: out * np.nan for name, out in run(inputs).items()}
            await show(edge, frame(3))
            said = (await edge.expect(DETECTIONS)).payload
            assert (said.index, said.model.version) == (3, 1)  # the frame was not lost
            status = await cloud.until("failed", 1)
            assert "taken back" in status.error
            assert bundles[2].digest[:12] in status.error


def test_settings_need_a_model_and_refuse_typos() -> None:
    with pytest.raises(ValidationError, match="set model"):
        DetectorSettings()
    with pytest.raises(ValidationError, match="tresholt"):
        DetectorSettings(model="tiny", tresholt=0.3)


async def test_the_bundle_names_the_model(bundles) -> None:
    async with ServiceHarness(
        Detector, DetectorSettings(bundle=bundles[1].path, engine=ONE)
    ) as edge:
        assert cast("Detector", edge.service).model == "tiny"
    with pytest.raises(ServiceFailedError, match="/none is no folder") as failed:
        async with ServiceHarness(Detector, DetectorSettings(bundle=Path("/none"))):
            pass
    assert failed.value.exit_code == 2


async def test_a_bundle_that_has_gone_stops_no_restart(bundles, tmp_path: Path) -> None:
    settings = DetectorSettings(bundle=bundles[1].path, engine=ONE)
    async with ServiceHarness(Detector, settings, data_dir=tmp_path):
        pass
    gone = DetectorSettings(bundle=tmp_path / "gone", engine=ONE)
    async with ServiceHarness(Detector, gone, data_dir=tmp_path) as edge:
        assert cast("Detector", edge.service).shared.serving.ref.version == 1
        await show(edge, frame(3))
        assert (await edge.expect(DETECTIONS)).payload.index == 3


def own_bundle(bundle: Bundle, folder: Path, *, version: int = 4) -> Bundle:
    """A version of the front camera's own model, a little apart from the shared one."""
    name = next(name for name in bundle.tensors() if name.endswith("bias"))
    change = Update(replace={name: bundle.tensors()[name] + np.float32(1e-3 * version)})
    return derive_bundle(
        bundle, change, name="tiny@pi-01.front", version=version, out=folder / f"own-{version}"
    )


async def own_status(edge: ServiceHarness[DetectorSettings], state: str):
    fits = lambda e: e.payload.state == state and e.payload.stream == "front"  # noqa: E731
    return (await edge.expect(topics.STREAM_MODEL, where=fits)).payload


async def answer(edge: ServiceHarness[DetectorSettings], camera: str, index: int) -> Detections:
    await show(edge, frame(index, camera=camera))
    where = lambda e: (e.payload.camera, e.payload.index) == (camera, index)  # noqa: E731
    return (await edge.expect(DETECTIONS, where=where)).payload


async def test_a_camera_with_a_model_of_its_own_is_answered_by_it_alone(bundles, tmp_path) -> None:
    own = own_bundle(bundles[1], tmp_path)
    async with harness(bundles[1], data_dir=tmp_path / "data") as edge:
        assert (await answer(edge, "front", 0)).model.digest == bundles[1].digest
        async with distributor(edge, tmp_path, own, bundles[2]) as cloud:
            await cloud.release(own, 1)
            done = await own_status(edge, "updated")
            assert (done.model, done.sequence) == ("tiny@pi-01.front", 1)
            # The weights are made of the shared ones, which are here: only the patch came.
            assert 0 < done.received_bytes < len(own.weights.data)
            said = await answer(edge, "front", 1)
            assert said.model.name == "tiny@pi-01.front"
            assert {box.label for box in said.boxes} == {"person", "car"}
            assert (await answer(edge, "back", 1)).model.digest == bundles[1].digest
            # The shared one moves on, and the camera keeps its own.
            await cloud.release(bundles[2], 1)
            assert (await cloud.until("updated", 1)).serving.version == 2
            assert (await answer(edge, "back", 2)).model.digest == bundles[2].digest
            assert (await answer(edge, "front", 2)).model.digest == own.digest
    # It is remembered, and loaded before the first frame.
    async with harness(bundles[1], data_dir=tmp_path / "data") as edge:
        assert (await own_status(edge, "idle")).serving.digest == own.digest
        assert (await answer(edge, "front", 3)).model.digest == own.digest
        assert (await answer(edge, "back", 3)).model.digest == bundles[2].digest


async def test_own_models_can_be_switched_off(bundles, tmp_path) -> None:
    own = own_bundle(bundles[1], tmp_path)
    async with harness(bundles[1], stream_models=False) as edge:
        await answer(edge, "front", 0)
        async with distributor(edge, tmp_path, own, bundles[2]) as cloud:
            await cloud.release(own, 1)
            await cloud.release(bundles[2], 1)
            await cloud.until("updated", 1)
            assert (await answer(edge, "front", 1)).model.digest == bundles[2].digest
            assert edge.received(topics.STREAM_MODEL) == []


async def test_where_an_own_model_fails_the_shared_one_answers(bundles, tmp_path) -> None:
    own = own_bundle(bundles[1], tmp_path)
    async with harness(bundles[1], data_dir=tmp_path / "data") as edge:
        await answer(edge, "front", 0)
        async with distributor(edge, tmp_path, own) as cloud:
            await cloud.release(own, 1)
            await own_status(edge, "updated")
            service = cast("Detector", edge.service)

            def broken(image):
                raise EngineError(engine="onnxruntime", reason="NaN")

            service.streams.get("front").serving.model.predict = broken
            said = await answer(edge, "front", 1)
            assert said.model.digest == bundles[1].digest
            failed = await own_status(edge, "failed")
            assert failed.serving is None
            assert failed.error.startswith("taken back on its input 1")
            assert counters(edge)["model.taken_back"] == 1
            # The next version is another chance.
            after = own_bundle(bundles[1], tmp_path, version=5)
            cloud.store.put_bundle(after)
            await cloud.release(after, 2)
            assert (await own_status(edge, "updated")).serving.version == 5
            assert (await answer(edge, "front", 2)).model.digest == after.digest
