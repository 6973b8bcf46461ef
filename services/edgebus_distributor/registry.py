"""The registry: which versions there are, and which one each channel serves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice

from pydantic import ValidationError
from sqlalchemy import Engine, delete, func, select, text
from sqlalchemy.orm import Session

from edgebus.contracts import BundleRef, ModelEntry, ModelRef, shared_model, utc_now
from edgebus.database import from_micros, micros
from edgebus.serving import MAX_JUMP
from edgebus_distributor.records import Decision, Intake, RegistryRefusedError
from edgebus_distributor.tables import IntakeRow, ReleaseRow, VersionRow

_MOST_CANDIDATES = 16  # brought in at a time
_MOST_METRICS = 32  # of a version in a list


class Registry:
    """Versions, releases and what is on its way in, in SQLite.

    Args:
        engine: From `open_database`.
        provider: Who serves the blocks of every version: ``site/node/service``.
    """

    def __init__(self, engine: Engine, *, provider: str) -> None:
        self._engine = engine
        self._provider = provider

    def check(self, ref: BundleRef, *, channel: str, candidate: bool) -> bool:
        """Check that a bundle may come in.

        Returns:
            False if it is there already.

        Raises:
            RegistryRefusedError: Its version is taken by another bundle, or, for a candidate, is
                not new, or was derived from another version than the channel serves. A stream's own
                model is derived from the shared one.
        """
        model = ref.model
        if self.find(digest=model.digest) is not None:
            return False

        def refused(reason: str) -> RegistryRefusedError:
            return RegistryRefusedError(model=model.name, version=model.version, reason=reason)

        newest = self.newest(model.name)
        taken = self.find(model=model.name, version=model.version)
        if taken is not None:
            raise refused(
                f"is there already as {taken.model.digest[:12]}, this one is "
                f"{model.digest[:12]}; give it the version {newest + 1} (--version of the "
                "command that made it)"
            )
        shared, place = shared_model(model.name)
        current = self.current(shared, channel)
        if candidate and newest and model.version > newest + MAX_JUMP:
            raise refused(f"is more than {MAX_JUMP} above version {newest}, the newest")
        if not candidate or (current is None and not place):
            return True
        if model.version <= newest:
            raise refused(f"is not newer than version {newest}")
        if current is None:
            raise refused(f"is a stream's own, and channel {channel} serves no {shared} yet")
        if ref.parent != current.bundle.model.digest:
            raise refused(
                f"was derived from {(ref.parent or 'nothing')[:12]}, channel {channel} "
                f"serves {'' if not place else shared + ' '}version {current.bundle.model.version} "
                f"({current.bundle.model.digest[:12]}); train again from that"
            )
        return True

    def accept(self, intake: Intake, ref: BundleRef, *, metrics: Mapping[str, float]) -> Decision:
        """Take a version in, release it to its channel and forget its intake, all or nothing.

        Args:
            intake: What was to be brought in.
            ref: The bundle as it came, with the parent that its own manifest names.
            metrics: Figures of its gate.

        Raises:
            RegistryRefusedError: It does not fit; `check` tells why.
        """
        self.check(ref, channel=intake.channel, candidate=intake.candidate)
        digest, model = ref.model.digest, ref.model.name
        with Session(self._engine) as session, session.begin():
            if session.get(VersionRow, digest) is None:
                session.add(
                    VersionRow(
                        digest=digest,
                        model=model,
                        version=ref.model.version,
                        index_size=ref.index_size,
                        size=ref.size,
                        parent=ref.parent,
                        origin=intake.origin,
                        metrics=dict(metrics),
                        added=micros(utc_now()),
                    )
                )
                session.flush()
            _decide(session, model, intake.channel, digest, intake.origin)
            session.execute(
                delete(IntakeRow).where(
                    IntakeRow.digest == digest, IntakeRow.channel == intake.channel
                )
            )
        return self._present(model, intake.channel)

    def release(
        self, *, model: str, channel: str, digest: str, reason: str, above: int = 0
    ) -> Decision:
        """Decide that a channel serves a version, with the next sequence number of the model.

        Nothing is decided anew if the channel serves it already.

        Args:
            model: Name of the model.
            channel: Which edges.
            digest: Which version; the registry has it.
            reason: Why, for people.
            above: A sequence number that edges have seen; the decision's is higher.
        """
        with Session(self._engine) as session, session.begin():
            _decide(session, model, channel, digest, reason, above=above)
        return self._present(model, channel)

    def current(self, model: str, channel: str) -> Decision | None:
        """What a channel serves."""
        with Session(self._engine) as session:
            row = session.execute(
                select(ReleaseRow, VersionRow)
                .join(VersionRow, VersionRow.digest == ReleaseRow.digest)
                .where(ReleaseRow.model == model, ReleaseRow.channel == channel)
                .order_by(ReleaseRow.sequence.desc())
                .limit(1)
            ).first()
            return None if row is None else self._decision(row[0], row[1])

    def all_current(self) -> list[Decision]:
        """What every channel of every model serves."""
        with Session(self._engine) as session:
            keys = session.execute(select(ReleaseRow.model, ReleaseRow.channel).distinct()).all()
        found = [self.current(model, channel) for model, channel in keys]
        return [decision for decision in found if decision is not None]

    def before(self, model: str, channel: str) -> BundleRef | None:
        """What a channel served before it first served what it serves now."""
        with Session(self._engine) as session:
            history = session.execute(
                select(ReleaseRow.digest)
                .where(ReleaseRow.model == model, ReleaseRow.channel == channel)
                .order_by(ReleaseRow.sequence)
            ).scalars()
            digests = list(history)
        if not digests:
            return None
        first = digests.index(digests[-1])
        return self.find(digest=digests[first - 1]) if first else None

    def finish(self, decision: Decision, *, when: datetime) -> None:
        """Every edge serves a release."""
        with Session(self._engine) as session, session.begin():
            row = session.scalar(
                select(ReleaseRow).where(
                    ReleaseRow.model == decision.bundle.model.name,
                    ReleaseRow.sequence == decision.sequence,
                )
            )
            if row is not None and row.finished is None:
                row.finished = micros(when)

    def find(
        self, *, digest: str | None = None, model: str | None = None, version: int | None = None
    ) -> BundleRef | None:
        """One version, by digest or by model and number."""
        where = (
            [VersionRow.digest == digest]
            if digest is not None
            else [VersionRow.model == model, VersionRow.version == version]
        )
        with Session(self._engine) as session:
            row = session.scalar(select(VersionRow).where(*where))
            return None if row is None else self._ref(row)

    def newest(self, model: str) -> int:
        """The highest version of a model; 0 if there is none."""
        with Session(self._engine) as session:
            highest = session.scalar(
                select(func.max(VersionRow.version)).where(VersionRow.model == model)
            )
            return highest or 0

    def entries(self, model: str | None = None) -> list[ModelEntry]:
        """All versions, or those of a model, newest first."""
        serving: dict[str, list[str]] = {}
        for decision in self.all_current():
            serving.setdefault(decision.bundle.model.digest, []).append(decision.channel)
        query = select(VersionRow).order_by(VersionRow.added.desc(), VersionRow.version.desc())
        if model is not None:
            query = query.where(VersionRow.model == model)
        with Session(self._engine) as session:
            return [
                ModelEntry(
                    bundle=self._ref(row),
                    added=from_micros(row.added),
                    channels=tuple(sorted(serving.get(row.digest, ()))),
                    metrics=dict(islice(row.metrics.items(), _MOST_METRICS)),
                    origin=row.origin,
                )
                for row in session.scalars(query)
            ]

    def kept(self, *, versions: int) -> set[str]:
        """Digests that must stay on the disk.

        Args:
            versions: Newest versions of each model to keep, besides what channels serve and served
                before that, and what is on its way in.
        """
        keep = {intake.bundle.model.digest for intake in self.intakes()}
        for decision in self.all_current():
            keep.add(decision.bundle.model.digest)
            previous = self.before(*decision.key)
            if previous is not None:
                keep.add(previous.model.digest)
        by_model: dict[str, int] = {}
        for entry in sorted(self.entries(), key=lambda item: -item.bundle.model.version):
            count = by_model[entry.bundle.model.name] = by_model.get(entry.bundle.model.name, 0) + 1
            if count <= versions:
                keep.add(entry.bundle.model.digest)
        return keep

    def want(self, intake: Intake) -> None:
        """Note that a bundle is to be brought in; older candidates of its channel are not, now.

        Of many candidates only the last few are.
        """
        model = intake.bundle.model
        with Session(self._engine) as session, session.begin():
            if intake.candidate:
                session.execute(
                    delete(IntakeRow).where(
                        IntakeRow.model == model.name,
                        IntakeRow.channel == intake.channel,
                        IntakeRow.candidate,
                        IntakeRow.version < model.version,
                    )
                )
            session.merge(
                IntakeRow(
                    digest=model.digest,
                    channel=intake.channel,
                    model=model.name,
                    version=model.version,
                    reference=intake.bundle.model_dump_json(),
                    origin=intake.origin,
                    candidate=intake.candidate,
                )
            )
            session.flush()
            newest = select(IntakeRow.digest).where(IntakeRow.candidate)
            kept = newest.order_by(text("rowid DESC")).limit(_MOST_CANDIDATES).scalar_subquery()
            session.execute(
                delete(IntakeRow).where(IntakeRow.candidate, IntakeRow.digest.not_in(kept))
            )

    def done(self, intake: Intake) -> None:
        """A bundle came in, or never will."""
        digest, channel = intake.key
        with Session(self._engine) as session, session.begin():
            session.execute(
                delete(IntakeRow).where(IntakeRow.digest == digest, IntakeRow.channel == channel)
            )

    def intakes(self) -> list[Intake]:
        """What is to be brought in; what an older program noted and this one refuses is not."""
        found: list[Intake] = []
        with Session(self._engine) as session, session.begin():
            for row in session.scalars(select(IntakeRow)):
                try:
                    bundle = BundleRef.model_validate_json(row.reference)
                except ValidationError:
                    session.delete(row)
                    continue
                found.append(
                    Intake(
                        bundle=bundle,
                        channel=row.channel,
                        origin=row.origin,
                        candidate=row.candidate,
                    )
                )
        return found

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def _present(self, model: str, channel: str) -> Decision:
        decision = self.current(model, channel)
        if decision is None:
            msg = f"no release of {model} to {channel} right after one was written"
            raise RuntimeError(msg)
        return decision

    def _ref(self, row: VersionRow) -> BundleRef:
        return BundleRef(
            model=ModelRef(name=row.model, version=row.version, digest=row.digest),
            provider=self._provider,
            index_size=row.index_size,
            size=row.size,
            parent=row.parent,
        )

    def _decision(self, row: ReleaseRow, version: VersionRow) -> Decision:
        return Decision(
            bundle=self._ref(version),
            channel=row.channel,
            sequence=row.sequence,
            reason=row.reason,
            decided=from_micros(row.decided),
            finished=None if row.finished is None else from_micros(row.finished),
        )


def _decide(
    session: Session, model: str, channel: str, digest: str, reason: str, *, above: int = 0
) -> None:
    """Write a decision, unless it is the one that counts already."""
    current = session.scalar(
        select(ReleaseRow)
        .where(ReleaseRow.model == model, ReleaseRow.channel == channel)
        .order_by(ReleaseRow.sequence.desc())
        .limit(1)
    )
    if current is not None and current.digest == digest and current.sequence >= above:
        return
    highest = session.scalar(select(func.max(ReleaseRow.sequence)).where(ReleaseRow.model == model))
    session.add(
        ReleaseRow(
            model=model,
            channel=channel,
            sequence=max(highest or 0, above) + 1,
            digest=digest,
            reason=reason,
            decided=micros(utc_now()),
        )
    )
