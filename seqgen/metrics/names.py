"""What each number is called, what it is counted in and which way is better: one list for every table.

A name is written alike in tables, files and options: `self_bleu_4` is the family `self_bleu` at order 4.
"""

from __future__ import annotations

from dataclasses import dataclass
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


# families of names, by what is known of them; `kl` alone is that of a code, at an order that of n-grams
_BETTER: dict[Better, str] = {
    "higher": "bleu forward_bleu backward_bleu bleu_f1 ms_jaccard mauve reconstruction_bleu token_accuracy "
    "effective_latents precision recall density coverage label_accuracy structural_similarity",
    "lower": "nll_per_character nll_per_line nll_per_token perplexity nll_per_image bits_per_dim bound_per_line "
    "reconstruction js kl_1 kl_2 kl_3 frequency_w1 length_w1 kn_reverse lm_reverse frechet_lm "
    "ffd kernel_distance sliced_wasserstein class_kl class_js squared_error cross_entropy",
    "real": "self_bleu distinct entropy zipf repetition unique length novelty copied copied_span copied_span_max "
    "kn_forward lm_forward variety classifier_score nearest_training",
}
_UNITS = {
    "nats/char": "nll_per_character",
    "nats/line": "nll_per_line bound_per_line reconstruction reconstruction_without_latent",
    "nats/token": "nll_per_token kn_forward kn_reverse lm_forward lm_reverse",
    "nats": "kl kl_1 kl_2 kl_3 js entropy mutual_information information_ceiling nll_per_image class_kl class_js",
    "bits": "bits_per_dim",
    "tokens": "length length_w1 copied_span copied_span_max",
}
_OF_TRAINING = "novelty copied copied_span copied_span_max kn_forward lm_forward"

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
    stem, _, order = name.rpartition("_")
    family = stem if order.isdigit() and not any(name in names.split() for names in _BETTER.values()) else name
    better: Better = next((way for way, names in _BETTER.items() if family in names.split()), "")
    unit = next((unit for unit, names in _UNITS.items() if family in names.split()), "")
    return Metric(name, better, unit, family in _OF_TRAINING.split())
