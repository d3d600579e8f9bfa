"""Every metric, one row each: its name, unit, which direction is better, what it compares with, and how it is computed.

A name is written alike in tables, files and options: `self_bleu_4` is the metric `self_bleu` at n-gram order 4.
A new metric of text is one more row with a function: `seqgen.metrics.evaluate_text` computes it and every table shows
it. Rows without a function are computed where their inputs are: BLEU by a protocol's settings (protocol.py), likelihood
by a run, the scores of images in `seqgen.images`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

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
from seqgen.metrics.ngrams import Floats, Ints, Packed, ngram_counts
from seqgen.metrics.novelty import Matches, match_training, novelty_rows, span_lengths
from seqgen.metrics.score import mean_rows

Better: TypeAlias = Literal["higher", "lower", "real", ""]
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "real": "≈", "": ""}
"""How a table shows which direction is better: `real` is as near as possible to the value of real text."""
Where: TypeAlias = Literal["evaluate", "compare", "validation"]
"""Tables that show some metrics unless more are asked for: those of the two commands, and of a run's validations."""


class UndefinedError(ValueError):
    """Samples leave a metric undefined, for the reason given."""


@dataclass(frozen=True, eq=False)
class Texts:
    """What metrics of text are computed from, ids of one vocabulary; what several metrics need is computed once."""

    samples: Packed
    references: Packed
    training: Packed | None

    @cached_property
    def counts(self) -> list[Ints]:
        """Count every n-gram of orders 1..5 in samples and references, (2, G) each."""
        corpora = [self.samples, self.references]
        vocabulary = 1 + int(max(corpus.tokens.max(initial=0) for corpus in corpora))
        return list(ngram_counts(corpora, vocabulary, 5))

    def of_samples(self, n: int) -> Ints:
        """Return the samples' counts of n-grams, (G,). Raises UndefinedError where no sample has n tokens."""
        if not self.counts[n - 1][0].any():
            raise UndefinedError(f"no sample has {n} tokens")
        own: Ints = self.counts[n - 1][0]
        return own

    def of_both(self, n: int) -> Ints:
        """Return both sides' counts of n-grams, (2, G). Raises UndefinedError where a side has none."""
        sides = zip(("sample", "reference"), self.counts[n - 1], strict=True)
        short = [side for side, row in sides if not row.any()]
        if short:
            raise UndefinedError(f"no {' and no '.join(short)} has {n} tokens")
        return self.counts[n - 1]

    @cached_property
    def matches(self) -> Matches | None:
        """Return the overlap of the samples with the training text; None without one."""
        return None if self.training is None else match_training(self.samples, self.training)


Value: TypeAlias = float | Floats | None
"""A number; or rows (N, 2), one a sample, whose ratio of sums is the number; or None, which leaves the metric out."""


@dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    better: Better = ""
    unit: str = ""
    """What it is counted in, shortly; "" for a plain number, mostly of 0..1."""
    about: str = ""
    """What it is, in a line."""
    references: bool = False
    """Whether it compares with references (held-out real text or images)."""
    training: bool = False
    """Whether it compares with the training text, so that of training text itself it is trivial."""
    per_token: bool = False
    """Whether its values depend on the model's own tokenizer, so that only runs that share one can be compared."""
    orders: tuple[int, ...] = ()
    """n-gram orders it is computed at."""
    tables: tuple[Where, ...] = ()
    """Where it is shown unless all metrics are."""
    shown_order: int = 0
    """The n-gram order that is shown there."""
    compute: Callable[[Texts, int], Value] | None = None
    """From texts and the n-gram order (0 where it has none) to the value; may raise UndefinedError."""
    states: Callable[[Texts], Mapping[str, str]] = lambda _: {}
    """What a signature states beside order, counts, tokenizer and case."""

    @property
    def arrow(self) -> str:
        """Return the sign of `better`."""
        return ARROWS[self.better]

    def to_dict(self) -> dict[str, str]:
        """Return what a reader of JSON needs to know."""
        return {"better": self.better, "unit": self.unit, "about": self.about}


# ------------------------------------------------------------------------------
# functions of the rows below


def _distinct(texts: Texts, n: int) -> float:
    own = texts.of_samples(n)
    return np.count_nonzero(own) / int(own.sum())


def _zipf(texts: Texts, _: int) -> float:
    own = texts.of_samples(1)
    if np.count_nonzero(own) < 2:
        raise UndefinedError("the samples hold fewer than 2 different tokens")
    return zipf_of_counts(own)


def _ms_jaccard(texts: Texts, n: int) -> float:
    texts.of_both(n)
    sizes = np.array([[texts.samples.lengths.size], [texts.references.lengths.size]])
    return ms_jaccard_of_counts(texts.counts[:n], sizes)


def _unique(texts: Texts, _: int) -> float:
    first = first_occurrence(texts.samples)
    return float((first == np.arange(first.size)).mean())


def _novelty(texts: Texts, n: int) -> Value:
    return None if texts.matches is None else novelty_rows(texts.matches, n)


def _copied(texts: Texts, _: int) -> Value:
    return None if texts.matches is None else mean_rows(texts.matches.copied.astype(np.float64))


def _copied_span(texts: Texts, _: int) -> Value:
    return None if texts.matches is None else mean_rows(span_lengths(texts.matches).astype(np.float64))


def _copied_span_max(texts: Texts, _: int) -> Value:
    return None if texts.matches is None else float(span_lengths(texts.matches).max())


def _training_size(texts: Texts) -> dict[str, str]:
    return {} if texts.training is None else {"train": str(texts.training.lengths.size)}


def _kneser_ney(fitted: Packed, scored: Packed) -> Floats:
    """Return -ln P of each sentence under a 5-gram model of the other corpus, and its tokens with the end, (N, 2)."""
    return np.column_stack([-KneserNey(fitted).log_probability(scored), scored.lengths + 1.0])


def _kn_forward(texts: Texts, _: int) -> Floats:
    return _kneser_ney(texts.references if texts.training is None else texts.training, texts.samples)


# ------------------------------------------------------------------------------
# the rows, in the order in which tables show them

_ALL: tuple[Where, ...] = ("evaluate", "compare", "validation")
_BLEU = (2, 3, 4, 5)

METRICS = (
    # likelihood of held-out text, by a run
    Metric(
        "nll_per_token", "lower", "nats/token", "negative log-likelihood of held-out text per token",
        references=True, per_token=True, tables=("validation",),
    ),
    Metric(
        "perplexity", "lower", "", "exponential of nll_per_token",
        references=True, per_token=True, tables=("validation",),
    ),
    Metric(
        "nll_per_character", "lower", "nats/char", "negative log-likelihood of held-out text per character",
        references=True, tables=_ALL,
    ),
    Metric(
        "nll_per_line", "lower", "nats/line", "negative log-likelihood of held-out text per line",
        references=True, tables=("evaluate",),
    ),
    Metric(
        "bound_per_token", "lower", "nats/token", "upper bound on nll_per_token, which it is not compared with",
        references=True, per_token=True, tables=("validation",),
    ),
    Metric(
        "bound_per_character", "lower", "nats/char", "upper bound on nll_per_character, which it is not compared with",
        references=True, tables=_ALL,
    ),
    Metric(
        "bound_per_line", "lower", "nats/line", "upper bound on nll_per_line: minus the evidence lower bound",
        references=True, tables=("evaluate",),
    ),
    Metric("kl_from_oracle", "lower", "nats/line", "KL divergence of the model from the grammar behind the text"),
    Metric("nll_oracle", "lower", "nats/token", "NLL of samples under the grammar behind the text"),
    Metric("oracle_share", "higher", "", "share of samples that the grammar behind the text can write"),
    # text against text
    Metric(
        "bleu", "higher", "", "BLEU against references",
        references=True, orders=_BLEU, tables=_ALL, shown_order=4,
    ),
    Metric(
        "self_bleu", "real", "", "BLEU of each sample against all others",
        orders=_BLEU, tables=_ALL, shown_order=4,
    ),
    Metric(
        "real_self_bleu", "", "", "Self-BLEU of as many training lines",
        orders=(4,), tables=("validation",), shown_order=4,
    ),
    Metric("forward_bleu", "higher", "", "BLEU against references", references=True, orders=_BLEU),
    Metric(
        "backward_bleu", "higher", "", "BLEU of references against samples",
        references=True, orders=_BLEU, tables=("evaluate", "compare"), shown_order=4,
    ),
    Metric("tokenized_bleu", "higher", "", "BLEU of text that is tokenised already", references=True, orders=(4,)),
    Metric("chrf", "higher", "", "F-score of characters, line by line", references=True, tables=("compare",)),
    Metric("chrf_pp", "higher", "", "chrF++: F-score of characters and words", references=True, tables=("compare",)),
    Metric("exact_match", "higher", "", "share of lines that equal a reference", references=True, tables=("compare",)),
    Metric("bleu_f1", "higher", "", "harmonic mean of BLEU and backward BLEU", references=True, orders=_BLEU),
    Metric(
        "distinct", "real", "", "distinct n-grams over all n-grams",
        orders=(1, 2, 3, 4), tables=_ALL, shown_order=2, compute=_distinct,
    ),
    Metric(
        "entropy", "real", "nats", "entropy of the n-gram distribution",
        orders=(1, 2, 3), compute=lambda texts, n: entropy(texts.of_samples(n)),
    ),
    Metric("zipf", "real", "", "exponent of Zipf's law", compute=_zipf),
    Metric(
        "ms_jaccard", "higher", "", "MS-Jaccard with references",
        references=True, orders=_BLEU, compute=_ms_jaccard,
    ),
    Metric(
        "js", "lower", "nats", "Jensen-Shannon divergence of the n-gram distributions",
        references=True, orders=(1, 2, 3), compute=lambda texts, n: js_of_counts(texts.of_both(n)),
    ),
    Metric(
        "kl", "lower", "nats", "KL divergence of the n-gram distribution from that of references, 1 added to counts",
        references=True, orders=(1, 2, 3), compute=lambda texts, n: kl_of_counts(texts.of_both(n), 1.0),
    ),
    Metric(
        "frequency_w1", "lower", "", "Wasserstein-1 distance of the sorted token frequencies, in ranks",
        references=True, compute=lambda texts, _: frequency_distance_of_counts(texts.of_both(1)),
    ),
    Metric(
        "repetition", "real", "", "share of n-grams that stood before in their sample",
        orders=(2, 3, 4), compute=lambda texts, n: repetition_rows(texts.samples, n),
    ),
    Metric("unique", "real", "", "distinct samples over all", tables=("evaluate", "validation"), compute=_unique),
    Metric(
        "length", "real", "tokens", "mean length",
        tables=("evaluate",), compute=lambda texts, _: mean_rows(texts.samples.lengths.astype(np.float64)),
    ),
    Metric(
        "length_w1", "lower", "tokens", "Wasserstein-1 distance of the lengths",
        references=True, compute=lambda texts, _: wasserstein_1(texts.samples.lengths, texts.references.lengths),
    ),
    Metric(
        "novelty", "real", "", "share of n-grams that training text does not have",
        training=True, orders=tuple(range(1, 9)), tables=_ALL, shown_order=4, compute=_novelty, states=_training_size,
    ),
    Metric(
        "copied", "real", "", "share of samples that are training lines",
        training=True, tables=_ALL, compute=_copied, states=_training_size,
    ),
    Metric(
        "copied_span", "real", "tokens", "longest run of tokens shared with one training line, mean over samples",
        training=True, compute=_copied_span, states=_training_size,
    ),
    Metric(
        "copied_span_max", "real", "tokens", "the same, largest of all samples",
        training=True, compute=_copied_span_max, states=_training_size,
    ),
    Metric(
        "kn_forward", "real", "nats/token", "NLL of samples under a Kneser-Ney 5-gram model of the training text",
        training=True, compute=_kn_forward,
        states=lambda texts: {"fit": "references" if texts.training is None else "train", "order": "5"},
    ),
    Metric(
        "kn_reverse", "lower", "nats/token", "NLL of references under a Kneser-Ney 5-gram model of the samples",
        references=True, compute=lambda texts, _: _kneser_ney(texts.samples, texts.references),
        states=lambda _: {"fit": "hyp", "order": "5"},
    ),
    Metric("parses", "higher", "", "share of texts that parse as Python", tables=("evaluate",)),
    # molecules, as MOSES defines them; _sf: beside references with other scaffolds
    Metric("valid", "higher", "", "share of texts that are SMILES of a molecule"),
    Metric("unique_1k", "higher", "", "distinct molecules among the first 1,000 valid ones"),
    Metric("unique_10k", "higher", "", "distinct molecules among the first 10,000 valid ones"),
    Metric("novel", "real", "", "share of distinct molecules that the training set does not hold", training=True),
    Metric("fcd", "lower", "", "Fréchet ChemNet distance", references=True),
    Metric("snn", "real", "", "Tanimoto similarity to the nearest reference", references=True),
    Metric("frag", "higher", "", "cosine of the counts of BRICS fragments", references=True),
    Metric("scaf", "higher", "", "cosine of the counts of scaffolds", references=True),
    Metric("fcd_sf", "lower", "", "fcd beside molecules with other scaffolds", references=True),
    Metric("snn_sf", "real", "", "snn beside molecules with other scaffolds", references=True),
    Metric("frag_sf", "higher", "", "frag beside molecules with other scaffolds", references=True),
    Metric("scaf_sf", "higher", "", "scaf beside molecules with other scaffolds", references=True),
    Metric("int_div", "real", "", "1 less the mean Tanimoto similarity of pairs"),
    Metric("int_div_2", "real", "", "1 less the root of the mean square of the similarities"),
    Metric("filters", "higher", "", "share that passes the filters of medicinal chemistry"),
    Metric("logp_w1", "lower", "", "Wasserstein-1 distance of logP", references=True),
    Metric("sa_w1", "lower", "", "Wasserstein-1 distance of synthetic accessibility", references=True),
    Metric("qed_w1", "lower", "", "Wasserstein-1 distance of drug-likeness", references=True),
    Metric("weight_w1", "lower", "Da", "Wasserstein-1 distance of molecular weight", references=True),
    # a language model as judge
    Metric(
        "lm_forward", "real", "nats/token", "NLL of samples under a language model of real text",
        training=True, tables=("evaluate",),
    ),
    Metric(
        "lm_reverse", "lower", "nats/token", "NLL of references under a language model of the samples",
        references=True, tables=("evaluate",),
    ),
    Metric(
        "frechet_lm", "lower", "", "Fréchet distance of the judge's features",
        references=True, tables=("evaluate",),
    ),
    Metric("mauve", "higher", "", "MAUVE of the judge's features", references=True, tables=("evaluate",)),
    Metric(
        "auroc", "lower", "", "how often the judge's critic prefers a reference to a sample; .5: it cannot tell",
        references=True, tables=("evaluate",),
    ),
    Metric("mauve_sd", "", "", "deviation of MAUVE over clusterings", references=True),
    # training and latent codes
    Metric("loss", "lower", "", "held-out loss", references=True, tables=("validation",)),
    Metric(
        "reconstruction", "lower", "nats/line", "NLL of held-out text given its latent code",
        references=True, tables=("validation",),
    ),
    Metric("kl", "", "nats", "KL divergence of the posterior from the prior", tables=("evaluate", "validation")),
    Metric("accuracy", "higher", "", "share of labels that are right", references=True, tables=("validation",)),
    Metric(
        "mutual_information", "", "nats", "mutual information of text and latent code",
        tables=("evaluate", "validation"),
    ),
    Metric("information_ceiling", "", "nats", "largest value that mutual_information can have", tables=("validation",)),
    Metric("active_units", "", "", "dimensions of the latent code in use", tables=("evaluate", "validation")),
    Metric(
        "reconstruction_without_latent", "", "nats/line", "NLL of held-out text given another text's latent code",
        references=True, tables=("validation",),
    ),
    Metric("effective_latents", "higher", "", "effective sample size of the likelihood's estimate"),
    Metric("reconstruction_bleu", "higher", "", "BLEU of reconstructions", references=True, orders=(4,)),
    Metric("token_accuracy", "higher", "", "share of tokens that are likeliest given the latent code", references=True),
    # images
    Metric("nll_per_image", "lower", "nats", "negative log-likelihood of held-out images, a bound", references=True),
    Metric(
        "bits_per_dim", "lower", "bits", "the same per dimension",
        references=True, tables=("evaluate", "validation"),
    ),
    Metric("ffd", "lower", "", "Fréchet distance of classifier features", references=True, tables=_ALL),
    Metric("kernel_distance", "lower", "", "kernel distance of classifier features", references=True),
    Metric("precision", "higher", "", "share of images beside which real ones lie", references=True, tables=_ALL),
    Metric("recall", "higher", "", "share of real images beside which made ones lie", references=True, tables=_ALL),
    Metric("density", "higher", "", "real neighbourhoods an image lies in", references=True, tables=_ALL),
    Metric("coverage", "higher", "", "share of real images with a made neighbour", references=True, tables=_ALL),
    Metric("sliced_wasserstein", "lower", "", "Wasserstein distance of projected pixels", references=True),
    Metric("variety", "real", "", "deviation of a pixel between images"),
    Metric("class_kl", "lower", "nats", "KL divergence of the classes from those of real images", tables=_ALL),
    Metric("class_js", "lower", "nats", "Jensen-Shannon divergence of the classes"),
    Metric("classifier_score", "real", "", "inception score by the classifier of real images"),
    Metric("label_accuracy", "higher", "", "share of images that show the class asked for", tables=("evaluate",)),
    Metric("nearest_training", "real", "", "distance per pixel to the nearest training image", tables=_ALL),
    Metric("squared_error", "lower", "", "squared error of reconstructions", references=True, tables=("evaluate",)),
    Metric("cross_entropy", "lower", "", "cross-entropy of reconstructions", references=True),
    Metric("structural_similarity", "higher", "", "structural similarity of reconstructions", references=True),
)  # fmt: skip
"""All metrics. `kl` alone is that of a latent code, with an order that of n-grams."""

_BY_NAME = {(row.name, bool(row.orders)): row for row in METRICS}


def metric(name: str) -> Metric:
    """Return the row of a metric by its name, at whatever order; of an unknown one no more than its name."""
    stem, _, order = name.rpartition("_")
    row = _BY_NAME.get((name, False)) or (_BY_NAME.get((stem, True)) if order.isdigit() else None)
    return replace(row or Metric(name), name=name)


def metric_names() -> list[str]:
    """Return the names of all metrics, at each of their orders."""
    return [name for m in METRICS for name in ([f"{m.name}_{n}" for n in m.orders] or [m.name])]


def shown(where: Where) -> tuple[str, ...]:
    """Return the names that a table shows first, in this order, as far as there is a score of that name."""
    return tuple(f"{m.name}_{m.shown_order}" if m.shown_order else m.name for m in METRICS if where in m.tables)
