"""`edgebus samples` beside a retrainer that runs: a person labels what no teacher knows."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from edgebus.bus import Bus, BusSettings, Event
from edgebus.cli.app import app
from edgebus.contracts import (
    Identity,
    ModelRef,
    RetrainCommand,
    ServiceState,
    StoreStatus,
    TrainingResult,
    split_of,
    topics,
)
from edgebus.service import NodeSettings, Runtime
from edgebus_detection.messages import SAMPLES, Box, Sample, SampleRecord
from edgebus_detection.models.testing import tiny_bundle, tiny_picture
from edgebus_detection.vision import encode_jpeg
from edgebus_retrainer import Retrainer, RetrainerSettings
from program import run_edgebus

SITE = "labelling"
START = datetime(2026, 5, 4, 12, tzinfo=UTC)
MODEL = ModelRef(name="tiny", version=1, digest="a" * 64)


async def edgebus(*arguments: str | Path) -> str:
    """Run the program as its own process; its output."""
    code, out, err = await run_edgebus(*arguments)
    assert code == 0, err
    return out


async def beside(*arguments: str | Path) -> str:
    """The same in a thread: starting a process takes seconds on a busy machine."""
    result = await asyncio.to_thread(CliRunner().invoke, app, [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def square(label: str, row: int, column: int) -> Box:
    return Box(label=label, x1=8 * column, y1=8 * row, x2=8 * column + 8, y2=8 * row + 8)


def at_dusk(index: int) -> tuple[Sample, tuple[Box, ...]]:
    """A sample without ground truth, and what a person sees in it."""
    rng = np.random.default_rng(index)
    red = int(rng.integers(0, 6)), int(rng.integers(0, 3))
    blue = int(rng.integers(0, 6)), int(rng.integers(4, 8))
    picture = (tiny_picture(red=red, blue=blue) * 0.3).astype(np.uint8)
    record = SampleRecord(
        source=f"{SITE}/pi-01/collector",
        input=f"frame-{index}",
        stream="front",
        index=index,
        captured=START + timedelta(seconds=index),
        width=64,
        height=48,
        split=split_of("front", index),
        policy="confidence",
        reason="mean confidence 0.1",
        score=0.9,
        model=MODEL,
        detections=(),
    )
    sample = Sample.build(encode_jpeg(picture, quality=95), record)
    return sample, (square("person", *red), square("car", *blue))


@dataclass
class Site:
    """A site with a retrainer, and what it says."""

    bus: Bus
    data: Path
    heard: list[Any] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def hear(self, event: Event[Any]) -> None:
        async with self.news:
            self.heard.append(event.payload)
            self.news.notify_all()

    async def wait(self, kind: type, fits: Callable[[Any], bool] = lambda _: True) -> Any:
        async with asyncio.timeout(100), self.news:
            while True:
                for said in reversed(self.heard):
                    if isinstance(said, kind) and fits(said):
                        return said
                await self.news.wait()


@asynccontextmanager
async def retrainer(mosquitto: Any, folder: Path) -> AsyncIterator[Site]:
    tiny_bundle(folder / "base")
    settings = RetrainerSettings.model_validate(
        {
            "bundle": folder / "base",
            "train": {"steps": 120, "batch": 4, "learning_rate": 0.1, "threads": 1, "nice": 0},
            "gate": {"min_items": 4, "require_old": False},
            "options": {"leak_distance": -1},
            "new_domain": "everything",
            "trigger": {"min_samples": None},
            "tick_s": 0.05,
        }
    )
    node = NodeSettings(site=SITE, node="gpu", data_dir=folder / "data")
    runtime = Runtime(Retrainer, node=node, settings=settings, transport=mosquitto.transport())
    ear = Identity(site=SITE, node="pi-01", service="collector")
    stop = asyncio.Event()
    async with Bus(
        mosquitto.transport(), identity=ear, settings=BusSettings(ephemeral=True)
    ) as bus:
        site = Site(bus, folder / "data" / "retrainer")
        await bus.subscribe(topics.SERVICE_STATE.any(site=SITE, node="gpu"), site.hear)
        await bus.subscribe(topics.STORE_STATUS.any(site=SITE), site.hear)
        await bus.subscribe(topics.TRAINING_RESULT.any(site=SITE), site.hear)
        life = asyncio.create_task(runtime.run(stop, look_first=False))
        await site.wait(ServiceState, lambda state: state.state == "ready")
        try:
            yield site
        finally:
            stop.set()
            await life


def fill_in(folder: Path, seen: dict[str, tuple[Box, ...]]) -> None:
    """Draw the boxes into a COCO file, as an annotator would."""
    path = folder / "annotations" / "instances_unlabelled.json"
    document = json.loads(path.read_text())
    numbers = {each["name"]: each["id"] for each in document["categories"]}
    for image in document["images"]:
        for box in seen[image["sample"]]:
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": numbers[box.label],
                    "bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1],
                }
            )
    path.write_text(json.dumps(document))


async def test_a_person_labels_while_the_retrainer_runs_and_the_next_job_learns_it(
    mosquitto: Any, tmp_path: Path
) -> None:
    async with retrainer(mosquitto, tmp_path) as site:
        made = [at_dusk(index) for index in range(16, 56)]
        seen = {sample.record.id: boxes for sample, boxes in made}
        for sample, _ in made:
            await site.bus.publish(SAMPLES.at(site.bus.identity), sample)
        status = await site.wait(StoreStatus, lambda said: said.samples == 40)
        at = ("--data", site.data)
        coco = tmp_path / "coco"
        written = await beside("samples", "export", "--include", "all", "--out", coco, *at)
        assert written == f"40 samples in {coco}: 40 without labels\n"
        fill_in(coco, seen)
        taken = await edgebus("samples", "import", coco, "--who", "ann", *at)
        found, labelled = taken.splitlines()[:2]
        assert found.startswith("instances_unlabelled.json (COCO): 40 of 40 pictures labelled, 80")
        assert labelled.startswith("40 samples labelled by operator:ann")

        # One of those to train on is taken back, and waits for somebody; one is corrected.
        train = [s.record.id for s, _ in made if s.record.split == "train"]
        assert len(train) == status.train
        await beside("samples", "label", train[0], "--take-back", *at)
        person = seen[train[1]][0]
        words = f"person {person.x1} {person.y1} {person.x2} {person.y2}"
        said = await beside("samples", "label", train[1], words, "--who", "bob", *at)
        assert "1 boxes by operator:bob" in said

        gpu = Identity(site=SITE, node="gpu", service="retrainer")
        reply = await site.bus.request(
            topics.CMD_RETRAIN.at(gpu),
            RetrainCommand(source=site.bus.identity.source),
            timeout=10,
        )
        assert reply.ok, reply.detail
        result = await site.wait(TrainingResult)
        assert result.outcome == "accepted", result.reason
        assert result.samples == len(train) - 1
        assert result.labels is not None
        assert result.labels.inputs == {"operator": 39}
        assert result.labels.labels == {"operator:ann": 2 * 38, "operator:bob": 1}
        assert [domain.labelled_by for domain in result.gate.domains] == ["operator"]
        card = (site.data / "jobs" / result.job / "card" / "card.md").read_text()
        assert "Boxes by operator:ann 76, operator:bob 1; 0 regions ignored" in card
        lines = (site.data / "jobs" / result.job / "labels.jsonl").read_text().splitlines()
        assert len(lines) == 39
        # What nobody has labelled was not learnt.
        await site.wait(StoreStatus, lambda said: said.untrained == 1)
