"""What each number is called, what it is counted in and which way is better: one list for every table.

A name is written alike in tables, files and options: `self_bleu_4` is the family `self_bleu` at order 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Better: TypeAlias = Literal["higher", "lower", "real", ""]
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "real": "≈", "": ""}
"""How a table says which way is better: `real` is as near as possible to what real text has."""


@dataclass(frozen=True)
class Metric:
    """What a table has to know of a number beside its value."""

    name: str
    better: Better = ""
    unit: str = ""
    """What it is counted in, shortly; "" for a plain number, mostly of 0..1."""
    of_training: bool = False
    """Whether it compares with the training text, so that of training text itself it is trivial."""

    @property
    def arrow(self) -> str:
        """Return the sign of `better`."""
        return ARROWS[self.better]


_NATS = {"token": "nats/token", "line": "nats/line", "character": "nats/char"}

_KNOWN = {
    metric.name: metric
    for metric in (
        # how likely held-out text is
        Metric("nll_per_character", "lower", _NATS["character"]),
        Metric("nll_per_line", "lower", _NATS["line"]),
        Metric("nll_per_token", "lower", _NATS["token"]),
        Metric("perplexity", "lower", "per token"),
        Metric("nll_per_picture", "lower", "nats"),
        Metric("bits_per_dim", "lower", "bits"),
        Metric("bound_per_line", "lower", _NATS["line"]),
        Metric("reconstruction", "lower", _NATS["line"]),
        Metric("reconstruction_without_code", "", _NATS["line"]),
        Metric("reconstruction_bleu", "higher"),
        Metric("token_accuracy", "higher"),
        Metric("effective_codes", "higher"),
        Metric("active_units"),
        Metric("kl", "", "nats"),
        Metric("mutual_information", "", "nats"),
        Metric("information_ceiling", "", "nats"),
        # samples against held-out text
        Metric("bleu", "higher"),
        Metric("forward_bleu", "higher"),
        Metric("backward_bleu", "higher"),
        Metric("bleu_f1", "higher"),
        Metric("ms_jaccard", "higher"),
        Metric("js", "lower", "nats"),
        *(Metric(f"kl_{n}", "lower", "nats") for n in (1, 2, 3)),  # `kl` alone is that of a code
        Metric("frequency_w1", "lower"),
        Metric("length_w1", "lower", "tokens"),
        Metric("kn_reverse", "lower", _NATS["token"]),
        Metric("lm_reverse", "lower", _NATS["token"]),
        Metric("frechet_lm", "lower"),
        Metric("mauve", "higher"),
        # samples among themselves
        Metric("self_bleu", "real"),
        Metric("distinct", "real"),
        Metric("entropy", "real", "nats"),
        Metric("zipf", "real"),
        Metric("repetition", "real"),
        Metric("unique", "real"),
        Metric("length", "real", "tokens"),
        # samples against training text
        Metric("novelty", "real", of_training=True),
        Metric("copied", "real", of_training=True),
        Metric("copied_span", "real", "tokens", of_training=True),
        Metric("copied_span_max", "real", "tokens", of_training=True),
        Metric("kn_forward", "real", _NATS["token"], of_training=True),
        Metric("lm_forward", "real", _NATS["token"], of_training=True),
        # pictures
        Metric("ffd", "lower"),
        Metric("kernel_distance", "lower"),
        Metric("sliced_wasserstein", "lower"),
        Metric("precision", "higher"),
        Metric("recall", "higher"),
        Metric("density", "higher"),
        Metric("coverage", "higher"),
        Metric("variety", "real"),
        Metric("class_kl", "lower", "nats"),
        Metric("class_js", "lower", "nats"),
        Metric("classifier_score", "real"),
        Metric("label_accuracy", "higher"),
        Metric("nearest_training", "real"),
        Metric("squared_error", "lower"),
        Metric("cross_entropy", "lower"),
        Metric("structural_similarity", "higher"),
    )
}

HEADLINES = (
    *("nll_per_character", "nll_per_line", "bleu_4", "backward_bleu_4", "self_bleu_4", "distinct_2", "unique"),
    *("novelty_4", "copied", "length", "lm_forward", "lm_reverse", "frechet_lm", "mauve"),
    *("kl", "mutual_information", "active_units"),
    *("bits_per_dim", "ffd", "precision", "recall", "density", "coverage", "class_kl", "label_accuracy"),
    *("nearest_training", "squared_error"),
)
"""What a table of one run shows first, in this order, as far as there is."""


def metric(name: str) -> Metric:
    """Return what is known of a number by its name, at whatever order; of an unknown one no more than its name."""
    family, _, order = name.rpartition("_")
    known = _KNOWN.get(name) or (_KNOWN.get(family) if order.isdigit() else None)
    return Metric(name) if known is None else replace(known, name=name)
