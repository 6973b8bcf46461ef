"""The broker is killed with SIGKILL and started again, in the middle of the traffic."""

from __future__ import annotations

from dataclasses import replace

from tests.soak.brokers import Broker, Mosquitto, Nats
from tests.soak.field import Field, Outcome, Scene

__all__ = ["mosquitto_killed", "nats_killed", "nats_killed_ahead"]


async def mosquitto_killed(scene: Scene) -> Outcome:
    """Mosquitto, with persistence after every change."""
    return await _killed(scene, Mosquitto(scene.folder))


async def nats_killed(scene: Scene) -> Outcome:
    """NATS, which keeps an event before it acknowledges it, and sends one at a time."""
    return await _killed(scene, Nats(scene.folder))


async def nats_killed_ahead(scene: Scene) -> Outcome:
    """NATS with many events on their way to a client at a time, as the embedded broker has it.

    What it sends again then comes behind newer ones (A4 in docs/delivery.md): that is counted in
    the notes, not as broken.
    """
    outcome = await _killed(scene, Nats(scene.folder, window=1024))
    late = outcome.verdict.disorder
    outcome.notes.append(f"{late} events came behind newer ones, sent again by the broker")
    outcome.verdict = replace(outcome.verdict, disorder=0, examples=())
    return outcome


async def _killed(scene: Scene, broker: Broker) -> Outcome:
    share = scene.events // (scene.faults + 1)
    await broker.start()
    try:
        field = Field(scene, sender=broker.settings(), reader=broker.settings())
        async with field:
            for fault in range(scene.faults):
                end = (fault + 1) * share
                field.load.allow(end)
                # In full flight: most of this round's events are still to come. What the broker
                # loses does not come again, so this counts from what there is.
                await field.reached(field.ledger.handled + share // 4)
                field.note_flight(end)
                await broker.kill()
                await broker.start()
            await field.settle(total=scene.events, patience_s=5.0)
            outcome = field.outcome(faults=scene.faults)
            outcome.notes.append(f"{field.bus.stats.connects} connections of the publisher")
            if field.sessions_lost:
                outcome.notes.append(f"{field.sessions_lost} sessions lost")
        return outcome
    finally:
        await broker.kill()
