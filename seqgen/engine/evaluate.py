"""Scores that need a model, and the tables that stand it beside real text and an n-gram model.

Text-only metrics live in `seqgen.metrics`; here they meet runs: held-out likelihood during training, samples of a run
against references, the same figures for real text at the same size and for a Kneser-Ney 5-gram model of the same text.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seqgen import metrics
from seqgen.core import dist, rng
from seqgen.core.config import Train
from seqgen.core.errors import DataError
from seqgen.data.tokenizers import TokenizerConfig, choose_kind
from seqgen.engine.generate import Writer, load, load_painter
from seqgen.engine.latent import Coder
from seqgen.engine.run import Settings

if TYPE_CHECKING:
    from seqgen.images.evaluate import Encoder
    from seqgen.images.painter import Method, Painter

_WEIGHED = 1000
"""References whose likelihood under a text VAE is estimated, at most, spread over all."""

_ENOUGH = 100
"""Lines below which samples are not judged to have collapsed."""

_MOST_LINES = 100_000
"""Lines of training and of held-out text that samples are compared with while training: of a corpus its first."""


def validate(chapter: Any, model: Any, data: Any, device: torch.device) -> dict[str, float]:
    """Held-out scores: sums over all batches, divided once; processes share the batches and agree on the result.

    Of text `nll_per_token` in nats, `perplexity` its exponential, `nll_per_character` where the data knows its
    characters. A chapter's `survey` adds what is no sum over batches, on the main process alone.
    """
    sums: dict[str, torch.Tensor] = {}
    chain = -1
    for batch in data.validation():
        # a batch that goes on from the state of the one before it belongs to the same process
        chain += not getattr(batch, "carried", False)
        counted = chain % dist.world() == dist.rank()
        if sums and not counted:
            continue  # the first is read by all, so that all know the names of the scores
        for name, (total, count) in chapter.validate(model, batch).items():
            pair = torch.stack([torch.as_tensor(total).double().cpu(), torch.as_tensor(count).double().cpu()])
            sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + counted * pair
    names = sorted(sums)
    table = torch.stack([sums[name] for name in names]).to(device)
    totals = dict(zip(names, dist.sum_(table).tolist(), strict=True))
    scores = {("nll_per_token" if name == "nll" else name): a / b for name, (a, b) in totals.items() if b}
    if "nll" not in totals:  # pictures
        return scores
    survey = getattr(chapter, "survey", None)
    if survey is not None and dist.is_main():
        scores |= survey(model, data.validation())
    scores["perplexity"] = math.exp(min(scores["nll_per_token"], 700.0))
    if data.valid_characters:
        scores["nll_per_character"] = totals["nll"][0] / data.valid_characters
    oracle = getattr(data, "oracle", None)  # text data alone has one
    if oracle is not None:
        # the mean over the oracle's own lines of log p_oracle - log p_model: an estimate of KL(oracle || model)
        scores["kl_from_oracle"] = (totals["nll"][0] - oracle.valid_nats) / len(data.valid_lines)
    return scores


def show_and_score(
    model: Any, data: Any, settings: Settings, device: torch.device, folder: Path
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """What a validation shows of samples, files by the ending of their names, and their scores."""
    if settings.tokenizer is None:
        from seqgen.images.evaluate import sample_and_score as of_pictures  # late: text needs none of it
        from seqgen.images.painter import Painter

        return of_pictures(Painter(model, settings.data, settings.seed, device, folder), data, settings.train)
    texts, scores = sample_and_score(Writer(model, data.tokenizer, settings, device, folder), data, settings.train)
    shown = texts[: settings.train.show]
    between = "\n----\n" if any("\n" in text for text in shown) else "\n"  # for people; nothing reads it back
    return {".txt": (between.join(shown) + "\n").encode()}, scores


def sample_and_score(writer: Writer, data: Any, train: Train) -> tuple[list[str], dict[str, Any]]:
    """Texts from fixed seeds, and every cheap metric of them beside held-out lines: about 0.6 s for 10,000 lines.

    The numbers are over `train.samples` lines, or as many held-out lines as there are; `signature` says how they were
    made, `collapse` counts the signs that samples have left the band of real text and `signs` says them. A run on
    running text has no lines to score: the few texts that are shown are all that is written.
    """
    if data.mode not in ("sentence", "fixed"):
        return writer.generate(train.show) if train.show else [], {}
    count = min(train.samples, len(data.valid_lines))
    if count < 2:
        return [], {}
    sources = data.valid_sources[:count] if data.valid_sources is not None else None
    texts = writer.generate(1 if sources else count, sources=sources)
    truth = data.oracle.scores(texts) if data.oracle is not None else {}
    held_out, learnt = list(data.valid_lines[:_MOST_LINES]), list(data.train_lines[:_MOST_LINES])
    tokenizer = metric_tokenizer(held_out)
    table = metrics.evaluate_text(texts, held_out, train=learnt, tokenizer=tokenizer).scores
    scores: dict[str, Any] = {name.replace("-", "_"): float(score) for name, score in table.items()}
    real = held_out[:count]
    real_self_bleu = float(metrics.self_bleu(real, tokenizer=tokenizer))
    # too little in common is how every model begins, and few lines prove nothing: neither is a collapse
    signs = []
    if count >= _ENOUGH:
        repeated = max(scores["self_bleu_4"], real_self_bleu)
        signs = metrics.collapse_signs(repeated, real_self_bleu, scores["unique"], len(set(real)) / count)
    scores |= {"real_self_bleu_4": real_self_bleu, "collapse": len(signs), "signs": signs}
    return texts, scores | truth | {"signature": str(table["bleu-4"].signature)}


def metric_tokenizer(lines: Sequence[str]) -> str:
    """How metrics cut lines where nobody says: at spaces, or into characters where text has hardly any spaces."""
    return "char" if choose_kind(TokenizerConfig(), lines) == "char" else "split"


@dataclass(frozen=True)
class Column:
    """One column of a table of scores."""

    name: str
    """"samples", "real text", "kneser-ney-5"."""
    about: str
    """Where its lines come from, in words."""
    scores: dict[str, metrics.Score]
    likelihood: dict[str, float]
    """Held-out figures of the model behind the column; empty where there is none."""
    lines: list[str] = field(repr=False)
    """What was scored."""


@dataclass(frozen=True)
class Table:
    """Samples beside real text of the same size and a Kneser-Ney 5-gram model, by one protocol."""

    protocol: str
    columns: list[Column]

    def rows(self) -> Iterator[tuple[str, list[float | None]]]:
        """Each metric with its value in every column, None where a column has none."""
        names = list(dict.fromkeys(n for c in self.columns for n in (*c.likelihood, *c.scores)))
        for name in names:
            yield name, [c.likelihood.get(name, _value(c.scores.get(name))) for c in self.columns]

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: every number with its signature."""
        return {
            "protocol": self.protocol,
            "columns": [
                {
                    "name": c.name,
                    "about": c.about,
                    "likelihood": c.likelihood,
                    "scores": {name: score.to_dict(interval=False) for name, score in c.scores.items()},
                }
                for c in self.columns
            ],
        }


def _value(score: metrics.Score | None) -> float | None:
    return None if score is None else float(score)


def evaluate(
    subject: Writer | str | os.PathLike[str] | Sequence[str],
    references: Sequence[str],
    *,
    train: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    protocol: str = "default",
    tokenizer: str = "auto",
    count: int = 0,
    seed: int = 0,
    temperature: float = 1.0,
    codes: int = 100,
    yardsticks: bool = True,
) -> Table:
    """The whole table of a run, or of given lines, against references.

    A run (a folder or a loaded `Writer`) writes `count` samples (0: as many as there are references, at most 10,000)
    and adds the likelihood of the references; its training text is found by its settings unless `train` is given.
    That of a text VAE is estimated by `codes` codes each for 1,000 of them at most, beside what the code is used for.
    With `yardsticks` and training text two columns stand beside: `real text`, drawn from the training text by `seed`
    and scored as if it were samples (its novelty and copying are those of held-out references, because its own would be
    trivial), and `kneser-ney-5`, samples of a 5-gram model of the same training text.
    Raises ValueError for an unknown protocol or too few lines, DataError where a run's training text has moved.
    """
    if not references:
        raise DataError("no references to score against")
    writer = load(subject) if isinstance(subject, str | os.PathLike) else subject
    if isinstance(writer, Writer):
        if train is None and writer.folder is not None:
            train = writer.own_text().train_lines
        size = count or min(len(references), 10_000)
        conditions = None if sources is None else [sources[i % len(sources)] for i in range(size)]
        lines = writer.generate(1 if conditions else size, seed=seed, temperature=temperature, sources=conditions)
        about = f"{size} samples, seed {seed}, temperature {temperature:g}"
        if getattr(writer.model, "encodes", False):
            likelihood = Coder(writer).likelihood(references, sources, samples=codes, count=_WEIGHED)
            about += f"; nll of {min(len(references), _WEIGHED)} references by {codes} codes each, an upper bound"
        else:
            likelihood = _likelihood(writer, references, sources)
    else:
        lines, likelihood, about = list(writer)[: count or None], {}, f"{len(writer)} given lines"
    chosen = metric_tokenizer(references) if tokenizer == "auto" else tokenizer
    how: dict[str, Any] = {"protocol": protocol, "seed": seed}
    if protocol == "default":
        how["tokenizer"] = chosen

    def column(name: str, about: str, lines: Sequence[str], likelihood: dict[str, float], **more: Any) -> Column:
        scores = metrics.evaluate_text(lines, references, train=train, **more, **how).scores
        return Column(name, about, scores, likelihood, list(lines))

    columns = [column("samples", about, lines, likelihood, temperature=temperature if likelihood else None)]
    if yardsticks and train:
        columns += [
            _real_column(column, train, references, len(lines), seed, how),
            _ngram_column(column, train, references, len(lines), seed, chosen),
        ]
    return Table(protocol, columns)


def evaluate_pictures(
    subject: "Painter | str | os.PathLike[str]",
    *,
    count: int = 0,
    seed: int = 0,
    methods: "tuple[Method, ...]" = (),
    encoder: "Encoder | None" = None,
    samples: int = 100,
) -> Table:
    """The whole table of a picture run: what it makes beside its held-out pictures; see `seqgen.images.evaluate.table`.

    `encoder` gives features of your own in place of those of a classifier of the run's pictures, which are read again
    by its settings: DataError where they have moved.
    """
    from seqgen.images import evaluate as of_pictures  # late: text needs none of it

    painter = load_painter(subject) if isinstance(subject, str | os.PathLike) else subject
    columns = of_pictures.table(painter, count=count, seed=seed, methods=methods, encoder=encoder, samples=samples)
    return Table(of_pictures.PROTOCOL, [Column(c.name, c.about, c.scores, c.likelihood, []) for c in columns])


def _likelihood(writer: Writer, references: Sequence[str], sources: Sequence[str] | None) -> dict[str, float]:
    scored = writer.score(references, sources)
    return {
        "nll-per-token": scored.nats / scored.total_tokens,
        "perplexity": scored.perplexity,
        "nll-per-line": scored.nats / len(references),
        "nll-per-character": scored.nats_per_character,
    }


def _real_column(
    column: Callable[..., Column],
    train: Sequence[str],
    references: Sequence[str],
    size: int,
    seed: int,
    how: dict[str, Any],
) -> Column:
    """Training lines as if they were samples; what compares with the training text is taken from held-out lines."""
    drawn = torch.randperm(len(train), generator=rng.generator("real text", seed)).tolist()[:size]
    real = column("real text", f"{len(drawn)} training lines, drawn with seed {seed}", [train[i] for i in drawn], {})
    held_out = metrics.evaluate_text(references[:size], references, train=train, **how).scores
    swapped = {name: held_out[name] if _compares_with_training(name) else score for name, score in real.scores.items()}
    return replace(real, scores=swapped)


def _compares_with_training(name: str) -> bool:
    return name.startswith(("novelty", "copied", "kn-forward"))


def _ngram_column(
    column: Callable[..., Column], train: Sequence[str], references: Sequence[str], size: int, seed: int, tokenizer: str
) -> Column:
    """Samples of a Kneser-Ney 5-gram model of the training text, and what it gives the references."""
    model = metrics.KneserNey(metrics.tokenize(train, tokenizer))
    drawn = model.sample(size, seed)
    joint = "" if tokenizer == "char" else " "
    lines = [joint.join(map(str, tokens)) for tokens in drawn]
    nats = -float(model.log_probability(metrics.tokenize(references, tokenizer)).sum())
    likelihood = {
        "nll-per-line": nats / len(references),
        "nll-per-character": nats / sum(len(line) + 1 for line in references),
    }
    return column("kneser-ney-5", f"{size} samples of a 5-gram model of the training text", lines, likelihood)
