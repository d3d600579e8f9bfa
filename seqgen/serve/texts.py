"""From a request for texts to rows of a batch, and from the tokens of a row to the text that a client sees."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seqgen.core import rng
from seqgen.core.options import Drawing
from seqgen.engine.generate import Beginning, TextGenerator
from seqgen.engine.latent import LatentSpace
from seqgen.serve.batching import Batch, Row, Token
from seqgen.serve.limits import Limits
from seqgen.serve.protocol import Common, InterpolationRequest, RequestError, Scored

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
        drawing = Drawing(
            max_new_tokens=max_tokens or 0,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            typical_p=request.typical_p,
        )
        sampling = self.generator.sampling(drawing)
        limit = sampling.limit(self.decoder.max_length)
        if max_tokens is None:
            limit = min(limit, limits.max_tokens)
        elif max_tokens > limits.max_tokens:
            raise RequestError(f"max_tokens must be at most {limits.max_tokens}, got {max_tokens}", param="max_tokens")
        begins = [
            begin
            for prompt in prompts
            for begin in self.generator.beginnings(prompt, None, None if source is None else [source], None)
        ]
        longest = max(len(begin.ids) for begin in begins) - 1
        if longest > limits.max_prompt:
            raise RequestError(f"a prompt must have at most {limits.max_prompt} tokens, got {longest}", param="prompt")
        self.decoder.check([b.ids for b in begins], None, self.decoder.rules(replace(sampling, max_new_tokens=limit)))
        kind = replace(sampling, max_new_tokens=0)  # equal for rows that are drawn in the same way
        limit = 0 if max_tokens == 0 else limit
        made = []
        for j, begin in enumerate(begins):
            for k in range(request.n):
                text = Text(self, begin, j * request.n + k, request, echo=echo, scored=top is not None, receive=receive)
                text.row = Row(
                    begin.ids[: len(begin.ids) - len(text.forced)],
                    int(rng.text_seeds(seed, k, 1, begin.prompt)),
                    kind,
                    limit,
                    text.add,
                    top=top,
                    forced=text.forced,
                )
                made.append(text)
        return made


class Text:
    """One text while it is written: receives tokens in the worker's thread, sends pieces."""

    row: Row

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
            reason = "stop" if ended else "length"
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
