"""From a request for texts to rows of a batch, and from the tokens of a row to the text that a client sees."""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from torch import Tensor

from seqgen.core import config, rng
from seqgen.core.errors import DataError, RunError
from seqgen.core.options import Constraints
from seqgen.engine.generate import Beginning, TextGenerator, TextOptions, check_resampled
from seqgen.engine.latent import LatentSpace
from seqgen.nn.automaton import Automaton, NoCopy
from seqgen.serve.batching import Batch, Row, Token
from seqgen.serve.limits import Limits
from seqgen.serve.protocol import Common, InterpolationRequest, RequestError, Scored

messages = logging.getLogger("seqgen.serve")
_IMPOSSIBLE = -9999.0
"""What the protocol writes for a log-probability of -infinity."""


@dataclass(frozen=True)
class Piece:
    """What was added to a text."""

    index: int
    text: str
    tokens: list[Scored]
    finish_reason: str | None = None
    """stop: the model or a stop string ended it; length: the limit did; None: it goes on."""
    error: Exception | None = None


class Model:
    """A run that is served, by its name."""

    def __init__(self, name: str, generator: TextGenerator, limits: Limits, created: int) -> None:
        self.name, self.generator, self.limits, self.created = name, generator, limits, created
        self.decoder = generator.left_to_right("serving")
        self.batch = Batch(self.decoder, limits.rows)
        # a client's next request often has the same constraints; a table is as large as the vocabulary times its states
        self._automaton, self._building = lru_cache(4)(generator.automaton), threading.Lock()
        self._copy_block = lru_cache(1)(generator.copy_block)
        self.latents = LatentSpace(generator) if getattr(generator.model, "encodes", False) else None
        """How a text VAE interpolates; None for other models."""

    def card(self) -> dict[str, Any]:
        """Return what a page must know of the model."""
        conditions = bool(self.generator.settings.data.source)
        return {"makes": "text", "interpolates": self.latents is not None, "conditions": conditions}

    def interpolate(self, request: InterpolationRequest) -> list[str]:
        """Return the texts on the way from one to another; RequestError for a model without latents."""
        if self.latents is None:
            raise RequestError(f"{self.name} has no latents to interpolate; a text-vae has", param="model")
        for name, text in (("begin", request.begin), ("end", request.end)):
            length = len(self.generator.tokenizer.encode([text]).row(0))
            if length > self.limits.max_prompt:
                raise RequestError(
                    f"{name} must have at most {self.limits.max_prompt} tokens, got {length}", param=name
                )
        seed = secrets.randbits(53) if request.seed is None else request.seed
        return self.latents.interpolate(
            request.begin, request.end, steps=request.steps, source=request.source, seed=seed
        )

    def texts(
        self,
        request: Common,
        *,
        prompts: Sequence[str],
        source: str | None,
        max_tokens: int | None,
        top: int | None,
        echo: bool,
        receive: Callable[[Piece], None],
    ) -> list["Text"]:
        """Return the texts that a request asks for, not begun yet: `n` for each prompt.

        `top`: how many of the likeliest tokens are wanted beside each token's log-probability, None: neither.
        `receive` is called in the worker's thread. RequestError, or an error of the library, says what cannot be.
        """
        limits, seed = self.limits, secrets.randbits(53) if request.seed is None else request.seed
        drawing = TextOptions(
            max_new_tokens=max_tokens or 0,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            typical_p=request.typical_p,
            stop=request.stop,
            bad_words=tuple(request.bad_words),
            require=tuple(request.require),
            template=request.template,
            pattern=request.pattern,
            no_copy=request.no_copy,
        )
        candidates = self.generator.candidates(request.resample)
        if candidates > 1:
            check_resampled(drawing, candidates)
        room = limits.rows + limits.queue
        if len(prompts) * request.n * candidates > room:
            each = f", each one of {candidates}" if candidates > 1 else ""
            raise RequestError(
                f"a request may ask for at most {room // candidates} texts{each}, got {len(prompts) * request.n}",
                param="n",
            )
        sampling = self.generator.sampling(drawing)
        limit = sampling.limit(self.decoder.max_length)
        if max_tokens is None:
            limit = min(limit, limits.max_tokens)
        elif max_tokens > limits.max_tokens:
            raise RequestError(f"max_tokens must be at most {limits.max_tokens}, got {max_tokens}", param="max_tokens")
        automaton, no_copy = self._constraints(drawing)
        begins = [
            begin
            for prompt in prompts
            for begin in self.generator.beginnings(prompt, None, None if source is None else [source], automaton)
        ]
        longest = max(len(begin.ids) for begin in begins) - 1
        if longest > limits.max_prompt:
            raise RequestError(f"a prompt must have at most {limits.max_prompt} tokens, got {longest}", param="prompt")
        rules = self.decoder.rules(replace(sampling, max_new_tokens=limit), automaton, no_copy)
        self.decoder.check([b.ids for b in begins], [b.place for b in begins] if automaton else None, rules)
        kind = replace(sampling, max_new_tokens=0)  # equal for rows that are drawn in the same way
        limit = 0 if max_tokens == 0 else limit
        made = []
        for j, begin in enumerate(begins):
            for k in range(request.n):
                text = Text(self, begin, j * request.n + k, request, echo=echo, scored=top is not None, receive=receive)
                seeds = rng.text_seeds(seed, k * candidates, candidates, begin.prompt)
                receivers: list[Callable[[Token | Exception], bool | None]] = [text.add]
                if candidates > 1:
                    receivers = _Candidates(self, text, begin, seeds[:1]).receivers(candidates)
                text.rows = [
                    Row(
                        begin.ids[: len(begin.ids) - len(text.forced)],
                        own,
                        kind,
                        limit,
                        receiver,
                        top=top,
                        forced=text.forced,
                        rules=rules if request.constrained else None,
                        place=begin.place,
                    )
                    for own, receiver in zip(seeds.tolist(), receivers, strict=True)
                ]
                made.append(text)
        return made

    def _constraints(self, options: TextOptions) -> tuple[Automaton | None, NoCopy | None]:
        """Return what holds for every text by construction; RequestError where the training text is not at hand."""
        with self._building:
            automaton, no_copy = self._automaton(config.part(options, Constraints)), None
            if options.no_copy:
                try:
                    no_copy = self._copy_block(options.no_copy)
                except (DataError, RunError) as error:  # which names files of this machine
                    messages.warning("no_copy: %s", error)
                    raise RequestError(
                        "no_copy needs the training text, which this server does not have", param="no_copy"
                    ) from None
        return automaton, no_copy


class _Candidates:
    """The candidates of a text of a refined run while they are written; the tokens of the chosen one go to the text."""

    def __init__(self, model: Model, text: "Text", begin: Beginning, seed: Tensor) -> None:
        self._model, self._text, self._begin, self._seed = model, text, begin, seed
        self._tokens: list[list[Token]] = []
        self._open = 0

    def receivers(self, count: int) -> list[Callable[[Token | Exception], bool | None]]:
        """Return what receives the tokens of each candidate."""
        self._tokens, self._open = [[] for _ in range(count)], count
        return [partial(self._add, own) for own in self._tokens]

    def _add(self, own: list[Token], token: Token | Exception) -> bool:
        if isinstance(token, Exception):
            if self._open > 0:  # one of them tells it
                self._open = -1
                self._text.add(token)
            return True
        own.append(token)
        self._open -= token.last
        if not self._open:
            for chosen in self._tokens[self._chosen()]:
                self._text.add(chosen)
        return token.last

    def _chosen(self) -> int:
        before = [] if self._text.forced else self._begin.own
        ids = [[*before, *(token.id for token in own)] for own in self._tokens]
        return self._model.generator.chosen(ids, self._seed)


class Text:
    """One text while it is written: receives tokens in the worker's thread, sends pieces."""

    rows: list[Row]
    """The one that writes it, or those of its candidates."""

    def __init__(
        self,
        model: Model,
        begin: Beginning,
        index: int,
        request: Common,
        *,
        echo: bool,
        scored: bool,
        receive: Callable[[Piece], None],
    ) -> None:
        self._generator, self._decoder = model.generator, model.decoder
        self._begin, self._index, self._receive = begin, index, receive
        self._stream, self._scored, self._stop = request.stream, scored, request.stop
        self.forced = begin.own if echo and scored else []
        """The tokens of the prompt, where they are scored too."""
        self._text = self._generator.decoded([begin.own])[0] if echo else ""
        self._offset = len(self._text)  # of the first new token
        # a text that nobody reads before its end is decoded once: token by token that costs more than the model's step
        grows = request.stream or request.stop or scored
        self._written = self._generator.growing([begin.own], request.stop) if grows else None
        self._read = self._generator.growing([[]], ()) if self.forced else None
        self._ids: list[int] = []
        self._tokens: list[Scored] = []
        self.prompt_tokens = len(begin.ids) - 1
        self.drawn = 0
        """New tokens so far, for the count of usage."""

    def leave(self) -> None:
        """Free its rows at the next step: nobody wants the text any more."""
        for row in self.rows:
            row.gone = True

    def add(self, token: Token | Exception) -> bool:
        """Take the next token, or what went wrong; whether the text is over."""
        if isinstance(token, Exception):
            self._receive(Piece(self._index, "", [], error=token))
            return True
        if self._read is not None and len(self._read.ends[0]) <= len(self.forced):
            offset = self._read.ends[0][-1]
            self._read.add([0], [token.id])
            over, reason = token.last, "length"
        else:
            self.drawn += 1
            written, ended = self._written, token.id == self._decoder.stop
            offset = self._offset + (0 if written is None else written.ends[0][-1])
            if not ended:
                self._ids.append(token.id)
                self._text += "" if written is None else written.add([0], [token.id])[0]
            over = token.last or (written is not None and written.over[0])
            reason = "stop" if ended or token.complete else "length"
        if self._scored:
            self._tokens.append(self._shown(token, offset))
        if over:
            self._end(reason)
        elif self._stream and not (self._scored and self._stop):
            # a stop string decides at the end which tokens are shown
            self._send(None)
        return over

    def _end(self, reason: str) -> None:
        own, ids, written = self._begin.own, self._ids, self._written
        if written is None:
            begin, text = self._generator.decoded([own, [*own, *ids]])
            self._text += text[len(begin) :]
        elif written.over[0]:
            reason = "stop"
            kept, _ = self._generator.cut(written, 0, own, ids)
            del self._tokens[len(self._tokens) - len(ids) + len(kept) :]
        else:
            self._text += written.rest(0)
        self._send(reason)

    def _send(self, reason: str | None) -> None:
        if self._text or self._tokens or reason is not None:
            self._receive(Piece(self._index, self._text, self._tokens, reason))
            self._text, self._tokens = "", []

    def _shown(self, token: Token, offset: int) -> Scored:
        name = self._generator.tokenizer.id_to_token
        top = [(name(i), max(value, _IMPOSSIBLE)) for i, value in token.top.items()]
        return Scored(name(token.id), max(token.log_prob, _IMPOSSIBLE), top, offset)
