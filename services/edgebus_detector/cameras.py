"""Models of single cameras: where a camera has one of its own, it answers that camera's frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgebus.bus import Bus, Event
from edgebus.contracts import (
    Identity,
    ModelStatus,
    NameRefusedError,
    Release,
    shared_model,
    stream_model,
    topics,
)
from edgebus.serving import HotSwap, Serving
from edgebus_detector.delivery import ModelDelivery
from edgebus_detector.memory import MemoryFile

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = ["CameraModels", "MakeDelivery"]

_MOST = 256  # cameras of one node whose releases are followed


class MakeDelivery(Protocol):
    """Puts a delivery together as the shared model's is."""

    def __call__(
        self,
        *,
        model: str,
        camera: str,
        memory: MemoryFile,
        swap: HotSwap,
    ) -> ModelDelivery:
        """A delivery that follows the releases of a camera's own model."""
        ...


@dataclass(frozen=True, slots=True)
class _Own:
    swap: HotSwap
    delivery: ModelDelivery


class CameraModels:
    """The own models of this node's cameras; none for most. The shared one answers the others.

    A camera's releases are subscribed to when its first frame comes; nothing is loaded before
    there is one.

    Args:
        bus: The bus.
        identity: This detector.
        model: Name of the shared model.
        channel: Whose releases are followed.
        folder: Remembers what served; made when there is something to remember.
        make_swap: Makes the holder of a model.
        make_delivery: Makes what keeps it in step with releases.
        spawn: Starts tasks.
        log: A logger.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        identity: Identity,
        model: str,
        channel: str,
        folder: Path,
        make_swap: Callable[[], HotSwap],
        make_delivery: MakeDelivery,
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._bus, self._identity = bus, identity
        self._model, self._channel, self._folder = model, channel, folder
        self._make_swap, self._make_delivery = make_swap, make_delivery
        self._spawn, self._log = spawn, log
        self._own: dict[str, _Own] = {}
        self._seen: set[str] = set()
        self._new: asyncio.Queue[str] = asyncio.Queue()

    @property
    def digests(self) -> set[str]:
        """Digests of the bundles that own models need."""
        return {digest for own in self._own.values() for digest in own.delivery.digests}

    async def restore(self) -> None:
        """Let those own models serve that did the last time."""
        for path in sorted(self._folder.glob("*.json")):
            name = MemoryFile(path).model()
            shared, place = shared_model(name or "")
            if shared == self._model and place == f"{self._identity.node}.{path.stem}":
                await self._open(path.stem, f"{shared}@{place}")

    async def follow(self) -> None:
        """Follow the releases of every camera that is seen, for ever."""
        while True:
            camera = await self._new.get()
            try:
                name = stream_model(self._model, f"{self._identity.node}.{camera}")
            except NameRefusedError as error:
                self._log.warning("no own model for this camera", camera=camera, error=str(error))
                continue

            async def take(event: Event[Release], camera: str = camera, name: str = name) -> None:
                own = self._own.get(camera) or await self._open(camera, name)
                own.delivery.offer(event.payload)

            at = {"base": self._identity.base, "site": self._identity.site}
            where = topics.RELEASE.any(**at, model=name, channel=self._channel)
            await self._bus.subscribe(where, take, name=f"releases of {name}")

    def see(self, camera: str) -> None:
        """A frame of a camera came."""
        if camera not in self._seen and len(self._seen) < _MOST:
            self._seen.add(camera)
            self._new.put_nowait(camera)

    def serving(self, camera: str) -> Serving | None:
        """The own model that answers a camera's frames; None: the shared one does."""
        own = self._own.get(camera)
        return None if own is None else own.swap.current

    def delivery(self, camera: str) -> ModelDelivery:
        """What keeps the own model of a camera in step.

        Raises:
            KeyError: It has none.
        """
        return self._own[camera].delivery

    async def _open(self, camera: str, name: str) -> _Own:
        self._folder.mkdir(parents=True, exist_ok=True)
        swap = self._make_swap()
        memory = MemoryFile(self._folder / f"{camera}.json")
        delivery = self._make_delivery(model=name, camera=camera, memory=memory, swap=swap)
        own = self._own[camera] = _Own(swap, delivery)
        await delivery.restore(None)
        self._spawn(delivery.run(), f"releases of {name}")
        return own

    async def report(self, status: ModelStatus) -> None:
        """Publish where an own model stands."""
        assert status.stream is not None
        await self._bus.publish(
            topics.STREAM_MODEL.at(self._identity, stream=status.stream), status
        )
