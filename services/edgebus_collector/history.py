"""The last frames that were answered, for what people say of them later."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from edgebus_detection.messages import Verdict
from edgebus_detection.mining.examples import Example

__all__ = ["History", "Seen"]

_MAX_VERDICTS = 16


@dataclass(slots=True)
class Seen:
    """A frame and what was said of it so far."""

    example: Example
    verdicts: tuple[Verdict, ...] = ()

    def add(self, verdict: Verdict) -> bool:
        """Take another verdict; whether it is news (the same words of the same person are not)."""
        same = {"time": verdict.time}
        if len(self.verdicts) >= _MAX_VERDICTS or any(
            known.model_copy(update=same) == verdict for known in self.verdicts
        ):
            return False
        self.verdicts = (*self.verdicts, verdict)
        return True


class History:
    """Keeps the last answered frames of all cameras in memory, the oldest goes first.

    Args:
        frames: The most frames per camera.
        size: The most bytes of pictures, of all cameras together.
    """

    def __init__(self, *, frames: int, size: int) -> None:
        self._max_frames = frames
        self._max_size = size
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._cameras: dict[str, OrderedDict[str, None]] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, example: Example) -> None:
        """Remember an example; one that is there already takes its new form."""
        frame = example.frame.record.id
        known = self._seen.get(frame)
        if known is not None:
            known.example = example
            return
        self._seen[frame] = Seen(example)
        self._size += len(example.frame.jpeg)
        own = self._cameras.setdefault(example.camera, OrderedDict())
        own[frame] = None
        if len(own) > self._max_frames:
            self._forget(next(iter(own)))
        while self._size > self._max_size:
            self._forget(next(iter(self._seen)))

    def find(self, camera: str, frame: str | None) -> Seen | None:
        """A frame of a camera by its id, or that camera's newest; None where it is gone."""
        own = self._cameras.get(camera)
        if not own:
            return None
        wanted = next(reversed(own)) if frame is None else frame
        return self._seen[wanted] if wanted in own else None

    def _forget(self, frame: str) -> None:
        gone = self._seen.pop(frame)
        self._size -= len(gone.example.frame.jpeg)
        own = self._cameras[gone.example.camera]
        del own[frame]
        if not own:
            del self._cameras[gone.example.camera]
