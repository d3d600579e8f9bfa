"""Rules that texts of a domain keep, text by text: whether it parses as Python, or is a molecule. No text is run."""

import ast
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from seqgen.metrics.molecules import is_molecule
from seqgen.metrics.score import Score, Signature, input_hash, mean_rows


def parses(text: str) -> bool:
    """Return whether a text is a module by the grammar of this Python; indented as a whole, it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of "\d" in a string, which parses
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # bad grammar, NUL bytes, nesting too deep
            return False
    return True


DOMAINS: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "python": ("parses", parses),
    "molecules": ("valid", is_molecule),
}
"""By the name of a domain, its metric and the rule that the metric is the share of."""


def keeping(domain: str, texts: Sequence[str]) -> dict[str, Score]:
    """Return the share of texts that keep the rules of a domain, by the name of the metric.

    ValueError for an unknown domain or no texts.
    """
    if domain not in DOMAINS:
        raise ValueError(f"unknown domain {domain!r}; known: {', '.join(DOMAINS)}")
    if not texts:
        raise ValueError("no texts to score")
    name, rule = DOMAINS[domain]
    rows = mean_rows(np.array([rule(text) for text in texts], np.float64))
    signature = Signature(name, {"domain": domain, "hyp": str(len(texts))}, input_hash(texts))
    return {name: Score(float(rows[:, 0].mean()), signature, rows=rows)}
