"""Sampling from an autoregressive model: token ids in, token ids out, no text here.

The whole idea, for one prompt and its seed:

    *context, token = prompt
    state = model.prefill([context], room=max_new_tokens)
    written = []
    while len(written) < max_new_tokens:
        features, state = model.step(torch.tensor([token]), state)
        logits = output.logits(features, bias)
        logits = keep_top_k(logits / temperature, top_k)
        uniform = uniforms(seed, torch.tensor([len(written)]))
        token = int(pick(logits.softmax(-1), uniform))
        if token == stop:
            break
        written.append(token)

`Autoregressive` is what a model must offer for it. The rest of this file does it for many prompts at once, with every
option, and drops the texts that have ended: on a CPU at once, on another device every 32 tokens, because to ask which
these are is to wait for it. Text k of a call is a function of the weights, the options, its prompt and
its seed alone: rows are padded to a multiple of 8, because matrix products of fewer rows take another path and differ
in their last bits, and draw t of a text hashes (its seed, t). On a CPU the same bits follow at every batch size; the
fast mode gives that promise up for speed on one row.
Shapes: B rows at work, F features, V vocabulary. Paper references stand in `sampler`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from seqgen.core import config
from seqgen.core.errors import NonFiniteError
from seqgen.core.options import Sampling
from seqgen.core.rng import uniforms
from seqgen.nn.automaton import NEVER, Automaton, NoCopy
from seqgen.nn.graphs import Replay
from seqgen.nn.rnn import State
from seqgen.nn.sampler import (
    Head,
    OutputLayer,
    Precision,
    entropy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    pick,
)

TILE = 8  # rows are padded to a multiple of this
AHEAD = 32  # steps whose uniform numbers are made at once, and after which a device is asked what has ended
_FLOAT32 = torch.finfo(torch.float32)
_COLD = 1e-30  # below this temperature, logits over it may overflow


LogitsProcessor: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From what rows have read, ids (B, T) int64, and the logits of their next token (B, V) to the logits drawn from.

Called at every step, before temperature and filters. `ids` end with the last token read: start, condition, prompt and
text so far, -1 before short rows and for tokens that only a condition has. Tokens that are never written come as -inf
and stay so. A batch may hold any rows, some of them twice: what a row gets may depend on that row alone.
"""

S = TypeVar("S")
"""A model's own kind of state, such as a cache of keys and values; `Recurrent` has a tuple of tensors."""


class Autoregressive(Protocol[S]):
    """What sampling needs of a model, with the weights of now: prefill, step, head, and a limit where there is one."""

    @property
    def context(self) -> int:
        """Positions of a row at most, prompt and text together; 0: no limit."""

    def prefill(self, prompts: Sequence[Sequence[int]], state: S | None = None, *, room: int = 0) -> S:
        """Return the state after these tokens, a row for each prompt, with room for so many more.

        Prompts may be empty and of different lengths; `state`, a row for each, is what they go on from.
        """

    def step(self, ids: Tensor, state: S) -> tuple[Tensor, S]:
        """Return what predicts the token after ids (B,), features (B, F), and the state after them.

        The state that was passed in is used up here and by `select`: a cache is written in place.
        """

    def select(self, state: S, rows: Tensor) -> S:
        """Return the state of some rows, in their order; a row may come several times."""

    def head(self) -> Head:
        """Return what turns features into a distribution over tokens."""


@dataclass(frozen=True)
class Recurrent:
    """A model whose state does not grow with the text, from three functions. `Autoregressive` says what they return."""

    start: Callable[[int], State]
    """From a number of rows to the state before the first token, tensors whose first dimension is the row."""
    step: Callable[[Tensor, State], tuple[Tensor, State]]
    head: Callable[[], Head]
    tile: int = TILE
    """Prompts are read in whole multiples of so many rows."""
    context: int = 0

    def prefill(self, prompts: Sequence[Sequence[int]], state: State | None = None, *, room: int = 0) -> State:
        """Read prompts by the same steps as the text.

        A scan over whole prompts would be quicker for long ones, but its bits depend on the company a prompt is in.
        """
        state = self.start(len(prompts)) if state is None else state
        device = state[0].device
        # longest first, so that those still running are the first rows
        order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
        sort = torch.tensor(order, device=device)
        state = self.select(state, sort)
        for t in range(len(prompts[order[0]])):
            running = sum(len(p) > t for p in prompts)
            slots = tiled(torch.arange(running, device=device), self.tile)
            ids = torch.tensor([prompts[n][t] for n in order[:running]], device=device)[slots]
            _, after = self.step(ids, self.select(state, slots))
            state = tuple(torch.cat([new[:running], old[running:]]) for new, old in zip(after, state, strict=True))
        return self.select(state, sort.argsort())

    def select(self, state: State, rows: Tensor) -> State:
        """Index every tensor."""
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[State]) -> State:
        """Return the rows of several states as those of one: a batch that rows enter at any step needs it."""
        return tuple(map(torch.cat, zip(*states, strict=True)))


def tiled(slots: Tensor, tile: int) -> Tensor:
    """Repeat the last slot up to a whole number of tiles."""
    return torch.cat([slots, slots[-1:].expand(-len(slots) % tile)])


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
    top_log_prob: Tensor
    """Log-probability of the likeliest token under the unmodified model."""


@dataclass(frozen=True)
class Step:
    """One token of every text in the batch."""

    texts: Tensor
    """(n,) int64: which texts, as indices of the prompts."""
    ids: Tensor
    """(n,) int64: the token of each, possibly the stop."""
    ended: Tensor
    """(n,) bool: whether the token was the stop."""
    finished: Tensor
    """(n,) bool: whether the text is over: by the stop, by `until`, or because its constraint allows nothing more."""
    details: Details | None
    live: Tensor | None = None
    """(n,) bool: whether the text was still at work; what else there is of the others means nothing. None: all were."""


@dataclass(frozen=True)
class Samples:
    """Finished texts in the order of their prompts."""

    ids: list[list[int]]
    """Tokens without prompt and stop."""
    finished: list[bool]
    """Whether the text came to its end before the length limit."""
    details: list[Details] | None
    """If asked for: values of every token of each text, of its stop too where there is one."""


class Writer(Protocol):
    """What writes texts after prompts: a `Decoder`, or what a model that does not go from left to right has."""

    def decode(self, prompts: Sequence[Sequence[int]], seeds: Tensor, sampling: Sampling) -> Samples:
        """Write all texts at once."""

    def steps(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Tensor,
        sampling: Sampling,
        *,
        automaton: Automaton | None = None,
        begin: Sequence[int] | None = None,
        no_copy: NoCopy | None = None,
        logits_processor: LogitsProcessor | None = None,
        until: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Iterator[Step]:
        """Yield the texts token by token, as `Decoder.steps` does; ValueError for what it cannot meet."""


class Decoder:
    """A model prepared for sampling: its output layer copied into the layout that single steps read fastest.

    It is made for the weights of now: make another when they have changed. `stop` ends a text (-1: nothing does),
    `suppress_tokens` have no mass. `max_length` is the model's own limit of new tokens, 0: none. `fast` leaves rows
    unpadded: about three times as fast for one text, without the promise of equal bits across batch sizes.
    `precision`: see `OutputLayer`. `start` gives the state before every prompt as a function of its text's seed, (B,)
    int64, where a model draws it; else the model begins with its own.
    """

    def __init__(
        self,
        model: Autoregressive[Any],
        *,
        stop: int = -1,
        suppress_tokens: Sequence[int] = (),
        max_length: int = 0,
        fast: bool = False,
        precision: Precision = "fp32",
        start: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.step, self.select, self.context = model.step, model.select, model.context
        self.output = OutputLayer(model.head(), suppress_tokens=suppress_tokens, precision=precision)
        self.device = self.output.bias.device
        self.inputs: int = getattr(model, "inputs", self.output.vocab_size)
        """Ids that may be read; those from `output.vocab_size` on, of a source, are never written."""
        self.stop, self.suppress_tokens, self.max_length = stop, frozenset(suppress_tokens), max_length
        self.start, self._model = start, model
        self.join: Callable[[Sequence[Any]], Any] | None = getattr(model, "join", None)
        self._tile = 1 if fast else TILE
        self.every = 1 if self.device.type == "cpu" else AHEAD
        """Steps after which the texts that have ended leave the batch: the host has to wait for the device then."""
        self.graphs = False
        """Whether a recurrent model's steps on CUDA are recorded and replayed (`nn.graphs`) where no option looks back;
        texts that have ended then stay in the batch. Off until a card has confirmed it: scripts/gpu measures it."""

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Tensor,
        sampling: Sampling,
        *,
        state: Any = None,
        automaton: Automaton | None = None,
        begin: Sequence[int] | None = None,
        no_copy: NoCopy | None = None,
    ) -> Samples:
        """Sample all texts at once; arguments as in `steps`."""
        steps = self.steps(prompts, seeds, sampling, state=state, automaton=automaton, begin=begin, no_copy=no_copy)
        return collect(list(steps), len(prompts), sampling.details)

    @torch.inference_mode()
    def steps(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Tensor,
        sampling: Sampling,
        *,
        state: Any = None,
        automaton: Automaton | None = None,
        begin: Sequence[int] | None = None,
        no_copy: NoCopy | None = None,
        logits_processor: LogitsProcessor | None = None,
        until: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Iterator[Step]:
        """Yield the texts token by token, as they are drawn; every `self.every` steps those that ended leave the batch.

        `prompts` hold the start id at least and may differ in length; `seeds` (B,) int64 come from
        `core.rng.text_seeds`. `state` is what the prompts go on from, one row each, in place of the model's own start.
        `automaton` constrains what is written; `begin` is its state behind each prompt (`Automaton.after`), else 0.
        `no_copy` blocks copied runs, which may begin in the prompt. That block and the one against repetition give way
        where they would leave nothing. `logits_processor` changes logits before all that. `until` says of the `texts`
        and `ids` of a step which texts are over for reasons of its own, (n,) bool. With either of the two, texts that
        end leave the batch at once.
        Raises ValueError for an empty prompt, an id outside the vocabulary, no length limit, one beyond the model's
        context, constraints that cannot be met in it, and a text for which no token is left; ConfigError for an option
        out of range.
        """
        checked = config.build(Sampling, config.to_dict(sampling), section="sample")
        rules = self.rules(checked, automaton, no_copy, logits_processor)
        if len(seeds) != len(prompts):
            raise ValueError(f"expected one seed for each of {len(prompts)} prompts, got {len(seeds)}")
        self.check(prompts, begin, rules)
        if not prompts:
            return
        device = self.device
        if state is None and self.start is not None:
            state = self.start(seeds.to(device))
        last = torch.tensor([prompt[-1] for prompt in prompts], device=device)
        texts = torch.arange(len(prompts), device=device)
        places = torch.tensor(begin or [0] * len(prompts), device=device)
        history = _left_padded(prompts if rules.look_back else [()] * len(prompts)).to(device)
        history.masked_fill_(history >= self.output.vocab_size, -1)
        seeds = seeds.to(device)
        slots = self.tiled(texts)  # the texts at work, then repeats of the last one that fill the tile
        rows = _Rows(last, seeds, seeds[:, None], seeds, places, history).select(slots)
        padded = [*prompts, *[prompts[-1]] * (len(slots) - len(prompts))]
        state = self.prefill(padded, None if state is None else self.select(state, slots), room=rules.limit)
        every = 1 if until is not None or logits_processor is not None else self.every
        live = None if every == 1 else torch.ones_like(texts, dtype=torch.bool)
        lost: list[tuple[Tensor, Tensor]] = []  # since the host last looked: the texts without a token, and features
        replay: Replay | None = None
        for t in range(rules.limit):
            if t % AHEAD == 0:
                rows.draws = uniforms(rows.seeds[:, None], torch.arange(t, t + AHEAD, device=device))
            rows.now = rows.draws[:, t % AHEAD]
            if replay is None and self.graphs and live is not None and rules.alike(t):
                replay = Replay(self._stepped(rows, rules), rows.last, rows.now, *state)
            details = None
            if replay is not None:
                drawn, features, *state = replay(rows.last, rows.now, *state)
                drawn, features = drawn.clone(), features.clone()
            else:
                features, state = self.step(rows.last, state)
                drawn, details = self._sample(features, rows, t, rules)
            ids, due = drawn[: len(texts)], (t + 1) % every == 0 or t + 1 == rules.limit
            lost.append((ids < 0 if live is None else (ids < 0) & live, features))
            if due:
                self._check_left(texts, lost, t, rules)
                lost.clear()
            rows.last = drawn if live is None else drawn.clamp(min=0)
            rows.places, over = rules.follow(rows.places, rows.last, t)
            ended, finished = ids == self.stop, over[: len(texts)]
            if until is not None:
                finished = finished | until(texts, ids)
            yield Step(texts, ids, ended, finished, details and _rows_of(details, slice(len(texts))), live)
            if rules.look_back:
                rows.history = torch.cat([rows.history, rows.last[:, None]], 1)
            gone = finished
            if live is not None:
                live = live & ~finished
                gone = ~live
            if due and t + 1 < rules.limit and gone.any():
                going = (~gone).nonzero().squeeze(1)
                if not len(going):
                    return
                if replay is not None:
                    continue
                texts, slots = texts[going], self.tiled(going)
                rows, state = rows.select(slots), self.select(state, slots)
                live = None if live is None else live[going]

    @torch.inference_mode()
    def read(self, rows: Sequence[Sequence[int]]) -> list[Details]:
        """Return what the model thinks of each token after the first of given rows, as if it had drawn them.

        The computation is that of `steps`: a text has the values here that it had when it was drawn. ValueError for a
        row of fewer than two tokens, or of more than the model's context.
        """

        def values(plain: Tensor, ids: Tensor) -> list[Tensor]:
            given, spread = plain.gather(1, ids).squeeze(1), entropy(plain)
            return [given, spread, given, spread, plain.amax(-1)]

        return [Details(*read) for read in self._read(rows, values)]

    def ranks(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return how many tokens are likelier than each token after the first of given rows, and 1; as `read`."""
        return [rank for (rank,) in self._read(rows, lambda plain, ids: [1 + (plain > plain.gather(1, ids)).sum(1)])]

    def _read(
        self, rows: Sequence[Sequence[int]], values: Callable[[Tensor, Tensor], list[Tensor]]
    ) -> list[tuple[Tensor, ...]]:
        """Return values of each token, from log-probabilities (C, V) and ids (C, 1) of a chunk, for every row."""
        short = next((number for number, row in enumerate(rows) if len(row) < 2), None)
        if short is not None:
            raise ValueError(f"row {short} must hold the start id and a token at least, got {list(rows[short])}")
        long = next((number for number, row in enumerate(rows) if 0 < self.context < len(row) - 1), None)
        if long is not None:
            raise ValueError(
                f"row {long} of {len(rows[long])} tokens exceeds the model's context of {self.context}; leave it out"
            )
        if not rows:
            return []
        # longest first, so that those still running are the first rows
        order = sorted(range(len(rows)), key=lambda n: -len(rows[n]))
        lengths = [len(rows[n]) - 1 for n in order]
        ids = _left_padded([list(reversed(rows[n])) for n in order]).flip(1).clamp(min=0).to(self.device)
        slots = self.tiled(torch.arange(len(rows), device=self.device))
        padded = [*order, *order[-1:] * (len(slots) - len(order))]
        state = self.prefill([rows[n][:1] for n in padded], room=lengths[0])
        steps = []
        for t in range(lengths[0]):
            running = sum(length > t for length in lengths)
            kept = self.tiled(torch.arange(running, device=self.device))
            if len(kept) < len(slots):
                state, slots = self.select(state, kept), kept
            features, state = self.step(ids[slots, t], state)
            parts = []
            for part in self.output.parts(len(features)):
                plain = self.output.logits(features[part], self.output.plain_bias).log_softmax(-1)
                parts.append(values(plain, ids[slots[part], t + 1][:, None]))
            steps.append([torch.cat(columns)[:running] for columns in zip(*parts, strict=True)])
        whole = torch.stack([torch.cat(columns) for columns in zip(*steps, strict=True)]).cpu()  # one wait
        texts = torch.cat([torch.arange(len(step[0])) for step in steps]).argsort(stable=True)
        read = [tuple(values) for values in whole[:, texts].split_with_sizes(lengths, 1)]
        return [one for _, one in sorted(zip(order, read, strict=True), key=lambda pair: pair[0])]

    def rules(
        self,
        sampling: Sampling,
        automaton: Automaton | None = None,
        no_copy: NoCopy | None = None,
        logits_processor: LogitsProcessor | None = None,
    ) -> "Rules":
        """Collect what holds for every row and step of a call. ValueError if it leaves no token, or no length."""
        limit = sampling.limit(self.max_length)
        if sampling.denoising_steps:
            raise ValueError("denoising_steps is for runs of masked; this one writes one token after the other")
        bad = [i for i in sampling.suppress_tokens if not 0 <= i < self.output.vocab_size]
        if bad:
            raise ValueError(f"suppress_tokens holds id {bad[0]}, outside the vocabulary of {self.output.vocab_size}")
        blocked = self.suppress_tokens | set(sampling.suppress_tokens)
        if len(blocked | ({self.stop} if sampling.min_new_tokens else set()) - {-1}) >= self.output.vocab_size:
            raise ValueError("no token is left to choose from; relax suppress_tokens or min_new_tokens")
        if automaton is not None:
            automaton = automaton.without(blocked | {self.stop} - {-1}).to(self.device)
        no_copy = None if no_copy is None else no_copy.to(self.device)
        bias = self.output.without(blocked)
        return Rules(sampling, limit, self.stop, bias, automaton, no_copy, logits_processor)

    def check(self, prompts: Sequence[Sequence[int]], begin: Sequence[int] | None, rules: "Rules") -> None:
        """Raise ValueError for a prompt that is empty, leaves the vocabulary, or is too long for the model's context,
        and for a constraint beyond the length limit."""
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {number} is empty; it must hold the start id at least")
            bad = [i for i in prompt if not 0 <= i < self.inputs]
            if bad:
                raise ValueError(f"prompt {number} holds id {bad[0]}, outside the vocabulary of {self.inputs}")
            # the last token written is never read
            if 0 < self.context < len(prompt) + rules.limit - 1:
                raise ValueError(
                    f"prompt {number} of {len(prompt)} tokens and {rules.limit} new ones exceed the model's context of "
                    f"{self.context}; shorten the prompt, or set sample.max_new_tokens to at most "
                    f"{max(0, self.context + 1 - len(prompt))}"
                )
        if begin is not None and len(begin) != len(prompts):
            raise ValueError(
                f"expected one state of the automaton for each of {len(prompts)} prompts, got {len(begin)}"
            )
        if rules.automaton is None or not prompts:
            return
        needed = int(rules.automaton.distance[list(begin or [0])].amax())
        if needed == NEVER:
            begins = " that begins with the prompt" if begin else ""
            raise ValueError(f"no text{begins} meets {rules.automaton.name} with the tokens that may be used")
        if needed > rules.limit:
            raise ValueError(
                f"{rules.automaton.name} needs {needed} tokens or more; sample.max_new_tokens is {rules.limit}"
            )

    def tiled(self, slots: Tensor) -> Tensor:
        """Repeat the last slot up to a whole number of tiles."""
        return tiled(slots, self._tile)

    def prefill(self, prompts: Sequence[Sequence[int]], state: Any = None, *, room: int) -> Any:
        """Return the state before the last token of every prompt, with room for so many steps. Equal ones run once."""
        contexts = [tuple(prompt[:-1]) for prompt in prompts]
        if state is not None:
            return self._model.prefill(contexts, state, room=room)
        numbers = {context: n for n, context in enumerate(dict.fromkeys(contexts))}
        each = torch.tensor([numbers[context] for context in contexts], device=self.device)
        return self.select(self._model.prefill(list(numbers), room=room), each)

    def _stepped(self, rows: "_Rows", rules: "Rules") -> Callable[..., tuple[Tensor, ...]]:
        """Return a step as a function of tensors: last tokens, uniform numbers and state to ids, features and state."""

        def step(last: Tensor, now: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            features, after = self.step(last, state)
            drawn, _ = self._sample(features, replace(rows, now=now), rules.limit, rules)
            return drawn, features, *after

        return step

    def _sample(self, features_bh: Tensor, rows: "_Rows", t: int, rules: "Rules") -> tuple[Tensor, Details | None]:
        """Draw the next token of every row, -1 where none is left, in chunks whose logits stay in the cache."""
        sampling = rules.sampling
        ids, details = [], []
        for part in self.output.parts(len(features_bh)):
            features, history = features_bh[part], rows.history[part]
            if sampling.details:  # the unmodified model first: nothing blocked
                logits = self.output.logits(features, self.output.plain_bias)
                plain = logits.log_softmax(-1)
                logits = logits.masked_fill(rules.bias == -math.inf, -math.inf)
            else:
                logits = self.output.logits(features, rules.bias)
            logits = self.shaped(logits, history, rows.places[part], t, rules)
            chosen = pick(self.output.probabilities(logits), rows.now[part])
            ids.append(chosen)
            if sampling.details:
                drawn = logits.log_softmax(-1)
                at_plain, at_drawn = (x.gather(1, chosen.clamp(min=0)[:, None]).squeeze(1) for x in (plain, drawn))
                details.append(Details(at_plain, entropy(plain), at_drawn, entropy(drawn), plain.amax(-1)))
        return torch.cat(ids), joined(details) if details else None

    def shaped(self, logits: Tensor, history: Tensor, places: Tensor, t: int, rules: "Rules") -> Tensor:
        """Return the logits (C, V) that position t is drawn from, given what was written (C, L); changes them in place.

        `places`: states of the automaton.
        """
        if rules.logits_processor is not None:
            _process(logits[:, : self.output.vocab_size], history, rules)
        rules.block(logits, places, t)
        return filtered(_block_runs(logits, history, rules), history, rules.sampling)

    def _check_left(self, texts: Tensor, lost: Sequence[tuple[Tensor, Tensor]], t: int, rules: "Rules") -> None:
        """Raise what says why a text of the steps up to `t` has no next token: the weights, or what was asked for."""
        if not (lost[0][0] if len(lost) == 1 else torch.stack([rows for rows, _ in lost])).any():
            return
        back, rows, features = next((n, rows, seen) for n, (rows, seen) in enumerate(lost) if rows.any())
        row, t = int(rows.int().argmax()), t + 1 - len(lost) + back
        text, features_h = int(texts[row]), features[row]
        own = self.output.logits(features_h[None], self.output.plain_bias)[0, : self.output.vocab_size]
        if not own.amax().isfinite():  # -inf alone is no fault: a model may rule tokens out
            raise NonFiniteError(f"text {text}, token {t}: the model's logits are not finite; its weights are broken")
        asked = [] if rules.automaton is None else [rules.automaton.name]
        asked += (
            [f"sample.min_new_tokens = {rules.sampling.min_new_tokens}"] if t < rules.sampling.min_new_tokens else []
        )
        asked += ["suppress_tokens"] if rules.sampling.suppress_tokens else []
        asked += ["logits_processor"] if rules.logits_processor is not None else []
        raise ValueError(f"text {text}, token {t}: no token is left under {' and '.join(asked)}; ask for less")


@dataclass(frozen=True)
class Rules:
    """What holds for every row and step of a call; made by `Decoder.rules`."""

    sampling: Sampling
    limit: int
    """Tokens at most, the stop counted."""
    stop: int
    bias: Tensor
    """(V padded): the output layer's, without the ids that are blocked throughout."""
    automaton: Automaton | None
    no_copy: NoCopy | None
    logits_processor: LogitsProcessor | None

    @property
    def look_back(self) -> bool:
        """Whether an option looks at what was written."""
        sampling, others = self.sampling, (self.no_copy, self.logits_processor)
        asked = sampling.no_repeat_ngram_size or sampling.repetition_penalty != 1
        return bool(asked or any(other is not None for other in others))

    def alike(self, t: int) -> bool:
        """Return whether steps from position t on differ in nothing but the model's state and the uniform numbers."""
        return t >= self.sampling.min_new_tokens and not (
            self.look_back or self.sampling.details or self.automaton is not None
        )

    def block(self, logits: Tensor, places: Tensor, t: int) -> None:
        """Take all mass from tokens that may not come at position t, in place: `places` are states of the automaton."""
        if self.automaton is not None:
            allowed = self.automaton.allowed(places, self.limit - t - 1)
            if self.stop >= 0:
                allowed[:, self.stop] = self.automaton.accepting[places]
            logits[:, : allowed.shape[1]].masked_fill_(~allowed, -math.inf)
        if self.stop >= 0 and t < self.sampling.min_new_tokens:
            logits[:, self.stop] = -math.inf

    def follow(self, places: Tensor, ids: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Return the automaton's states behind the tokens of position t, and whether the texts are over with them."""
        over = ids == self.stop
        if self.automaton is not None:
            places = self.automaton.next[places, ids].long().clamp(min=0)  # behind a stop it does not matter
            if t + 1 >= self.sampling.min_new_tokens:
                over = over | (self.automaton.final[places] & (ids != self.stop))
        return places, over


@dataclass
class _Rows:
    """What each row at work carries beside the model's state."""

    last: Tensor
    """(B,) int64: the token to be fed next."""
    seeds: Tensor
    """(B,) int64."""
    draws: Tensor
    """(B, 32) float64: the uniform numbers of this stretch of steps; hashing many costs little more than one."""
    now: Tensor
    """(B,) float64: that of this step."""
    places: Tensor
    """(B,) int64: the state of the automaton."""
    history: Tensor
    """(B, L) int64: prompt and text so far, -1 before a short prompt and for what only a source has; L = 0 if no option
    looks at it."""

    def select(self, slots: Tensor) -> "_Rows":
        return _Rows(*(getattr(self, field.name)[slots] for field in fields(self)))


def _left_padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of ids with -1 before the short ones, (B, longest) int64."""
    longest = max(map(len, rows))
    padded = [[-1] * (longest - len(row)) + list(row) for row in rows]
    return torch.tensor(padded, dtype=torch.int64).view(len(rows), longest)


def _process(logits: Tensor, history: Tensor, rules: Rules) -> None:
    """Put logits (C, V) through the caller's function, in place; what is blocked throughout stays blocked."""
    assert rules.logits_processor is not None
    made: Any = rules.logits_processor(history, logits.clone())
    expected = f"logits_processor must return logits {tuple(logits.shape)} of {logits.dtype}"
    if not isinstance(made, Tensor) or made.shape != logits.shape or made.dtype != logits.dtype:
        got = f"{tuple(made.shape)} of {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(f"{expected}, got {got}")
    if bool((made.isnan() | (made == math.inf)).any()):
        raise ValueError(f"{expected}, each a number or -inf, got {'NaN' if bool(made.isnan().any()) else 'inf'}")
    logits.copy_(made).masked_fill_(rules.bias[: logits.shape[1]] == -math.inf, -math.inf)
    if bool((logits.amax(1) == -math.inf).any()):
        raise ValueError("logits_processor must leave a token to draw; it gave -inf to all that a text may go on with")


def _block_runs(logits: Tensor, history: Tensor, rules: Rules) -> Tensor:
    """Block what would repeat a run of the text or copy one of the training text, where something is left then."""
    runs = []
    if rules.sampling.no_repeat_ngram_size:
        runs.append(_repeats(history, rules.sampling.no_repeat_ngram_size))
    if rules.no_copy is not None:
        runs.append(rules.no_copy.completions(history))
    if not sum(ids.shape[1] for ids in runs):
        return logits
    left = logits.masked_fill(_marked(torch.cat(runs, 1), logits.shape[1]), -math.inf)
    return torch.where(left.amax(-1, keepdim=True) == -math.inf, logits, left)


def _marked(ids_bk: Tensor, columns: int) -> Tensor:
    """Return which of so many columns each row names, (B, columns) bool; -1 names none."""
    ids = torch.where(ids_bk < 0, columns, ids_bk)
    return ids.new_zeros(len(ids), columns + 1, dtype=torch.bool).scatter_(1, ids, True)[:, :columns]


def _repeats(history_bl: Tensor, n: int) -> Tensor:
    """Return the ids (B, L - n + 1) that would complete an n-gram which the row already holds, -1 where none would."""
    if history_bl.shape[1] < n:
        return history_bl[:, :0]
    windows = history_bl.unfold(1, n, 1)  # (B, L - n + 1, n)
    tail = history_bl[:, history_bl.shape[1] - n + 1 :].unsqueeze(1)
    same = (windows[:, :, : n - 1] == tail).all(-1) & (windows >= 0).all(-1)
    return torch.where(same, windows[:, :, -1], -1)


def _reshape(logits: Tensor, history: Tensor, sampling: Sampling) -> None:
    """Apply repetition penalty (Keskar et al. 2019) and temperature, in place."""
    if sampling.repetition_penalty != 1:
        seen = _marked(history, logits.shape[1])
        weaker = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
        torch.where(seen, weaker, logits, out=logits)
    if sampling.temperature not in (0, 1):
        if sampling.temperature < _COLD:
            logits -= logits.amax(-1, keepdim=True)  # the likeliest stays at 0 where the others overflow
        # as a float32 a temperature outside its range would be 0 or infinite, and 0 / 0 or inf / inf no number
        logits /= min(max(sampling.temperature, _FLOAT32.tiny), _FLOAT32.max)


def filtered(logits: Tensor, history: Tensor, sampling: Sampling) -> Tensor:
    """Return the logits (B, V) that are drawn from: penalty and temperature in place, then what the filters leave.

    Each filter works on what the one before left. `history` (B, L): as in `_Rows`.
    """
    _reshape(logits, history, sampling)
    if sampling.sure:
        return keep_top_k(logits, 1)
    if sampling.top_k:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p:
        logits = keep_min_p(logits, sampling.min_p)
    if 0 < sampling.typical_p < 1:
        logits = keep_typical(logits, sampling.typical_p)
    return logits


def joined(parts: Sequence[Details]) -> Details:
    """Return values of several steps, or of a text's parts, as one."""
    return Details(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Details)))


def _rows_of(details: Details, rows: Tensor | slice) -> Details:
    return Details(*(getattr(details, f.name)[rows] for f in fields(Details)))


def collect(steps: Sequence[Step], count: int, detailed: bool) -> Samples:
    """Collect the texts of `count` prompts from their steps; `detailed`: with the steps' details."""
    if not steps:
        return Samples([], [], [] if detailed else None)
    names = ("texts", "ids", "ended", "finished")
    columns = [torch.cat([getattr(step, name) for step in steps]).long() for name in names]
    live = torch.cat([torch.ones_like(step.ended) if step.live is None else step.live for step in steps])
    texts, ids, ended, over, live = torch.stack([*columns, live]).cpu()  # one wait for the device
    kept = live.nonzero().squeeze(1)
    order = kept[texts[kept].argsort(stable=True)]
    lengths = texts[kept].bincount(minlength=count).tolist()
    rows = [row.tolist() for row in ids[order].split_with_sizes(lengths)]
    stopped, finished = (set(texts[order][end[order] > 0].tolist()) for end in (ended, over))
    details = None
    if detailed:
        parts = [step.details for step in steps if step.details is not None]
        whole = torch.stack([torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Details)]).cpu()
        details = [Details(*values) for values in whole[:, order].split_with_sizes(lengths, 1)]
    written = [row[:-1] if text in stopped else row for text, row in enumerate(rows)]
    return Samples(written, [text in finished for text in range(count)], details)
