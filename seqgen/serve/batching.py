"""Continuous batching: texts enter and leave a batch at any step of the decoder (Yu et al. 2022, Orca).

    batch = Batch(decoder, rows=64)
    batch.add([Row(ids, seed=7, sampling=Sampling(), limit=50, receive=print)])
    while batch:
        batch.step()

A row's tokens are those that `Decoder.steps` gives for its prompt, seed and options, whatever else is in the batch:
rows stand in whole tiles, and the draw of a row depends on its own seed and count of tokens. `Worker` is the one thread
in which the models of a server compute; everybody else hands it rows.
Shapes: B rows at work, V vocabulary.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqgen.core.errors import NonFiniteError
from seqgen.core.options import Sampling
from seqgen.core.rng import uniforms
from seqgen.nn.decode import Decoder, Rules, filtered
from seqgen.nn.sampler import pick


@dataclass(frozen=True)
class Token:
    """One token of a text."""

    id: int
    log_prob: float
    """Under the unmodified model, nats; NaN unless it was asked for."""
    top: dict[int, float]
    """The likeliest ids there and their log-probabilities."""
    last: bool
    """Whether the text ends with it, by the stop, the length limit, or constraints that leave no more to write."""
    complete: bool = False
    """Whether it is the constraints that end it."""


@dataclass(eq=False)
class Row:
    """One text to be written."""

    ids: Sequence[int]
    """What the model reads first, its start id included."""
    seed: int
    """The text's own, one of `core.rng.text_seeds`."""
    sampling: Sampling
    """Temperature and filters; its lengths, blocks and penalties are not looked at without `rules`."""
    limit: int
    """New tokens at most, the stop counted."""
    receive: Callable[[Token | Exception], bool | None]
    """Is called in the worker's thread with each token, or once with what went wrong; True: the text is over."""
    top: int | None = None
    """How many of the likeliest tokens are wanted beside each one's log-probability; None: neither."""
    forced: Sequence[int] = ()
    """Tokens given in advance: they are scored and received like others, before what is drawn."""
    rules: Rules | None = None
    """Constraints, by which its tokens are drawn one row at a time; None: none."""
    place: int = 0
    """State of their automaton behind what was written."""
    gone: bool = False
    """Whether nobody wants the text any more; set from any thread, it frees the row at the next step."""
    drawn: int = field(default=0, init=False)
    """New tokens so far."""
    scored: int = field(default=0, init=False)
    """Forced tokens so far."""
    written: list[int] = field(default_factory=list, init=False)
    """The new tokens, for constraints that look back."""


class Batch:
    """Texts at work with one model, at most `rows` together."""

    def __init__(self, decoder: Decoder, rows: int) -> None:
        self._decoder, self._rows = decoder, rows
        self._work: list[Row] = []
        self._waiting: deque[Row] = deque()
        self._state: Any = None  # of every slot: the rows at work, then repeats of the last that fill the tile
        self._last = torch.empty(0, dtype=torch.int64)
        self._seeds = torch.empty(0, dtype=torch.int64)
        self._groups: list[tuple[Sampling, Tensor]] = []

    def __len__(self) -> int:
        return len(self._work) + len(self._waiting)

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows in as soon as there is room."""
        self._waiting.extend(rows)

    @torch.inference_mode()
    def step(self) -> None:
        """Write one token of every text at work, after those that wait have come in and those gone have left."""
        self._enter()
        if not self._work:
            return
        decoder, count = self._decoder, len(self._work)
        features, self._state = decoder.step(self._last, self._state)
        logits = decoder.output.logits(features, decoder.output.bias)[:count]
        plain = None
        if any(row.top is not None for row in self._work):
            plain = decoder.output.logits(features, decoder.output.plain_bias)[:count].log_softmax(-1)
        times = torch.tensor([row.drawn for row in self._work], device=decoder.device)
        draws = uniforms(self._seeds, times)
        if len(self._groups) == 1 and len(self._groups[0][1]) == count:
            ids = self._drawn(logits, draws, self._groups[0][0])
        else:
            ids = torch.empty(count, dtype=torch.int64, device=decoder.device)
            for sampling, rows in self._groups:
                ids[rows] = self._drawn(logits[rows], draws[rows], sampling)
            for n, row in enumerate(self._work):
                if row.rules is not None:
                    ids[n] = self._ruled(logits[n : n + 1], draws[n : n + 1], row, row.rules)[0]
        forced = [row.forced[row.scored] if row.scored < len(row.forced) else -1 for row in self._work]
        if max(forced) >= 0:
            given = torch.tensor(forced, device=decoder.device)
            ids = torch.where(given >= 0, given, ids)
        going = [n for n, over in enumerate(self._receive(ids, forced, plain)) if not over]
        if len(going) < count:
            self._keep(going, ids)
        else:
            self._last = decoder.tiled(ids)

    def fail(self, error: Exception) -> None:
        """Tell every text that it cannot be written, and forget them."""
        for row in [*self._work, *self._waiting]:
            row.receive(error)
        self._waiting.clear()
        self._keep([], self._last)

    def _drawn(self, logits: Tensor, draws: Tensor, sampling: Sampling) -> Tensor:
        history = draws.new_empty(len(draws), 0, dtype=torch.int64)
        return pick(self._decoder.output.probabilities(filtered(logits, history, sampling)), draws)

    def _ruled(self, logits: Tensor, draws: Tensor, row: Row, rules: Rules) -> Tensor:
        """Draw the next token (1,) of one row under its constraints."""
        read = [*row.ids, *row.forced, *row.written] if rules.look_back else []
        history = torch.tensor([read], dtype=torch.int64, device=draws.device)
        history.masked_fill_(history >= self._decoder.output.vocab_size, -1)
        place = torch.tensor([row.place], device=draws.device)
        shaped = self._decoder.shaped(logits.clone(), history, place, row.drawn, rules)
        return pick(self._decoder.output.probabilities(shaped), draws)

    def _receive(self, ids: Tensor, forced: Sequence[int], plain: Tensor | None) -> list[bool]:
        """Hand every row its token; which texts are over."""
        stop, over = self._decoder.stop, []
        own = None if plain is None else plain.gather(1, ids.clamp(min=0)[:, None]).squeeze(1).tolist()
        for n, (row, i) in enumerate(zip(self._work, ids.tolist(), strict=True)):
            if i < 0:
                broken: Exception = NonFiniteError("the model's logits are not finite; its weights are broken")
                if row.rules is not None and row.rules.automaton is not None:
                    broken = ValueError(f"no token is left under {row.rules.automaton.name}; ask for less")
                row.receive(broken)
                over.append(True)
                continue
            complete = False
            top: dict[int, float] = {}
            if plain is not None and row.top:
                values, likeliest = plain[n, : self._decoder.output.vocab_size].topk(
                    min(row.top, self._decoder.output.vocab_size)
                )
                top = dict(zip(likeliest.tolist(), values.tolist(), strict=True))
            if forced[n] >= 0:
                row.scored += 1
                last = row.scored == len(row.forced) and row.limit == 0
            else:
                row.drawn += 1
                row.written.append(i)
                if row.rules is not None and row.rules.automaton is not None and i != stop:
                    row.place = max(0, int(row.rules.automaton.next[row.place, i]))
                    complete = bool(row.rules.automaton.final[row.place])
                last = i == stop or complete or row.drawn >= row.limit
            done = row.receive(Token(i, math.nan if own is None else own[n], top, last, complete))
            over.append(last or bool(done))
        return over

    def _enter(self) -> None:
        """Free the rows that are gone, and let in those that wait."""
        if any(row.gone for row in self._work):
            self._keep([n for n, row in enumerate(self._work) if not row.gone], self._last)
        self._waiting = deque(row for row in self._waiting if not row.gone)
        decoder = self._decoder
        room = self._rows - len(self._work) if decoder.join is not None or not self._work else 0
        new = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        if not new:
            return
        seeds = torch.tensor([row.seed for row in new], device=decoder.device)
        prompts = [row.ids for row in new]
        padded = [*prompts, *[prompts[-1]] * (-len(prompts) % len(decoder.tiled(seeds[:1])))]
        state = None if decoder.start is None else decoder.start(decoder.tiled(seeds))
        room = max(row.limit + len(row.forced) for row in new)
        state = decoder.prefill(padded, state, room=room)
        last = torch.tensor([ids[-1] for ids in prompts], device=decoder.device)
        count = len(self._work)
        if count:
            assert decoder.join is not None
            rows = torch.arange(count + len(new), device=decoder.device)
            old = decoder.select(self._state, rows[:count])
            state = decoder.join([old, decoder.select(state, rows[: len(new)])])
            last, seeds = torch.cat([self._last[:count], last]), torch.cat([self._seeds, seeds])
            self._state = decoder.select(state, decoder.tiled(rows))
        else:
            self._state = state
        self._work += new
        self._last, self._seeds = decoder.tiled(last), seeds
        self._group()

    def _keep(self, rows: Sequence[int], ids: Tensor) -> None:
        """Keep some of the rows at work, which read `ids` next."""
        self._work = [self._work[n] for n in rows]
        if not rows:
            self._state = None
            return
        kept = torch.tensor(rows, device=self._decoder.device)
        self._seeds, self._last = self._seeds[kept], self._decoder.tiled(ids[kept])
        self._state = self._decoder.select(self._state, self._decoder.tiled(kept))
        self._group()

    def _group(self) -> None:
        """Which rows are drawn in the same way: the filters work on those together."""
        groups: dict[Sampling, list[int]] = {}
        for n, row in enumerate(self._work):
            if row.rules is None:
                groups.setdefault(row.sampling, []).append(n)
        device = self._decoder.device
        self._groups = [(sampling, torch.tensor(rows, device=device)) for sampling, rows in groups.items()]


class FullError(Exception):
    """More texts wait than the server takes."""


class Worker:
    """The thread in which the models of a server compute; `close` ends it when its texts are written."""

    def __init__(self, batches: Mapping[str, Batch], room: int) -> None:
        self._batches, self._room = batches, room
        self._new: list[tuple[str, Sequence[Row]]] = []
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="seqgen-serve", daemon=True)
        self._thread.start()

    @property
    def load(self) -> int:
        """Texts at work and waiting, and other work that waits."""
        return sum(map(len, self._batches.values())) + sum(len(rows) for _, rows in self._new) + len(self._calls)

    def add(self, name: str, rows: Sequence[Row]) -> None:
        """Hand over rows for the model of this name; FullError where too many wait."""
        with self._changed:
            if self.load + len(rows) > self._room:
                raise FullError
            self._new.append((name, rows))
            self._changed.notify()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Let the thread call a function between two steps; FullError where too many wait."""
        future: Future[Any] = Future()
        with self._changed:
            if self.load >= self._room:
                raise FullError
            self._calls.append((future, function))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Write what was begun, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._new or self._calls or self._closing or any(self._batches.values())):
                    self._changed.wait()
                new, self._new = self._new, []
                for name, rows in new:
                    self._batches[name].add(rows)
                if self._closing and not self._calls and not any(self._batches.values()):
                    return
                future, function = self._calls.popleft() if self._calls else (None, None)
            for batch in self._batches.values():
                if batch:
                    try:
                        batch.step()
                    except Exception as error:  # whatever it was, the others go on
                        batch.fail(error)
            if future is not None and function is not None and future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)
