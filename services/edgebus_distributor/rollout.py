"""Roll-out state: how far releases have come, by what edges report. No sockets, no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime

from edgebus.contracts import EdgeProgress, ModelStatus, RolloutStatus, fitting, shorten
from edgebus_distributor.records import Decision

Key = tuple[str, str]

_MOST_PER_NODE = 300  # the shared model's service, 256 streams with one of their own, and some more


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rollout:
    decision: Decision
    served_before: int


class Rollouts:
    """The newest status of every edge, and of its streams' own models, against what is released.

    An edge is concerned by a release if it follows its model and channel. One that is off keeps
    its last word (it is retained), so a roll-out is not complete without it.
    """

    def __init__(self) -> None:
        self._edges: dict[tuple[str, str], ModelStatus] = {}
        self._per_node: Counter[str] = Counter()
        self.left_out = 0
        """Statuses of services and streams of a node that has too many."""
        self._rollouts: dict[Key, _Rollout] = {}

    @property
    def keys(self) -> tuple[Key, ...]:
        """Model and channel of all releases."""
        return tuple(self._rollouts)

    def begin(self, decision: Decision, *, served: int) -> None:
        """A release counts from now on.

        Args:
            decision: The release.
            served: Bytes of its blobs that were sent so far, for earlier releases that share them.
        """
        known = self._rollouts.get(decision.key)
        if known is not None and known.decision.sequence >= decision.sequence:
            return
        self._rollouts[decision.key] = _Rollout(decision=decision, served_before=served)

    def update(self, status: ModelStatus, *, retained: bool = False) -> set[Key]:
        """Take an edge's status.

        What an edge sends comes in order, whatever its clock says, which may be set back.

        Args:
            status: The status.
            retained: The broker had kept it; it is ignored where a newer one is known.

        Returns:
            The releases of which it changes something.
        """
        edge = status.source, status.stream or ""
        before = self._edges.get(edge)
        if before is None and not self._room_for(status):
            return set()
        if before is not None and retained and status.time < before.time:
            return set()
        if before is None:
            self._per_node[_node(status)] += 1
        self._edges[edge] = status
        touched = {_follows(status)} | ({_follows(before)} if before is not None else set())
        return {key for key in touched if key is not None} & self._rollouts.keys()

    def _room_for(self, status: ModelStatus) -> bool:
        """A device can name as many services and streams as it likes, but not become a fleet."""
        if self._per_node[_node(status)] < _MOST_PER_NODE:
            return True
        self.left_out += 1
        return False

    def status(self, key: Key, *, served: int, now: datetime) -> RolloutStatus:
        """Status of a release.

        Args:
            key: Model and channel.
            source: The distributor's identity.
            served: Bytes of its blobs that were sent so far.
            now: Wall clock, for the moment at which it is found to be complete.

        Raises:
            KeyError: There is no such release.
        """
        rollout = self._rollouts[key]
        decision = rollout.decision
        edges = tuple(
            _progress(status, decision)
            for _, status in sorted(self._edges.items())
            if _follows(status) == key
        )
        converged = sum(edge.state == "updated" for edge in edges)
        if decision.finished is None and edges and converged == len(edges):
            decision = replace(decision, finished=now)
            self._rollouts[key] = replace(rollout, decision=decision)
        return RolloutStatus(
            release=decision.bundle,
            channel=decision.channel,
            sequence=decision.sequence,
            total=len(edges),
            converged=converged,
            failed=sum(edge.state == "failed" for edge in edges),
            edges=_shown(edges),
            served_bytes=max(0, served - rollout.served_before),
            started=decision.decided,
            finished=decision.finished,
        )

    def decision(self, key: Key) -> Decision:
        """The release of a model and channel.

        Raises:
            KeyError: There is none.
        """
        return self._rollouts[key].decision


def _shown(edges: tuple[EdgeProgress, ...]) -> tuple[EdgeProgress, ...]:
    """All edges by name; of too many for a message, those first that do not serve it yet."""
    shown = fitting(edges)
    if len(shown) < len(edges):
        shown = fitting(sorted(edges, key=lambda edge: edge.state == "updated"))
    return shown


def _node(status: ModelStatus) -> str:
    return status.source.rpartition("/")[0]


def _follows(status: ModelStatus) -> Key | None:
    """Model and channel whose releases an edge follows."""
    name = status.model
    if name is None:
        ref = status.serving or status.target
        name = None if ref is None else ref.name
    return None if name is None else (name, status.channel)


def _progress(status: ModelStatus, decision: Decision) -> EdgeProgress:
    """An edge's state with respect to one release, whatever it was busy with before."""
    wanted = decision.bundle.model.digest
    serving = status.serving
    version = None if serving is None else serving.version
    if serving is not None and serving.digest == wanted:
        return EdgeProgress(node=status.source, version=version, state="updated", progress=1.0)
    concerned = status.sequence == decision.sequence or (
        status.target is not None and status.target.digest == wanted
    )
    if not concerned:
        return EdgeProgress(node=status.source, version=version, state="idle")
    state = "updating" if status.state in ("updated", "idle") else status.state
    return EdgeProgress(
        node=status.source,
        version=version,
        state=state,
        progress=status.progress,
        error=None if status.error is None else shorten(status.error, limit=200),
    )
