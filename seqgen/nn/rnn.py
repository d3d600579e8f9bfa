"""Stacks of recurrent layers: a scan over whole sequences for training, single steps for sampling.

LSTM (Hochreiter and Schmidhuber 1997, with forget gate): i, f, o = sigmoid(W x + U h + b), g = tanh(W x + U h + b),
c = f c + i g, h = o tanh(c). GRU (Cho et al. 2014, in cuDNN's form, the reset gate after the product):
r, u = sigmoid(W x + U h + b), n = tanh(W x + b + r (U h + b')), h = (1 - u) n + u h.
minGRU and minLSTM: `nn.minimal`. Dropout as in AWD-LSTM (Merity et al. 2018).
Shapes: B rows, T tokens, I inputs, H hidden.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends.cudnn import rnn as cudnn_rnn

from seqgen.core.errors import ConfigError
from seqgen.nn.minimal import Minimal
from seqgen.nn.products import linear

Cell = Literal["lstm", "gru", "mingru", "minlstm"]

State = tuple[Tensor, ...]
"""What a recurrent model carries from token to token: tensors whose first dimension is the row, so rows are chosen by
indexing each. For `Rnn`: h of every layer, and for an LSTM c after each h."""


def locked_dropout(x_btf: Tensor, p: float) -> Tensor:
    """Drop features with one mask per row for all positions (Gal and Ghahramani 2016); p = 0 returns x itself."""
    if p == 0:
        return x_btf
    return x_btf * F.dropout(torch.ones_like(x_btf[:, :1]), p)


def row_dropout(embedding: nn.Embedding, ids: Tensor, p: float) -> Tensor:
    """Embed ids with whole vocabulary rows dropped, the kept ones scaled by 1 / (1 - p)."""
    if p == 0:
        return embedding(ids)  # type: ignore[no-any-return]
    # masking after the lookup equals masking the (V, E) matrix before it, and touches only the rows in use
    mask = F.dropout(torch.ones_like(embedding.weight[:, 0]), p)
    return embedding(ids) * mask[ids].unsqueeze(-1)  # type: ignore[no-any-return]


class Rnn(nn.Module):
    """Layers one after the other, LSTM and GRU on torch's fast path (cuDNN, oneDNN), and locked dropout.

    `widths` gives each layer's hidden size. Weight drop masks the hidden-to-hidden matrix once per call, the same for
    all positions. Weights start uniform in +-1/sqrt(H), biases too, but an LSTM's forget gate starts at 1 (Jozefowicz
    et al. 2015). Dropout acts in training mode only.
    """

    def __init__(
        self,
        cell: Cell,
        inputs: int,
        widths: Sequence[int],
        *,
        input_dropout: float = 0.0,
        between_dropout: float = 0.0,
        weight_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.cell, self.widths = cell, tuple(widths)
        self.input_dropout, self.between_dropout, self.weight_drop = input_dropout, between_dropout, weight_drop

        def layer(inputs: int, width: int) -> nn.Module:
            if cell == "mingru" or cell == "minlstm":
                return Minimal(cell, inputs, width)
            return (nn.LSTM if cell == "lstm" else nn.GRU)(inputs, width, batch_first=True)

        if weight_drop and cell.startswith("min"):
            raise ConfigError(f"model.weight_drop drops weights from state to state, which {cell} has not; set it to 0")
        self.layers = nn.ModuleList(layer(a, b) for a, b in zip((inputs, *widths[:-1]), widths, strict=True))
        if cell == "lstm":
            with torch.no_grad():
                for layer, width in zip(self.layers, widths, strict=True):
                    layer.bias_ih_l0[width : 2 * width] = 1.0  # type: ignore[operator]
                    layer.bias_hh_l0[width : 2 * width] = 0.0  # type: ignore[operator]

    def zeros(self, rows: int) -> State:
        """Return the state before the first token: zeros."""
        each = 2 if self.cell == "lstm" else 1
        like = next(self.parameters())
        return tuple(like.new_zeros(rows, width) for width in self.widths for _ in range(each))

    def forward(self, x_bti: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the last layer at every position, (B, T, H), and the state after; `state` defaults to zeros."""
        state = self.zeros(len(x_bti)) if state is None else state
        each = 2 if self.cell == "lstm" else 1
        after: list[Tensor] = []
        x = x_bti
        for number, layer in enumerate(self.layers):
            if self.training:
                x = locked_dropout(x, self.between_dropout if number else self.input_dropout)
            before = [s.unsqueeze(0) for s in state[number * each : (number + 1) * each]]
            x, ends = scan_layer(layer, x, before, weight_drop=self.weight_drop if self.training else 0.0)
            after += [end.squeeze(0) for end in ends]
        return x, tuple(after)

    def stepper(
        self, embedding_vi: Tensor | None = None, *, table_now: bool = False
    ) -> Callable[[Tensor, State], tuple[Tensor, State]]:
        """Return a function (x (B, I), state) -> (output (B, H), state) for one position, without dropout or gradient.

        It works on copies of the weights in the layout that single steps read fastest, so make another when they have
        changed. A row's result has the same bits in every batch whose row count is a multiple of 8 (on a CPU, for
        widths of 12 and more). With `embedding_vi` the function takes ids (B,) instead, and after V of them looks the
        first layer's input product up in a table (V, gates), of the same bits: a sixth less work per token, paid for
        by then. `table_now` makes the table at once.
        """
        make = {"lstm": _lstm_step, "gru": _gru_step}.get(self.cell, _minimal_step)
        steps = [make(layer, None if number else embedding_vi, table_now) for number, layer in enumerate(self.layers)]
        each = 2 if self.cell == "lstm" else 1

        def run(x: Tensor, state: State) -> tuple[Tensor, State]:
            after: list[Tensor] = []
            for number, step in enumerate(steps):
                ends = step(x, state[number * each : (number + 1) * each])
                after += ends
                x = ends[0]
            return x, tuple(after)

        return run


@functools.cache
def _has_low_lstm() -> bool:
    """Return whether oneDNN has an LSTM in bfloat16 for this CPU, as with AVX-512; tried once."""
    zeros = torch.zeros(1, 1, 8)
    weights = [torch.zeros(32, 8), torch.zeros(32, 8), torch.zeros(32), torch.zeros(32)]
    try:
        with torch.autocast("cpu", torch.bfloat16):
            torch.lstm(zeros, [zeros, zeros], weights, True, 1, 0.0, False, False, True)
    except RuntimeError:
        return False
    return True


def scan_layer(
    layer: Any, x_bti: Tensor, before: list[Tensor], *, weight_drop: float = 0.0
) -> tuple[Tensor, Sequence[Tensor]]:
    """Run a layer over all positions: (B, T, H) and its (1, B, H) end states.

    Under autocast a GPU computes in autocast's dtype (torch alone would take float16, whatever was asked), a CPU in
    that of the weights, but for an LSTM where oneDNN has one in bfloat16.
    """
    if isinstance(layer, Minimal):
        return layer(x_bti, before)  # type: ignore[no-any-return]
    if layer.mode == "LSTM" and torch.is_autocast_enabled("cpu") and not x_bti.is_cuda and not _has_low_lstm():
        with torch.autocast("cpu", enabled=False):
            return scan_layer(layer, x_bti, before, weight_drop=weight_drop)
    # under autocast x arrives in low precision, which the GRU's own check refuses beside float32 weights
    x, dtype = x_bti.to(layer.weight_hh_l0.dtype), layer.weight_hh_l0.dtype
    low = x.is_cuda and torch.is_autocast_enabled("cuda")
    if not (weight_drop or low):
        if layer.mode == "LSTM":
            return layer(x, tuple(before))  # type: ignore[no-any-return]
        out, end = layer(x, before[0])
        return out, [end]
    # the functional call takes masked weights as a plain list, so the fast path stays and no parameter is replaced
    weights = [
        layer.weight_ih_l0,
        F.dropout(layer.weight_hh_l0, weight_drop) if weight_drop else layer.weight_hh_l0,
        layer.bias_ih_l0,
        layer.bias_hh_l0,
    ]
    if x.is_cuda:
        dtype = torch.get_autocast_dtype("cuda") if low else dtype
        one_chunk: Any = _OneChunk.apply
        mode = cudnn_rnn.get_cudnn_mode(layer.mode)  # type: ignore[no-untyped-call]
        weights = list(one_chunk(mode, dtype, *weights))
        x, before = x.to(dtype), [state.to(dtype) for state in before]
    # biases, layers, dropout, training (cuDNN keeps what backward needs), bidirectional, batch first
    options = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
    with torch.autocast("cuda", enabled=False) if low else contextlib.nullcontext():
        if layer.mode == "LSTM":
            out, *ends = torch.lstm(x, before, weights, *options)
        else:
            out, *ends = torch.gru(x, before[0], weights, *options)
    return out, [end.to(layer.weight_hh_l0.dtype) for end in ends]


class _OneChunk(torch.autograd.Function):
    """Copies of a layer's weights in one chunk of memory, as cuDNN wants them (without it every call warns), and in the
    dtype of the products."""

    @staticmethod
    def forward(ctx: Any, mode: int, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        copies = [weight.to(dtype, copy=True) for weight in weights]
        ctx.dtype = weights[0].dtype
        inputs, hidden = weights[0].shape[1], weights[1].shape[1]
        torch._cudnn_rnn_flatten_weight(copies, 4, inputs, mode, hidden, 0, 1, True, False)
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(grad.to(ctx.dtype) for grad in grad_outputs))


# Why the steps below look as they do. Vectorised sigmoid and tanh treat the last few elements of a run of memory with
# other instructions, whose last bit may differ. Written into columns of a wider buffer, every row is a run of its
# own, so a row's bits do not depend on how many rows there are.


def _lstm_step(layer: Any, embedding_vi: Tensor | None, table_now: bool) -> Callable[[Tensor, State], list[Tensor]]:
    hidden: int = layer.hidden_size

    def sigmoids_together(gates: Tensor) -> Tensor:
        i, f, g, o = gates.detach().chunk(4)
        return torch.cat([i, f, o, g])

    bias = sigmoids_together(layer.bias_ih_l0 + layer.bias_hh_l0)
    from_input = _input_product(sigmoids_together(layer.weight_ih_l0), bias, embedding_vi, table_now)
    weight_t = sigmoids_together(layer.weight_hh_l0).t().contiguous()

    def step(x: Tensor, state: State) -> list[Tensor]:
        h, c = state
        gates = from_input(x).add_(linear(h, weight_t.t()))
        i, f, o = gates[:, : 3 * hidden].sigmoid_().chunk(3, 1)
        g = gates[:, 3 * hidden :].tanh_()
        c = f * c + i * g
        return [o * torch.tanh(c, out=g), c]

    return step


def _gru_step(layer: Any, embedding_vi: Tensor | None, table_now: bool) -> Callable[[Tensor, State], list[Tensor]]:
    hidden: int = layer.hidden_size
    from_input = _input_product(layer.weight_ih_l0.detach(), layer.bias_ih_l0.detach(), embedding_vi, table_now)
    weight_t, bias = layer.weight_hh_l0.detach().t().contiguous(), layer.bias_hh_l0.detach()

    def step(x: Tensor, state: State) -> list[Tensor]:
        (h,) = state
        from_x, from_h = from_input(x), linear(h, weight_t.t(), bias)
        r, u = from_x[:, : 2 * hidden].add_(from_h[:, : 2 * hidden]).sigmoid_().chunk(2, 1)
        n = from_x[:, 2 * hidden :].add_(r * from_h[:, 2 * hidden :]).tanh_()
        return [n + u * (h - n)]

    return step


def _minimal_step(layer: Any, embedding_vi: Tensor | None, table_now: bool) -> Callable[[Tensor, State], list[Tensor]]:
    from_input = _input_product(layer.weight.detach(), layer.bias.detach(), embedding_vi, table_now)

    def step(x: Tensor, state: State) -> list[Tensor]:
        a, b = layer.coefficients(from_input(x))
        return [a * state[0] + b]

    return step


def _input_product(
    weight_gi: Tensor, bias_g: Tensor, embedding_vi: Tensor | None, table_now: bool
) -> Callable[[Tensor], Tensor]:
    """Return a function from x (B, I), or ids (B,) if an embedding is given, to `x @ weight.T + bias`, a new tensor."""
    weight_t = weight_gi.t().contiguous()
    if embedding_vi is None:
        return lambda x: linear(x, weight_t.t(), bias_g)
    embedding, table, fed = embedding_vi, torch.empty(0), 0

    def product(ids: Tensor) -> Tensor:
        nonlocal table, fed
        fed += len(ids)
        if not len(table) and (table_now or fed > len(embedding)):
            # a whole number of tiles here too, for the same bits
            table = linear(F.pad(embedding, (0, 0, 0, -len(embedding) % 8)), weight_t.t(), bias_g)
        return table[ids] if len(table) else linear(embedding[ids], weight_t.t(), bias_g)

    return product
