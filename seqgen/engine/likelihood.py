"""How likely given lines are under a model, token by token, and what a critic makes of them.

scores = seqgen.load("runs/captions").score(lines)
scores.perplexity, scores.per_line
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import DataError, RunError
from seqgen.data.batches import sentence_evaluation
from seqgen.data.corpus import Corpus
from seqgen.data.prepare import encode_sources, facts
from seqgen.data.ragged import Ragged, joined
from seqgen.data.tokenizers import Tokenizer
from seqgen.data.tokenizers.common import encoded
from seqgen.engine import page
from seqgen.engine.run import Settings
from seqgen.models import refined
from seqgen.models._contract import TextModel
from seqgen.nn.decode import Decoder, Details

_ROWS = 512
"""Lines scored together; results do not depend on it."""
MOST_CANDIDATES = 256
"""Candidates of a text at most."""

_SHOWN = 50
"""Lines that a notebook shows."""


@dataclass(frozen=True, repr=False)
class LineScores:
    """How likely given lines are under a run, in nats; the end of sentence is counted, `<unk>` is counted."""

    lines: list[str]
    log_probs: list[list[float]]
    """Per line, the log-probability of every counted token."""
    tokens: list[list[str]]
    """Per line, the counted tokens."""
    bound: str = ""
    """"" where they are exact; else how they were computed: their sums are at most the log-likelihood, so that nats and
    perplexity are upper bounds, not to be compared with exact ones."""
    resample: int = 1
    """Candidates n of a refined run, whose tokens are scored by its base and whose lines by q_n."""
    gains: list[float] = field(default_factory=list)
    """Per line, log q_n less the log-probability under the base, estimated; [] for n = 1."""

    def __repr__(self) -> str:
        return f"LineScores({len(self.lines)} lines, perplexity {self.perplexity:.4g})"

    def _repr_html_(self) -> str:
        nats = zip(self.tokens, self.log_probs, self.per_line, strict=True)
        rows = [[page.tokens(tokens, log_probs), f"{-nats:.2f}"] for tokens, log_probs, nats in nats]
        more = f"<p>and {len(rows) - _SHOWN} more lines</p>" if len(rows) > _SHOWN else ""
        return page.fragment(f"<p>{self!r}</p>{page.table(['', 'nats'], rows[:_SHOWN])}{more}")

    @property
    def per_line(self) -> list[float]:
        """Log-probability of each line, nats."""
        sums = [sum(row) for row in self.log_probs]
        return [total + gain for total, gain in zip(sums, self.gains, strict=True)] if self.gains else sums

    @property
    def total_tokens(self) -> int:
        """Tokens counted in all lines."""
        return sum(map(len, self.log_probs))

    @property
    def nats(self) -> float:
        """Negative log-probability of all lines together."""
        return -sum(self.per_line)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability per token."""
        return float(torch.tensor(self.nats / self.total_tokens, dtype=torch.float64).exp())

    @property
    def nats_per_character(self) -> float:
        """Negative log-probability over the characters of the lines, each line's end counted as one."""
        return self.nats / sum(len(line) + 1 for line in self.lines)


@dataclass(frozen=True)
class Attention:
    """How much each token of a text looks at each token of its source."""

    source: list[str]
    """Tokens of the source, its start and separators included."""
    tokens: list[str]
    """Tokens of the text, its end included."""
    weights: list[list[float]]
    """For each token of the text a share of 1 for each token of the source."""


@dataclass(frozen=True)
class CriticScores:
    """How real given lines look to a critic, which was trained to distinguish real from generated text."""

    lines: list[str]
    per_line: list[float]
    """The critic's logit of each line: above 0 it looks real, below 0 it does not. Of a refined run an estimate of
    log p_data - log p up to a constant, nats: only differences of lines say something."""
    per_token: list[list[float]]
    """Per line, what each token adds to that: far below 0, the line would look more real without it. Empty for a
    refined run, whose critic looks at whole lines."""
    tokens: list[list[str]]
    """Per line, the judged tokens."""


class LineScorer:
    """A text model and its tokenizer at work on given lines."""

    def __init__(
        self, model: TextModel, tokenizer: Tokenizer, settings: Settings, device: torch.device, folder: Path | None
    ) -> None:
        self.model, self.tokenizer, self.settings, self.device, self.folder = model, tokenizer, settings, device, folder
        known = facts(tokenizer, settings.data.mode, 0)
        self.start, self.stop = int(known["start"]), int(known["stop"])
        self.running = settings.data.mode in ("stream", "window")

    def score(
        self,
        lines: Sequence[str],
        sources: Sequence[str] | None = None,
        *,
        resample: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> LineScores:
        """Return the log-probability of every token of the lines; as `TextGenerator.score`."""
        n = self.candidates(resample)
        low = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), low:
            log_probs, tokens = self._by_line(self.model.log_probs, lines, sources)
        if not all(math.isfinite(value) for row in log_probs for value in row):
            raise RunError(f"{self.folder}: the model gives log-probabilities that are NaN or infinite")
        gains = self._gains(lines, n) if n > 1 else []
        bound = getattr(self.model, "bound", "")  # optional: see models._contract.Bounded
        return LineScores(list(lines), log_probs, tokens, bound, n, gains)

    def candidates(self, asked: int | None) -> int:
        """Return how many candidates each text has: as asked or, of a refined run, its own number; 1: no choice.

        ValueError for a number outside 1..256, RunError for a run without such a critic.
        """
        if asked is not None and not 1 <= asked <= MOST_CANDIDATES:
            raise ValueError(f"resample must be in 1..{MOST_CANDIDATES}, got {asked}")
        if isinstance(self.model, refined.Model):
            return self.model.config.resample if asked is None else asked
        if asked not in (None, 1):
            raise RunError(f"a run of {self.settings.name} has no critic to choose by; make one with: seqgen refine")
        return 1

    def features(self, model: refined.Model, lines: Sequence[str]) -> torch.Tensor:
        """Return what the critic of a refined run looks at in each line, (B, F) float64."""
        return torch.cat([model.features(ids, details) for ids, details in self.read(model, lines)])

    def read(self, model: refined.Model, lines: Sequence[str]) -> Iterator[tuple[list[list[int]], Sequence[Details]]]:
        """Yield the ids of some lines after the other, their ends included, and what the base thinks of them."""
        ids = [[*row.tolist(), self.stop] for row in self.encode(lines)]
        decoder = model.decoder()
        for begin in range(0, len(ids), _ROWS):
            some = ids[begin : begin + _ROWS]
            yield some, decoder.read([[self.start, *row] for row in some])

    def never_written(self, lines: Sequence[str]) -> list[bool]:
        """Return which lines have a token that texts of the model never have, such as an unknown word."""
        never = self.model.decoder().suppress_tokens - {self.stop}  # type: ignore[attr-defined]
        return [not never.isdisjoint(row.tolist()) for row in self.encode(lines)]

    def _gains(self, lines: Sequence[str], n: int) -> list[float]:
        """Return log q_n - log p of each line; 0 for what no candidate can be."""
        assert isinstance(self.model, refined.Model)
        gains: list[float] = self.model.gains(self._scores(lines), n).tolist()
        return [0.0 if no else gain for no, gain in zip(self.never_written(lines), gains, strict=True)]

    def _scores(self, lines: Sequence[str]) -> torch.Tensor:
        assert isinstance(self.model, refined.Model)
        return self.model.scores(self.features(self.model, lines))

    def ranks(self, lines: Sequence[str], sources: Sequence[str] | None = None) -> list[list[int]]:
        """Return the rank of every token of the lines; as `TextGenerator.ranks`."""
        decoder = self.model.decoder()
        other = getattr(self.model, "encodes", False) or hasattr(self.model, "attention")
        if other or not isinstance(decoder, Decoder):
            raise RunError(
                f"a run of {self.settings.name} gives no exact distribution of the next token by single steps: no ranks"
            )

        def of_batch(batch: SequenceBatch) -> torch.Tensor:
            ids = torch.cat([batch.inputs[:, :1], batch.targets], 1).tolist()
            known = batch.sizes.T.tolist()
            read = decoder.ranks([row[: length + 1] for row, (length, _) in zip(ids, known, strict=True)])
            return torch.cat([ranks[length - counted :] for ranks, (length, counted) in zip(read, known, strict=True)])

        with torch.inference_mode():
            return [[int(rank) for rank in row] for row in self._by_line(of_batch, lines, sources)[0]]

    def critic_scores(self, lines: Sequence[str]) -> CriticScores:
        """Return what the critic makes of the lines and their tokens; as `TextGenerator.critic_scores`."""
        if isinstance(self.model, refined.Model):
            nothing: list[list[Any]] = [[] for _ in lines]
            return CriticScores(list(lines), self._scores(lines).tolist(), nothing, nothing)
        critic = getattr(self.model, "critic_scores", None)  # the one model with a critic in training has it
        if critic is None:
            raise RunError(f"a run of {self.settings.name} has no critic; make one with seqgen refine or train seqgan")
        per_line = [0.0] * len(lines)

        def each_token(batch: SequenceBatch) -> torch.Tensor:
            whole, each = critic(batch)
            for row, value in zip(batch.rows.tolist(), whole.tolist(), strict=True):
                per_line[row] = value
            tokens: torch.Tensor = each
            return tokens

        per_token, tokens = self._by_line(each_token, lines, None)
        return CriticScores(list(lines), per_line, per_token, tokens)

    def attention(self, line: str, source: str) -> Attention:
        """Return where the model looks while it writes a line; as `TextGenerator.attention`."""
        weigh = getattr(self.model, "attention", None)  # models with an encoder have it
        if weigh is None:
            raise RunError(f"a run of {self.settings.name} has no attention to a source; train one with: seq2seq")
        (batch,) = self.batches([line], [source])
        with torch.inference_mode():
            weights = weigh(batch.to(self.device))[0]
        name = self.tokenizer.id_to_token
        read = batch.inputs[0, : weights.shape[1]].tolist()
        written = batch.targets.flatten()[batch.positions].tolist()
        return Attention([name(i) for i in read], [name(i) for i in written], weights.tolist())

    def _by_line(
        self, values: Callable[[SequenceBatch], torch.Tensor], lines: Sequence[str], sources: Sequence[str] | None
    ) -> tuple[list[list[float]], list[list[str]]]:
        """Return per line the value of every counted token, and the tokens."""
        found: list[list[float]] = [[] for _ in lines]
        tokens: list[list[str]] = [[] for _ in lines]
        for batch in self.batches(lines, sources):
            rows = batch.rows[batch.positions // batch.inputs.shape[1]].tolist()
            targets = batch.targets.flatten()[batch.positions].tolist()
            for row, value, target in zip(rows, values(batch.to(self.device)).tolist(), targets, strict=True):
                found[row].append(value)
                tokens[row].append(self.tokenizer.id_to_token(target))
        return found, tokens

    def batches(self, lines: Sequence[str], sources: Sequence[str] | None = None) -> Iterator[SequenceBatch]:
        """Yield the lines as the model reads them, by length; `rows` of a batch are the numbers of its lines."""
        if not lines:
            raise DataError("no lines to score")
        self.check_sources(sources)
        parts: list[Ragged | int] = [self.start, self.encode(lines)]
        if self.settings.data.mode != "fixed":
            parts.append(self.stop if self.stop >= 0 else self.start)
        loss_from = None
        if sources is not None:
            conditions = encode_sources(self.tokenizer, sources)
            if len(conditions) != len(lines):
                raise DataError(f"{len(lines)} lines but {len(conditions)} sources; give one source per line")
            parts.insert(1, conditions)
            loss_from = conditions.lengths
        corpus = Corpus(joined(parts, len(lines)), loss_from, self.tokenizer.fingerprint)
        return sentence_evaluation(corpus, _ROWS, pad=self.tokenizer.pad)

    def check_sources(self, sources: Sequence[str] | None) -> None:
        """Raise DataError for conditions that this run does not take, or that are missing."""
        wanted = self.settings.data.source
        if wanted and sources is None:
            raise DataError(f"this run was trained with data.source = {wanted}: give the sources to answer (--source)")
        if sources is not None and not wanted:
            raise DataError("this run was trained without data.source and cannot take sources")
        names = wanted.split(",")
        for number, source in enumerate(sources or (), 1):
            if (given := source.count("\t") + 1) != len(names):
                expected = "no tab" if len(names) == 1 else f"{len(names)} fields, separated by tabs"
                raise DataError(f"condition {number} has {given} fields; data.source = {wanted} expects {expected}")

    def encode(self, lines: Sequence[str]) -> Ragged:
        """Return the ids of every text; running text has line breaks."""
        if self.running and any("\n" in line for line in lines):
            return Ragged.from_lists([self.tokenizer.encode_stream(line).tolist() for line in lines])
        return encoded(self.tokenizer, lines, self.device)
