"""Checkpoints: weights, optimizer moments, buffers and a small JSON, in a folder that appears whole.

    checkpoints/step-00020000/   model.safetensors   optimizer.safetensors   rank-R.safetensors   state.json

`state.json` holds the step, the number of processes, the size and SHA-256 of the growing logs, the SHA-256 of every
file here and of those of the run that a checkpoint depends on, and last one of itself. A damaged checkpoint is passed
over for an older one, unless it was asked for. Nothing here is a pickle: safetensors and JSON cannot execute code.
"""

import contextlib
import errno
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seqgen.core import dist, files, log
from seqgen.core.errors import DataError, RunError
from seqgen.core.update import Optimizer
from seqgen.engine.folder import CONFIG


def folder_of(run: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def steps(run: Path) -> list[int]:
    """Return the steps of the checkpoints of a run, whole or damaged, ascending; other names are not ours."""
    there = (run / "checkpoints").iterdir() if (run / "checkpoints").is_dir() else ()
    return sorted(int(match[1]) for path in there if (match := re.fullmatch(r"step-(\d{8,})", path.name)))


def _rank_local(model: nn.Module) -> tuple[str, ...]:
    return tuple(getattr(model, "rank_local", ()))  # optional: buffers that differ between processes


def _split(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copy the model's tensors: those all processes share, and those of this process (`model.rank_local`).

    Tied weights come once: safetensors refuses shared memory, and `fill` reads what is missing from its twin.
    """
    shared: dict[str, Tensor] = {}
    local: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        copy = tensor.detach().cpu().contiguous().clone()
        if name in _rank_local(model):
            local[name] = copy
        elif not tensor.numel() or tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            shared[name] = copy
    return shared, local


def save(
    run: Path,
    step: int,
    model: nn.Module,
    optimizers: Mapping[str, Optimizer],
    logs: Mapping[str, tuple[int, str]],
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
            _write_shared(run, beside, step, model, optimizers, logs, state)
            files.put_folder(beside, target)
        dist.barrier()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else str(error)
        last = steps(run)
        kept = f"the checkpoint of step {last[-1]} is untouched" if last else "no checkpoint had been written"
        raise RunError(f"{target}: cannot save ({reason}); {kept}; make room and run the same command again") from None


def save_state(run: Path, step: int, logs: Mapping[str, tuple[int, str]], state: dict[str, Any]) -> None:
    """Write the state of a checkpoint anew, whose tensors stay as they are; the main process calls it."""
    hashes = read_state(run, step)["sha256"]
    _write_state(run, folder_of(run, step), step, logs, hashes, state)


def _write_shared(
    run: Path,
    beside: Path,
    step: int,
    model: nn.Module,
    optimizers: Mapping[str, Optimizer],
    logs: Mapping[str, tuple[int, str]],
    state: dict[str, Any],
) -> None:
    moments = {f"{name}:{key}": t.contiguous().cpu() for name, o in optimizers.items() for key, t in o.state().items()}
    save_file(moments, beside / "optimizer.safetensors")
    with contextlib.ExitStack() as stack:
        for optimizer in optimizers.values():
            stack.enter_context(optimizer.averaged())
        save_file(_split(model)[0], beside / "model.safetensors")
    hashes = {path.name: files.sha256_file(path) for path in sorted(beside.glob("*.safetensors"))}
    _write_state(run, beside, step, logs, hashes, state)


def _write_state(
    run: Path,
    folder: Path,
    step: int,
    logs: Mapping[str, tuple[int, str]],
    hashes: dict[str, str],
    state: dict[str, Any],
) -> None:
    record: dict[str, Any] = {"step": step, "world": dist.world(), "logs": dict(logs)}
    record |= {"run": _run_files(run), "sha256": hashes, **state}
    files.write_json(folder / "state.json", record | {"self": _sealed(record)})


def _sealed(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _run_files(run: Path) -> dict[str, str]:
    """Hash (SHA-256) what a run never writes again: its settings and its tokenizer, but for the table of words."""
    paths = [run / CONFIG, *sorted(p for p in (run / "tokenizer").rglob("*") if p.is_file() and p.name != "words.npz")]
    return {path.relative_to(run).as_posix(): files.sha256_file(path) for path in paths if path.is_file()}


_STATE: dict[str, Any] = {
    **dict.fromkeys(("step", "world", "since_best"), int),
    **dict.fromkeys(("logs", "run", "sha256"), dict),
    **dict.fromkeys(("history", "events"), list),
    **dict.fromkeys(("best_score", "best_step"), int | float | None),
    "pending": bool,
}
"""What state.json holds, and of which type."""


class DamagedError(RunError):
    """A file of a checkpoint is missing, truncated or altered; another checkpoint may be whole."""


def read_state(run: Path, step: int) -> dict[str, Any]:
    """Return the state.json of a checkpoint; RunError where there is no such step, DamagedError if it is damaged."""
    path = folder_of(run, step) / "state.json"
    if not path.parent.is_dir():
        raise RunError(
            f"{run} has no checkpoint of step {step}; there are: {', '.join(map(str, steps(run))) or 'none'}"
        )
    if not path.is_file():
        raise DamagedError(f"{path} is missing")
    try:
        state = files.read_json(path)
    except DataError as error:
        raise DamagedError(str(error)) from None
    if not isinstance(state, dict) or state.pop("self", None) != _sealed(state):
        raise DamagedError(f"{path} is truncated or altered (SHA-256 differs)")
    wrong = [name for name, kind in _STATE.items() if not isinstance(state.get(name, ...), kind)]
    wrong += [name for name, known in state["logs"].items() if not _is_position(known)] if not wrong else []
    if wrong or state["step"] != step:
        raise DamagedError(
            f"{path}: {(wrong or ['step'])[0]} is missing or wrong; written by another version, or altered"
        )
    return state


def last_state(run: Path) -> dict[str, Any]:
    """Return the state of the last checkpoint that can be read, what is known of validations; {} if there is none."""
    for step in reversed(steps(run)):
        try:
            return read_state(run, step)
        except RunError:
            continue
    return {}


def _is_position(known: Any) -> bool:
    return isinstance(known, list) and [type(part) for part in known] == [int, str] and known[0] >= 0


def _check(run: Path, step: int, state: dict[str, Any], name: str) -> Path:
    """Return the path of a checkpoint's file, which is as it was written, or DamagedError."""
    path = folder_of(run, step) / name
    if not path.is_file() or name not in state["sha256"]:
        raise DamagedError(f"{path} is missing")
    if files.sha256_file(path) != state["sha256"][name]:
        raise DamagedError(f"{path} is truncated or altered (SHA-256 differs)")
    return path


def check_run(run: Path, step: int, *, below: str = "") -> None:
    """Raise RunError where a file of the run is not what it was at a checkpoint; `below`: of one folder alone."""
    for name, expected in read_state(run, step)["run"].items():
        if name.startswith(below) and not ((run / name).is_file() and files.sha256_file(run / name) == expected):
            raise RunError(
                f"{run / name} is missing or altered since the checkpoint of step {step} (SHA-256 differs); restore it "
                "from a copy. Options that may change are given after the command, as train.steps=4000"
            )


def read_tensors(run: Path, step: int, name: str = "model.safetensors") -> dict[str, Tensor]:
    """Return a tensor file of a checkpoint, its hash checked; DamagedError names what is truncated or altered."""
    return _tensors(_check(run, step, read_state(run, step), name))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OverflowError) as error:
        raise DamagedError(f"{path}: not a safetensors file ({error})") from None


def best(run: Path) -> tuple[int, dict[str, Tensor]]:
    """Return the step to sample with and its tensors: the best by validation, else the last, that is whole.

    A damaged one that is passed over is logged. RunError if there is none.
    """
    there = steps(run)[::-1]
    if not there:
        raise RunError(f"{run} has no checkpoint yet; train it with: seqgen train --out {run}")
    faults: list[str] = []
    for last in there:
        try:
            chosen = read_state(run, last)["best_step"]
            break
        except DamagedError:
            continue
    else:
        chosen = None
    for step in ([chosen] if chosen in there else []) + [step for step in there if step != chosen]:
        try:
            found = step, read_tensors(run, step)
        except DamagedError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            log.messages.warning("%s; the checkpoint of step %d is used", fault, step)
        return found
    raise RunError(f"{faults[0]}; no other checkpoint of {run} is whole; restore the file from a copy")


def last_whole(run: Path) -> tuple[int | None, list[str]]:
    """Return the last checkpoint of which every file is whole, and the faults of later ones; None if none is.

    RunError where all are damaged: to begin anew would throw away what may be restored.
    """
    faults: list[str] = []
    for step in reversed(steps(run)):
        try:
            state = read_state(run, step)
            for name in dict.fromkeys(["model.safetensors", "optimizer.safetensors", *state["sha256"]]):
                _check(run, step, state, name)
        except DamagedError as error:
            faults.append(str(error))
        else:
            return step, faults
    if faults:
        raise RunError(f"{faults[0]}; no other checkpoint of {run} is whole; restore the file from a copy")
    return None, []


def check_processes(run: Path, state: dict[str, Any]) -> None:
    """Raise RunError where processes had a state of their own and there are now more or fewer of them."""
    own = [name for name in state["sha256"] if name.startswith("rank-")]
    before, now = state["world"], dist.world()
    if own and before != now:
        start = "seqgen" if before == 1 else f"torchrun --nproc-per-node {before} -m seqgen"
        raise RunError(
            f"{run} was trained by {before} process{'es' * (before > 1)}, each with a state of its own ({own[0]}) that "
            f"cannot be shared out to {now}; continue with: {start} train --out {run}"
        )


def set_aside(run: Path, after: int) -> None:
    """Rename the damaged checkpoints after a whole one, so that they are neither used nor lost."""
    for step in steps(run):
        if step > after:
            path = folder_of(run, step)
            aside = path.with_name(f"{path.name}.damaged")
            if aside.exists():
                files.remove_folder(aside)
            path.replace(aside)


def fill(model: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """Copy tensors into a model by name; tied twins need be given once. RunError names the first that does not fit."""
    wanted = {name: t for name, t in model.state_dict().items() if name not in _rank_local(model)}
    parameters = {name for name, _ in model.named_parameters()}
    twins = {t.data_ptr(): name for name, t in wanted.items() if name in tensors and t.numel()}
    data_sized = getattr(model, "data_sized", ())  # optional: buffers as large as the data made them
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
            if name in data_sized and given.ndim == tensor.ndim and given.dtype == tensor.dtype:
                owner, _, buffer = name.rpartition(".")
                setattr(model.get_submodule(owner), buffer, given.to(tensor.device))
                continue
            if given.shape != tensor.shape:
                raise RunError(f"{origin}: {name} is {tuple(given.shape)}, the model needs {tuple(tensor.shape)}")
            if given.dtype != tensor.dtype:
                raise RunError(f"{origin}: {name} is {given.dtype}, the model needs {tensor.dtype}")
            if name in parameters and not bool(given.isfinite().all()):
                raise RunError(
                    f"{origin}: {name} holds NaN or infinity, which no model can use; take another checkpoint "
                    "(--step), or train again with a lower train.lr"
                )
            tensor.copy_(given)


def load(run: Path, step: int, model: nn.Module, optimizers: Mapping[str, Optimizer]) -> dict[str, Any]:
    """Put everything of a checkpoint that `last_whole` found back in place; returns its state.json."""
    state, folder = read_state(run, step), folder_of(run, step)
    fill(model, _tensors(folder / "model.safetensors"), str(folder))
    if f"rank-{dist.rank()}.safetensors" in state["sha256"]:
        device = next(model.parameters()).device
        for key, tensor in _tensors(folder / f"rank-{dist.rank()}.safetensors").items():
            owner, _, buffer = key.rpartition(".")
            if key not in _rank_local(model):
                raise RunError(f"{folder}: holds {key}, which is no state of a process of this model")
            there = getattr(model.get_submodule(owner), buffer)
            setattr(model.get_submodule(owner), buffer, tensor.to(device if there is None else there.device))
    moments = _tensors(folder / "optimizer.safetensors")
    try:
        for name, optimizer in optimizers.items():
            prefix = f"{name}:"
            optimizer.load_state({k.removeprefix(prefix): t for k, t in moments.items() if k.startswith(prefix)})
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunError(f"{folder / 'optimizer.safetensors'}: does not fit this model ({error})") from None
    return state


def prune(run: Path, keep: int, best: int | None) -> None:
    """Remove all checkpoints but the last `keep` and the best."""
    for step in steps(run)[:-keep]:
        if step != best:
            files.remove_folder(folder_of(run, step))
