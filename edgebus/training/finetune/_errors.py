"""Errors of a training run."""

from __future__ import annotations

from pathlib import Path


class TrainingError(Exception):
    """Base of the errors of a training run."""


class UnreadableItemError(TrainingError):
    """An item is damaged; a run leaves it out.

    Attributes:
        name: Name of the item.
    """

    def __init__(self, *, name: str, reason: str) -> None:
        self.name = name
        super().__init__(f"{name!r}: {reason}; remove it")


class NothingToTrainOnError(TrainingError):
    """No readable item was given.

    Attributes:
        unreadable: Names of the items that could not be read.
    """

    def __init__(self, *, unreadable: tuple[str, ...]) -> None:
        self.unreadable = unreadable
        detail = f"; unreadable: {', '.join(unreadable[:10])}" if unreadable else ""
        super().__init__(f"nothing to train on{detail}; collect samples first")


class CheckpointError(TrainingError):
    """A checkpoint is of no use; the run has to start over.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, *, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"checkpoint {path.name} {reason}; training starts over")


class DeviceError(TrainingError):
    """The devices do not suit what they are asked to do together.

    Attributes:
        reason: What does not fit.
    """

    def __init__(self, *, reason: str, hint: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}; {hint}")


class TrainingDivergedError(TrainingError):
    """The loss is not finite, or grew too far.

    Attributes:
        step: Step at which it was seen, from 1.
        loss: Loss there.
        start: Loss over the first steps, or NaN when it was never finite.
        learning_rate: The peak learning rate.
    """

    def __init__(self, *, step: int, loss: float, start: float, learning_rate: float) -> None:
        self.step = step
        self.loss = loss
        self.start = start
        self.learning_rate = learning_rate
        super().__init__(
            f"training diverged at step {step}: loss {loss:.4g} after {start:.4g} at the start, "
            f"learning rate {learning_rate:.2g}; lower the learning rate or check the labels"
        )
