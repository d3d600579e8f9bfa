"""Scores of texts that have references of their own, line by line: translations, summaries, answers.

BLEU is sacreBLEU's (Post 2018): its tokenizer 13a, counts pooled over all lines, exponential smoothing.
`tokenized_bleu` is that of multi-bleu.perl, over tokens at spaces and without smoothing, for tables of tokenised text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seqgen.metrics.bleu import BleuSettings, bleu_orders, check_reference_lists
from seqgen.metrics.chrf import chrf
from seqgen.metrics.score import Score, Signature, input_hash, mean_rows, with_intervals
from seqgen.metrics.tokens import Tokenizer

_ORDER = 4


def score_aligned(
    hypotheses: Sequence[str],
    references_per_hypothesis: Sequence[Sequence[str]],
    *,
    tokenizer: Tokenizer = "13a",
    lowercase: bool = False,
) -> dict[str, Score]:
    """Score hypothesis i against references_per_hypothesis[i]: BLEU-4, tokenised BLEU-4, chrF, chrF++, exact matches.

    All are 0..1 with 95 % bootstrap intervals over lines; `tokenizer` is that of `bleu_4`. Raises TypeError and
    ValueError as `bleu` and `chrf`.
    """
    sizes = check_reference_lists(len(hypotheses), references_per_hypothesis)
    scores: dict[str, Score] = {}
    for name, cut, smoothing in (("bleu", tokenizer, "method3"), ("tokenized_bleu", "split", "method0")):
        settings = BleuSettings((_ORDER,), cut, smoothing, "sacrebleu", lowercase=lowercase)
        score = bleu_orders(hypotheses, None, settings, references_per_hypothesis=references_per_hypothesis)[_ORDER]
        scores[f"{name}_{_ORDER}"] = score.named(name)
    for word_order in (0, 2):
        score = chrf(hypotheses, references_per_hypothesis, word_order=word_order, lowercase=lowercase)
        scores[score.signature.metric] = score
    fold = str.lower if lowercase else str
    pairs = zip(hypotheses, references_per_hypothesis, strict=True)
    equal = mean_rows(np.array([fold(one) in map(fold, own) for one, own in pairs], dtype=np.float64))
    flat = [line for own in references_per_hypothesis for line in own]
    fields = {"hyp": str(len(hypotheses)), "nrefs": f"{sum(sizes)}(own)", "case": "lc" if lowercase else "mixed"}
    signature = Signature("exact_match", fields, input_hash(hypotheses, flat))
    scores["exact_match"] = Score(float(equal[:, 0].mean()), signature, rows=equal)
    return dict(zip(scores, with_intervals(list(scores.values())), strict=True))
