"""Processes: who this one is, and the one sum they share.

`torchrun --nproc-per-node N -m seqgen train ...` starts the processes and sets the variables that are read here.
Without it there is one process and every function is free.
"""

import json
import os
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor

T = TypeVar("T")


def start(device: torch.device) -> None:
    """Join the process group that torchrun announces; nothing happens in a single process or a second time."""
    if world() > 1 and not torch_dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)  # a barrier waits on the current device
        torch_dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    """Leave the process group, if there is one."""
    if torch_dist.is_available() and torch_dist.is_initialized():
        torch_dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, 0 to world - 1."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the number of this process on its machine, which is also its CUDA device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process writes the shared files."""
    return rank() == 0


def sum_(tensor: Tensor) -> Tensor:
    """Sum the tensor over all processes, in place; the same bits on every one."""
    if world() > 1:
        torch_dist.all_reduce(tensor)
    return tensor


def any_(flag: bool, device: torch.device) -> bool:
    """Return whether any process says yes, so that all of them decide alike."""
    if world() == 1:
        return flag
    return bool(sum_(torch.tensor([float(flag)], device=device)).item())


def from_main(value: Any, device: torch.device) -> Any:
    """Return the first process's value on every process; plain JSON values only."""
    if world() == 1:
        return value
    sent = json.dumps(value).encode() if is_main() else b""
    size = int(sum_(torch.tensor([len(sent)], device=device)).item())
    text = torch.zeros(size, dtype=torch.uint8, device=device)
    if is_main():
        text += torch.tensor(list(sent), dtype=torch.uint8, device=device)
    return json.loads(bytes(sum_(text).tolist()))


def share(count: int) -> tuple[int, int]:
    """Return where this process's contiguous share of `count` things begins, and how many it has."""
    begin, end = (count * at // world() for at in (rank(), rank() + 1))
    return begin, end - begin


def gathered(own: list[T]) -> list[T]:
    """Return the lists of all processes, one after the other, on every process; their things are pickled."""
    if world() == 1:
        return own
    parts: list[list[T]] = [[]] * world()
    torch_dist.all_gather_object(parts, own)
    return [thing for part in parts for thing in part]


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        torch_dist.barrier()
