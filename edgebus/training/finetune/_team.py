"""Several processes that take each step together, one device each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.nn import Parameter

from edgebus.training.finetune._errors import DeviceError

T = TypeVar("T")

# The others wait while the first one labels. A process that dies is noticed by who started them.
_PATIENCE = timedelta(days=7)


class Team:
    """Data parallelism that changes nothing but the order of sums.

    Every process draws the same batch, computes its share of the rows, and all add up their
    gradients. The loss is a sum over the batch divided by a number of the whole batch, so the sum
    of the shares is what one process would have. All load the whole batch: chance is drawn per
    item, and a share that drew its own would train on others.

    Args:
        device: This process's.
        rank: Number of this process.
        size: How many there are.
    """

    def __init__(self, *, device: torch.device, rank: int = 0, size: int = 1) -> None:
        self.device = device
        self.rank = rank
        self.size = size

    @property
    def first(self) -> bool:
        """Whether this is the process that reports, keeps checkpoints and decides."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> tuple[T, ...]:
        """This process's part of a batch's rows.

        Raises:
            DeviceError: There are fewer rows than processes.
        """
        if len(rows) < self.size:
            reason = f"a batch of {len(rows)} is too small for {self.size} devices"
            raise DeviceError(reason=reason, hint="raise train.batch or lower train.devices")
        return tuple(rows[self.rank :: self.size])

    def add_up(self, numbers: Sequence[float]) -> list[float]:
        """Sums over the team."""
        if self.size == 1:
            return list(numbers)
        together = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(together)
        return [float(number) for number in together]

    def add_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Sums of gradients; what no share depends on keeps none."""
        if self.size == 1:
            return
        known = self.add_up([float(one.grad is not None) for one in parameters])
        wanted = [one for one, count in zip(parameters, known, strict=True) if count]
        flat = torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in wanted]
        )
        dist.all_reduce(flat)
        parts = torch.split(flat, [one.numel() for one in wanted])
        for one, part in zip(wanted, parts, strict=True):
            one.grad = part.view_as(one)

    def broadcast(self, message: Any) -> Any:
        """The first process's message, at every process. Only between processes of one job."""
        if self.size == 1:
            return message
        messages = [message]
        dist.broadcast_object_list(messages, src=0)
        return messages[0]


def pick_device(device: str = "auto") -> torch.device:
    """The named device; "auto" takes CUDA where there is one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def alone(device: str = "auto") -> Team:
    """A team of this process."""
    return Team(device=pick_device(device))


@contextmanager
def join_team(device: str = "auto") -> Iterator[Team]:
    """The team that `torchrun` has started this process for; alone where it has not.

    Args:
        device: Torch device without a number, or "auto": CUDA devices are dealt out in order.

    Raises:
        DeviceError: There are fewer devices than processes, or all were given the same.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield alone(device)
        return
    rank = int(os.environ["RANK"])
    picked = pick_device(device)
    if picked.type == "cuda":
        if ":" in device:
            reason = f"{size} processes were all given {device}"
            raise DeviceError(reason=reason, hint="set train.device to cuda or auto")
        if torch.cuda.device_count() < size:
            reason = f"{size} devices were asked for, this host has {torch.cuda.device_count()}"
            raise DeviceError(reason=reason, hint="lower train.devices")
        picked = torch.device("cuda", rank)
        torch.cuda.set_device(picked)
    backend = "cpu:gloo,cuda:nccl" if picked.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Team(device=picked, rank=rank, size=size)
    finally:
        dist.destroy_process_group()
