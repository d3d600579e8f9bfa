"""Whole tables of scores by named protocols: ours, and those that published text-GAN numbers were made with.

A preset repeats a toolkit exactly: counts of hypotheses and references, tokenizer, case, smoothing, Self-BLEU's form.
Where a toolkit's own fault makes a number meaningless, it is still computed, with a warning and a note.
`default` computes every cheap metric on full files; the others what their toolkit computed, and nothing else.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from seqgen.metrics.bleu import BleuStats, Level, bleu_stats, scores_of_stats, self_bleu_stats, take
from seqgen.metrics.distance import js_of_counts, kl_of_counts, ms_jaccard_of_counts
from seqgen.metrics.diversity import (
    entropy,
    first_occurrence,
    frequency_distance_of_counts,
    repetition_rows,
    wasserstein_1,
    zipf_of_counts,
)
from seqgen.metrics.ngram_lm import KneserNey
from seqgen.metrics.ngrams import Floats, Packed, ngram_counts
from seqgen.metrics.novelty import match_training, novelty_rows, span_lengths
from seqgen.metrics.score import Score, Signature, input_hash, mean_rows, with_intervals
from seqgen.metrics.tokens import Text, Tokenizer, pack_texts


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
    tokenizer: Tokenizer = "split"
    """How lines become tokens; token lists are left as they are."""
    lowercase: bool = False
    """Whether text is lower-cased."""
    smoothing: str = "method1"
    level: Level = "sentence"
    orders: tuple[int, ...] = (2, 3, 4, 5)
    """BLEU orders."""
    self_form: Literal["loo", "split", "included", "none"] = "loo"
    """Self-BLEU against all others, of fresh samples against the rest, with the line in its references, or none."""
    self_count: int | None = None
    """How many samples Self-BLEU scores."""
    self_shuffle_seed: int | None = None
    """Seed the toolkit itself shuffles the Self-BLEU samples with."""
    self_smoothing: str = "method1"
    self_orders: tuple[int, ...] = (2, 3, 4, 5)
    """Self-BLEU orders."""
    backward: bool = False
    """Whether BLEU is also computed both ways, as sentence means with method1 on `self_count` lines."""
    digits: int | None = None
    """Decimals the toolkit rounds to."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """Metric -> why its number must not be read at face value."""


CACCIA_MULTIPLIERS = (
    *(0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4),
    *(1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 3.0, 4.0),
)
"""The 19 factors on the logits of Caccia et al. 2020; a temperature is the inverse of one."""

_INCLUDED = "every line is among its own references, so this is 1 whatever the samples are; it says nothing"

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("default", "this package: full files, leave-one-out, every cheap metric", backward=True),
        Protocol("texygen", "geek-ai/Texygen, its published table", tokenizer="nltk", lowercase=True),
        Protocol(
            "texygen-fast",
            "geek-ai/Texygen, the code's default is_fast=True",
            references=500,
            tokenizer="nltk",
            lowercase=True,
            self_count=500,
        ),
        Protocol(
            "textgan",
            "williamSYSU/TextGAN-PyTorch",
            hypotheses=200,
            tokenizer="nltk",
            lowercase=True,
            self_form="split",
            self_count=200,
            self_orders=(2, 3, 4),
            digits=3,
        ),
        Protocol(
            "relgan",
            "weilinie/RelGAN",
            hypotheses=100,
            tokenizer="nltk",
            self_form="included",
            self_count=200,
            warnings={"self_bleu": _INCLUDED},
        ),
        Protocol(
            "leakgan",
            "CR-Gjx/LeakGAN",
            hypotheses=2000,
            shuffle=True,
            smoothing="method0",
            self_form="none",
            warnings={"bleu": "published values came from nltk before 3.3, whose unsmoothed scores were far too high"},
        ),
        Protocol(
            "caccia",
            "pclucas14/GansFallingShort",
            hypotheses=10_000,
            references=10_000,
            tokenizer="nltk",
            orders=(5,),
            self_count=10_000,
            self_orders=(5,),
        ),
        Protocol(
            "cotk",
            "thu-coai/cotk",
            own_references=True,
            smoothing="method3",
            level="corpus",
            orders=(4,),
            self_count=1000,
            self_shuffle_seed=1229,
            self_orders=(4,),
            backward=True,
        ),
    )
}
"""The presets by name."""


def protocol_named(name: str) -> Protocol:
    """The preset of this name. Raises ValueError for an unknown one, which lists those there are."""
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A table of scores: one column for the samples and, where asked, one for real text of the same size."""

    protocol: str
    scores: dict[str, Score]
    """Metric -> score of the samples, such as `bleu_4`, in the order they are printed."""
    real: dict[str, Score] | None = None
    """The same for real text; None where none was given."""

    def __getitem__(self, name: str) -> Score:
        """Return the samples' score of this name; KeyError lists what there is."""
        if name not in self.scores:
            raise KeyError(f"no score {name!r}; there are {', '.join(self.scores)}")
        return self.scores[name]

    def rows(self) -> Iterator[tuple[str, Score, Score | None]]:
        """Each line of the table: name, the samples' score, real text's score or None."""
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
    """The scores of samples `hypotheses` against real text `references` by a named protocol, each with its signature.

    `train` adds novelty and copying, in the default protocol. `real` is other real text: its first lines, as many as
    there are samples, are scored as if they were samples. `seed` is for protocols that shuffle; `temperature`, that of
    the samples, is recorded. `tokenizer` may be chosen in the default protocol only. All texts are lines, or all are
    token lists. Of a metric that the samples leave undefined (no sample has n tokens) the value is nan and the note
    says why. Warns where a toolkit's own fault makes its number meaningless.
    Raises ValueError for an unknown protocol, empty texts, too little real text; TypeError as `bleu`.
    """
    rules = protocol_named(protocol)
    if tokenizer is not None and protocol != "default":
        raise ValueError(f"protocol {protocol} fixes its tokenizer; choose one in the default protocol only")
    given = {"hypotheses": hypotheses, "references": references, "training text": train, "real text": real}
    texts = {name: text for name, text in given.items() if text is not None}
    corpora, kind = pack_texts(texts, tokenizer or rules.tokenizer, lowercase=rules.lowercase)
    by_name = dict(zip(texts, corpora, strict=True))
    for name, corpus in by_name.items():
        if not corpus.lengths.size:
            raise ValueError(f"{name}: nothing to score; give at least one line")
    hyp, ref = by_name["hypotheses"], by_name["references"]
    making = _Making(rules, kind, seed, temperature)
    columns = {
        "hypotheses": _column(making, hyp, ref, by_name.get("training text"), input_hash(hypotheses, references))
    }
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
        columns["real text"] = _column(making, same_size, ref, by_name.get("training text"), inputs)
    for metric, text in rules.warnings.items():
        warnings.warn(f"protocol {protocol}, {metric}: {text}", stacklevel=2)
    return Evaluation(protocol, columns["hypotheses"], columns.get("real text"))


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
        return others | counts | {"tok": self.kind, "case": "lc" if self.rules.lowercase else "mixed"}

    def sign(self, metric: str, inputs: str, fields: Mapping[str, str]) -> Signature:
        return Signature(metric, fields, inputs, None, self.temperature)


def _column(making: _Making, hyp: Packed, ref: Packed, train: Packed | None, inputs: str) -> dict[str, Score]:
    rules = making.rules
    scores = _bleu_table(making, hyp, ref, inputs)
    if rules.name == "default":
        scores |= _ngram_table(making, hyp, ref, inputs)
        scores |= _row_table(making, hyp, ref, train, inputs)
    named = {
        name: replace(score, note=rules.warnings.get(name.rsplit("_", 1)[0], score.note))
        for name, score in scores.items()
    }
    if rules.digits is None:
        return named
    return {
        name: replace(
            score,
            value=round(score.value, rules.digits),
            signature=replace(score.signature, fields={**score.signature.fields, "round": str(rules.digits)}),
        )
        for name, score in named.items()
    }


# ------------------------------------------------------------------------------
# BLEU, both ways, and Self-BLEU


def _bleu_table(making: _Making, hyp: Packed, ref: Packed, inputs: str) -> dict[str, Score]:
    rules = making.rules
    seed = making.seed if rules.shuffle else None
    if rules.shuffle:
        hyp = take(hyp, np.random.default_rng(making.seed).permutation(hyp.lengths.size))
    scored, used = _first(hyp, rules.hypotheses), _first(ref, rules.references)
    top = max(rules.orders)

    def table(name: str, stats: BleuStats, fields: Mapping[str, str], **how: Any) -> dict[str, Score]:
        orders, drawn = how.pop("orders", rules.orders), how.pop("drawn", seed)
        smoothing, level = how.pop("smoothing", rules.smoothing), how.pop("level", rules.level)
        by_order = scores_of_stats(
            name, stats, orders, smoothing, level, None, fields, inputs, drawn, making.temperature
        )
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
    scores = table("bleu", stats, fields)
    scores |= _self_table(making, hyp, table)
    if rules.backward:
        means = {"level": "sentence", "smoothing": rules.self_smoothing, "orders": rules.orders}
        ahead, back = hyp, ref
        if rules.self_shuffle_seed is not None:
            ahead, back = (_first(_shuffled(one, rules.self_shuffle_seed), rules.self_count) for one in (hyp, ref))
            scores |= table("forward_bleu", bleu_stats(ahead, back, top), making.fields(ahead, back), **means)
        forward = "forward_bleu" if rules.self_shuffle_seed is not None else "bleu"
        scores |= table("backward_bleu", bleu_stats(back, ahead, top), making.fields(back, ahead), **means)
        for n in rules.orders:
            a, b = scores[f"{forward}_{n}"], scores[f"backward_bleu_{n}"]
            both = a.value + b.value
            signature = replace(a.signature, metric="bleu_f1")
            scores[f"bleu_f1_{n}"] = Score(2 * a.value * b.value / both if both else 0.0, signature)
    return scores


def _self_table(making: _Making, hyp: Packed, table: Callable[..., dict[str, Score]]) -> dict[str, Score]:
    rules = making.rules
    if rules.self_form == "none":
        return {}
    how: dict[str, Any] = {"orders": rules.self_orders, "smoothing": rules.self_smoothing, "level": "sentence"}
    if rules.self_shuffle_seed is not None:
        hyp = _shuffled(hyp, rules.self_shuffle_seed)
        how["drawn"] = rules.self_shuffle_seed
    top, size = max(rules.self_orders), hyp.lengths.size
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
    """In the order that Python's own generator shuffles a list of this length into, as the toolkit does."""
    rows = list(range(corpus.lengths.size))
    random.Random(seed).shuffle(rows)
    return take(corpus, np.array(rows, dtype=np.int64))


# ------------------------------------------------------------------------------
# everything else of the default protocol


def _ngram_table(making: _Making, hyp: Packed, ref: Packed, inputs: str) -> dict[str, Score]:
    """Functions of n-gram counts: no sums over rows, so no interval."""
    vocabulary = 1 + int(max(corpus.tokens.max(initial=0) for corpus in (hyp, ref)))
    tables = list(ngram_counts([hyp, ref], vocabulary, 5))
    sizes = np.array([[hyp.lengths.size], [ref.lengths.size]])
    scores: dict[str, Score] = {}

    def add(metric: str, n: int | None, compared: bool, function: Callable[[], float]) -> None:
        counted = tables[(n or 1) - 1]
        short = [side for side, row in zip(("sample", "reference"), counted, strict=True) if not row.any()]
        if not compared:
            short = short[:1] if short[:1] == ["sample"] else []
        fields = making.fields(hyp, ref if compared else None, **({"n": str(n)} if n else {}))
        note = f"undefined: no {' and no '.join(short)} has {n or 1} tokens" if short else ""
        if not note and metric == "zipf" and np.count_nonzero(counted[0]) < 2:
            note = "undefined: the samples hold fewer than 2 different tokens"
        value = float("nan") if note else function()
        signature = making.sign(metric, inputs, fields)
        scores[metric if n is None else f"{metric}_{n}"] = Score(value, signature, note=note)

    for n in (1, 2, 3, 4):
        own = tables[n - 1][0]
        add("distinct", n, False, lambda own=own: np.count_nonzero(own) / int(own.sum()))  # type: ignore[misc]
    for n in (1, 2, 3):
        add("entropy", n, False, lambda own=tables[n - 1][0]: entropy(own))  # type: ignore[misc]
    add("zipf", None, False, lambda: zipf_of_counts(tables[0][0]))
    for n in (2, 3, 4, 5):
        add("ms_jaccard", n, True, lambda n=n: ms_jaccard_of_counts(tables[:n], sizes))  # type: ignore[misc]
    for n in (1, 2, 3):
        add("js", n, True, lambda n=n: js_of_counts(tables[n - 1]))  # type: ignore[misc]
    for n in (1, 2, 3):
        add("kl", n, True, lambda n=n: kl_of_counts(tables[n - 1], 1.0))  # type: ignore[misc]
    add("frequency_w1", None, True, lambda: frequency_distance_of_counts(tables[0]))
    return scores


def _row_table(making: _Making, hyp: Packed, ref: Packed, train: Packed | None, inputs: str) -> dict[str, Score]:
    """Sums over samples, with intervals, and what is known of whole lines."""
    scores: dict[str, Score] = {}

    def add(name: str, rows: Floats, fields: Mapping[str, str], undefined: str = "no sample is long enough") -> None:
        metric, _, order = name.rpartition("_")
        signature = making.sign(metric if order.isdigit() else name, inputs, fields)
        sums = rows.sum(axis=0)
        if not sums[1]:
            scores[name] = Score(float("nan"), signature, note=f"undefined: {undefined}")
        else:
            scores[name] = Score(float(sums[0] / sums[1]), signature, rows=rows)

    def plain(name: str, value: float, fields: Mapping[str, str]) -> None:
        scores[name] = Score(value, making.sign(name, inputs, fields))

    for n in (2, 3, 4):
        add(f"repetition_{n}", repetition_rows(hyp, n), making.fields(hyp, n=str(n)))
    size = hyp.lengths.size
    plain("unique", float((first_occurrence(hyp) == np.arange(size)).mean()), making.fields(hyp))
    add("length", mean_rows(hyp.lengths.astype(np.float64)), making.fields(hyp))
    plain("length_w1", wasserstein_1(hyp.lengths, ref.lengths), making.fields(hyp, ref))
    if train is not None:
        matches = match_training(hyp, train)
        fields = making.fields(hyp, train=str(train.lengths.size))
        for n in range(1, 9):
            add(f"novelty_{n}", novelty_rows(matches, n), {"n": str(n)} | fields)
        add("copied", mean_rows(matches.copied.astype(np.float64)), fields)
        spans = span_lengths(matches)
        add("copied_span", mean_rows(spans.astype(np.float64)), fields)
        plain("copied_span_max", float(spans.max()), fields)
    add(
        "kn_forward",
        _kn_rows(train if train is not None else ref, hyp),
        making.fields(hyp, fit="references" if train is None else "train", order="5"),
    )
    add("kn_reverse", _kn_rows(hyp, ref), making.fields(hyp, ref, fit="hyp", order="5"))
    return scores


def _kn_rows(fitted: Packed, scored: Packed) -> Floats:
    """Per sentence the negative ln P under a Kneser-Ney 5-gram of the other corpus, and its tokens and end, (N, 2)."""
    return np.column_stack([-KneserNey(fitted).log_probability(scored), scored.lengths + 1.0])
