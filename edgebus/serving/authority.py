"""Authorities: whose releases and candidates are followed, until these are signed.

Brokers let every device publish below its own prefix, so any device can announce a release. An
announcement counts where the settings name its source, where it comes from the same node (who has
that node's credentials decides about it anyway), or, of releases, where its source was the first to
announce the model; that one is remembered on disk, so that a restart does not begin anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from edgebus.contracts import Identity, Segment, Source, shared_model, shorten
from edgebus.files import write_file

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

MAX_JUMP = 1_000_000
"""How far a sequence or version may lie above the one before it.

Whoever comes into a number near the largest one could otherwise make all later ones impossible.
"""

_MOST_MODELS = 1000
_MOST_STRANGERS = 64
_FILE = TypeAdapter(dict[Segment, Source])


class Authorities:
    """Who decides about each model, and about the streams' own that are made from it.

    Args:
        identity: Who follows them.
        allowed: The sources that count; None: the own node's, and with `path` the first one's.
        setting: The setting that `allowed` comes from, for the log.
        path: Remembers the first one of each model; None: nobody counts for being the first.
        log: Gets one line for each stranger.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        allowed: tuple[str, ...] | None,
        setting: str,
        path: Path | None = None,
        log: FilteringBoundLogger,
    ) -> None:
        self._own = f"{identity.site}/{identity.node}/"
        self._allowed, self._setting, self._path, self._log = allowed, setting, path, log
        self._strangers: set[tuple[str, str]] = set()
        self._first: dict[str, str] = {}
        if path is not None and path.exists():
            try:
                self._first = _FILE.validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                reason = f"{path} cannot be read: whoever announces a model first decides anew"
                log.warning("authorities lost", reason=reason, error=shorten(str(error)))

    def accepts(self, model: str, source: str) -> bool:
        """Whether a source decides about a model."""
        model = shared_model(model)[0]
        if self._allowed is not None:
            right = source in self._allowed
        else:
            right = source.startswith(self._own) or source == self._first.get(model)
            if not right and self._path is not None and model not in self._first:
                right = self._remember(self._path, model, source)
        if not right:
            self._warn(model, source)
        return right

    def _remember(self, path: Path, model: str, source: str) -> bool:
        if len(self._first) >= _MOST_MODELS:
            return False
        self._first[model] = source
        self._log.info("releases followed", model=model, source=source)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(self._first).encode())
        except OSError as error:
            self._log.warning("cannot remember who decides", path=str(path), error=str(error))
        return True

    def _warn(self, model: str, source: str) -> None:
        if (model, source) in self._strangers or len(self._strangers) >= _MOST_STRANGERS:
            return
        self._strangers.add((model, source))
        known = self._allowed or (f"{self._own}*", self._first.get(model))
        names = ", ".join(filter(None, known))
        self._log.warning(
            "a stranger's announcement is not followed",
            source=source,
            reason=f"{names} decide about {model}; to follow others, set {self._setting}",
        )
