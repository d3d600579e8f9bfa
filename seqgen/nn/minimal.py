"""Minimal recurrent layers, whose gates see the input alone: minGRU and minLSTM (Feng et al. 2024).

minGRU: z = sigmoid(W x + b), h = (1 - z) h + z g(V x + c). minLSTM: f, i = sigmoid(W x + b), both divided by their sum,
h = f h + i g(V x + c). g(x) = x + 1/2 for x >= 0, else sigmoid(x), so h is positive. Without h in the gates, h_t =
a_t h_(t-1) + b_t is linear, and all positions are computed together.
Shapes: B rows, T tokens, I inputs, H hidden, N blocks of C positions, T <= N C.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.nn.products import trained_linear

MinimalCell = Literal["mingru", "minlstm"]


class Minimal(nn.Module):
    """One layer; weights and biases start uniform in +-1/sqrt(H), but those of minLSTM's forget gate at 1."""

    def __init__(self, cell: MinimalCell, inputs: int, hidden: int) -> None:
        super().__init__()
        self.cell, self.hidden_size = cell, hidden
        parts = 2 if cell == "mingru" else 3
        self.weight = nn.Parameter(torch.empty(parts * hidden, inputs).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.bias = nn.Parameter(torch.empty(parts * hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        if cell == "minlstm":
            with torch.no_grad():
                self.bias[:hidden] = 1.0

    def coefficients(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b of h_t = a_t h_(t-1) + b_t from the products of the input (.., parts H)."""
        *gates, candidate = products.chunk(2 if self.cell == "mingru" else 3, -1)
        # of slices of a wider product, so that a row's bits do not depend on its batch: see the steps in nn.rnn
        new = gates[-1].sigmoid()
        if self.cell == "minlstm":
            new = new / (gates[0].sigmoid() + new).clamp_min(torch.finfo(new.dtype).tiny)
        positive = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
        return 1 - new, new * positive

    def forward(self, x_bti: Tensor, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return h at every position, (B, T, H), and the last one, (1, B, H), from the one before, (1, B, H)."""
        products = trained_linear(x_bti.flatten(0, 1), self.weight, self.bias).view(*x_bti.shape[:2], -1)
        a, b = self.coefficients(products.to(self.weight.dtype))
        scan: Any = _LinearScan.apply
        out: Tensor = scan(a, b, before[0].squeeze(0))
        return out, [out[:, -1].unsqueeze(0)]


class _LinearScan(torch.autograd.Function):
    """h_t = a_t h_(t-1) + b_t for all t, (B, T, H), from h_0 (B, H)."""

    @staticmethod
    def forward(ctx: Any, a_bth: Tensor, b_bth: Tensor, first_bh: Tensor) -> Tensor:
        out = linear_scan(a_bth, b_bth, first_bh)
        ctx.save_for_backward(a_bth, out, first_bh)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, out, first = ctx.saved_tensors
        # the gradient is the same recurrence from the end: g_t = dL/dh_t + a_(t+1) g_(t+1)
        later = F.pad(a[:, 1:], (0, 0, 0, 1)).flip(1)
        grad = linear_scan(later, grad_outputs[0].flip(1), torch.zeros_like(first)).flip(1)
        return grad * torch.cat([first[:, None], out[:, :-1]], 1), grad, a[:, 0] * grad[:, 0]


def linear_scan(a_bth: Tensor, b_bth: Tensor, first_bh: Tensor) -> Tensor:
    """Return h (B, T, H) of h_t = a_t h_(t-1) + b_t without gradient: 2 sqrt(T) steps in the place of T.

    All blocks of sqrt(T) positions are run side by side from 0, then one after the other from the end before. The
    paper's sums of logarithms over all of T, one pass, lose digits (at T = 1,024 float32 is off by 1e-4), and on a CPU
    they take longer than the loop itself, eight to ten times this.
    """
    rows, length, width = a_bth.shape
    block = math.isqrt(max(0, length - 1)) + 1
    blocks = -(-length // block)
    extra = block * blocks - length
    # position in the block first: each step works on memory in order
    a, b = (
        F.pad(x, (0, 0, 0, extra))
        .view(rows, blocks, block, width)
        .permute(2, 0, 1, 3)
        .clone(memory_format=torch.contiguous_format)
        for x in (a_bth, b_bth)
    )
    for c in range(1, block):
        torch.addcmul(b[c], a[c], b[c - 1], out=b[c])
        torch.mul(a[c], a[c - 1], out=a[c])
    begin = first_bh
    begins = []
    for n in range(blocks):
        begins.append(begin)
        begin = a[-1, :, n] * begin + b[-1, :, n]
    out = torch.addcmul(b, a, torch.stack(begins, 1))
    return out.permute(1, 2, 0, 3).reshape(rows, block * blocks, width)[:, :length]
