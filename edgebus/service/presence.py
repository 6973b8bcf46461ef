"""Birth, state and will of a service, without a socket or a clock of its own.

The session number ties a will to its birth, as Sparkplug B's bdSeq does (Sparkplug 3.0.0 §6.4.6):
the will of an earlier connection is recognised when it arrives late. An instance is a UUIDv7, so
of two processes with one identity the one that started first has the smaller instance.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from socket import gethostname
from typing import Final

from edgebus.addresses import hide_credentials
from edgebus.contracts import Identity, ServiceState, State, new_id, utc_now

ALIVE: Final[frozenset[State]] = frozenset({"starting", "ready", "degraded", "draining"})


@dataclass(slots=True, kw_only=True)
class Presence:
    """State of a service, and when it changed.

    Attributes:
        identity: Who it is.
        version: Version of the service's package.
        instance: This process.
        state: The present state.
        reason: Why, where it is not self-evident.
        since: When the state began.
        session: Number of the present connection, growing over restarts too.
    """

    identity: Identity
    version: str
    instance: str = field(default_factory=new_id)
    state: State = "starting"
    reason: str = ""
    since: datetime = field(default_factory=utc_now)
    started: datetime = field(default_factory=utc_now)
    session: int = 0

    def change(self, state: State, reason: str = "") -> bool:
        """Enter a state; False where nothing changed."""
        reason = hide_credentials(reason)
        if (state, reason) == (self.state, self.reason):
            return False
        if state != self.state:
            self.since = utc_now()
        self.state = state
        self.reason = reason
        return True

    def message(self) -> ServiceState:
        """The present state as a message; sent as birth on each connection and on each change."""
        return self._message(self.state, self.reason, session=self.session, since=self.since)

    def will(self, session: int) -> ServiceState:
        """The will: the message for a connection that ends without a DISCONNECT."""
        return self._message("offline", "connection lost", session=session, since=utc_now())

    def _message(self, state: State, reason: str, *, session: int, since: datetime) -> ServiceState:
        return ServiceState(
            source=self.identity.source,
            state=state,
            reason=reason,
            session=session,
            instance=self.instance,
            since=since,
            version=self.version,
            host=gethostname(),
            pid=os.getpid(),
        )
