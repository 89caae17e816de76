"""One run on several processes: what each computes, and how it comes together.

Every process holds the whole model, the same masks and the same drop pattern, and takes its share
of the images. With a single process all of this does nothing. Source: torch.distributed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def check_alone(what: str) -> None:
    """For what does not average its gradients over processes.

    Raises:
        ValueError: there are several processes.
    """
    if world_size() > 1:
        raise ValueError(
            f"{what} trains in one process, and there are {world_size()}. Run it without torchrun; "
            "--jobs has several runs side by side."
        )


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Join the processes that torchrun has started, if it has.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; a GPU for each process of a machine.

    Raises:
        RuntimeError: a machine has more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda:
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise RuntimeError(f"Got more processes than the {gpus} GPUs. Use --nproc_per_node.")
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    yield
    dist.destroy_process_group()  # not after an error: the others may be waiting


def share(n: int, of_rank: int | None = None) -> range:
    """Which of n things in order a process takes; all of them together, each once."""
    k, world = rank() if of_rank is None else of_rank, world_size()
    return range(n * k // world, n * (k + 1) // world)


@torch.no_grad()
def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of the processes.

    Args:
        x: (n, ...); n may differ, the rest not.
    """
    if world_size() == 1:
        return x
    sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    longest = max(int(size) for size in sizes)
    padded = x.new_zeros(longest, *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def join_rows(x: Tensor) -> Tensor:
    """As :func:`gather_rows`; gradients flow to this process's own rows."""
    if world_size() == 1:
        return x
    rows = gather_rows(x.detach())
    first = sum(_lengths(len(x), x.device)[: rank()])
    return torch.cat([rows[:first], x, rows[first + len(x) :]])


def _lengths(n: int, device: torch.device) -> list[int]:
    """The number of rows of every process."""
    return [int(i) for i in gather_rows(torch.tensor([n], device=device))]


@torch.no_grad()
def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of all processes' tensors, the same in all of them."""
    if world_size() > 1:
        x = x.contiguous()
        dist.all_reduce(x)
    return x


@torch.no_grad()
def from_first(x: Tensor) -> Tensor:
    """The first process's tensor, in all of them."""
    if world_size() > 1:
        x = x.contiguous()
        dist.broadcast(x, 0)
    return x


def over_processes(value: Any) -> list[Any]:
    """Every process's object, in the order of the processes."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def own(values: list[Any]) -> Any:
    """This process's of :func:`over_processes`, or the first, of a run with fewer processes."""
    return values[rank()] if rank() < len(values) else values[0]


def of_first(value: Any) -> Any:
    """The first process's object, in all of them."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
