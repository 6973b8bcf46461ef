"""What can go wrong in a training run."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CheckpointError", "DeviceError", "HeadMismatchError", "NothingToTrainOnError",
           "TrainingDivergedError", "TrainingError", "UnreadableImageError"]  # fmt: skip


class TrainingError(Exception):
    """Base of the errors of a training run."""


class UnreadableImageError(TrainingError):
    """A picture is no picture.

    Attributes:
        name: Name of the picture.
        size: Bytes there were.
    """

    def __init__(self, *, name: str, size: int) -> None:
        self.name = name
        self.size = size
        super().__init__(f"picture {name!r}: {size} bytes that OpenCV cannot decode; remove it")


class NothingToTrainOnError(TrainingError):
    """No readable picture was given.

    Attributes:
        unreadable: Names of the pictures that could not be decoded.
    """

    def __init__(self, *, unreadable: tuple[str, ...]) -> None:
        self.unreadable = unreadable
        detail = f"; unreadable: {', '.join(unreadable[:10])}" if unreadable else ""
        super().__init__(f"no picture to train on{detail}; collect samples first")


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


class HeadMismatchError(TrainingError):
    """The graph's output is not what the head says.

    Attributes:
        found: Shape of the output.
        wanted: Shape by strides, input size and classes.
    """

    def __init__(self, *, output: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"output {output!r} has shape {found}; a YOLOX head of these strides, input size and "
            f"classes has {wanted}; check decoder, strides and classes in the manifest"
        )


class TrainingDivergedError(TrainingError):
    """The loss left the ground.

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
