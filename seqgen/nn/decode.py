"""Sampling from a recurrent model, one token per row and step. Token ids in, token ids out: no text here.

What a model must offer is `Recurrent`: a start state, a step, an output layer. Text k of a call is a function of the
weights, the options, its prompt and its seed alone: rows are padded to a multiple of 8, because matrix products of
fewer rows take another path and differ in their last bits, and draw t of a text hashes (its seed, t). On a CPU the
same bits follow at every batch size; the fast mode gives that promise up for speed on one row.
Shapes: B rows at work, H features, V vocabulary. Paper references stand in `sampler`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from seqgen.core import config
from seqgen.core.errors import NonFiniteError
from seqgen.core.rng import uniforms
from seqgen.nn import sampler
from seqgen.nn.rnn import State

TILE = 8  # rows are padded to a multiple of this
_AHEAD = 32  # steps whose uniform numbers are made at once


class Recurrent(Protocol):
    """What sampling needs of a model. `State` is a tuple of tensors whose first dimension is the row."""

    def start(self, rows: int) -> State:
        """The state before the first token of a prompt."""

    def stepper(self, *, fast: bool) -> Callable[[Tensor, State], tuple[Tensor, State]]:
        """A function (ids (B,), state) -> (features (B, H), state) on copies of weights; `fast` may spend memory."""

    def head(self) -> tuple[Tensor, Tensor | None]:
        """The output layer as (weight (V, H), bias (V,) or None): logits = features @ weight.T + bias."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: the section `sample`. In this order: blocks, penalty, temperature, filters, draw."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Divides the logits: below 1 surer, above 1 wilder; 0 is greedy."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only the k most probable tokens; 0 turns it off."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the most probable tokens whose mass reaches this; 1 turns it off."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Only tokens at least this many times as probable as the likeliest one; 0 turns it off."""
    typical: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Only the tokens nearest to the expected information, until this mass; 0 turns it off."""
    greedy: bool = False
    """Always the most probable token."""
    min_length: Annotated[int, Field(ge=0)] = 0
    """Tokens before a text may end."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Tokens at most, the end not counted; 0: the model's own limit."""
    forbid: tuple[int, ...] = ()
    """Token ids that never appear."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Divides positive logits of tokens already in prompt or text, multiplies negative ones; 1 turns it off."""
    no_repeat_ngram: Annotated[int, Field(ge=0)] = 0
    """No run of this many tokens appears twice in prompt and text; 0 turns it off."""
    details: bool = False
    """Also give log-probabilities and entropies of every token."""


@dataclass(frozen=True)
class Details:
    """What the model thought of each token drawn: float32, in nats, one value per row of a step or token of a text."""

    log_prob: Tensor
    """Log-probability under the unmodified model."""
    entropy: Tensor
    """Entropy of the unmodified model's distribution."""
    sampling_log_prob: Tensor
    """Log-probability under the distribution drawn from; 0 when greedy."""
    sampling_entropy: Tensor
    """Entropy of the distribution drawn from; 0 when greedy."""


@dataclass(frozen=True)
class Step:
    """One token of every text still at work."""

    texts: Tensor
    """(n,) int64: which texts, as indices of the prompts."""
    ids: Tensor
    """(n,) int64: the token of each, possibly the stop."""
    ended: Tensor
    """(n,) bool: whether the token was the stop."""
    details: Details | None


@dataclass(frozen=True)
class Samples:
    """Finished texts in the order of their prompts."""

    ids: list[list[int]]
    """Tokens without prompt and stop."""
    finished: list[bool]
    """Whether the stop was drawn before the length limit."""
    details: list[Details] | None
    """If asked for: values of every token of each text, of its stop too where it finished."""


class Decoder:
    """A model prepared for sampling: weights copied into the layout that single steps read fastest.

    Weights changed afterwards are not seen: make another. `stop` ends a text (-1: nothing does), `never` ids have no
    mass. `fast` leaves rows unpadded: about twice as fast for one text, without the promise of equal bits across batch
    sizes.
    """

    def __init__(
        self, model: Recurrent, *, stop: int = -1, never: Sequence[int] = (), max_length: int = 0, fast: bool = False
    ) -> None:
        self._model, self._step = model, model.stepper(fast=fast)
        self._stop, self._never, self._max_length = stop, list(never), max_length
        self._tile = 1 if fast else TILE
        weight, bias = model.head()
        self.vocab_size = len(weight)
        # padded columns make whole blocks; their bias of -inf keeps them without mass
        extra = -len(weight) % sampler.BLOCK
        self._weight_t = F.pad(weight.detach().t(), (0, extra)).contiguous()
        plain = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        self._bias = F.pad(plain, (0, extra), value=-math.inf)
        self._logits = self._weight_t.new_empty(0)
        self._probabilities = self._weight_t.new_empty(0)

    def decode(
        self, prompts: Sequence[Sequence[int]], seeds: Tensor, sampling: Sampling, *, state: State | None = None
    ) -> Samples:
        """All texts at once; arguments as in `steps`."""
        return _collect(list(self.steps(prompts, seeds, sampling, state=state)), len(prompts), sampling.details)

    @torch.inference_mode()
    def steps(
        self, prompts: Sequence[Sequence[int]], seeds: Tensor, sampling: Sampling, *, state: State | None = None
    ) -> Iterator[Step]:
        """The texts token by token, as they are drawn; those that end leave the batch.

        `prompts` hold the start id at least and may differ in length; `seeds` (B,) int64 come from
        `core.rng.text_seeds`. `state` replaces `model.start`, one row per prompt. Raises ValueError for an empty
        prompt, an id outside the vocabulary, no length limit, and a text for which no token is left; ConfigError for
        an option out of range.
        """
        sampling = config.build(Sampling, config.to_dict(sampling), section="sample")
        limit = sampling.max_length or self._max_length
        self._check(prompts, seeds, sampling, limit)
        if not prompts:
            return
        device = self._bias.device
        blocked = torch.tensor(sorted({*self._never, *sampling.forbid}), dtype=torch.int64, device=device)
        bias = self._bias.index_fill(0, blocked, -math.inf)

        last, state = self._encode(prompts, state)
        texts = torch.arange(len(prompts), device=device)
        slots = self._tiled(texts)  # texts at work, then repeats of the last one that fill the tile
        seeds = seeds.to(device)
        rows = _Rows(last, seeds, seeds[:, None], _history(prompts, sampling, device)).select(slots)
        state = tuple(s[slots] for s in state)
        for t in range(limit):
            features, state = self._step(rows.last, state)
            rows.last, details = self._choose(features, rows, t, bias, blocked, sampling)
            ids = rows.last[: len(texts)]
            if ids.amin() < 0:
                text = int(texts[ids.argmin()])
                raise NonFiniteError(
                    f"text {text}, token {t}: the model's logits are not finite; its weights are broken"
                )
            ended = ids == self._stop
            yield Step(texts, ids, ended, details and _rows_of(details, slice(len(texts))))
            if rows.history.shape[1]:
                rows.history = torch.cat([rows.history, rows.last[:, None]], 1)
            if ended.any():
                going = (~ended).nonzero().squeeze(1)
                if not len(going):
                    return
                slots, texts = self._tiled(going), texts[going]
                rows, state = rows.select(slots), tuple(s[slots] for s in state)

    def _check(self, prompts: Sequence[Sequence[int]], seeds: Tensor, sampling: Sampling, limit: int) -> None:
        if len(seeds) != len(prompts):
            raise ValueError(f"expected one seed for each of {len(prompts)} prompts, got {len(seeds)}")
        if limit < 1:
            raise ValueError("sample.max_length must be at least 1 for a model without a limit of its own, got 0")
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {number} is empty; it must hold the start id at least")
        for place, ids in (*((f"prompt {n}", p) for n, p in enumerate(prompts)), ("sample.forbid", sampling.forbid)):
            bad = [i for i in ids if not 0 <= i < self.vocab_size]
            if bad:
                raise ValueError(f"{place} holds id {bad[0]}, outside the vocabulary of {self.vocab_size}")
        early = {self._stop} if sampling.min_length and self._stop >= 0 else set()
        if len({*self._never, *sampling.forbid} | early) >= self.vocab_size:
            raise ValueError("no token is left to choose from; relax sample.forbid or sample.min_length")

    def _tiled(self, slots: Tensor) -> Tensor:
        """The slots with the last one repeated up to a whole number of tiles."""
        return torch.cat([slots, slots[-1:].expand(-len(slots) % self._tile)])

    def _encode(self, prompts: Sequence[Sequence[int]], state: State | None) -> tuple[Tensor, State]:
        """The last id of every prompt and the state before it.

        Prompts run through the same steps as the text: a scan over whole prompts would be quicker for long ones, but
        its bits depend on the company a prompt is in. Equal prompts are run once.
        """
        device = self._bias.device
        if state is None:
            distinct = {tuple(p): None for p in prompts}
            numbers = {prompt: n for n, prompt in enumerate(distinct)}
            last, state = self._encode(list(distinct), self._model.start(len(distinct)))
            each = torch.tensor([numbers[tuple(p)] for p in prompts], device=device)
            return last[each], tuple(s[each] for s in state)
        # longest first, so that those still running are the first rows
        order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
        sort = torch.tensor(order, device=device)
        state = tuple(s[sort] for s in state)
        for t in range(len(prompts[order[0]]) - 1):
            running = sum(len(p) > t + 1 for p in prompts)
            slots = self._tiled(torch.arange(running, device=device))
            ids = torch.tensor([prompts[n][t] for n in order[:running]], device=device)[slots]
            _, after = self._step(ids, tuple(s[slots] for s in state))
            state = tuple(torch.cat([new[:running], old[running:]]) for new, old in zip(after, state, strict=True))
        back = sort.argsort()
        return torch.tensor([p[-1] for p in prompts], device=device), tuple(s[back] for s in state)

    def _choose(
        self, features_bh: Tensor, rows: "_Rows", t: int, bias: Tensor, blocked: Tensor, sampling: Sampling
    ) -> tuple[Tensor, Details | None]:
        """The next token of every row, in chunks whose logits stay in the cache."""
        if t % _AHEAD == 0:
            rows.draws = uniforms(rows.seeds[:, None], torch.arange(t, t + _AHEAD, device=bias.device))
        draws = rows.draws[:, t % _AHEAD]
        size = min(len(features_bh), sampler.CHUNK)
        if len(self._logits) < size:  # kept from step to step: fresh memory of this size costs page faults
            self._logits = torch.empty(size, len(bias), dtype=features_bh.dtype, device=bias.device)
            self._probabilities = torch.empty_like(self._logits)
        ids, details = [], []
        for begin in range(0, len(features_bh), sampler.CHUNK):
            part = slice(begin, begin + sampler.CHUNK)
            features, history = features_bh[part], rows.history[part]
            if sampling.details:  # the unmodified model first: nothing blocked
                plain = torch.addmm(self._bias, features, self._weight_t).log_softmax(-1)
            logits = torch.addmm(bias, features, self._weight_t, out=self._logits[: len(features)])
            self._block(logits, history, t, sampling)
            self._reshape(logits, history, sampling)
            logits = _filtered(logits, sampling)
            if sampling.greedy or sampling.temperature == 0:
                chosen = logits.argmax(-1)
            else:
                probabilities = torch.softmax(logits, -1, out=self._probabilities[: len(features)])
                chosen = sampler.pick(probabilities, draws[part])
            ids.append(chosen)
            if sampling.details:
                drawn = logits.log_softmax(-1)
                if sampling.greedy or sampling.temperature == 0:
                    drawn = torch.full_like(drawn, -math.inf).scatter_(1, chosen[:, None], 0.0)
                at = [table.gather(1, chosen[:, None]).squeeze(1) for table in (plain, drawn)]
                details.append(Details(at[0], sampler.entropy(plain), at[1], sampler.entropy(drawn)))
        return torch.cat(ids), _joined(details) if details else None

    def _block(self, logits: Tensor, history: Tensor, t: int, sampling: Sampling) -> None:
        """Take all mass from tokens that may not come next, in place."""
        if t < sampling.min_length and self._stop >= 0:
            logits[:, self._stop] = -math.inf
        if sampling.no_repeat_ngram and history.shape[1] >= sampling.no_repeat_ngram:
            at_row, at_id = _repeats(history, sampling.no_repeat_ngram)
            saved = logits[at_row, at_id]
            logits[at_row, at_id] = -math.inf
            # where the block leaves nothing, it gives way
            empty = (logits.amax(-1) == -math.inf)[at_row]
            logits[at_row[empty], at_id[empty]] = saved[empty]

    def _reshape(self, logits: Tensor, history: Tensor, sampling: Sampling) -> None:
        """Repetition penalty and temperature, in place."""
        if sampling.repetition_penalty != 1:
            seen = torch.zeros_like(logits, dtype=torch.bool)
            row, column = (history >= 0).nonzero(as_tuple=True)
            seen[row, history[row, column]] = True
            penalised = torch.where(
                logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty
            )
            torch.where(seen, penalised, logits, out=logits)
        if sampling.temperature not in (0, 1):
            logits /= sampling.temperature


@dataclass
class _Rows:
    """What each row at work carries beside the model's state."""

    last: Tensor
    """(B,) int64: the token to be fed next."""
    seeds: Tensor
    """(B,) int64."""
    draws: Tensor
    """(B, 32) float64: the uniform numbers of this stretch of steps; hashing many costs little more than one."""
    history: Tensor
    """(B, L) int64: prompt and text so far, -1 before a short prompt; L = 0 if no option looks at it."""

    def select(self, slots: Tensor) -> "_Rows":
        return _Rows(self.last[slots], self.seeds[slots], self.draws[slots], self.history[slots])


def _history(prompts: Sequence[Sequence[int]], sampling: Sampling, device: torch.device) -> Tensor:
    """Prompts padded with -1 on the left; without columns where nothing looks at them."""
    wanted = sampling.repetition_penalty != 1 or sampling.no_repeat_ngram
    longest = max(map(len, prompts)) if wanted else 0
    padded = [[-1] * (longest - len(p)) + list(p) if wanted else [] for p in prompts]
    return torch.tensor(padded, dtype=torch.int64, device=device).reshape(len(prompts), longest)


def _repeats(history_bl: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(rows, ids) of the tokens that would complete an n-gram which its row already holds."""
    windows = history_bl.unfold(1, n, 1)  # (B, L - n + 1, n)
    tail = history_bl[:, history_bl.shape[1] - n + 1 :].unsqueeze(1)
    same = (windows[:, :, : n - 1] == tail).all(-1) & (windows >= 0).all(-1)
    row, window = same.nonzero(as_tuple=True)
    return row, windows[row, window, -1]


def _filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """What the filters leave, each working on what the one before left."""
    if sampling.top_k:
        logits = sampler.keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = sampler.keep_top_p(logits, sampling.top_p)
    if sampling.min_p:
        logits = sampler.keep_min_p(logits, sampling.min_p)
    if 0 < sampling.typical < 1:
        logits = sampler.keep_typical(logits, sampling.typical)
    return logits


def _joined(parts: Sequence[Details]) -> Details:
    return Details(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Details)))


def _rows_of(details: Details, rows: Tensor | slice) -> Details:
    return Details(*(getattr(details, f.name)[rows] for f in fields(Details)))


def _collect(steps: Sequence[Step], count: int, detailed: bool) -> Samples:
    """Each text's tokens from the steps of all of them."""
    if not steps:
        return Samples([], [], [] if detailed else None)
    texts, ids, ended = (torch.cat([getattr(step, name) for step in steps]) for name in ("texts", "ids", "ended"))
    order = texts.argsort(stable=True)
    lengths = texts.bincount(minlength=count).tolist()
    finished = torch.zeros(count, dtype=torch.bool, device=ids.device).index_put_((texts[ended],), ended[ended])
    rows = [row.tolist() for row in ids[order].split_with_sizes(lengths)]
    done = finished.tolist()
    details = None
    if detailed:
        whole = _rows_of(_joined([step.details for step in steps if step.details is not None]), order)
        columns = [getattr(whole, f.name).split_with_sizes(lengths) for f in fields(Details)]
        details = [Details(*values) for values in zip(*columns, strict=True)]
    return Samples([row[:-1] if end else row for row, end in zip(rows, done, strict=True)], done, details)
