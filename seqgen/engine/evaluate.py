"""Scores that need a model, and tables of them beside real text and an n-gram model.

Text-only metrics live in `seqgen.metrics`; here they meet runs: held-out likelihood during training, samples of a run
against references, the same figures for real text at the same size and for a Kneser-Ney 5-gram model of the same text.
"""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast

import numpy as np
import torch

from seqgen import metrics
from seqgen.core import dist, log, rng
from seqgen.core.config import Train
from seqgen.core.errors import DataError, RunError
from seqgen.data.corpora import known
from seqgen.data.formats import text_lines
from seqgen.data.tokenizers import TokenizerConfig, choose_kind
from seqgen.engine import page
from seqgen.engine.generate import TextGenerator
from seqgen.engine.latent import LatentSpace
from seqgen.engine.loading import load, load_image_generator
from seqgen.engine.run import Settings
from seqgen.metrics.domains import keeping
from seqgen.metrics.score import Score, Signature, input_hash, mean_rows
from seqgen.models._contract import ModelModule, check_sums

if TYPE_CHECKING:
    from seqgen.images.data import ImageData
    from seqgen.images.generator import ImageGenerator, Method
    from seqgen.images.scores import Column as ImageColumn
    from seqgen.images.scores import Encoder

_WEIGHED = 1000
"""References whose likelihood under a text VAE is estimated, at most, spread over all."""

_ENOUGH = 100
"""Fewest lines for which a collapse is reported."""

_MOST_LINES = 100_000
"""Lines of training and of held-out text that samples are compared with while training; of more, so many are drawn."""


def validate(model_module: ModelModule, model: Any, data: Any, device: torch.device) -> dict[str, float]:
    """Compute held-out scores: sums over all batches, divided once; processes share them and agree on the result.

    Of text `nll_per_token` in nats, `perplexity` its exponential, `nll_per_character` where the data knows its
    characters; of a model that bounds its likelihood `bound_per_token` and `bound_per_character` in their place. A
    model module's `survey` adds what is no sum over batches, on the main process alone.
    """
    sums: dict[str, torch.Tensor] = {}
    chain = -1
    # processes that wait for each other's sums are not ended one by one, so they are not watched
    for batch in _counted("held-out batches", data.validation()) if dist.world() == 1 else data.validation():
        # a batch that goes on from the state of the one before it belongs to the same process
        chain += not getattr(batch, "stateful", False)
        counted = chain % dist.world() == dist.rank()
        if sums and not counted:
            continue  # the first is read by all, so that all know the names of the scores
        given = model_module.validate(model, batch)
        check_sums(model_module, given, model_module.__name__)
        for name, (total, count) in given.items():
            pair = torch.stack([torch.as_tensor(total).double().cpu(), torch.as_tensor(count).double().cpu()])
            sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + counted * pair
    names = sorted(sums)
    table = torch.stack([sums[name] for name in names]).to(device)
    totals = dict(zip(names, dist.sum_(table).tolist(), strict=True))
    bounds = getattr(model, "bound", "")  # optional: how a model's log_probs are less than the log-likelihood
    kind = "bound" if bounds else "nll"
    scores = {(f"{kind}_per_token" if name == "nll" else name): a / b for name, (a, b) in totals.items() if b}
    if model_module.DATA == "images":
        return scores
    survey = getattr(model_module, "survey", None)
    if survey is not None and dist.is_main():
        scores |= survey(model, _counted("survey of held-out batches", data.validation()))
    if data.valid_characters:
        scores[f"{kind}_per_character"] = totals["nll"][0] / data.valid_characters
    if bounds:
        return scores
    scores["perplexity"] = math.exp(min(scores["nll_per_token"], 700.0))
    oracle = getattr(data, "oracle", None)  # text data alone has one
    if oracle is not None:
        # the mean over the oracle's own lines of log p_oracle - log p_model: an estimate of KL(oracle || model)
        scores["kl_from_oracle"] = (totals["nll"][0] - oracle.valid_nats) / len(data.valid_lines)
    return scores


def _counted(what: str, batches: Iterator[Any]) -> Iterator[Any]:
    for done, batch in enumerate(batches):
        log.part(what, done)
        yield batch


Drawn: TypeAlias = tuple[tuple[float, str], ...]
"""Temperatures, and a text that was drawn at each from the same seed."""

_COLD, _HOT = 0.7, 1.3


def show_and_score(
    model: Any, data: Any, settings: Settings, device: torch.device, folder: Path
) -> tuple[dict[str, bytes], dict[str, Any], Drawn]:
    """Return what a validation shows of samples, files by the ending of their names; scores; texts to glance at.

    Images have nothing to glance at.
    """
    if settings.tokenizer is None:
        from seqgen.images.generator import ImageGenerator
        from seqgen.images.scores import sample_and_score as of_images  # late: text needs none of it

        return *of_images(ImageGenerator(model, settings.data, settings.seed, device, folder), data, settings.train), ()
    generator = TextGenerator(model, data.tokenizer, settings, device, folder)
    texts, scores, copied = sample_and_score(generator, data, settings.train)
    shown = texts[: settings.train.show]
    ending, kind = (".txt", "lines") if generator.one_line else (".jsonl", "jsonl")
    contents = {ending: text_lines(shown, kind)} if shown else {}
    if copied:
        contents["-copied.jsonl"] = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in copied)
    return {name: content.encode() for name, content in contents.items()}, scores, _glance(generator, texts, data)


def _glance(generator: TextGenerator, texts: Sequence[str], data: Any) -> Drawn:
    """Return the first sample and, where a text is short, what was drawn from its seed at two more temperatures."""
    if not texts or generator.running:
        return tuple((1.0, text) for text in texts[:1])
    sources = conditions(data.valid_sources, 1)
    cold, hot = (generator.generate(1, sources=sources, temperature=t)[0] for t in (_COLD, _HOT))
    return (_COLD, cold), (1.0, texts[0]), (_HOT, hot)


def sample_and_score(
    generator: TextGenerator, data: Any, train: Train
) -> tuple[list[str], dict[str, Any], list[dict[str, Any]]]:
    """Sample from fixed seeds, and compute every cheap metric beside held-out lines: about 0.6 s for 10,000 lines.

    The numbers are over `train.samples` lines, or as many held-out lines as there are; `signature` states how they were
    made, `collapse` counts the signs that samples have left the band of real text and `signs` lists them. Third comes
    what each text that is shown shares with a training line (see `copied_spans`). A run on running text has no lines to
    score: the few texts that are shown are all that is written.
    """
    if data.mode not in ("sentence", "fixed"):
        return generator.generate(train.show) if train.show else [], {}, []
    count = min(train.samples, len(data.valid_lines))
    if count < 2:
        return [], {}, []
    sources = conditions(data.valid_sources, count)
    texts = generator.generate(1 if sources else count, sources=sources)
    log.part("scores of texts", 0)
    truth = data.oracle.scores(texts) if data.oracle is not None else {}
    held_out, learnt = (
        list(lines) if len(lines) <= _MOST_LINES else drawn(lines, _MOST_LINES)
        for lines in (data.valid_lines, data.train_lines)
    )
    tokenizer = metric_tokenizer(held_out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how samples are written is said once, by `evaluate`
        evaluation = metrics.evaluate_text(texts, held_out, train=learnt, tokenizer=tokenizer)
    table = evaluation.scores
    scores: dict[str, Any] = {name: float(score) for name, score in table.items()}
    real = drawn(data.train_lines, count)
    real_self_bleu = float(metrics.self_bleu(real, tokenizer=tokenizer))
    # too little in common is how every model begins, and few lines prove nothing: neither is a collapse
    signs = []
    if count >= _ENOUGH:
        repeated = max(scores["self_bleu_4"], real_self_bleu)
        signs = metrics.collapse_signs(repeated, real_self_bleu, scores["unique"], len(set(real)) / len(real))
    scores |= {"real_self_bleu_4": real_self_bleu, "collapse": len(signs), "signs": signs}
    known, _ = metrics.leaked(held_out, learnt)
    signed = with_fields({"bleu_4": table["bleu_4"]}, {"leak": str(known)} if known else {})
    scores |= truth | {"signature": str(signed["bleu_4"].signature)}
    assert evaluation.matches is not None
    return texts, scores, copied_spans(texts[: train.show], learnt, evaluation.matches, tokenizer)


def copied_spans(
    texts: Sequence[str], train: Sequence[str], matches: metrics.Matches, tokenizer: str
) -> list[dict[str, Any]]:
    """Return for each text the longest run of tokens that it shares with a training line.

    `begin` and `end` say where it stands in `text`, in characters, `tokens` how long it is, and `source` is a training
    line that holds it, "" where not even one token is shared.
    """
    rows = []
    for text, cut, span in zip(texts, metrics.tokenize(texts, tokenizer), metrics.spans_of(matches), strict=False):
        places, end = [0], 0
        for token in map(str, cut):  # a token stands in the text as it is, but for the white space between
            places.append(text.index(token, end))
            end = places[-1] + len(token)
        last = span.start + span.length
        begin, end = (places[span.start + 1], places[last] + len(str(cut[last - 1]))) if span.length else (0, 0)
        source = train[span.source] if span.length else ""
        rows.append({"text": text, "begin": begin, "end": end, "tokens": span.length, "source": source})
    return rows


def metric_tokenizer(lines: Sequence[str]) -> str:
    """Return how metrics cut lines unless chosen: at spaces, or into characters where text has hardly any spaces."""
    return "char" if choose_kind(TokenizerConfig(), lines) == "char" else "split"


def drawn(lines: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Return `count` of the lines, or all where there are fewer, in an order that depends on their number and the seed.

    Lines of a sorted text that follow each other are alike, so the first ones stand for nothing.
    """
    order = torch.randperm(len(lines), generator=rng.generator("real text", seed)).tolist()
    return [lines[row] for row in order[:count]]


BY_LINE = {"unit": "line"}
"""What signatures state where running text is compared: its lines are texts of their own."""


def in_lines(texts: Sequence[str]) -> list[str]:
    """Return the lines of running text, blank ones left out."""
    return [line for text in texts for line in text.split("\n") if line.strip()]


def samples(
    generator: TextGenerator,
    count: int,
    *,
    seed: int,
    temperature: float,
    sources: Sequence[str] | None = None,
    resample: int | None = None,
) -> list[str]:
    """Return what a run writes to be compared: `count` texts, or a text for each source.

    Of a run on running text as many lines, in the order of its texts; the last line of each, which the limit of tokens
    cut, is left out. RunError for text without line breaks.
    """
    how: dict[str, Any] = {"seed": seed, "temperature": temperature, "sources": sources, "resample": resample}
    if not generator.running:
        return generator.generate(1 if sources else count, **how)
    texts = min(count, 8)
    while True:
        lines = in_lines([text[: text.rfind("\n") + 1] for text in generator.generate(texts, **how)])
        if len(lines) >= count:
            return lines[:count]
        if texts == count:
            raise RunError(
                f"{generator.folder} wrote {len(lines)} whole lines in {texts} texts, and {count} are to be compared; "
                "train longer, or on text with line breaks"
            )
        texts = min(count, 1 + texts * count * 11 // (10 * max(1, len(lines))))


def conditions(sources: Sequence[str] | None, count: int, seed: int = 0) -> list[str] | None:
    """Return what `count` samples answer: as many of the sources, drawn like real text, or all in turn; or None."""
    if sources is None:
        return None
    return drawn(sources, count, seed) if count < len(sources) else [sources[i % len(sources)] for i in range(count)]


def real_text(
    scored: Callable[[Sequence[str]], dict[str, Score]],
    train: Sequence[str],
    references: Sequence[str],
    count: int,
    seed: int,
) -> tuple[list[str], list[str], dict[str, Score]]:
    """Return the real text of every table: training lines as if they were samples, held-out lines, and scores.

    Metrics that compare with the training text are those of as many held-out references, which come second: of
    training lines they would be trivial.
    """
    lines, held_out = drawn(train, count, seed), drawn(references, count, seed)
    theirs = scored(held_out)
    scores = {name: theirs[name] if metrics.metric(name).training else score for name, score in scored(lines).items()}
    return lines, held_out, scores


def leaks(
    lines: Sequence[str], train: Sequence[str] | None, what: str, sources: Sequence[str] | None = None
) -> dict[str, str]:
    """Count lines that also stand in the training text: `leak` with their number, for signatures, or nothing.

    Warns of them. DataError where all of them do, unless they have `sources`: to others the same texts may be answers.
    """
    if train is None:
        return {}
    known, count = metrics.leaked(lines, train)
    if known and known == count and sources is None:
        raise DataError(f"all {count} {what} also stand in the training text; give text that was not trained on")
    if known:
        warnings.warn(f"{known} of {count} {what} also stand in the training text", stacklevel=3)
    return {"leak": str(known)} if known else {}


@dataclass(frozen=True)
class Column:
    """One column of a table of scores."""

    name: str
    """"samples", "real text", "kneser-ney-5"."""
    about: str
    """Where its lines come from."""
    scores: dict[str, Score]
    likelihood: dict[str, Score]
    """Held-out figures of the model behind the column; empty where there is none."""
    lines: list[str] = field(repr=False)
    """What was scored."""
    held_out: list[str] = field(default_factory=list, repr=False)
    """Of real text: what was compared with the training text in the place of `lines`."""

    def score(self, name: str) -> Score | None:
        """Return the number of this name, None where there is none."""
        return self.likelihood.get(name, self.scores.get(name))

    def all_scores(self) -> list[Score]:
        """Return every number, those of likelihood first."""
        return list((self.likelihood | self.scores).values())


@dataclass(frozen=True, repr=False)
class Table:
    """Samples beside real text of the same size and a Kneser-Ney 5-gram model, by one protocol."""

    protocol: str
    columns: list[Column]

    def rows(self) -> Iterator[tuple[metrics.Metric, list[Score | None]]]:
        """Yield each metric with its score in every column, None where a column has none."""
        for name in dict.fromkeys(n for c in self.columns for n in (*c.likelihood, *c.scores)):
            yield metrics.metric(name), [c.score(name) for c in self.columns]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: every number with its signature, and what is known of each metric."""

        def stored(scores: Mapping[str, Score]) -> dict[str, Any]:
            # of text an interval takes longer than all else, and is drawn where it is shown
            kept = {name: score.stored_interval is not None for name, score in scores.items()}
            return {name: score.to_dict(interval=kept[name]) for name, score in scores.items()}

        known = [metric for metric, _ in self.rows()]
        return {
            "protocol": self.protocol,
            "metrics": {metric.name: metric.to_dict() for metric in known},
            "columns": [
                {
                    "name": c.name,
                    "about": c.about,
                    "likelihood": stored(c.likelihood),
                    "scores": stored(c.scores),
                }
                for c in self.columns
            ],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Table":
        """Return a table as `to_dict` wrote it, without the lines that were scored."""

        def scores(part: Mapping[str, Any]) -> dict[str, Score]:
            return {name: Score.from_dict(score) for name, score in part.items()}

        columns = [
            Column(c["name"], c["about"], scores(c["scores"]), scores(c["likelihood"]), []) for c in stored["columns"]
        ]
        return cls(stored["protocol"], columns)

    def html(self) -> str:
        """Return it as HTML: the first metrics beside real ones, all others and how each was made folded away."""
        columns = [column.name for column in self.columns]
        real = next((i for i, name in enumerate(columns) if name in ("real text", "real")), 0)
        head = ["", "", *map(escape, columns), *(["to real"] if real else [])]
        first = {name: number for number, name in enumerate(metrics.shown("evaluate"))}
        found = sorted(self.rows(), key=lambda row: first.get(row[0].name, len(first)))
        rows = [
            [
                f"{escape(metric.name)} {metric.arrow}",
                escape(f"{metric.about}, {metric.unit}" if metric.unit else metric.about),
                *map(metrics.figure, scores),
                *([metrics.apart(scores[0], scores[real])] if real else []),
            ]
            for metric, scores in found
        ]
        count = sum(metric.name in first for metric, _ in found) or len(rows)
        body = page.table(head, rows[:count], left=2)
        body += '<p class="dim">↑ higher is better, ↓ lower, ≈ as real ones have it'
        body += "; ± half of the 95 % interval; ~ within the noise of both.</p>" if "±" in body else ".</p>"
        body += page.facts([(column.name, column.about) for column in self.columns])
        if rows[count:]:
            rest = page.table(head, rows[count:], left=2)
            body += f"<details><summary>{len(rows) - count} more</summary>{rest}</details>"
        made = "\n".join(f"{column.name}: {s.signature}" for column in self.columns for s in column.all_scores())
        return body + f"<details><summary>How each number was made</summary><pre>{escape(made)}</pre></details>"

    def __repr__(self) -> str:
        columns = ", ".join(column.name for column in self.columns)
        return f"Table({self.protocol}: {len(list(self.rows()))} scores of {columns})"

    def _repr_html_(self) -> str:
        return page.fragment(self.html())


def with_domain(table: Table, domain: str) -> Table:
    """Return the table with the share of each column's lines that keep the rules of a domain; ValueError if unknown."""
    columns = [replace(c, scores=c.scores | keeping(domain, c.lines)) for c in table.columns]
    return replace(table, columns=columns)


def evaluate(
    subject: TextGenerator | str | os.PathLike[str] | Sequence[str],
    references: Sequence[str],
    *,
    train: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    protocol: str = "default",
    tokenizer: str = "auto",
    count: int = 0,
    seed: int = 0,
    temperature: float = 1.0,
    latents: int = 100,
    baselines: bool = True,
    by_line: bool = False,
    resample: int | None = None,
) -> Table:
    """Score a run, or given lines, against references: the whole table.

    A run (a folder or a loaded `TextGenerator`) writes `count` samples (0: as many as references, at most 10,000)
    and adds the likelihood of the references; its training text is found by its settings unless `train` is given.
    That of a text VAE is estimated by `latents` latents each for 1,000 of them at most, beside what latents are used
    for. `resample` is that of `TextGenerator.generate` and `score`.
    With `baselines` and training text two columns stand beside: `real text` (see `real_text`) and `kneser-ney-5`,
    samples of a 5-gram model of the same training text. Of a run on running text, or with `by_line`, the lines of
    samples, references and training text are compared that are not blank; signatures state `unit: line`. Warns of
    references, and of given lines, that stand in the training text. Raises ValueError for an unknown protocol or too
    few lines, DataError where a run's training text has moved, or where all references or given lines are training
    text.
    """
    refuse_unknown(protocol, tokenizer)
    generator = load(subject) if isinstance(subject, str | os.PathLike) else subject
    by_line = by_line or (isinstance(generator, TextGenerator) and generator.running)
    references = in_lines(references) if by_line else references
    if not references:
        raise DataError("no references to score against")
    likelihood: dict[str, Score] = {}
    if isinstance(generator, TextGenerator):
        if train is None and generator.has_text:
            train = generator.own_text().train_lines
        train = in_lines(train) if train and by_line else train
        leak = leaks(references, train, "references", sources)
        size = count or min(len(references), 10_000)
        answered = conditions(sources, size, seed)
        candidates = generator.candidates(resample)
        lines = samples(generator, size, seed=seed, temperature=temperature, sources=answered, resample=resample)
        what = "lines of running text" if generator.running else "samples"
        about = f"{size} {what}, seed {seed}, temperature {temperature:g}"
        about += f", each one of {candidates}" if candidates > 1 else ""
        likelihood = _likelihood(generator, references, sources, latents, resample)
        if getattr(generator.model, "encodes", False):
            about += f"; nll of {min(len(references), _WEIGHED)} references by {latents} latents each, an upper bound"
        elif not generator.exact:
            about += "; of their likelihood a bound is known: see bound_per_line"
    else:
        train = in_lines(train) if train and by_line else train
        leak = leaks(references, train, "references")
        lines = (in_lines(generator) if by_line else list(generator))[: count or None]
        leaks(lines, train, "given texts")
        if any("\n" in line for line in lines) and not any("\n" in line for line in references):
            warnings.warn(
                "given texts hold line breaks and references do not: texts and lines are compared", stacklevel=2
            )
        about = f"{len(generator)} given lines"
    leak |= BY_LINE if by_line else {}
    scored = scoring(references, train, leak, protocol=protocol, tokenizer=tokenizer, seed=seed)
    given = scored(lines, temperature if likelihood else None)
    if isinstance(generator, TextGenerator) and candidates > 1:
        given, likelihood = with_resample(given, candidates), with_resample(likelihood, candidates)
    columns = [Column("samples", about, given, with_fields(likelihood, leak), list(lines))]
    if baselines and train:
        columns.append(_real_column(scored, train, references, len(lines), seed))
        written, nll = _ngram_model(train, references, len(lines), seed, _cut(references, tokenizer))
        about = f"{len(written)} samples of a 5-gram model of the training text"
        columns.append(Column("kneser-ney-5", about, scored(written), with_fields(nll, leak), written))
    return Table(protocol, columns)


_AT_ONCE = 100
"""Sources that are searched for together."""


class Aligned(TypedDict, total=False):
    """Options of `evaluate_aligned`."""

    num_beams: int
    tokenizer: str
    lowercase: bool
    seed: int
    temperature: float


def evaluate_aligned(
    subject: TextGenerator | str | os.PathLike[str] | Sequence[str],
    references: Sequence[str],
    *,
    sources: Sequence[str] | None = None,
    num_beams: int = 5,
    tokenizer: str = "13a",
    lowercase: bool = False,
    seed: int = 0,
    temperature: float = 1.0,
    latents: int = 100,
) -> Table:
    """Score texts that have a reference each, line by line: a run's answers to sources, or given lines.

    A run (a folder or a loaded `TextGenerator` with conditions) answers every source by beam search with `num_beams`
    candidates, or draws the answer where it is 0, and adds the likelihood of the references. The scores are those of
    `seqgen.metrics.score_aligned`. Raises DataError where lines and references, or sources, are not equally many, and
    RunError for a run without conditions.
    """
    generator = load(subject) if isinstance(subject, str | os.PathLike) else subject
    likelihood: dict[str, Score] = {}
    if isinstance(generator, TextGenerator):
        if not generator.settings.data.source:
            raise RunError(
                f"{generator.folder} has no conditions to answer (data.source); give a file with a text for each "
                "reference"
            )
        if sources is None or len(sources) != len(references):
            raise DataError(f"expected a source for each of {len(references)} references, got {len(sources or ())}")
        if num_beams:
            parts = [sources[i : i + _AT_ONCE] for i in range(0, len(sources), _AT_ONCE)]
            lines = [text.text for part in parts for text in generator.search(sources=part, num_beams=num_beams)]
            about = f"answers to {len(sources)} sources, {num_beams} beams"
        else:
            lines = generator.generate(1, sources=sources, seed=seed, temperature=temperature)
            about = f"answers to {len(sources)} sources, seed {seed}, temperature {temperature:g}"
        likelihood = _likelihood(generator, references, sources, latents)
    else:
        lines = list(generator)
        about = f"{len(lines)} given lines"
        if len(lines) != len(references):
            raise DataError(f"expected a line for each of {len(references)} references, got {len(lines)}")
    if not references:
        raise DataError("no references to score against")
    own = [[line] for line in references]
    scores = metrics.score_aligned(lines, own, tokenizer=tokenizer, lowercase=lowercase)
    return Table("aligned", [Column("answers", about, scores, likelihood, lines)])


def real_column(
    train: Sequence[str],
    references: Sequence[str],
    *,
    count: int,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    protocol: str = "default",
    tokenizer: str = "auto",
    by_line: bool = False,
) -> Column:
    """Return the column of `evaluate` for real text alone; see `real_text`."""
    if by_line:
        references, train = in_lines(references), in_lines(train)
    leak = leaks(references, train, "references", sources) | (BY_LINE if by_line else {})
    scored = scoring(references, train, leak, protocol=protocol, tokenizer=tokenizer, seed=seed)
    return _real_column(scored, train, references, count, seed)


Scored: TypeAlias = Callable[..., dict[str, Score]]
"""From lines, and the temperature they were sampled at, to their scores."""


def scoring(
    references: Sequence[str],
    train: Sequence[str] | None,
    leak: Mapping[str, str],
    *,
    protocol: str = "default",
    tokenizer: str = "auto",
    seed: int = 0,
) -> Scored:
    """Return the function that scores lines against the references; every signature states what `leaks` found."""
    how: dict[str, Any] = {"train": train, "protocol": protocol, "seed": seed}
    if protocol == "default":
        how["tokenizer"] = _cut(references, tokenizer)

    def scored(lines: Sequence[str], temperature: float | None = None) -> dict[str, Score]:
        return with_fields(metrics.evaluate_text(lines, references, temperature=temperature, **how).scores, leak)

    return scored


def _cut(references: Sequence[str], tokenizer: str) -> str:
    return metric_tokenizer(references) if tokenizer == "auto" else tokenizer


def refuse_unknown(protocol: str, tokenizer: str) -> None:
    """Raise the ValueError of a wrong protocol or tokenizer before texts are written, which takes longer."""
    metrics.protocol_named(protocol, None if tokenizer == "auto" else tokenizer)


def _real_column(scored: Scored, train: Sequence[str], references: Sequence[str], count: int, seed: int) -> Column:
    lines, held_out, scores = real_text(scored, train, references, count, seed)
    return Column("real text", f"{len(lines)} training lines, drawn with seed {seed}", scores, {}, lines, held_out)


def evaluate_images(
    subject: "ImageGenerator | str | os.PathLike[str]",
    references: str | os.PathLike[str] = "",
    *,
    count: int = 0,
    seed: int = 0,
    methods: "tuple[Method, ...]" = (),
    encoder: "Encoder | None" = None,
    samples: int = 100,
) -> Table:
    """Score an image run: its images beside held-out ones, the whole table; see `seqgen.images.scores.table`.

    With `references` (a path or the name of a set) `subject` is a folder or file of images made elsewhere, scaled to
    fit. `encoder` gives features of your own in place of those of a classifier of the real images, which are read again
    by a run's settings: DataError where they have moved.
    """
    from seqgen.images import scores as image_scores  # late: text needs none of it

    if references:
        real = image_references(os.fspath(references))
        given = {"given": given_images(os.fspath(cast(str, subject)), real)}
        columns = image_scores.table_of(given, real, count=count, seed=seed, encoder=encoder)
    else:
        generator = load_image_generator(subject) if isinstance(subject, str | os.PathLike) else subject
        columns = image_scores.table(
            generator, count=count, seed=seed, methods=methods, encoder=encoder, samples=samples
        )
    return image_table(columns)


def image_references(name: str) -> "ImageData":
    """Return the real images that a path or a set's name stands for: its training part, and its test part held out."""
    from seqgen.images.data import DataConfig, prepare

    if known.named(name, "images") is None and name not in known.MADE_IMAGES and not Path(name).expanduser().exists():
        raise known.no_such_file(name, "images")
    train, test = ([str(path) for path in known.expanded([name], use, "images")] for use in ("train", "test"))
    config = DataConfig(files=tuple(train), valid=() if train == test else tuple(test))
    return prepare(config, batch=1, seed=0, device="cpu")


def given_images(path: str, real: "ImageData") -> torch.Tensor:
    """Return images (N, C, S, S) uint8 of a path or a set's name (its test part) as large as the real ones."""
    from seqgen.images.data import fitted_to

    return fitted_to(real, str(known.expanded([path], "test", "images")[0]))


def image_table(columns: "Sequence[ImageColumn]") -> Table:
    """Return columns of image scores as a table."""
    from seqgen.images.scores import PROTOCOL

    return Table(PROTOCOL, [Column(c.name, c.about, c.scores, c.likelihood, []) for c in columns])


def with_fields(scores: Mapping[str, Score], fields: Mapping[str, str]) -> dict[str, Score]:
    """Return the same scores with more fields in their signatures."""
    return {
        name: replace(score, signature=replace(score.signature, fields={**score.signature.fields, **fields}))
        for name, score in scores.items()
    }


def with_resample(scores: Mapping[str, Score], candidates: int) -> dict[str, Score]:
    """Return the same scores, their signatures naming the candidates of each text."""
    return {
        name: replace(score, signature=replace(score.signature, resample=candidates)) for name, score in scores.items()
    }


def _likelihood(
    generator: TextGenerator,
    references: Sequence[str],
    sources: Sequence[str] | None,
    latents: int,
    resample: int | None = None,
) -> dict[str, Score]:
    """Return how likely references are: exactly, with their rows, or of a text VAE estimated.

    A signature names the tokenizer where the number is per token, and the tokens that are `<unk>`, whose letters cost
    nothing: numbers with other tokens of that kind are others' numbers.
    """
    tokenizer = generator.tokenizer
    unknown = int((tokenizer.encode(list(references)).values == tokenizer.unk).sum())
    cut = {"tok": f"{tokenizer.kind}-{tokenizer.fingerprint[:8]}"}
    if getattr(generator.model, "encodes", False):
        scored = min(len(references), _WEIGHED)
        found = LatentSpace(generator).likelihood(references, sources, samples=latents, count=_WEIGHED)
        about = _about(references, unknown) | {"by": f"{latents} latents (bound)"}
        if scored < len(references):
            about["nrefs"] = f"{scored} of {len(references)}"
        return {
            name: Score(value, _signed(name, references, about | (cut if metrics.metric(name).per_token else {})))
            for name, value in found.items()
        }
    lines = generator.score(references, sources, resample=resample)
    tokens = np.array([len(row) for row in lines.log_probs])
    if lines.bound:
        scores = _by_line(references, -np.array(lines.per_line), unknown, "bound", f"{lines.bound} (bound)")
        each = np.column_stack([-np.array(lines.per_line), tokens])
        about = {**scores["bound_per_line"].signature.fields, **cut}
        signature = _signed("bound_per_token", references, about)
        return scores | {"bound_per_token": Score(lines.nats / lines.total_tokens, signature, rows=each)}
    scores = _by_line(references, -np.array(lines.per_line), unknown)
    rows = np.column_stack([-np.array(lines.per_line), tokens])
    per_token = Score(
        lines.nats / lines.total_tokens,
        _signed("nll_per_token", references, _about(references, unknown) | cut),
        rows=rows,
    )
    perplexity = replace(
        per_token,
        value=lines.perplexity,
        signature=replace(per_token.signature, metric="perplexity"),
        statistic=lambda sums: np.exp(np.minimum(sums[..., 0] / sums[..., 1], 700.0)),
    )
    return scores | {"nll_per_token": per_token, "perplexity": perplexity}


def _about(references: Sequence[str], unknown: int) -> dict[str, str]:
    fields = {"nrefs": str(len(references)), "by": "exact", "end": "counted"}
    return fields | ({"unk": str(unknown)} if unknown else {})


def _signed(name: str, references: Sequence[str], fields: Mapping[str, str]) -> Signature:
    return Signature(name, dict(fields), input_hash(references))


def _by_line(
    references: Sequence[str],
    nats: "np.ndarray[Any, np.dtype[np.float64]]",
    unknown: int,
    kind: str = "nll",
    by: str = "exact",
) -> dict[str, Score]:
    """Return nats per line and per character, the end of a line counted as one, from those of each line."""
    characters = np.array([len(line) + 1.0 for line in references])
    about = _about(references, unknown) | {"by": by}
    rows = {f"{kind}_per_character": np.column_stack([nats, characters]), f"{kind}_per_line": mean_rows(nats)}
    return {
        name: Score(float(each[:, 0].sum() / each[:, 1].sum()), _signed(name, references, about), rows=each)
        for name, each in rows.items()
    }


def _ngram_model(
    train: Sequence[str], references: Sequence[str], size: int, seed: int, tokenizer: str
) -> tuple[list[str], dict[str, Score]]:
    """Sample a Kneser-Ney 5-gram model of the training text, and compute its likelihood of the references."""
    model = metrics.KneserNey(metrics.tokenize(train, tokenizer))
    joint = "" if tokenizer == "char" else " "
    lines = [joint.join(map(str, tokens)) for tokens in model.sample(size, seed)]
    tokens = metrics.tokenize(references, tokenizer)
    unknown = int((model.known(tokens, "references").tokens < 0).sum())
    return lines, _by_line(references, -model.log_probability(tokens), unknown)
