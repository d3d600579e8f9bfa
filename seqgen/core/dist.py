"""Processes: who this one is, and the one sum they share.

`torchrun --nproc-per-node N -m seqgen train ...` starts the processes and sets the variables that are read here.
Without it there is one process and every function is free.
"""

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as torch_dist
from torch import Tensor

from seqgen.core.errors import PeerLostError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

_JOIN_S = 600.0
"""How long processes that start together wait for each other; as long as torchrun waits for machines."""
_LOST = re.compile(r"[Cc]onnect|[Tt]imed out|[Tt]imeout|by peer|Broken pipe|[Ss]ocket")


def start(device: torch.device) -> None:
    """Join the process group that torchrun announces; nothing happens in a single process or a second time.

    PeerLostError, here and in every function below, where another process has ended or cannot be reached.
    """
    if world() > 1 and not torch_dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)  # a barrier waits on the current device
        backend = "nccl" if device.type == "cuda" else "gloo"
        from torch.distributed.rendezvous import rendezvous  # not in every build of torch

        with _peers():
            store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=_JOIN_S)))
            torch_dist.init_process_group(backend, store=_new_part(store), rank=rank(), world_size=world())


def _new_part(store: "Store") -> "Store":
    """Return a part of the store to which no earlier start has written, the same on every process.

    torchrun keeps its store when it starts processes again, and with it the addresses of dead ones, to which gloo would
    connect. The first process draws the part's name and answers the others, who ask by names drawn anew. The number of
    restarts is no such name: each machine counts its own.
    """
    from torch.distributed.distributed_c10d import PrefixStore  # not in every build of torch

    own = uuid.uuid4().hex
    if rank():
        store.set(f"seqgen/asked by {rank()}", own)
        part = store.get(f"seqgen/answer to {own}").decode()
        store.set(f"{part}/joined {rank()}", "")
        return PrefixStore(part, store)
    missing, until = set(range(1, world())), time.monotonic() + _JOIN_S
    while missing:
        for other in sorted(missing):
            if store.check([f"seqgen/asked by {other}"]):
                store.set(f"seqgen/answer to {store.get(f'seqgen/asked by {other}').decode()}", own)
        missing = {other for other in missing if not store.check([f"{own}/joined {other}"])}
        if time.monotonic() > until:
            raise PeerLostError(
                f"of {world()} processes, {sorted(missing)} did not join within {_JOIN_S:.0f} s; start all again"
            )
        time.sleep(0.02)
    return PrefixStore(own, store)


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Tell the loss of another process from an error of the program."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        if not isinstance(error, torch_dist.DistError) and not _LOST.search(reason):
            raise
        # the place in torch's own source says nothing to anybody
        reason = re.sub(r"^.*\[[^\]]*\.(cc|cpp|h):\d+\] *", "", reason).split(". ")[0].rstrip(".")
        raise PeerLostError(
            f"process {rank()} of {world()}: another process has ended or cannot be reached ({reason})"
        ) from error


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
        with _peers():
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
    with _peers():
        torch_dist.all_gather_object(parts, own)
    return [thing for part in parts for thing in part]


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        with _peers():
            torch_dist.barrier()
