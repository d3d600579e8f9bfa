"""N-gram arrays: what no width of integers may change."""

import random
import sys

import numpy as np
import pytest

from seqgen.metrics.bleu import ReferenceIndex, bleu_stats, self_bleu_stats
from seqgen.metrics.ngram_lm import KneserNey
from seqgen.metrics.novelty import match_training


@pytest.mark.parametrize("sentences", [2, 6, 8, 9, 10, 11, 12, 13, 14, 15, 18, 21, 24, 28, 40])
def test_narrow_integers_do_not_change_a_result(sentences: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """int32 is taken where every value fits; here int8 stands for it, so that its limit lies among these sizes."""
    draw = random.Random(sentences)
    rows = [[draw.randrange(5) for _ in range(draw.randint(0, 12))] for _ in range(2 * sentences)]
    hypotheses, references = rows[:sentences], rows[sentences:]

    def results() -> list[np.ndarray]:
        matches = match_training(hypotheses, references)
        own = bleu_stats(
            hypotheses,
            None,
            5,
            references_per_hypothesis=[[ref, hyp[1:]] for hyp, ref in zip(hypotheses, references, strict=True)],
        )
        known = ReferenceIndex(references)(hypotheses)
        model = KneserNey(references, 3)
        drawn = [np.array(row) for row in model.sample(3, 1, max_tokens=9)]
        return [
            *bleu_stats(hypotheses, references),
            *own,
            *self_bleu_stats(hypotheses),
            *known,
            *matches,
            model.log_probability(hypotheses),
            *drawn,
        ]

    wide = results()
    for name in ("ngrams", "bleu", "novelty"):
        module = sys.modules[f"seqgen.metrics.{name}"]
        monkeypatch.setattr(module, "whole", lambda bound: np.dtype(np.int8 if bound < 1 << 7 else np.int64))
    for narrow, expected in zip(results(), wide, strict=True):
        np.testing.assert_array_equal(narrow, expected)
