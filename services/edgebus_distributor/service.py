"""The distributor service: takes versions in, releases them, and brings them to every edge."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from edgebus.artifacts import ArtifactError, Bundle, Store
from edgebus.bus import BusError, Event
from edgebus.contracts import (
    BundleRef,
    Candidate,
    ModelListCommand,
    ModelListReply,
    ModelStatus,
    PublishCommand,
    Release,
    Reply,
    RollbackCommand,
    RolloutStatus,
    explain,
    fitting,
    topics,
    utc_now,
)
from edgebus.contracts.trace import continue_trace
from edgebus.service import CommandRefusedError, Service, command, every, on
from edgebus.serving import MAX_JUMP, Authorities, ReleaseRefusedError
from edgebus.transfer import ArtifactFetcher, ArtifactProvider
from edgebus_distributor.arrivals import Arrivals
from edgebus_distributor.records import Decision, Intake, RegistryRefusedError
from edgebus_distributor.registry import Registry
from edgebus_distributor.rollout import Rollouts
from edgebus_distributor.settings import DistributorSettings
from edgebus_distributor.tables import open_database

_CATCH_UP_S = 10.0


class Distributor(Service[DistributorSettings]):
    """Keeps the model versions, and brings the released one to every edge.

    Every decision is in SQLite before anybody hears of it. After a crash, what was coming in comes
    in further, and the present releases are announced again: their sequence numbers tell edges that
    nothing is new.
    """

    name = "distributor"
    publishes = (topics.RELEASE, topics.ROLLOUT, topics.BLOCK, topics.BLOCK_REQUEST)
    subscribes = (topics.BLOCK_REQUEST, topics.BLOCK)

    async def start(self) -> None:
        """Open registry and store, take over the first bundles, announce what is released."""
        self.registry = Registry(
            open_database(self.data_dir / "registry.sqlite"), provider=self.identity.source
        )
        self.store = Store(self.data_dir / "store", quota=self.settings.store_quota_bytes)
        self.rollouts = Rollouts()
        self._authorities = Authorities(
            self.identity,
            allowed=self.settings.candidates_from,
            setting=f"{self.name}.candidates_from",
            log=self.log,
        )
        # Sequences above ours that edges say they have acted on.
        self._ahead: dict[tuple[str, str], int] = {}
        self._caught_up = float("-inf")
        self.provider = ArtifactProvider(
            self.bus,
            self.identity,
            self.store,
            in_flight=self.settings.blocks_in_flight,
            bytes_per_s=self.settings.blocks_bytes_per_s,
        )
        self._arrivals = Arrivals(
            self.registry,
            self.store,
            ArtifactFetcher(self.bus, self.identity, self.store, patches_too=True),
            identity=self.identity,
            make_room=self._collect_garbage,
            accepted=self._accepted,
            refused=self._refused,
        )
        # Traces of candidates, by digest: their releases go on with them, in this process.
        self._traces: dict[str, str] = {}
        # When candidates came, by digest, on the steady clock.
        self._came: dict[str, float] = {}
        self._touched: set[tuple[str, str]] = set()
        self._news = asyncio.Event()
        self._published: dict[tuple[str, str], RolloutStatus] = {}
        await self._damaged()  # what it drops, a folder may have
        problems = [await self._publish_folder(folder) for folder in self.settings.publish]
        problems += await self._damaged()
        problems += await self._announce_all()
        self._collect_garbage()
        self.spawn(self.provider.run(), name="provider")
        self.spawn(self._arrivals.run(), name="arrivals")
        self.spawn(self._report(), name="report")
        if any(problems):
            await self.set_state("degraded", "; ".join(filter(None, problems)))

    async def stop(self) -> None:
        """Close the registry."""
        self.registry.close()

    async def session_lost(self) -> None:
        """The broker was replaced or forgot: publish again what is retained."""
        await self._announce_all()
        self._published.clear()

    # Reports and candidates.

    @on(topics.CANDIDATE)
    async def on_candidate(self, event: Event[Candidate]) -> None:
        """A retrainer offers a version that passed its gate."""
        candidate = event.payload
        if not self._authorities.accepts(candidate.bundle.model.name, candidate.source):
            self.metrics.counter("versions.refused")
            return
        intake = Intake(
            bundle=candidate.bundle,
            channel=candidate.channel,
            origin=f"job {candidate.job} of {candidate.source}",
            candidate=True,
        )
        try:
            if not candidate.gate.passed:
                reasons = "; ".join(candidate.gate.reasons) or "without reasons"
                raise RegistryRefusedError(
                    model=candidate.bundle.model.name,
                    version=candidate.bundle.model.version,
                    reason=f"did not pass its gate: {reasons}",
                )
            new = self.registry.check(candidate.bundle, channel=candidate.channel, candidate=True)
        except RegistryRefusedError as error:
            self._refused(intake, error)
            return
        # What is known was decided upon before; a rollback since then stands.
        if candidate.traceparent is not None:
            self._traces[candidate.bundle.model.digest] = candidate.traceparent
        if new:
            self._came.setdefault(candidate.bundle.model.digest, time.monotonic())
            self._arrivals.want(intake)

    @on(topics.MODEL_STATUS)
    async def on_status(self, event: Event[ModelStatus]) -> None:
        """An edge reports how far it is."""
        await self._update(event)

    @on(topics.STREAM_MODEL)
    async def on_stream_status(self, event: Event[ModelStatus]) -> None:
        """An edge reports how far it is with the own model of one of its streams."""
        stream = {"stream": event.names["stream"]}
        await self._update(event._replace(payload=event.payload.model_copy(update=stream)))

    async def _update(self, event: Event[ModelStatus]) -> None:
        status = event.payload
        for key in self.rollouts.update(status, retained=event.retained):
            if status.sequence > self.rollouts.decision(key).sequence:
                self._ahead[key] = max(status.sequence, self._ahead.get(key, 0))
                if time.monotonic() - self._caught_up >= _CATCH_UP_S:
                    await self.catch_up()
            self._touch(key)

    @every(seconds=_CATCH_UP_S)
    async def catch_up(self) -> None:
        """Announce anew what edges would not follow, because they have acted on higher sequences.

        The registry was lost or restored from a backup then. An edge may say anything: so not with
        each word, and not however far.
        """
        ahead, self._ahead = self._ahead, {}
        if ahead:
            self._caught_up = time.monotonic()
        for (model, channel), sequence in ahead.items():
            decision = self.rollouts.decision((model, channel))
            if sequence > decision.sequence + MAX_JUMP:
                reason = f"more than {MAX_JUMP} above {decision.sequence}: not believed"
                self.log.warning("an edge is ahead", model=model, sequence=sequence, reason=reason)
            elif sequence > decision.sequence:
                await self._announce(
                    self.registry.release(
                        model=model,
                        channel=channel,
                        digest=decision.bundle.model.digest,
                        reason=f"edges have seen sequence {sequence}",
                        above=sequence,
                    )
                )

    @command(topics.CMD_PUBLISH)
    async def take_over(self, event: Event[PublishCommand]) -> None:
        """Take a bundle over and release it.

        What is wanted is in the registry; its coming in may take minutes, for which no other
        message waits. A process that dies meanwhile fetches on, and whoever asked hears nothing.
        """
        order = event.payload
        intake = Intake(
            bundle=order.bundle,
            channel=order.channel,
            origin=f"published by {order.source}",
            candidate=False,
        )
        try:
            self.registry.check(order.bundle, channel=order.channel, candidate=False)
        except RegistryRefusedError as error:
            raise CommandRefusedError(str(error)) from error
        self._arrivals.want(intake)
        self.spawn(self._bring(event, intake), name=f"publish {order.bundle.model.name}")

    async def _bring(self, event: Event[PublishCommand], intake: Intake) -> None:
        """Wait for a published bundle, and answer whoever published it."""
        order = event.payload
        # By this host's clock: the sender's may be years away.
        now = utc_now()
        limit = timedelta(seconds=self.settings.fetch_timeout_s)
        until = min(now + limit, order.expires or now + limit)
        try:
            seconds = (until - now).total_seconds()
            decision = await self._arrivals.bring(intake, seconds=seconds)
        except TimeoutError:
            reason = f"{order.bundle.provider} did not deliver in time; is it still there?"
            reply = Reply(ok=False, detail=reason)
        except (ArtifactError, RegistryRefusedError, ReleaseRefusedError) as error:
            reply = Reply(ok=False, detail=str(error))
        else:
            reply = self._released(decision)
        with suppress(BusError):  # it would not be heard in time either
            await self.bus.reply(event, reply)

    @command(topics.CMD_ROLLBACK)
    async def rollback(self, event: Event[RollbackCommand]) -> Reply:
        """Release an earlier version again."""
        order = event.payload
        if order.version is not None:
            target = self.registry.find(model=order.model, version=order.version)
            missing = f"there is no version {order.version} of {order.model}"
        else:
            target = self.registry.before(order.model, order.channel)
            missing = f"channel {order.channel} served nothing of {order.model} before"
        if target is None:
            raise CommandRefusedError(f"{missing}; edgebus model list shows what there is")
        if not self.store.has_bundle(target.model.digest):
            raise CommandRefusedError(
                f"version {target.model.version} of {order.model} is no longer on the disk "
                f"(keep_versions is {self.settings.keep_versions}); publish its bundle again"
            )
        decision = self.registry.release(
            model=order.model,
            channel=order.channel,
            digest=target.model.digest,
            reason=f"rollback by {order.source}",
        )
        await self._announce(decision)
        return self._released(decision)

    @command(topics.CMD_MODELS)
    async def models(self, event: Event[ModelListCommand]) -> ModelListReply:
        """List the versions."""
        entries = self.registry.entries(event.payload.model)
        return ModelListReply(ok=True, models=fitting(entries), total=len(entries))

    # Taking in.

    async def _accepted(self, decision: Decision) -> None:
        self.metrics.counter("versions.accepted")
        await self._announce(decision)

    def _refused(self, intake: Intake, error: Exception) -> None:
        self._came.pop(intake.bundle.model.digest, None)
        self.metrics.counter("versions.refused")
        self.log.warning("version refused", reason=str(error), origin=intake.origin)

    async def _publish_folder(self, folder: Path) -> str:
        """Take a bundle over at the start; what is wrong with it, if anything."""
        try:
            bundle = await asyncio.to_thread(Bundle.open, folder)
            ref = BundleRef(
                model=bundle.ref,
                provider=self.identity.source,
                index_size=len(bundle.index_bytes),
                size=bundle.size,
                parent=bundle.manifest.parent,
            )
            channel = self.settings.channel
            new = self.registry.check(ref, channel=channel, candidate=False)
            if new or self.store.has_bundle(bundle.digest):
                await asyncio.to_thread(self.store.put_bundle, bundle)
            if not new:
                return ""
            self.registry.accept(
                Intake(
                    bundle=ref, channel=channel, origin=f"folder {folder.name}", candidate=False
                ),
                ref,
                metrics=bundle.manifest.metrics,
            )
        except (ArtifactError, RegistryRefusedError, OSError) as error:
            self.log.error("cannot publish", folder=str(folder), reason=str(error))
            return f"cannot publish {folder}: {error}"
        return ""

    async def _damaged(self) -> list[str]:
        """Releases whose files the disk no longer gives as they were written; those are dropped."""
        words: list[str] = []
        for decision in self.registry.all_current():
            model = decision.bundle.model
            try:
                await asyncio.to_thread(self.store.open_bundle, model.digest)
            except ArtifactError as error:
                self.log.error("release damaged on the disk", model=model.name, reason=str(error))
                words.append(
                    f"{model.name} version {model.version} is released and damaged on this disk, "
                    "so no edge can fetch it: publish its bundle again"
                )
        return words

    def _collect_garbage(self) -> None:
        removed = self.store.gc(keep=self.registry.kept(versions=self.settings.keep_versions))
        if removed.bundles:
            self.log.info("old versions dropped", bundles=removed.bundles, bytes=removed.bytes)

    # Giving out.

    async def _announce_all(self) -> list[str]:
        """Announce what channels serve; what of it cannot be, in words."""
        problems = []
        for decision in self.registry.all_current():
            try:
                await self._announce(decision)
            except ValidationError as error:
                model, channel = decision.key
                problems.append(f"cannot announce {model} on {channel}: {explain(error)}")
                self.log.error("cannot announce", reason=problems[-1])
        return problems

    async def _announce(self, decision: Decision) -> None:
        """Publish a release; edges that have acted on its sequence ignore it."""
        model, channel = decision.key
        new = (model, channel) not in self.rollouts.keys or (
            self.rollouts.decision(decision.key).sequence < decision.sequence
        )
        self.rollouts.begin(decision, served=self._served(decision))
        digest = decision.bundle.model.digest
        came = self._came.pop(digest, None)
        await self.publish(
            topics.RELEASE,
            Release(
                traceparent=continue_trace(self._traces.get(digest)),
                channel=channel,
                bundle=decision.bundle,
                sequence=decision.sequence,
                reason=decision.reason,
                intake_s=None if came is None else round(time.monotonic() - came, 3),
            ),
            model=model,
            channel=channel,
        )
        if new:
            self.log.info(
                "released",
                model=model,
                version=decision.bundle.model.version,
                channel=channel,
                sequence=decision.sequence,
                reason=decision.reason,
            )
        self._touch(decision.key)

    def _served(self, decision: Decision) -> int:
        """Bytes sent of a release's blobs since this process started."""
        digest = decision.bundle.model.digest
        if not self.store.has(digest):
            return 0
        blobs = {entry.digest for entry in self.store.index(digest).blobs()}
        return self.provider.served_bytes(blobs | {digest})

    def _touch(self, key: tuple[str, str]) -> None:
        self._touched.add(key)
        self._news.set()

    async def _report(self) -> None:
        """Publish how far releases are: at once, then not more often than `report_s`."""
        while True:
            await self._news.wait()
            self._news.clear()
            touched, self._touched = self._touched, set()
            for key in touched:
                await self._publish_rollout(key)
            await asyncio.sleep(self.settings.report_s)

    async def _publish_rollout(self, key: tuple[str, str]) -> None:
        decision = self.rollouts.decision(key)
        status = self.rollouts.status(key, served=self._served(decision), now=utc_now())
        if decision.finished is None and status.finished is not None:
            self.registry.finish(decision, when=status.finished)
            self.log.info(
                "every edge serves the release",
                model=key[0],
                version=decision.bundle.model.version,
                edges=status.total,
                seconds=round((status.finished - decision.decided).total_seconds(), 1),
                served_bytes=status.served_bytes,
            )
        same = {"id", "time"}
        last = self._published.get(key)
        if last is not None and last.model_dump(exclude=same) == status.model_dump(exclude=same):
            return
        self._published[key] = status
        model, channel = key
        await self.publish(topics.ROLLOUT, status, model=model, channel=channel)

    @every(seconds=1.0)
    async def count(self) -> None:
        """Figures for the next heartbeat."""
        self.metrics.gauge("blocks.sent", self.provider.stats.sent)
        self.metrics.gauge("blocks.sent_bytes", self.provider.stats.sent_bytes)
        self.metrics.gauge("blocks.coalesced", self.provider.stats.coalesced)
        self.metrics.gauge("store.bytes", self.store.used)

    def _released(self, decision: Decision) -> Reply:
        model, channel = decision.key
        version = decision.bundle.model.version
        detail = f"{model} version {version} is released to {channel} (#{decision.sequence})"
        return Reply(ok=True, detail=detail)
