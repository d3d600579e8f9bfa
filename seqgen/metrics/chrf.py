"""chrF and chrF++: F-scores of character and word n-grams against references line by line (Popović 2015, 2017).

Precision and recall are averaged over the n-gram orders that hypotheses and references both have, then joined with
recall weighed beta times as much. White space is left out of the characters. Equal to sacreBLEU's (Post 2018).
Shapes: N hypotheses, O orders (characters first, then words).
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import partial

import numpy as np

from seqgen.metrics.bleu import check_reference_lists, own_reference_stats
from seqgen.metrics.ngrams import Floats, Packed, encode
from seqgen.metrics.score import Score, Signature, input_hash
from seqgen.metrics.tokens import kind_of

_PUNCTUATION = frozenset(string.punctuation)


def chrf(
    hypotheses: Sequence[str],
    references_per_hypothesis: Sequence[Sequence[str]],
    *,
    char_order: int = 6,
    word_order: int = 0,
    beta: float = 2.0,
    lowercase: bool = False,
) -> Score:
    """Return chrF of hypothesis i against references_per_hypothesis[i], counts summed over all, 0..1.

    `word_order=2` is chrF++. Of several references the one with the best score counts, the first of equal ones. The
    score of texts without any common order is 0. Raises TypeError for anything but lines, ValueError for no
    hypotheses, as many reference lists as there are not hypotheses, an empty one, or an order or beta out of range.
    """
    if char_order < 1 or word_order < 0 or not 0 < beta < np.inf:
        raise ValueError(
            f"chrF needs char_order >= 1, word_order >= 0 and beta > 0, got {char_order}, {word_order} and {beta:g}"
        )
    texts: dict[str, Sequence[str]] = {"hypotheses": hypotheses}
    texts |= {f"references_per_hypothesis[{i}]": one for i, one in enumerate(references_per_hypothesis)}
    for name, text in texts.items():
        if kind_of(text, name) not in ("lines", ""):
            raise TypeError(f"{name} must be lines (str) for chrF, got {kind_of(text, name)}")
    sizes = np.array(check_reference_lists(len(hypotheses), references_per_hypothesis))
    flat = [line for lines in references_per_hypothesis for line in lines]
    hyps, refs = [hypotheses[i] for i in np.repeat(np.arange(sizes.size), sizes).tolist()], flat
    if lowercase:
        hyps, refs = ([line.lower() for line in side] for side in (hyps, refs))
    parts = [_counts(_characters(hyps), _characters(refs), char_order)]
    if word_order:
        (hyp, ref), _ = encode(list(map(_words, hyps)), list(map(_words, refs)))
        parts.append(_counts(hyp, ref, word_order))
    rows = np.concatenate(parts, axis=2).reshape(len(flat), -1)
    score = partial(f_score, beta=beta)
    first = np.cumsum(sizes) - sizes
    if sizes.max() > 1:
        each = score(rows)
        rows = rows[[begin + int(each[begin : begin + n].argmax()) for begin, n in zip(first, sizes, strict=True)]]
    fields = {"nc": str(char_order), "nw": str(word_order), "beta": f"{beta:g}", "space": "no"}
    fields |= {"hyp": str(sizes.size), "nrefs": f"{len(flat)}(own)", "case": "lc" if lowercase else "mixed"}
    name = "chrf_pp" if word_order else "chrf"
    signature = Signature(name, fields, input_hash(hypotheses, flat))
    return Score(float(score(rows.sum(axis=0))), signature, rows=rows, statistic=score)


def f_score(sums: Floats, *, beta: float) -> Floats:
    """Return chrF from counts (..., 3 O): n-grams of hypotheses, of references, and matches, order by order."""
    hyp, ref, match = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    both = (hyp > 0) & (ref > 0)
    orders = np.maximum(1, both.sum(axis=-1))
    precision = np.where(both, match / np.where(both, hyp, 1), 0).sum(axis=-1) / orders
    recall = np.where(both, match / np.where(both, ref, 1), 0).sum(axis=-1) / orders
    down = beta**2 * precision + recall
    score: Floats = np.where(down > 0, (1 + beta**2) * precision * recall / np.where(down > 0, down, 1), 0.0)
    return score


def _counts(hyp: Packed, ref: Packed, order: int) -> Floats:
    """Count n-grams of hypothesis i, of reference i, and matches, (N, 3, order); none where the reference has none."""
    vocabulary = 1 + int(max(side.tokens.max(initial=0) for side in (hyp, ref)))
    match = own_reference_stats(hyp, ref, np.ones(hyp.lengths.size, np.int64), vocabulary, order).num
    counts = [np.maximum(0, side.lengths[:, None] - np.arange(order)) for side in (hyp, ref)]
    counts[0] = np.where(counts[1] > 0, counts[0], 0)  # as in sacreBLEU: such an order costs no precision
    return np.stack([*counts, match], axis=1).astype(np.float64)


def _characters(lines: Sequence[str]) -> Packed:
    """Return the characters of lines by their code points, white space left out."""
    bare = ["".join(line.split()) for line in lines]
    points = np.frombuffer("".join(bare).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return Packed(points.astype(np.int64), np.array([len(line) for line in bare], dtype=np.int64))


def _words(line: str) -> list[str]:
    """Return the words of a line; one punctuation mark at the end, else at the beginning, is a word of its own."""
    words = []
    for word in line.split():
        if len(word) > 1 and word[-1] in _PUNCTUATION:
            words += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _PUNCTUATION:
            words += [word[0], word[1:]]
        else:
            words.append(word)
    return words
