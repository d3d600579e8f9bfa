"""Matrix products in float32 on a CPU by the library that is quickest there.

torch hands float32 products to MKL, which on CPUs of other makers than Intel leaves half of the wide vector units idle;
oneDNN, which torch carries for convolutions, does not (measured on AMD Zen 5: 220 against 100 GFLOP/s a core, the same
results to the last bits of float32). torch's own compiler calls it by the operator used here. Where that operator is
absent, or for another device or dtype, `linear` is torch's own.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


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


def linear(x_rk: Tensor, weight_nk: Tensor, bias_n: Tensor | None = None) -> Tensor:
    """Compute `F.linear(x, weight, bias)` of matrices, (R, N), without gradient.

    A transposed view of a contiguous matrix costs nothing; other strides are slow or copied. One row alone is a product
    of matrix and vector, in which MKL is the quicker one.
    """
    plain = x_rk.device.type == "cpu" and x_rk.dtype == weight_nk.dtype == torch.float32
    operator = _onednn() if plain and len(x_rk) > 1 else None
    if operator is None:
        return F.linear(x_rk, weight_nk, bias_n)
    product: Tensor = operator(x_rk, weight_nk, bias_n, "none", [], "")
    return product


def trained_linear(x_rk: Tensor, weight_nk: Tensor, bias_n: Tensor | None = None) -> Tensor:
    """Compute `F.linear(x, weight, bias)` of matrices with gradient, once; under autocast by torch's own."""
    if torch.is_autocast_enabled(x_rk.device.type):
        return F.linear(x_rk, weight_nk, bias_n)
    result: Tensor = _Linear.apply(x_rk, weight_nk, bias_n)  # type: ignore[no-untyped-call]
    return result


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
        return linear(grad, weight.t()), linear(grad.t(), x.contiguous().t()), grad.sum(0) if ctx.biased else None
