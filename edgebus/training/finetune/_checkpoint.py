"""Checkpoints: a run that a crash interrupts goes on where it was, to the same result."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgebus.files import write_file
from edgebus.training.finetune._errors import CheckpointError

_VERSION = "1"
Arrays = dict[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run between two steps.

    Attributes:
        run: Digest of everything that decides the run; another run's snapshot is of no use.
        step: Steps done.
        facts: Where the batches are, the losses so far: what JSON can hold exactly.
        arrays: Weights, optimiser state, averages.
    """

    run: str
    step: int
    facts: Mapping[str, Any]
    arrays: Arrays


class Checkpoints:
    """Keeps the newest snapshot of a run in one safetensors file, with its facts as JSON inside.

    One file, replaced by a rename: weights and facts of different steps never meet. A digest over
    both reveals a damaged file.

    Args:
        path: The file; its folder is there.
        every_s: Seconds between two snapshots.
        every_steps: Steps between two, whatever the time; None: by time only.
    """

    def __init__(
        self, path: Path, *, every_s: float = 15.0, every_steps: int | None = None
    ) -> None:
        self.path = path
        self._every_s = every_s
        self._every_steps = every_steps
        self._saved = time.monotonic()

    def due(self, step: int) -> bool:
        """True where a snapshot is due after this step."""
        if self._every_steps is not None and step % self._every_steps == 0:
            return True
        return time.monotonic() - self._saved >= self._every_s

    def save(self, snapshot: Snapshot) -> None:
        """Replace the file.

        Raises:
            OSError: The disk is full or broken; the earlier snapshot is still there.
        """
        self._saved = time.monotonic()
        facts = json.dumps({"run": snapshot.run, "step": snapshot.step} | dict(snapshot.facts))
        metadata = {
            "checkpoint": _VERSION,
            "facts": facts,
            "digest": _digest(facts, snapshot.arrays),
        }
        arrays = {name: np.ascontiguousarray(value) for name, value in snapshot.arrays.items()}
        write_file(self.path, save(arrays, metadata=metadata))

    def load(self, run: str) -> Snapshot | None:
        """The snapshot of a run; None where there is none.

        Args:
            run: Digest of the run that wants to go on.

        Raises:
            CheckpointError: The file is damaged, or belongs to another run.
        """
        for part in self.path.parent.glob(f".{self.path.name}.*.part"):
            part.unlink(missing_ok=True)  # what a killed run was about to write
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads(metadata["facts"])
            if metadata["checkpoint"] != _VERSION or metadata["digest"] != _digest(
                metadata["facts"], arrays
            ):
                raise CheckpointError(path=self.path, reason="is damaged: its digest is wrong")
            found, step = str(facts["run"]), int(facts["step"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, struct.error) as error:
            reason = f"is damaged ({type(error).__name__}: {error})"
            raise CheckpointError(path=self.path, reason=reason) from error
        if found != run:
            reason = "is of another run: other items, labels, weights or settings"
            raise CheckpointError(path=self.path, reason=reason)
        return Snapshot(run=run, step=step, facts=facts, arrays=arrays)


def _digest(facts: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.data)
    return digest.hexdigest()
