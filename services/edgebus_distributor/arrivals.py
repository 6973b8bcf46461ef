"""Intake of bundles; what is wanted is in the registry, so a crash loses nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from edgebus.artifacts import ArtifactError, Store
from edgebus.bus import BusError
from edgebus.contracts import Identity
from edgebus.serving import ReleaseRefusedError, verify_release
from edgebus.transfer import ArtifactFetcher, reference
from edgebus_distributor.records import Decision, Intake, RegistryRefusedError
from edgebus_distributor.registry import Registry

Key = tuple[str, str]

_RETRY_S = 5.0


class Arrivals:
    """Fetches what the registry wants, side by side, and has it accepted.

    Args:
        registry: Knows what is wanted.
        store: Where bundles go.
        fetcher: Brings them.
        identity: Who serves them from then on.
        make_room: Called before each fetch.
        accepted: Awaited with each decision.
        refused: Called with what never will be accepted, and why.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        fetcher: ArtifactFetcher,
        *,
        identity: Identity,
        make_room: Callable[[], None],
        accepted: Callable[[Decision], Awaitable[None]],
        refused: Callable[[Intake, Exception], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._fetcher = fetcher
        self._identity = identity
        self._make_room = make_room
        self._accepted = accepted
        self._refused = refused
        self._changed = asyncio.Event()
        self._results: dict[Key, set[asyncio.Future[Decision]]] = {}
        # Accepted, so no longer wanted, and not announced yet.
        self._decided: set[Key] = set()
        self._log = structlog.get_logger("edgebus.distributor").bind(source=identity.source)

    def want(self, intake: Intake) -> None:
        """Bring a bundle in; older candidates of its channel are given up."""
        self._registry.want(intake)
        self._changed.set()

    async def bring(self, intake: Intake, *, seconds: float) -> Decision:
        """Bring a bundle in and wait for it.

        Raises:
            TimeoutError: It did not come in time, and is given up.
            ArtifactError: It must not serve, or does not fit into the store.
            RegistryRefusedError: It does not fit what the registry has.
            ReleaseRefusedError: It is not what was announced.
        """
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        waiting = self._results.setdefault(intake.key, set())
        waiting.add(future)
        self.want(intake)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            if waiting == {future}:
                self._registry.done(intake)
                self._changed.set()
            raise
        finally:
            waiting.discard(future)
            if not waiting:
                self._results.pop(intake.key, None)

    async def run(self) -> None:
        """Bring in whatever is wanted; stop what no longer is. Runs until cancelled."""
        running: dict[Key, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                wanted = {intake.key: intake for intake in self._registry.intakes()}
                for key, task in list(running.items()):
                    if key not in wanted and key not in self._decided:
                        task.cancel()
                    if task.done() or task.cancelling():
                        del running[key]
                for key, intake in wanted.items():
                    if key not in running:
                        model = intake.bundle.model
                        name = f"bring in {model.name} {model.version}"
                        running[key] = group.create_task(self._bring_in(intake), name=name)
                await self._changed.wait()
                self._changed.clear()

    async def _bring_in(self, intake: Intake) -> None:
        while True:
            try:
                self._make_room()
                bundle = await self._fetcher.fetch(intake.bundle)
                verify_release(bundle, intake.bundle)
                ref = reference(self._store, bundle.digest, provider=self._identity)
                decision = self._registry.accept(intake, ref, metrics=bundle.manifest.metrics)
                break
            except (ArtifactError, RegistryRefusedError, ReleaseRefusedError) as error:
                self._registry.done(intake)
                self._refused(intake, error)
                for future in self._waiting(intake):
                    future.set_exception(error)
                return
            except (OSError, BusError) as error:
                self._log.warning("bringing in goes on later", error=str(error), in_s=_RETRY_S)
                await asyncio.sleep(_RETRY_S)
        self._decided.add(intake.key)
        try:
            await self._accepted(decision)
        finally:
            self._decided.discard(intake.key)
        for future in self._waiting(intake):
            future.set_result(decision)

    def _waiting(self, intake: Intake) -> list[asyncio.Future[Decision]]:
        return [future for future in self._results.get(intake.key, ()) if not future.done()]
