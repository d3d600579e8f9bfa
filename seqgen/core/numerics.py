"""How exactly a device computes: what a CUDA device would otherwise choose by itself, and may choose anew in every run.

A CPU with one number of threads repeats its bits as it is. On CUDA the kernels of training are chosen so that each
sums in a fixed order, cuDNN and cuBLAS are held to such kernels here, and float32 means float32 unless
`train.tf32` is set. The bits are those of one kind of card, driver and torch.
"""

import os
from pathlib import Path
from typing import Any

import torch

_AT_ONCE = 1 << 28  # bytes


def configure(device: torch.device, *, tf32: bool) -> None:
    """Hold a CUDA device to repeatable kernels, and its float32 products to float32 or to TensorFloat-32."""
    if device.type != "cuda":
        return
    # read by cuBLAS when it is first used: with its default workspaces products may differ from run to run
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Backward in the calling thread: nodes of a gradient that is itself differentiated are numbered where they are
    # made, and with two counters the order of their sums would depend on what either thread did before.
    torch.autograd.set_multithreading_enabled(False)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def bf16_units(device: torch.device) -> str | None:
    """Return what multiplies in bfloat16 on a device, "" if nothing does, None where that is not known."""
    if device.type == "cuda":
        return "cuda" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return None
    return ", ".join(sorted({"avx512_bf16", "amx_bf16", "bf16"}.intersection(flags)))


def rows_at_once(device: torch.device, bytes_each: int, *, cached: int) -> int:
    """Return how many rows of a temporary matrix are alive together: on a CPU `cached`, what stays in the cache.

    Another device has as many, in doublings, as some memory holds: few large kernels cost it less than many small ones.
    """
    if device.type == "cpu":
        return cached
    return int(cached * 2 ** max(0, (_AT_ONCE // (cached * bytes_each)).bit_length() - 1))


def facts(device: torch.device) -> dict[str, Any]:
    """Return the settings made on CUDA, for env.json; none on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
    }
