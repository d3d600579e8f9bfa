"""The output layer and its log-likelihood in chunks of rows, so that the (P, V) logits never exist as a whole.

Shapes: P predicted positions, H features, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqgen.core.numerics import rows_at_once
from seqgen.nn.products import linear, matmul

_BLOCK = 2048  # rows of the weight's gradient that are added to at once on a CPU: more would leave the cache

CHUNK = 512  # rows at a time on a CPU: below 256 the (V, H) weight gradient is read and written too often


def linear_cross_entropy(
    hidden_ph: Tensor,
    weight_vh: Tensor,
    bias_v: Tensor | None,
    targets_p: Tensor,
    *,
    row_weights: Tensor | None = None,
    chunk: int = 0,
) -> Tensor:
    """Return the sum over rows of `-log softmax(hidden @ weight.T + bias)[target]`, in nats, a scalar with gradient.

    Equals `F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")` without its memory: each chunk's
    logits become its gradients at once, so only `chunk` rows of logits live at a time (0: what suits the device).
    `row_weights` (P,) multiplies each row's term (an advantage, a mask) and gets no gradient itself. Under autocast the
    matrix products run in its dtype. Raises ValueError if the shapes do not fit.
    """
    if hidden_ph.dim() != 2 or hidden_ph.shape[1] != weight_vh.shape[1] or targets_p.shape != hidden_ph.shape[:1]:
        raise ValueError(
            f"expected hidden (P, H), weight (V, H) and targets (P,), got {tuple(hidden_ph.shape)}, "
            f"{tuple(weight_vh.shape)} and {tuple(targets_p.shape)}"
        )
    dtype = _product_dtype(hidden_ph)
    chunk = chunk or rows_at_once(hidden_ph.device, 4 * len(weight_vh), cached=CHUNK)
    fused: Any = _LinearCrossEntropy.apply
    loss: Tensor = fused(hidden_ph, weight_vh, bias_v, targets_p, row_weights, chunk, dtype)
    return loss


def linear_log_probs(hidden_ph: Tensor, weight_vh: Tensor, bias_v: Tensor | None, targets_p: Tensor) -> Tensor:
    """Return the log-probability of every target, (P,) float64 in nats, without gradient."""
    chunk = rows_at_once(hidden_ph.device, 4 * len(weight_vh), cached=CHUNK // 2)
    result = torch.empty(len(targets_p), dtype=torch.float64, device=hidden_ph.device)
    with torch.no_grad():
        dtype = _product_dtype(hidden_ph)
        with torch.autocast(hidden_ph.device.type, enabled=False):
            hidden, weight_t = hidden_ph.to(dtype), weight_vh.to(dtype).t()
            softmax = _Softmax(min(chunk, len(targets_p)), weight_vh)
            for begin in range(0, len(targets_p), chunk):
                rows = slice(begin, begin + chunk)
                _, result[rows] = softmax(hidden[rows], weight_t, bias_v, targets_p[rows])
    return result


def _product_dtype(like: Tensor) -> torch.dtype:
    """Return what a matrix product gives here: autocast's dtype if it is on, else that of the features."""
    one = like.detach().new_zeros(1, 1)
    return (one @ one).dtype


class _Softmax:
    """The output layer of one chunk of rows in buffers that are kept: fresh memory of this size costs page faults."""

    def __init__(self, rows: int, weight_vh: Tensor) -> None:
        dtype = torch.promote_types(weight_vh.dtype, torch.float32)
        self._logits = torch.empty(rows, len(weight_vh), dtype=dtype, device=weight_vh.device)
        self._probabilities = torch.empty_like(self._logits)

    def __call__(
        self, hidden_ch: Tensor, weight_t: Tensor, bias_v: Tensor | None, targets_c: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return probabilities (C, V), valid until the next call, and the targets' log-probabilities (C,) float64.

        The largest probability is 1/Z for Z = sum exp(logit - max), so log Z costs one more maximum: half the time of
        `logsumexp`, and unlike log(p[target]) exact where p underflows.
        """
        if hidden_ch.dtype == torch.float32:
            logits = linear(hidden_ch, weight_t.t(), bias_v)
        else:
            logits = self._logits[: len(hidden_ch)]
            logits.copy_(hidden_ch @ weight_t)
            if bias_v is not None:
                logits += bias_v
        probabilities = torch.softmax(logits, -1, out=self._probabilities[: len(hidden_ch)])
        log_z = -probabilities.amax(-1).double().log()
        at_target = logits.gather(1, targets_c[:, None]).squeeze(1)
        return probabilities, at_target.double() - logits.amax(-1).double() - log_z


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients too (they need the same softmax); backward scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ph: Tensor,
        weight_vh: Tensor,
        bias_v: Tensor | None,
        targets_p: Tensor,
        row_weights: Tensor | None,
        chunk: int,
        dtype: torch.dtype,
    ) -> Tensor:
        with torch.autocast(hidden_ph.device.type, enabled=False):
            hidden, weight = hidden_ph.to(dtype), weight_vh.to(dtype)
            total = torch.zeros((), dtype=torch.float64, device=hidden.device)
            grad_hidden = torch.empty_like(hidden_ph)
            grad_weight = torch.empty_like(weight_vh) if len(targets_p) else torch.zeros_like(weight_vh)
            grad_bias = None if bias_v is None else torch.zeros_like(bias_v)
            softmax = _Softmax(min(chunk, len(targets_p)), weight)
            block = _BLOCK if hidden.device.type == "cpu" else len(weight)
            for begin in range(0, len(targets_p), chunk):
                rows = slice(begin, begin + chunk)
                targets = targets_p[rows]
                grad_logits, log_probs = softmax(hidden[rows], weight.t(), bias_v, targets)
                grad_logits[torch.arange(len(targets), device=targets.device), targets] -= 1
                if row_weights is not None:
                    log_probs = log_probs * row_weights[rows]
                    grad_logits *= row_weights[rows, None]
                total -= log_probs.sum()
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(0)
                low = grad_logits.to(dtype)
                matmul(low, weight, grad_hidden[rows])
                for first in range(0, len(weight), block):
                    part = slice(first, first + block)
                    # what the first writes needs no zeros
                    matmul(low[:, part].t(), hidden[rows], grad_weight[part], add=begin > 0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total.to(weight_vh.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        # the loss is nearly always added up as it is: then no pass over the gradients, where looking costs no wait
        grads = (
            ctx.saved_tensors
            if scale.device.type == "cpu" and scale == 1
            else [None if g is None else g * scale for g in ctx.saved_tensors]
        )
        return (*grads, None, None, None, None)
