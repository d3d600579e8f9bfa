"""Matrix products in float32 on a CPU by the library that is quickest there.

torch hands float32 products to MKL, which on CPUs of other makers than Intel leaves half of the wide vector units idle;
oneDNN, which torch carries for convolutions, does not (measured on AMD Zen 5: 220 against 100 GFLOP/s a core, the same
results to the last bits of float32). torch's own compiler calls it by the operator used here. On Intel's with AVX-512
MKL is the quicker one wherever a factor is transposed or only a part of a matrix (`scripts/bench.py products`). The
choice depends on the processor, on layouts and on the sizes of the weight, never on the number of rows: what is drawn
for a row must not depend on its company. Where oneDNN's operator is absent, or for another device or dtype, products
are torch's own.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_MKL_INPUTS = range(65, 513)  # below oneDNN is the quicker one; beyond, MKL's bits depend on the number of rows


@functools.cache
def _onednn() -> Any:
    """Return oneDNN's linear layer, or None where this torch has none; tried once."""
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        one = torch.ones(1, 1)
        operator(one, one, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return operator


@functools.cache
def _intel() -> bool:
    """Return whether this is one of Intel's CPUs with AVX-512 and torch has MKL."""
    try:
        maker = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        maker = platform.processor()
    mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return mkl and "GenuineIntel" in maker and torch.backends.cpu.get_cpu_capability() == "AVX512"


def by_mkl(matrix: Tensor) -> bool:
    """Return whether MKL is the quicker library for a matrix like this, of any size."""
    return matrix.device.type == "cpu" and matrix.dtype == torch.float32 and _intel()


def linear(x_rk: Tensor, weight_nk: Tensor, bias_n: Tensor | None = None) -> Tensor:
    """Compute `F.linear(x, weight, bias)` of matrices, (R, N), without gradient.

    A transposed view of a contiguous matrix costs nothing; other strides are slow or copied. One row alone is a product
    of matrix and vector, in which MKL is the quicker one.
    """
    operator = _onednn() if _plain(x_rk, weight_nk) and len(x_rk) > 1 else None
    by_mkl = _intel() and weight_nk.shape[1] in _MKL_INPUTS and weight_nk.t().is_contiguous()
    if operator is None or by_mkl:
        return F.linear(x_rk, weight_nk, bias_n)
    product: Tensor = operator(x_rk, weight_nk, bias_n, "none", [], "")
    return product


def matmul(a_mk: Tensor, b_kn: Tensor, out: Tensor | None = None, *, add: bool = False) -> Tensor:
    """Compute the product of two matrices of any layout, (M, N), without gradient, for training.

    It is written into `out` where that is given, or added to what stands there.
    """
    plain = _plain(a_mk, b_kn)
    if out is not None and plain and _intel() and out.dtype == torch.float32:
        return out.addmm_(a_mk, b_kn, beta=float(add))
    operator = _onednn() if plain and not _intel() and len(a_mk) > 1 else None
    product: Tensor = (
        a_mk @ b_kn if operator is None else operator(_dense(a_mk), _dense(b_kn).t(), None, "none", [], "")
    )
    if out is None:
        return product
    return out.add_(product) if add else out.copy_(product)


def trained_linear(x_rk: Tensor, weight_nk: Tensor, bias_n: Tensor | None = None) -> Tensor:
    """Compute `F.linear(x, weight, bias)` of matrices with gradient, once; under autocast by torch's own."""
    if torch.is_autocast_enabled(x_rk.device.type):
        return F.linear(x_rk, weight_nk, bias_n)
    result: Tensor = _Linear.apply(x_rk, weight_nk, bias_n)  # type: ignore[no-untyped-call]
    return result


def _plain(a: Tensor, b: Tensor) -> bool:
    return a.device.type == "cpu" and a.dtype == b.dtype == torch.float32


def _dense(matrix: Tensor) -> Tensor:
    """Return a matrix as oneDNN wants it: rows in one piece each, or a transposed view of a dense matrix."""
    return matrix if matrix.stride(1) == 1 else matrix.t().contiguous().t()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_rk: Tensor, weight_nk: Tensor, bias_n: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_rk, weight_nk)
        ctx.biased = bias_n is not None
        return linear(x_rk, weight_nk, bias_n)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        return matmul(grad, weight), matmul(grad.t(), x), grad.sum(0) if ctx.biased else None
