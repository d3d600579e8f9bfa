"""A CUDA device simulated on a CPU, for torch's CPU builds: `import simulated` before torch, and torch has one.

Its tensors say `device=cuda:0`; the CPU computes (simulated.cpp, compiled once with the C++ compiler there is). What a
host tensor does beside one of the device, what cuDNN refuses and what waits for the device is as on CUDA; how long
anything takes is not. As a plugin (`pytest -p simulated`) it lets the tests marked `gpu` run where no GPU is.
"""

import contextlib
import ctypes
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import simulated_build

PACKAGE = Path(__file__).resolve().parents[2] / "seqgen"


@dataclass
class Counts:
    """What was asked of the device while `counted` was open; places are "file:line" of the package."""

    launches: Counter[str] = field(default_factory=Counter)
    """Kernels by their names."""
    synchronisations: Counter[str] = field(default_factory=Counter)
    """Waits for the device, as "place name"."""
    to_device: Counter[str] = field(default_factory=Counter)
    """Copies from the host to the device by place."""
    nondeterministic: Counter[str] = field(default_factory=Counter)
    """Kernels whose result CUDA may change from run to run, as "place name"."""
    bytes_moved: int = 0
    """Between host and device, both ways."""


_open: list[Counts] = []
_mode = 0


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Count what is asked of the device until the end of the block."""
    counts = Counts()
    _library.simulated_reset()
    _open.append(counts)
    try:
        yield counts
    finally:
        _open.remove(counts)
        lines = _library.simulated_launches().decode().split("\n")[:-1]
        counts.launches.update({name: int(times) for name, times in (line.split() for line in lines)})


def _note(kind: bytes, name: bytes, size: int) -> None:
    frame: Any = sys._getframe()  # in a thread of backward, there is no other
    while frame is not None and not frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
        frame = frame.f_back
    where = frame and Path(frame.f_code.co_filename).relative_to(PACKAGE)
    place = f"{where}:{frame.f_lineno}" if frame is not None else "backward or outside the package"
    word, told = kind.decode(), f"{place} {name.decode()}"
    for counts in _open:
        counts.bytes_moved += size
        if word == "sync":
            counts.synchronisations[told] += 1
        elif word == "to device":
            counts.to_device[place] += 1
        elif word == "nondeterministic":
            counts.nondeterministic[told] += 1
    if _mode and (word == "sync" or word == "to device"):
        file, line = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("?", 0)
        warnings.warn_explicit(f"called a synchronizing CUDA operation ({name.decode()})", UserWarning, file, line)


def _set_sync_debug_mode(mode: int | str) -> None:
    global _mode
    _mode = {"default": 0, "warn": 1, "error": 2}.get(str(mode), mode)  # type: ignore[assignment]


def _install() -> Any:
    """Load the library, then torch, and answer in torch's Python for the device."""
    if "torch" in sys.modules:
        raise ImportError("the simulated device wants to be imported before torch")
    library = ctypes.CDLL(str(simulated_build.built()))
    library.simulated_launches.restype = ctypes.c_char_p

    import torch
    from torch.cuda.amp import common

    cuda: Any = torch.cuda
    cudnn: Any = torch.backends.cudnn
    cuda._lazy_init = lambda: None
    for name, answer in {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "simulated",
        "get_device_capability": (8, 0),
        "is_bf16_supported": True,
        "synchronize": None,
        "get_sync_debug_mode": 0,
    }.items():
        setattr(cuda, name, lambda *_, _answer=answer, **__: _answer)
    cuda.device_of = contextlib.nullcontext
    cuda.set_sync_debug_mode = _set_sync_debug_mode
    cuda.default_generators = (torch.default_generator,)  # numbers of the device are drawn from the host's
    common.amp_definitely_not_available = lambda: False
    cudnn.m._init = cudnn.m.is_available = lambda: True  # in the module itself, which stands behind a wrapper
    built_without: Any = torch._C
    built_without._cuda_get_cudnn_benchmark_limit = lambda: 10
    built_without._cuda_set_cudnn_benchmark_limit = lambda limit: None
    cudnn.rnn.get_cudnn_mode = lambda name: {"LSTM": 2, "GRU": 3}[name]
    return library, ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long)(_note)


_library, _callback = _install()
_library.simulated_report(_callback)
