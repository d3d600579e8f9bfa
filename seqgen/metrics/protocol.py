"""Whole tables of scores by named protocols: ours, and those that published text-GAN numbers were made with.

A preset repeats a toolkit exactly: counts of hypotheses and references, tokenizer, case, smoothing, Self-BLEU's form.
Where a toolkit's own fault makes a number meaningless, it is still computed, with a warning and a note.
`default` computes every cheap metric on full files; the others what their toolkit computed, and nothing else.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from seqgen.metrics.bleu import BleuSettings, BleuStats, bleu_stats, scores_of_stats, self_bleu_stats, take
from seqgen.metrics.names import METRICS, Metric, Texts, UndefinedError
from seqgen.metrics.ngrams import Packed
from seqgen.metrics.novelty import Matches
from seqgen.metrics.score import Score, Signature, input_hash, with_intervals
from seqgen.metrics.tokens import Text, Tokenizer, splitter


@dataclass(frozen=True)
class Protocol:
    """What a toolkit counts. None means all there are."""

    name: str
    source: str
    """Where the rules were read."""
    hypotheses: int | None = None
    """The first so many samples are scored."""
    shuffle: bool = False
    """Samples are shuffled (by the caller's seed) before they are counted off."""
    references: int | None = None
    """The first so many references are used."""
    own_references: bool = False
    """Hypothesis i is scored against reference i alone."""
    bleu: BleuSettings = field(default_factory=BleuSettings)
    """How BLEU is computed; tokenizer and case hold for every metric."""
    self_form: Literal["loo", "split", "included", "none"] = "loo"
    """Self-BLEU against all others, of fresh samples against the rest, with the line in its references, or none."""
    self_count: int | None = None
    """How many samples Self-BLEU scores."""
    self_shuffle_seed: int | None = None
    """Seed the toolkit itself shuffles the Self-BLEU samples with."""
    self_orders: tuple[int, ...] = ()
    """Orders of Self-BLEU, where they are not those of BLEU."""
    backward: bool = False
    """Whether forward and backward BLEU are also computed, as sentence means with method1 on `self_count` lines."""
    digits: int | None = None
    """Decimals the toolkit rounds to."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """Metric -> why its number must not be read at face value."""

    @property
    def means(self) -> BleuSettings:
        """Return the settings of BLEU as sentence means with method1: of Self-BLEU, forward and backward BLEU."""
        return replace(self.bleu, level="sentence", smoothing="method1")


CACCIA_MULTIPLIERS = (
    *(0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4),
    *(1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 3.0, 4.0),
)
"""The 19 factors on the logits of Caccia et al. 2020; a temperature is the inverse of one."""

_INCLUDED = "every line is among its own references, so this is 1 whatever the samples are; it says nothing"
_NLTK = BleuSettings(tokenizer="nltk")
_NLTK_LOWER = replace(_NLTK, lowercase=True)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("default", "this package: full files, leave-one-out, every cheap metric", backward=True),
        Protocol("texygen", "geek-ai/Texygen, its published table", bleu=_NLTK_LOWER),
        Protocol(
            "texygen-fast",
            "geek-ai/Texygen, the code's default is_fast=True",
            references=500,
            bleu=_NLTK_LOWER,
            self_count=500,
        ),
        Protocol(
            "textgan",
            "williamSYSU/TextGAN-PyTorch",
            hypotheses=200,
            bleu=_NLTK_LOWER,
            self_form="split",
            self_count=200,
            self_orders=(2, 3, 4),
            digits=3,
        ),
        Protocol(
            "relgan",
            "weilinie/RelGAN",
            hypotheses=100,
            bleu=_NLTK,
            self_form="included",
            self_count=200,
            warnings={"self_bleu": _INCLUDED},
        ),
        Protocol(
            "leakgan",
            "CR-Gjx/LeakGAN",
            hypotheses=2000,
            shuffle=True,
            bleu=BleuSettings(smoothing="method0"),
            self_form="none",
            warnings={"bleu": "published values came from nltk before 3.3, whose unsmoothed scores were far too high"},
        ),
        Protocol(
            "caccia",
            "pclucas14/GansFallingShort",
            hypotheses=10_000,
            references=10_000,
            bleu=replace(_NLTK, orders=(5,)),
            self_count=10_000,
        ),
        Protocol(
            "cotk",
            "thu-coai/cotk",
            own_references=True,
            bleu=BleuSettings(orders=(4,), smoothing="method3", level="corpus"),
            self_count=1000,
            self_shuffle_seed=1229,
            backward=True,
        ),
    )
}
"""The presets by name."""


def protocol_named(name: str, tokenizer: Tokenizer | None = None) -> Protocol:
    """Return the preset of this name, the default one with a tokenizer of one's own.

    Raises ValueError for an unknown preset or tokenizer, which lists those there are, and for a tokenizer where the
    preset fixes it.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    if tokenizer is None:
        return PROTOCOLS[name]
    if name != "default":
        raise ValueError(f"protocol {name} fixes its tokenizer; choose one in the default protocol only")
    splitter(tokenizer)
    return replace(PROTOCOLS[name], bleu=replace(PROTOCOLS[name].bleu, tokenizer=tokenizer))


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A table of scores: one column for the samples and, where asked, one for real text of the same size."""

    protocol: str
    scores: dict[str, Score]
    """Metric -> score of the samples, such as `bleu_4`, in the order they are printed."""
    real: dict[str, Score] | None = None
    """The same for real text; None where none was given."""
    matches: Matches | None = field(default=None, repr=False)
    """Overlap of the samples with the training text; None where none was given, and in other protocols."""

    def __repr__(self) -> str:
        beside = "" if self.real is None else " beside real text"
        return f"Evaluation({self.protocol}: {len(self.scores)} scores{beside})"

    def __getitem__(self, name: str) -> Score:
        """Return the samples' score of this name; KeyError lists what there is."""
        if name not in self.scores:
            raise KeyError(f"no score {name!r}; there are {', '.join(self.scores)}")
        return self.scores[name]

    def rows(self) -> Iterator[tuple[str, Score, Score | None]]:
        """Yield each line of the table: name, the samples' score, real text's score or None."""
        for name, score in self.scores.items():
            yield name, score, None if self.real is None else self.real[name]

    def to_dict(self, *, intervals: bool = True) -> dict[str, Any]:
        """Return what JSON can hold: the protocol, and for each metric both scores with their signatures.

        Intervals cost more than the scores themselves; without them every `interval` is null.
        """
        columns = {"scores": self.scores} if self.real is None else {"scores": self.scores, "real": self.real}
        stored: dict[str, Any] = {"protocol": self.protocol, "real": None}
        for column, scores in columns.items():
            known = with_intervals(list(scores.values())) if intervals else scores.values()
            stored[column] = {
                name: score.to_dict(interval=intervals) for name, score in zip(scores, known, strict=True)
            }
        return stored


def evaluate_text(
    hypotheses: Text,
    references: Text,
    *,
    train: Text | None = None,
    real: Text | None = None,
    protocol: str = "default",
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    temperature: float | None = None,
) -> Evaluation:
    """Score samples `hypotheses` against real text `references` by a named protocol, each score with its signature.

    `train` adds novelty and copying, in the default protocol. `real` is other real text: its first lines, as many as
    there are samples, are scored as if they were samples. `seed` is for protocols that shuffle; `temperature`, that of
    the samples, is recorded. `tokenizer` may be chosen in the default protocol only. All texts are lines, or all are
    token lists. Of a metric that the samples leave undefined (no sample has n tokens) the value is nan and the note
    says why. Warns where a toolkit's own fault makes its number meaningless, and where lines that are cut at spaces
    are written in different ways: one text in lower case, or with full stops apart from words.
    Raises ValueError for an unknown protocol, empty texts, too little real text; TypeError as `bleu`.
    """
    rules = protocol_named(protocol, tokenizer)
    given = {"hypotheses": hypotheses, "references": references, "training text": train, "real text": real}
    texts = {name: text for name, text in given.items() if text is not None}
    corpora, kind = rules.bleu.pack(texts)
    by_name = dict(zip(texts, corpora, strict=True))
    for name, corpus in by_name.items():
        if not corpus.lengths.size:
            raise ValueError(f"{name}: nothing to score; give at least one line")
    hyp, ref = by_name["hypotheses"], by_name["references"]
    making = _Making(rules, kind, seed, temperature)
    train_packed = by_name.get("training text")
    scores, matches = _column(making, hyp, ref, train_packed, input_hash(hypotheses, references))
    real_scores = None
    if real is not None:
        size = hyp.lengths.size
        other = by_name["real text"]
        if other.lengths.size < size:
            raise ValueError(
                f"real text must have as many lines as there are samples, {size}, got {other.lengths.size}; "
                f"score fewer samples or give more text"
            )
        same_size = take(other, np.arange(size))
        inputs = input_hash(real[:size] if not isinstance(real, Packed) else same_size, references)
        real_scores, _ = _column(making, same_size, ref, train_packed, inputs)
    for metric, text in rules.warnings.items():
        warnings.warn(f"protocol {protocol}, {metric}: {text}", stacklevel=2)
    return Evaluation(protocol, scores, real_scores, matches)


@dataclass(frozen=True)
class _Making:
    """What every signature of a table shares."""

    rules: Protocol
    kind: str
    seed: int
    temperature: float | None

    def fields(self, hyp: Packed, ref: Packed | None = None, /, **others: str) -> dict[str, str]:
        counts = {"hyp": str(hyp.lengths.size)}
        if ref is not None:
            counts["nrefs"] = str(ref.lengths.size)
        return others | counts | {"tok": self.kind, "case": self.rules.bleu.case}

    def score(self, row: Metric, n: int, texts: Texts, inputs: str) -> Score | None:
        """Return a metric at an order (0: it has none); None where it needs training text and there is none."""
        assert row.compute is not None
        references = texts.references if row.references else None
        order = {"n": str(n)} if n else {}
        fields = self.fields(texts.samples, references, **order, **row.states(texts))
        signature = Signature(row.name, fields, inputs, None, self.temperature)
        try:
            value = row.compute(texts, n)
        except UndefinedError as error:
            return Score(math.nan, signature, note=f"undefined: {error}")
        if value is None or isinstance(value, float):
            return None if value is None else Score(value, signature)
        sums = value.sum(axis=0)
        if not sums[1]:
            return Score(math.nan, signature, note="undefined: no sample is long enough")
        return Score(float(sums[0] / sums[1]), signature, rows=value)


def _column(
    making: _Making, hyp: Packed, ref: Packed, train: Packed | None, inputs: str
) -> tuple[dict[str, Score], Matches | None]:
    rules = making.rules
    scores = _bleu_table(making, hyp, ref, inputs)
    matches = None
    if rules.name == "default":
        texts = Texts(hyp, ref, train)
        for row in METRICS:
            for n in row.orders or (0,) if row.compute else ():
                if (score := making.score(row, n, texts, inputs)) is not None:
                    scores[f"{row.name}_{n}" if n else row.name] = score
        matches = texts.matches
    named = {
        name: replace(score, note=rules.warnings.get(name.rsplit("_", 1)[0], score.note))
        for name, score in scores.items()
    }
    if rules.digits is None:
        return named, matches
    return {
        name: replace(
            score,
            value=round(score.value, rules.digits),
            signature=replace(score.signature, fields={**score.signature.fields, "round": str(rules.digits)}),
        )
        for name, score in named.items()
    }, matches


# ------------------------------------------------------------------------------
# forward and backward BLEU, and Self-BLEU


def _bleu_table(making: _Making, hyp: Packed, ref: Packed, inputs: str) -> dict[str, Score]:
    rules = making.rules
    seed = making.seed if rules.shuffle else None
    if rules.shuffle:
        hyp = take(hyp, np.random.default_rng(making.seed).permutation(hyp.lengths.size))
    scored, used = _first(hyp, rules.hypotheses), _first(ref, rules.references)
    top = max(rules.bleu.orders)

    def table(
        name: str, stats: BleuStats, fields: Mapping[str, str], settings: BleuSettings, drawn: int | None = seed
    ) -> dict[str, Score]:
        by_order = scores_of_stats(name, stats, settings, fields, inputs, drawn, making.temperature)
        return {f"{name}_{n}": score for n, score in by_order.items()}

    if rules.own_references:
        if used.lengths.size != scored.lengths.size:
            raise ValueError(
                f"protocol {rules.name} scores hypothesis i against reference i; give as many references, "
                f"got {used.lengths.size} for {scored.lengths.size} hypotheses"
            )
        lists = [take(used, np.array([i])) for i in range(used.lengths.size)]
        stats = bleu_stats(scored, None, top, references_per_hypothesis=lists)
        fields = making.fields(scored, used) | {"nrefs": f"{used.lengths.size}(own)"}
    else:
        stats = bleu_stats(scored, used, top)
        fields = making.fields(scored, used)
    scores = table("bleu", stats, fields, rules.bleu)
    scores |= _self_table(making, hyp, table)
    if rules.backward:
        ahead, back = hyp, ref
        if rules.self_shuffle_seed is not None:
            ahead, back = (_first(_shuffled(one, rules.self_shuffle_seed), rules.self_count) for one in (hyp, ref))
            scores |= table("forward_bleu", bleu_stats(ahead, back, top), making.fields(ahead, back), rules.means)
        forward = "forward_bleu" if rules.self_shuffle_seed is not None else "bleu"
        scores |= table("backward_bleu", bleu_stats(back, ahead, top), making.fields(back, ahead), rules.means)
        for n in rules.bleu.orders:
            a, b = scores[f"{forward}_{n}"], scores[f"backward_bleu_{n}"]
            both = a.value + b.value
            value = 2 * a.value * b.value / both if both else 0.0
            scores[f"bleu_f1_{n}"] = Score(value, a.signature).named("bleu_f1")
    return scores


def _self_table(making: _Making, hyp: Packed, table: Callable[..., dict[str, Score]]) -> dict[str, Score]:
    rules = making.rules
    if rules.self_form == "none":
        return {}
    settings = replace(rules.means, orders=rules.self_orders or rules.bleu.orders)
    how: dict[str, Any] = {"settings": settings}
    if rules.self_shuffle_seed is not None:
        hyp = _shuffled(hyp, rules.self_shuffle_seed)
        how["drawn"] = rules.self_shuffle_seed
    top, size = max(settings.orders), hyp.lengths.size
    if rules.self_form == "split":
        # the toolkit draws fresh samples for this; here they are the last ones, the others the rest
        fresh = min(rules.self_count or size, size - 1)
        if fresh < 1:
            raise ValueError(f"protocol {rules.name} splits the samples for Self-BLEU and needs at least 2, got {size}")
        rest, last = take(hyp, np.arange(size - fresh)), take(hyp, np.arange(size - fresh, size))
        return table("self_bleu", bleu_stats(last, rest, top), making.fields(last, rest, self="split"), **how)
    some = _first(hyp, rules.self_count)
    fields = making.fields(some, self="loo" if rules.self_form == "loo" else "included")
    if rules.self_form == "included":
        return table("self_bleu", bleu_stats(some, some, top), fields, **how)
    return table("self_bleu", self_bleu_stats(some, top), fields, **how)


def _first(corpus: Packed, count: int | None) -> Packed:
    return corpus if count is None or count >= corpus.lengths.size else take(corpus, np.arange(count))


def _shuffled(corpus: Packed, seed: int) -> Packed:
    """Return it in the order that Python's own generator shuffles a list of this length into, as the toolkit does."""
    rows = list(range(corpus.lengths.size))
    random.Random(seed).shuffle(rows)
    return take(corpus, np.array(rows, dtype=np.int64))
