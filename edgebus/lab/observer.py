"""Subscriptions of an observer: the framework's messages of a site, into a run's state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from edgebus.bus import Bus, Event
from edgebus.contracts import (
    DeadLetter,
    Message,
    Metrics,
    ModelStatus,
    RawBytes,
    ServiceState,
    topics,
)
from edgebus.lab.run_state import RunState

M = TypeVar("M", bound=Message)


async def observe(bus: Bus, state: RunState, *, site: str) -> None:
    """Subscribe to a site; retained states come at once.

    Args:
        bus: A connected bus.
        state: Takes every message.
        site: The site to watch.
    """

    async def on_state(event: Event[ServiceState]) -> None:
        state.on_state(event.names["node"], event.names["service"], event.payload)

    async def on_metrics(event: Event[Metrics]) -> None:
        # Metrics leave when they are made, so their time shows how clocks differ.
        state.rounds.on_clock(event.payload.source, event.payload.time, event.received)
        state.on_metrics(event.payload)

    async def on_model(event: Event[ModelStatus]) -> None:
        state.on_model_status(event.names["node"], event.names["service"], event.payload)

    async def on_letter(event: Event[DeadLetter]) -> None:
        # The broker keeps letters: those of an earlier run are none of this one.
        if not event.retained:
            state.on_dead_letter(event.payload)

    async def on_block(event: Event[RawBytes]) -> None:
        state.on_block(f"{event.names['node']}/{event.names['service']}", size=event.size)

    at = {"base": bus.identity.base, "site": site}
    await bus.subscribe(topics.SERVICE_STATE.any(**at), on_state)
    await bus.subscribe(topics.SERVICE_METRICS.any(**at), on_metrics)
    await bus.subscribe(topics.MODEL_STATUS.any(**at), on_model)
    await bus.subscribe(topics.CANDIDATE.any(**at), _payload(state.on_candidate))
    await bus.subscribe(topics.RELEASE.any(**at), _payload(state.on_release))
    await bus.subscribe(topics.ROLLOUT.any(**at), _payload(state.on_rollout))
    await bus.subscribe(topics.DRIFT.any(**at), _payload(state.on_drift))
    await bus.subscribe(topics.STORE_STATUS.any(**at), _payload(state.on_store))
    await bus.subscribe(topics.TRAINING_PROGRESS.any(**at), _payload(state.on_progress))
    await bus.subscribe(topics.TRAINING_RESULT.any(**at), _payload(state.on_result))
    await bus.subscribe(topics.DEAD_LETTER.any(**at), on_letter)
    await bus.subscribe(topics.BLOCK.any(**at), on_block, deduplicate=False)


def _payload(take: Callable[[M], None]) -> Callable[[Event[M]], Awaitable[None]]:
    """A handler that hands the payload on."""

    async def handle(event: Event[M]) -> None:
        take(event.payload)

    return handle
