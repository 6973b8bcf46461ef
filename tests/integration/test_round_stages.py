"""The stages of one real round: services as processes on a real Mosquitto, and a stranger."""

from __future__ import annotations

import asyncio
import csv
import time

import pytest
from test_loop_learning import SITE, Loop

from edgebus.contracts import ModelStatus, topics, utc_now
from edgebus.lab import load_lab
from edgebus.lab.rounds import CLOUD_STAGES, EDGE_STAGES
from edgebus_detection.messages import SAMPLES, SampleRecord

_HOPS = ("uploading", "offering", "announcing")
"""Stages that are nothing but a message's way; nobody can measure them by one steady clock."""


@pytest.mark.timeout(240)
async def test_stages_measured_by_each_service_add_up_to_what_a_stranger_measures(
    mosquitto_factory, tmp_path
):
    # Its own: what the loop of another test has left on a broker would be taken for this one's.
    mosquitto = mosquitto_factory()
    mosquitto.start()
    lab, began = load_lab("detection"), utc_now()
    state = lab.state
    arrived: dict[str, float] = {}

    async def note(event):
        payload = getattr(event.payload, "record", event.payload)
        if isinstance(payload, SampleRecord) and payload.split == "train":
            arrived[payload.time.isoformat()] = time.monotonic()
        elif isinstance(payload, ModelStatus) and payload.serving and payload.serving.version == 2:
            arrived.setdefault("serves", time.monotonic())

    async with Loop(mosquitto, tmp_path) as loop:
        await lab.observe(loop.bus, site=SITE)
        for topic in (SAMPLES, topics.MODEL_STATUS):
            await loop.bus.subscribe(topic.any(site=SITE), note, name=f"stranger {topic.address}")
        for service in ("distributor", "retrainer", "detector", "collector"):
            await loop.start(service)
        filming = asyncio.create_task(loop.film())
        try:
            await loop.until(lambda: len(loop.all(SampleRecord)) >= 20, "samples by day")
            loop.light = 0.3
            await loop.until(lambda: "serves" in arrived, "new version at the edge", timeout=150)
            await loop.until(
                lambda: [one for one in state.rounds.all() if one.edges], "round with an edge"
            )
        finally:
            filming.cancel()
            await asyncio.gather(filming, return_exceptions=True)
    (found,) = (one for one in state.rounds.all() if one.edges)

    # Every stage is there, and what lies between the stamps is the whole.
    stages = {stage.name: stage for stage in found.path()}
    assert list(stages) == [name for name, _ in CLOUD_STAGES + EDGE_STAGES]
    assert found.missing == ()
    assert found.backwards == ()
    path = found.path()
    assert found.seconds() == pytest.approx((path[-1].ended - path[0].began).total_seconds())

    # What each service measured by its own steady clock is the whole that a third one measures:
    # from the arrival of the sample that was needed last to that of the edge's status.
    whole = arrived["serves"] - arrived[stages["choosing"].ended.isoformat()]
    measured = sum(stage.measured_s for stage in path if stage.measured_s is not None)
    hops = sum(stages[name].seconds for name in _HOPS)
    untold = set(stages) - {name for name, stage in stages.items() if stage.measured_s is not None}
    assert untold == {"collecting", "choosing", *_HOPS}
    assert whole > 5
    # 1 %, and what two processes need to hear of each other on a busy machine.
    assert measured + hops == pytest.approx(whole, rel=0.01, abs=0.5)
    # Nobody's figure hides another's: stage by stage they agree as well, but for the pauses of a
    # busy host between a step and its stamp.
    for name, stage in stages.items():
        if stage.measured_s is not None:
            assert stage.measured_s == pytest.approx(stage.seconds, rel=0.02, abs=1.0), name

    lab.finish(name="round", started=began, finished=utc_now(), closed=True, outcome="done")
    lab.write(tmp_path / "run")
    with (tmp_path / "run" / "rounds.csv").open() as file:
        rows = list(csv.DictReader(file))
    (total,) = (float(row["seconds"]) for row in rows if row["stage"] == "total")
    parts = [float(row["seconds"]) for row in rows if row["stage"] != "total"]
    assert sum(parts) == pytest.approx(total, rel=1e-6)
    # One host: the clocks agree, and it shows.
    assert all(0 <= float(row["clock_lag_s"]) < 1 for row in rows if row["clock_lag_s"])
    print(f"whole {whole:.3f} s, measured {measured:.3f} s, hops {hops:.3f} s")
