"""Critics of token sequences: how real does a text look? A CNN over words (Kim 2014; Zhang and LeCun 2015) and a GRU.

CNN: filters of several widths slide over the embedded tokens, each keeps its largest response; a highway layer
(Srivastava et al. 2015), dropout and one output follow. A window lies inside the text; a text shorter than a width is
read once, zeros after its end. Bias and ReLU come after the maximum: both are monotone, so nothing changes but the
number of times they are computed.
Training: shifted views of the embedded batch side by side, time first, so that the windows of every width are one
strided matrix, and each width one matrix product. Frozen (rewards, evaluation): a convolution over embeddings is a sum
of `width` rows of a table `embedding @ filter`, so tables replace products: exact, several times faster, no gradient.
Shapes: B rows, T tokens (the end of the text counted), E embedding, f a width, n filters of it, F filters in all.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.core.numerics import rows_at_once
from seqgen.nn.products import linear, matmul, trained_linear
from seqgen.nn.rnn import scan_layer

_CHUNK = 64  # rows whose responses are alive at a time in a frozen critic: more would leave the cache
_BLOCK = 1024  # rows that go through the highway together: fewer would read its weights too often
_TABLE_BYTES = 1 << 30  # larger tables would cost more than the products they replace


class Frozen(Protocol):
    """A critic prepared for scoring with the weights of now: no dropout, no gradient."""

    def __call__(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the critic's logit of every row, (B,) float32."""

    def prefix_features(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return what the critic has seen so far, (B, T, features): column t is about tokens 0 .. t."""


class CnnCritic(nn.Module):
    """One logit per text; above 0: looks real. Initial weights as in the SeqGAN paper's own discriminator."""

    def __init__(
        self, vocab_size: int, *, embedding: int, widths: Sequence[int], maps: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        if len(widths) != len(maps) or not widths:
            raise ValueError(f"expected as many critic maps as widths, got {len(maps)} and {len(widths)}")
        self.widths, self.dropout = tuple(widths), dropout
        features = sum(maps)
        # the last row is what comes after a text: zeros that are never trained
        self.embedding = nn.Embedding(vocab_size + 1, embedding, padding_idx=vocab_size)
        self.filters = nn.ParameterList(
            nn.Parameter(torch.empty(f * embedding, n)) for f, n in zip(widths, maps, strict=True)
        )
        self.bias = nn.Parameter(torch.full((features,), 0.1))
        self.highway = nn.Linear(features, 2 * features)
        self.output = nn.Linear(features, 1)
        with torch.no_grad():
            self.embedding.weight[:-1].uniform_(-1, 1)
            for weight in (*self.filters, self.output.weight):
                nn.init.trunc_normal_(weight, std=0.1, a=-0.2, b=0.2)
            nn.init.xavier_uniform_(self.highway.weight[:features])
            nn.init.xavier_uniform_(self.highway.weight[features:])
            self.highway.bias[:features].fill_(-2.0)  # the gate begins nearly closed: what was found passes as it is
            self.highway.bias[features:].zero_()
            self.output.bias.fill_(0.1)

    def forward(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the logit of every row, (B,); what stands after a row's length is not looked at."""
        ids_tb = _ended(ids_bt, lengths_b, self.embedding.num_embeddings - 1).t()
        pooled = _shifted_convolution(
            self.embedding(ids_tb), self.widths, list(self.filters), _last_windows(ids_bt, lengths_b)
        )
        return self._head(pooled, trained_linear)

    def embedded(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the embedded rows, (B, T, E), zeros after each row's length."""
        vectors: Tensor = self.embedding(_ended(ids_bt, lengths_b, self.embedding.num_embeddings - 1))
        return vectors

    def score_embedded(self, x_bte: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the logit of embedded rows, (B,), differentiable twice (for the gradient penalty)."""
        length = x_bte.shape[1]
        x = F.pad(x_bte, (0, 0, 0, max(self.widths) - 1))
        last = (lengths_b - 1).clamp(max=length - 1)
        parts = []
        for width, weight in zip(self.widths, self.filters, strict=True):
            count = max(1, length - width + 1)
            windows = torch.cat([x[:, k : k + count] for k in range(width)], 2)
            outside = torch.arange(count, device=x.device) > (last - width + 1).clamp(min=0)[:, None]
            parts.append((windows @ weight).masked_fill(outside.unsqueeze(-1), -torch.inf).amax(1))
        return self._head(torch.cat(parts, 1), F.linear)

    def _head(self, pooled_bf: Tensor, product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Map the largest responses to the logit."""
        found = torch.relu(pooled_bf + self.bias)
        gate, new = product(found, self.highway.weight, self.highway.bias).chunk(2, 1)
        gate = torch.sigmoid(gate)
        mixed = gate * torch.relu(new) + (1 - gate) * found
        logit: Tensor = self.output(F.dropout(mixed, self.dropout, self.training))
        return logit.squeeze(1).float()

    def penalty(self) -> Tensor:
        """Return half the squared norm of the output layer, the paper's L2 term."""
        return (self.output.weight.square().sum() + self.output.bias.square().sum()) / 2

    def frozen(self, *, low: bool = False, tables: bool = True) -> "FrozenCnn":
        """Return this critic without dropout and gradient; `tables` are worth building for more than about 200 rows.

        `low` computes the highway in bfloat16, which moves a probability by less than 0.01.
        """
        return FrozenCnn(self, low=low, tables=tables)


class FrozenCnn:
    """A CNN critic for scoring, whose convolutions are table look-ups; it wants to be made anew when weights change."""

    @torch.inference_mode()
    def __init__(self, critic: CnnCritic, *, low: bool, tables: bool) -> None:
        self._critic, self._widths = critic, critic.widths
        self._end = critic.embedding.num_embeddings - 1
        weight = critic.embedding.weight
        rows = len(weight)
        size = sum(f * rows * w.shape[1] * 4 for f, w in zip(critic.widths, critic.filters, strict=True))
        self._tables: list[Tensor] | None = None
        if tables and size <= _TABLE_BYTES:
            self._tables = [
                torch.cat([weight @ part for part in filters.chunk(width)])
                for width, filters in zip(critic.widths, critic.filters, strict=True)
            ]
        dtype = torch.bfloat16 if low else weight.dtype
        self._highway = (critic.highway.weight.to(dtype), critic.highway.bias.to(dtype))

    @torch.inference_mode()
    def __call__(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the critic's logit of every row, (B,) float32; rows of similar length are scored together."""
        ids = _ended(ids_bt, lengths_b, self._end)
        order = lengths_b.argsort(stable=True)
        size = rows_at_once(ids.device, 4 * ids.shape[1] * self._highway[1].numel(), cached=_CHUNK)
        longest = _last_of_each(lengths_b[order], size)
        scores = torch.empty(len(ids), device=ids.device)
        for block in torch.split(order, max(_BLOCK, size)):
            parts = [self._pooled(ids[rows, : next(longest)], lengths_b[rows]) for rows in torch.split(block, size)]
            scores[block] = self._head(torch.cat(parts))
        return scores

    def _pooled(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the largest response of every filter, (B, F)."""
        last = _last_windows(ids_bt, lengths_b)
        parts = []
        for number, width in enumerate(self._widths):
            responses = self._responses(number, ids_bt, None if last is None else (last - width + 1).clamp(min=0))
            parts.append(responses.amax(1))
        return torch.cat(parts, 1)

    def _responses(self, number: int, ids_bt: Tensor, last_b: Tensor | None) -> Tensor:
        """Return every window's response to the filters of one width, (B, windows, n); that of `last_b` beyond it."""
        rows, length = ids_bt.shape
        width = self._widths[number]
        count = max(1, length - width + 1)
        padded = F.pad(ids_bt, (0, max(0, width - length)), value=self._end)
        windows = padded.unfold(1, width, 1)  # (B, count, f)
        if last_b is not None:
            # a repeated window changes no maximum, and spares a mask over all responses
            start = torch.arange(count, device=ids_bt.device).minimum(last_b[:, None])
            windows = windows.gather(1, start.unsqueeze(-1).expand(-1, -1, width))
        if self._tables is None:
            vectors = self._critic.embedding.weight[windows].flatten(2)
            responses: Tensor = vectors @ self._critic.filters[number]
            return responses
        shift = torch.arange(width, device=ids_bt.device) * (self._end + 1)
        bags = F.embedding_bag((windows + shift).reshape(-1, width), self._tables[number], mode="sum")
        return bags.view(rows, count, -1)

    def _head(self, pooled_bf: Tensor) -> Tensor:
        found = torch.relu_(pooled_bf + self._critic.bias)
        weight, bias = self._highway
        gate, new = linear(found.to(weight.dtype), weight, bias).chunk(2, 1)
        mixed = torch.lerp(found, new.relu().float(), gate.sigmoid().float())
        logit: Tensor = self._critic.output(mixed)
        return logit.squeeze(1)

    @torch.inference_mode()
    def prefix_features(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the largest response so far of every filter, (B, T, F): of windows that end at token t or before."""
        ids = _ended(ids_bt, lengths_b, self._end)
        length = ids.shape[1]
        parts = []
        for number, width in enumerate(self._widths):
            responses = self._responses(number, ids, None)
            features = responses.new_full((len(ids), length, responses.shape[2]), -torch.inf)
            if width <= length:
                features[:, width - 1 :] = responses
            for t in range(width, length):
                torch.maximum(features[:, t], features[:, t - 1], out=features[:, t])
            parts.append(features)
        return torch.cat(parts, 2).add_(self._critic.bias).relu_()


class GruCritic(nn.Module):
    """One logit per text from the last state of a GRU: reads any length, looks at the order of everything."""

    def __init__(self, vocab_size: int, *, embedding: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.embedding = nn.Embedding(vocab_size + 1, embedding, padding_idx=vocab_size)
        self.rnn = nn.GRU(embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, 1)

    def forward(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the logit of every row, (B,)."""
        return self.score_embedded(self.embedded(ids_bt, lengths_b), lengths_b)

    def embedded(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the embedded rows, (B, T, E), zeros after each row's length."""
        vectors: Tensor = self.embedding(_ended(ids_bt, lengths_b, self.embedding.num_embeddings - 1))
        return vectors

    def score_embedded(self, x_bte: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the logit of embedded rows, (B,)."""
        states = self._states(x_bte)
        last = states[torch.arange(len(states), device=states.device), (lengths_b - 1).clamp(max=states.shape[1] - 1)]
        logit: Tensor = self.output(F.dropout(last, self.dropout, self.training))
        return logit.squeeze(1).float()

    def _states(self, x_bte: Tensor) -> Tensor:
        start = self.output.weight.new_zeros(1, len(x_bte), self.rnn.hidden_size)
        return scan_layer(self.rnn, x_bte, [start])[0]

    def penalty(self) -> Tensor:
        """Return half the squared norm of the output layer."""
        return (self.output.weight.square().sum() + self.output.bias.square().sum()) / 2

    def frozen(self, *, low: bool = False, tables: bool = True) -> "FrozenGru":
        """Return this critic without dropout and gradient; `low` and `tables` change nothing here."""
        return FrozenGru(self)


class FrozenGru:
    """A GRU critic for scoring; it reads the critic's weights of now."""

    def __init__(self, critic: GruCritic) -> None:
        self._critic = critic

    @torch.inference_mode()
    def __call__(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the critic's logit of every row, (B,) float32; rows of similar length are scored together."""
        scores = torch.empty(len(ids_bt), device=ids_bt.device)
        order = lengths_b.argsort(stable=True)
        size = rows_at_once(ids_bt.device, 16 * ids_bt.shape[1] * self._critic.output.in_features, cached=4 * _CHUNK)
        longest = _last_of_each(lengths_b[order], size)
        for rows in torch.split(order, size):
            lengths = lengths_b[rows]
            states = self._states(ids_bt[rows, : next(longest)], lengths)
            last = states[torch.arange(len(rows), device=states.device), lengths - 1]
            scores[rows] = self._critic.output(last).squeeze(1)
        return scores

    @torch.inference_mode()
    def prefix_features(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        """Return the state after every token, (B, T, H)."""
        return self._states(ids_bt, lengths_b)

    def _states(self, ids_bt: Tensor, lengths_b: Tensor) -> Tensor:
        return self._critic._states(self._critic.embedded(ids_bt, lengths_b))


def _last_of_each(values_b: Tensor, size: int) -> Iterator[int]:
    """Yield the last value of every so many, the rest at the end too: one wait for a device."""
    return iter([*values_b[size - 1 :: size].tolist(), *(values_b[-1:].tolist() if len(values_b) % size else [])])


def _ended(ids_bt: Tensor, lengths_b: Tensor, end: int) -> Tensor:
    """Return the ids with `end` after each row's length."""
    after = torch.arange(ids_bt.shape[1], device=ids_bt.device) >= lengths_b[:, None]
    return ids_bt.masked_fill(after, end)


def _last_windows(ids_bt: Tensor, lengths_b: Tensor) -> Tensor | None:
    """Return the last real position of every row, (B,), or None where no window needs a mask."""
    # another device would have to be waited for, and masks what needs none at little cost
    whole = lengths_b.device.type == "cpu" and int(lengths_b.min()) >= ids_bt.shape[1]
    return None if whole else lengths_b - 1


def _shifted_convolution(
    x_tbe: Tensor, widths: Sequence[int], filters: Sequence[Tensor], last_b: Tensor | None
) -> Tensor:
    """Return the largest response of every filter over the windows of each row, (B, F), with gradient.

    `filters` are (f * E, n). `last_b` is the last real position of each row; None: all rows end with the batch.
    Equals `Conv2d` with kernels (f, E) and a maximum over time.
    """
    convolution: Callable[..., Tensor] = _Convolution.apply
    one = torch.zeros(1, 1, device=x_tbe.device)
    return convolution(x_tbe, tuple(widths), last_b, (one @ one).dtype, *filters)


class _Convolution(torch.autograd.Function):
    """All widths at once, so that the gradient of the windows is gathered in one place and folded back once."""

    @staticmethod
    def forward(
        ctx: Any, x_tbe: Tensor, widths: tuple[int, ...], last_b: Tensor | None, dtype: torch.dtype, *filters: Tensor
    ) -> Tensor:
        length, rows, size = x_tbe.shape
        widest = max(widths)
        x = F.pad(x_tbe.to(dtype), (0, 0, 0, 0, 0, widest - 1))
        # time first: the windows that start at 0 .. count - 1 are the first count * B rows of one matrix
        windows = torch.cat([x[k : k + length] for k in range(widest)], 2).view(length * rows, widest * size)
        weights = [weight.to(dtype) for weight in filters]
        pooled, found = [], []
        for width, weight in zip(widths, weights, strict=True):
            count = max(1, length - width + 1)
            responses = matmul(windows[: count * rows, : width * size], weight).view(count, rows, -1)
            if last_b is not None:
                outside = torch.arange(count, device=x.device)[:, None] > (last_b - width + 1).clamp(min=0)
                responses.masked_fill_(outside.unsqueeze(-1), -torch.inf)
            pooled.append(responses.amax(0))
            found.append(responses)
        ctx.save_for_backward(windows, *weights, *found, *pooled)
        ctx.shape, ctx.widths = x_tbe.shape, widths
        return torch.cat(pooled, 1).float()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        widths: tuple[int, ...] = ctx.widths
        length, rows, size = ctx.shape
        windows, *saved = ctx.saved_tensors
        weights, found, pooled = (saved[k : k + len(widths)] for k in (0, len(widths), 2 * len(widths)))
        # in low precision the parts are summed in float32
        grad_windows = torch.zeros(windows.shape, device=windows.device)
        grad_filters = []
        grads = grad_outputs[0].to(windows.dtype).split_with_sizes([w.shape[1] for w in weights], 1)
        for width, weight, responses, largest, grad in zip(widths, weights, found, pooled, grads, strict=True):
            count = len(responses)
            # equal windows (a word said twice) share the gradient
            spread = (responses == largest).to(grad.dtype)
            spread = spread.mul_(grad / spread.sum(0)).flatten(0, 1)
            part = slice(count * rows), slice(width * size)
            grad_filters.append(matmul(windows[part].t(), spread).float())
            matmul(spread, weight.t(), grad_windows[part], add=True)
        folded = grad_windows.new_zeros(length + max(widths) - 1, rows, size)
        for k, grad in enumerate(grad_windows.view(length, rows, -1, size).unbind(2)):
            folded[k : k + length] += grad
        return (folded[:length], None, None, None, *grad_filters)
