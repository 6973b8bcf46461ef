"""Own models of streams: where a stream has one, it answers that stream's inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebus.bus import Bus, Event
from edgebus.contracts import (
    Identity,
    NameRefusedError,
    Release,
    shared_model,
    stream_model,
    topics,
)
from edgebus.serving.model import Model
from edgebus.serving.release_follower import ReleaseFollower
from edgebus.serving.serving_state import StateFile

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_MOST = 256  # streams of one node whose releases are followed


class StreamModels:
    """The own models of this node's streams; none for most. The shared one answers the others.

    A stream's releases are subscribed to when its first input comes; nothing is loaded before
    there is one.

    Args:
        bus: The bus.
        identity: Who serves.
        model: Name of the shared model.
        channel: Whose releases are followed.
        folder: Where `make` keeps the state of the stream NAME, as ``NAME.json``.
        make: Makes a follower of the releases of a model, for a stream.
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
        make: Callable[[str, str], ReleaseFollower[Model]],
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._bus, self._identity = bus, identity
        self._model, self._channel, self._folder = model, channel, folder
        self._make, self._spawn, self._log = make, spawn, log
        self._own: dict[str, ReleaseFollower[Model]] = {}
        self._seen: set[str] = set()
        self._new: asyncio.Queue[str] = asyncio.Queue()

    @property
    def digests(self) -> set[str]:
        """Digests of the bundles that own models need."""
        return {digest for own in self._own.values() for digest in own.digests}

    async def restore(self) -> None:
        """Let those own models serve that did the last time."""
        for path in sorted(self._folder.glob("*.json")):
            state = StateFile(path).peek()
            shared, place = shared_model("" if state is None else state.model)
            if shared == self._model and place == f"{self._identity.node}.{path.stem}":
                await self._open(f"{shared}@{place}", path.stem)

    async def follow(self) -> None:
        """Follow the releases of every stream that is seen, for ever."""
        while True:
            stream = await self._new.get()
            try:
                name = stream_model(self._model, f"{self._identity.node}.{stream}")
            except NameRefusedError as error:
                self._log.warning("no own model for this stream", stream=stream, error=str(error))
                continue

            async def take(event: Event[Release], name: str = name, stream: str = stream) -> None:
                own = self._own.get(stream) or await self._open(name, stream)
                own.offer(event.payload)

            at = {"base": self._identity.base, "site": self._identity.site}
            where = topics.RELEASE.any(**at, model=name, channel=self._channel)
            await self._bus.subscribe(where, take, name=f"releases of {name}")

    def observe(self, stream: str) -> None:
        """An input of a stream came."""
        if stream not in self._seen and len(self._seen) < _MOST:
            self._seen.add(stream)
            self._new.put_nowait(stream)

    def get(self, stream: str) -> ReleaseFollower[Model] | None:
        """Follower of the own model of a stream; None where none serves."""
        own = self._own.get(stream)
        return None if own is None or own.serving is None else own

    async def _open(self, name: str, stream: str) -> ReleaseFollower[Model]:
        own = self._own[stream] = self._make(name, stream)
        await own.restore()
        self._spawn(own.run(), f"releases of {name}")
        return own
