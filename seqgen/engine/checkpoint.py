"""Checkpoints: weights, optimizer moments, buffers and a small JSON, in a folder that appears whole.

    checkpoints/step-00020000/   model.safetensors   optimizer.safetensors   rank-R.safetensors   state.json

`state.json` holds the step, the number of processes, the sizes of the growing logs and the SHA-256 of every file.
Nothing here is a pickle: safetensors and JSON cannot execute code.
"""

import contextlib
import errno
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqgen.core import dist, files
from seqgen.core.errors import RunError
from seqgen.core.update import Optimizer


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def steps(run: Path) -> list[int]:
    """The steps of the complete checkpoints of a run, ascending."""
    places = [path.parent for path in (run / "checkpoints").glob("step-*/state.json")]
    return sorted(int(match[1]) for place in places if (match := re.fullmatch(r"step-(\d{8,})", place.name)))


def _split(model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies of the model's tensors: those all processes share, and those of this process alone (`model.rank_local`).

    Tied weights come once: safetensors refuses shared memory, and `fill` reads what is missing from its twin.
    """
    shared: dict[str, Tensor] = {}
    local: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        copy = tensor.detach().cpu().contiguous().clone()
        if name in model.rank_local:
            local[name] = copy
        elif not tensor.numel() or tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            shared[name] = copy
    return shared, local


def save(
    run: Path,
    step: int,
    model: Any,
    optimizers: Mapping[str, Optimizer],
    logs: Mapping[str, int],
    state: dict[str, Any],
) -> None:
    """Write the checkpoint of a step; every process calls it. RunError where the disk is full: nothing old is lost."""
    target = folder_of(run, step)
    beside = target.with_name(f".{target.name}.tmp")
    try:
        if dist.is_main():
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        dist.barrier()
        _, local = _split(model)
        if local:
            save_file(local, beside / f"rank-{dist.rank()}.safetensors")
        dist.barrier()
        if dist.is_main():
            _write_shared(beside, step, model, optimizers, logs, state)
            if target.exists():
                shutil.rmtree(target)
            beside.replace(target)
        dist.barrier()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else str(error)
        last = steps(run)
        kept = f"the checkpoint of step {last[-1]} is untouched" if last else "no checkpoint had been written"
        raise RunError(f"{target}: cannot save ({reason}); {kept}; make room and run the same command again") from None


def _write_shared(
    beside: Path,
    step: int,
    model: Any,
    optimizers: Mapping[str, Optimizer],
    logs: Mapping[str, int],
    state: dict[str, Any],
) -> None:
    moments = {f"{name}:{key}": t.contiguous().cpu() for name, o in optimizers.items() for key, t in o.state().items()}
    save_file(moments, beside / "optimizer.safetensors")
    with contextlib.ExitStack() as stack:
        for optimizer in optimizers.values():
            stack.enter_context(optimizer.averaged())
        save_file(_split(model)[0], beside / "model.safetensors")
    hashes = {path.name: files.sha256_file(path) for path in sorted(beside.glob("*.safetensors"))}
    record = {"step": step, "world": dist.world(), "logs": dict(logs), "sha256": hashes, **state}
    files.write_json(beside / "state.json", record)


def read_state(run: Path, step: int) -> dict[str, Any]:
    """The state.json of a checkpoint; RunError where there is no such step."""
    path = folder_of(run, step) / "state.json"
    if not path.is_file():
        raise RunError(
            f"{run} has no checkpoint of step {step}; there are: {', '.join(map(str, steps(run))) or 'none'}"
        )
    return dict(files.read_json(path))


def read_tensors(run: Path, step: int, name: str) -> dict[str, Tensor]:
    """A tensor file of a checkpoint, its hash checked; RunError says which file is truncated or altered."""
    path = folder_of(run, step) / name
    expected = read_state(run, step)["sha256"].get(name)
    if not path.is_file() or expected is None:
        raise RunError(f"{path} is missing; take another checkpoint of this run: {_others(run, step)}")
    if files.sha256_file(path) != expected:
        raise RunError(f"{path} is truncated or altered (SHA-256 differs); other checkpoints: {_others(run, step)}")
    return load_file(path)


def _others(run: Path, step: int) -> str:
    others = ", ".join(str(s) for s in steps(run) if s != step)
    return f"remove the folder to use step {others}" if others else "none; restore the file from a copy"


def load_model(run: Path, step: int, model: Any) -> None:
    """Put a checkpoint's weights and shared buffers into a model; RunError names what does not fit."""
    fill(model, read_tensors(run, step, "model.safetensors"), str(folder_of(run, step)))


def fill(model: Any, tensors: dict[str, Tensor], origin: str) -> None:
    """Copy tensors into a model by name; tied twins need be given once. RunError names the first that does not fit."""
    wanted = {name: t for name, t in model.state_dict().items() if name not in model.rank_local}
    twins = {t.data_ptr(): name for name, t in wanted.items() if name in tensors and t.numel()}
    for name in tensors:
        if name not in wanted:
            raise RunError(f"{origin}: holds {name}, which this model does not have; its settings differ")
    with torch.no_grad():
        for name, tensor in wanted.items():
            given = tensors.get(name)
            if given is None:
                if tensor.data_ptr() in twins:
                    continue
                raise RunError(f"{origin}: lacks {name}, which this model needs; its settings differ")
            if given.shape != tensor.shape:
                raise RunError(f"{origin}: {name} is {tuple(given.shape)}, the model needs {tuple(tensor.shape)}")
            tensor.copy_(given)


def load(run: Path, step: int, model: Any, optimizers: Mapping[str, Optimizer]) -> dict[str, Any]:
    """Everything of a checkpoint back in place; returns its state.json."""
    state = read_state(run, step)
    load_model(run, step, model)
    if state["world"] == dist.world():
        _load_local(run, step, model)
    moments = read_tensors(run, step, "optimizer.safetensors")
    for name, optimizer in optimizers.items():
        prefix = f"{name}:"
        optimizer.load_state({k.removeprefix(prefix): t for k, t in moments.items() if k.startswith(prefix)})
    return state


def _load_local(run: Path, step: int, model: Any) -> None:
    name = f"rank-{dist.rank()}.safetensors"
    if (folder_of(run, step) / name).is_file():
        device = next(model.parameters()).device
        for key, tensor in read_tensors(run, step, name).items():
            owner, _, buffer = key.rpartition(".")
            setattr(model.get_submodule(owner), buffer, tensor.to(device))


def prune(run: Path, keep: int, best: int | None) -> None:
    """Remove all checkpoints but the last `keep` and the best."""
    for step in steps(run)[:-keep]:
        if step != best:
            shutil.rmtree(folder_of(run, step))


def best_step(run: Path) -> int:
    """The step to use for sampling and scoring: the best by validation, else the last. RunError if there is none."""
    there = steps(run)
    if not there:
        raise RunError(f"{run} has no checkpoint yet; train it with: seqgen train --out {run}")
    best = json.loads((folder_of(run, there[-1]) / "state.json").read_text(encoding="utf-8")).get("best_step")
    return best if best in there else there[-1]
