"""Processes: torch.distributed as `torchrun` or `accelerate launch` set it up, or one process alone.

Replicated processes share one optimiser step by summing gradients once, after the last microbatch. There
are no hooks on the backward pass, so adapters may switch and several forwards may share a step.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")


def leave() -> None:
    """Ends the process group in order: left to the interpreter, its threads can abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class World:
    """This process and its fellows."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where collectives work: the process's own GPU with nccl, the CPU with gloo."""

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, device: torch.device) -> World:
        """Joins the process group named by RANK and WORLD_SIZE, or stands alone without them."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
            atexit.register(leave)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def reduce(self, values: Tensor) -> Tensor:
        """The sum of `values` over processes."""
        if self.size == 1:
            return values
        total = values.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, item: Item) -> list[Item]:
        """`item` of every process, in the order of ranks."""
        if self.size == 1:
            return [item]
        items: list[Item | None] = [None] * self.size
        dist.all_gather_object(items, item)
        return [i for i in items if i is not None]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its sum over processes, in one message.

        A process whose share of the batch was empty takes part with zeros.
        """
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
