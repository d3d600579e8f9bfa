"""One token per row from logits: filters, and the block inverse CDF, which needs one uniform number per row.

`torch.multinomial` draws V exponentials per row, twenty times the cost of everything else here. Inverting the
cumulative sum in two levels (blocks, then inside one block) reads the probabilities once. Filters turn what they
remove into -inf, and zero mass is never picked. Shapes: B rows, V columns (the vocabulary, or fewer candidates).
"""

import math
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from seqgen.core.numerics import rows_at_once
from seqgen.nn.products import by_mkl, linear

Precision = Literal["fp32", "bf16"]
BLOCK = 64  # columns per block of the inverse CDF; also a multiple of every vector width
_CHUNK = 256  # rows whose logits are alive at a time on a CPU: more would leave the cache and cost page faults
_MANY = 256  # candidates that are ranked before a whole row is sorted: a sort costs more than the output layer


class LogProbs(Protocol):
    """A head that gives its distribution itself, such as a mixture of two models."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, V."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def log_probs(self, features_cf: Tensor) -> Tensor:
        """Return log-probabilities (C, V) in nats for a chunk of rows of features, -inf where a token cannot come."""


Head = tuple[Tensor, Tensor | None] | LogProbs
"""What turns features into a distribution: weight (V, F) and bias (V,) or None, whose logits are features @ weight.T +
bias, or an object that gives log-probabilities."""


class OutputLayer:
    """A head laid out for drawing: weights transposed, columns padded to whole blocks, buffers kept.

    With `precision` bf16 its product, the dearest part of a step, is taken in bfloat16: several times as fast where the
    CPU has units for that, from a distribution that is a little off (KL about 1e-4 nats).
    """

    def __init__(
        self,
        head: Head,
        *,
        suppress_tokens: Iterable[int] = (),
        precision: Precision = "fp32",
    ) -> None:
        """Prepare the products; `suppress_tokens` get no probability."""
        self._given = None if isinstance(head, tuple) else head
        weight_vf, bias_v = (
            head if isinstance(head, tuple) else (torch.zeros(head.vocab_size, 0, device=head.device), None)
        )
        self.vocab_size = len(weight_vf)
        extra = -self.vocab_size % BLOCK
        dtype = weight_vf.dtype if precision == "fp32" else torch.bfloat16
        self.weight_t = F.pad(weight_vf.detach().t(), (0, extra)).to(dtype).contiguous()
        """(F, V padded); F = 0 where the head gives log-probabilities."""
        bias = weight_vf.new_zeros(self.vocab_size) if bias_v is None else bias_v.detach()
        # padded columns and ids that never come get their -inf here, so that no step has to mask them
        self.plain_bias = F.pad(bias, (0, extra), value=-math.inf)
        """(V padded): the model's own."""
        self.bias = self.without(suppress_tokens)
        """(V padded): without the ids that never come."""
        self._buffer = self.bias.new_empty(0, len(self.bias))
        self._weight_and_bias: Tensor | None = None

    def parts(self, rows: int) -> Iterator[slice]:
        """Yield which of so many rows have their logits at the same time, part by part."""
        bias = self.plain_bias
        size = rows_at_once(bias.device, bias.nbytes, cached=_CHUNK)
        return (slice(begin, begin + size) for begin in range(0, rows, size))

    def without(self, ids: Iterable[int]) -> Tensor:
        """Return the bias (V padded) that takes all mass from some ids."""
        index = torch.tensor(sorted(ids), dtype=torch.int64, device=self.plain_bias.device)
        return self.plain_bias.index_fill(0, index, -math.inf)

    def logits(self, features_cf: Tensor, bias: Tensor) -> Tensor:
        """Return logits (C, V padded) for a chunk of rows, float32."""
        if self._given is not None:
            return F.pad(self._given.log_probs(features_cf), (0, len(bias) - self.vocab_size)) + bias
        if self.weight_t.dtype != bias.dtype:
            # widened first: a sum of two dtypes is several times as dear as both steps together
            return (features_cf.to(self.weight_t.dtype) @ self.weight_t).to(bias.dtype).add_(bias)
        return linear(features_cf, self.weight_t.t(), bias)

    def probabilities(self, logits_cv: Tensor) -> Tensor:
        """Return the softmax of a chunk of logits, in a buffer that the next call overwrites."""
        return torch.softmax(logits_cv, -1, out=self._kept(len(logits_cv), logits_cv.dtype))

    def _kept(self, rows: int, dtype: torch.dtype) -> Tensor:
        """Return a buffer (rows, V padded), kept from step to step: fresh memory of this size costs page faults."""
        if len(self._buffer) < rows:
            self._buffer = self.bias.new_empty(rows, len(self.bias), dtype=dtype)
        return self._buffer[:rows]

    def draw(self, features_bf: Tensor, uniforms_b: Tensor) -> Tensor:
        """Draw ids (B,) int64 from the softmax, one uniform number a row."""
        ids = [pick(self._drawn_from(features_bf[rows]), uniforms_b[rows]) for rows in self.parts(len(features_bf))]
        return torch.cat(ids) if ids else uniforms_b.new_empty(0, dtype=torch.int64)

    def _drawn_from(self, features_cf: Tensor) -> Tensor:
        """Return the softmax of a chunk without the ids that never come, in the kept buffer."""
        if self._given is not None or not by_mkl(self.weight_t.t()):
            return self.probabilities(self.logits(features_cf, self.bias))
        if self._weight_and_bias is None:
            self._weight_and_bias = torch.cat([self.weight_t, self.bias[None]])
        # the bias as one more input, and all in one buffer: a third of the time less where features are few
        kept = self._kept(len(features_cf), torch.float32)
        logits = torch.mm(F.pad(features_cf, (0, 1), value=1.0), self._weight_and_bias, out=kept)
        return torch.softmax(logits, -1, out=logits)


def pick(probabilities_bv: Tensor, uniforms_b: Tensor) -> Tensor:
    """Draw ids (B,) int64 by inverting the cumulative sum of each row at uniform * total.

    `probabilities_bv` need not sum to 1; V is fastest as a multiple of 64. `uniforms_b` float64 in [0, 1). A column
    with zero mass is never picked: every comparison is strict. A row without mass, or with NaN, gives -1.
    """
    if probabilities_bv.shape[1] % BLOCK:
        probabilities_bv = F.pad(probabilities_bv, (0, -probabilities_bv.shape[1] % BLOCK))
    blocks = probabilities_bv.view(len(probabilities_bv), -1, BLOCK)
    ends = _running_sum(blocks.sum(-1))
    target = uniforms_b[:, None] * ends[:, -1:]  # below the total: u <= 1 - 2^-53, and the product rounds to nearest
    passed = ends <= target
    block = passed[:, :-1].sum(-1)
    before = (ends * passed).amax(-1, keepdim=True)
    inside = _running_sum(blocks.gather(1, block[:, None, None].expand(-1, 1, BLOCK)).squeeze(1))
    offset = (inside <= target - before).sum(-1)
    # the block's float32 sum may exceed its float64 one by a rounding: then it is the last column with mass
    last = (inside < inside[:, -1:]).sum(-1)
    return torch.where(ends[:, -1] > 0, block * BLOCK + torch.minimum(offset, last), -1)


def _running_sum(values_bk: Tensor) -> Tensor:
    """Return the cumulative sum of each row, float64."""
    if values_bk.is_cuda and len(values_bk) == 1:
        # a GPU adds up one row alone in no fixed order, and two rows each in one
        return values_bk.expand(2, -1).cumsum(-1, dtype=torch.float64)[:1]
    return values_bk.cumsum(-1, dtype=torch.float64)


def keep_top_k(logits_bv: Tensor, k: int) -> Tensor:
    """Keep exactly the k largest logits of each row, also among ties; the rest become -inf."""
    if k >= logits_bv.shape[1]:
        return logits_bv
    values, ids = logits_bv.topk(k)
    return torch.full_like(logits_bv, -math.inf).scatter_(1, ids, values)


def keep_top_p(logits_bv: Tensor, p: float) -> Tensor:
    """Keep the likeliest tokens until their mass reaches p, the crossing one included (Holtzman et al. 2020)."""
    return _keep_mass(logits_bv, logits_bv, p)


def keep_min_p(logits_bv: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as probable as the likeliest one (Nguyen et al. 2024)."""
    return logits_bv.masked_fill(logits_bv < logits_bv.amax(-1, keepdim=True) + math.log(p), -math.inf)


def keep_typical(logits_bv: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose information is nearest to the entropy, until `mass` (Meister et al. 2023)."""
    log_probs = logits_bv.log_softmax(-1)
    deviation = (log_probs + entropy(log_probs)[:, None]).abs()
    return _keep_mass(logits_bv, -deviation, mass)


def entropy(log_probs_bv: Tensor) -> Tensor:
    """Return the entropy of each row in nats, (B,); impossible tokens (-inf) count as 0."""
    return -(log_probs_bv.exp() * log_probs_bv.clamp(min=torch.finfo(log_probs_bv.dtype).min)).sum(-1)


def _keep_mass(logits_bv: Tensor, scores_bv: Tensor, mass: float) -> Tensor:
    """Keep each row's tokens by falling score until their probabilities reach `mass`, the crossing one included."""
    probabilities = logits_bv.softmax(-1)
    if logits_bv.device.type != "cpu":  # to choose rows is to wait for the device, on which a sort is cheap
        order = scores_bv.sort(descending=True, stable=True).indices
        return _first(logits_bv, probabilities, order, mass)
    kept = torch.full_like(logits_bv, -math.inf)
    rows = torch.arange(len(logits_bv))
    ranked = scores_bv.topk(min(_MANY, scores_bv.shape[1])).indices
    enough = probabilities.gather(1, ranked).double().sum(-1) >= mass
    # each row chooses for itself whether the short ranking will do, so its result does not depend on its neighbours
    for chosen, short in ((rows[enough], ranked[enough]), (rows[~enough], None)):
        if not len(chosen):
            continue
        order = scores_bv[chosen].sort(descending=True, stable=True).indices if short is None else short
        kept[chosen] = _first(logits_bv[chosen], probabilities[chosen], order, mass)
    return kept


def _first(logits_bv: Tensor, probabilities_bv: Tensor, order_bk: Tensor, mass: float) -> Tensor:
    """Keep the columns that stand first in `order_bk` until their probabilities reach `mass`."""
    sorted_p, logits = probabilities_bv.gather(1, order_bk), logits_bv.gather(1, order_bk)
    logits.masked_fill_(_running_sum(sorted_p) - sorted_p >= mass, -math.inf)
    return torch.full_like(logits_bv, -math.inf).scatter_(1, order_bk, logits)
