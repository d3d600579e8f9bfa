"""Matrix products in float32 on a CPU by the library that is quickest there.

torch hands float32 products to MKL, which leaves half of the vector units of AVX-512 idle on CPUs of other makers than
Intel; oneDNN, which torch carries for convolutions, does not (measured on AMD Zen 5: 220 against 100 GFLOP/s a core,
the same results to the last bits of float32). torch's own compiler calls it by the operator used here. On Intel's with
AVX-512 MKL is the quicker one wherever a factor is transposed or only a part of a matrix, and without AVX-512 for all
but the widest layers (`scripts/bench.py products`). The choice depends on the processor, on layouts and on the sizes of
the weight, never on the number of rows: what is drawn for a row must not depend on its company. Where oneDNN's operator
is absent, or for another device or dtype, products are torch's own.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# with Intel's AVX-512 oneDNN is the quicker one for fewer; for more, MKL's bits depend on the number of rows
_MKL_INPUTS = range(65, 513)
_WIDE = 256, 4096  # inputs and outputs from which a transposed weight is oneDNN's without AVX-512 too


@functools.cache
def _avx512() -> bool:
    """Return whether torch uses AVX-512 here."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@functools.cache
def _mkl() -> bool:
    """Return whether torch's own products are MKL's."""
    available: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return available


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
    """Return whether this is one of Intel's CPUs with AVX-512, by MKL."""
    try:
        maker = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        maker = platform.processor()
    return _mkl() and _avx512() and "GenuineIntel" in maker


def by_mkl(weight_nk: Tensor) -> bool:
    """Return whether MKL is the quicker library for products with this weight of few inputs, written into a buffer."""
    return _plain(weight_nk, weight_nk) and _mkl() and (_intel() or not _by_onednn(weight_nk))


def _by_onednn(weight_nk: Tensor) -> bool:
    """Return whether oneDNN is there and the quicker library for a linear layer of this weight."""
    (outputs, inputs), transposed = weight_nk.shape, weight_nk.t().is_contiguous()
    if _onednn() is None:
        return False
    if _avx512():
        return not (_intel() and transposed and inputs in _MKL_INPUTS)
    return transposed and inputs >= _WIDE[0] and outputs >= _WIDE[1]


def linear(x_rk: Tensor, weight_nk: Tensor, bias_n: Tensor | None = None) -> Tensor:
    """Compute `F.linear(x, weight, bias)` of matrices, (R, N), without gradient.

    A transposed view of a contiguous matrix costs nothing; other strides are slow or copied. One row alone is a product
    of matrix and vector, in which MKL is the quicker one.
    """
    if not _plain(x_rk, weight_nk) or len(x_rk) < 2 or not _by_onednn(weight_nk):
        return F.linear(x_rk, weight_nk, bias_n)
    product: Tensor = _onednn()(x_rk, weight_nk, bias_n, "none", [], "")
    return product


def matmul(a_mk: Tensor, b_kn: Tensor, out: Tensor | None = None, *, add: bool = False) -> Tensor:
    """Compute the product of two matrices of any layout, (M, N), without gradient, for training.

    It is written into `out` where that is given, or added to what stands there.
    """
    own = _intel() or not _avx512() or _onednn() is None
    plain = _plain(a_mk, b_kn)
    if out is not None and plain and own and out.dtype == torch.float32:
        return out.addmm_(a_mk, b_kn, beta=float(add))
    by_onednn = plain and not own and len(a_mk) > 1
    product: Tensor = _onednn()(_dense(a_mk), _dense(b_kn).t(), None, "none", [], "") if by_onednn else a_mk @ b_kn
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
