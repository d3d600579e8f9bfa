"""chrF and the table of aligned texts against sacreBLEU, which computes them independently."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import sacrebleu

from seqgen.metrics.aligned import score_aligned
from seqgen.metrics.chrf import chrf

WORDS = ["a", "Bc", "(d)", "e.", "'f", "hé", "春眠", "!", "ab,", "..", "x-y", "3.5", "&amp;"]


def corpus(seed: int, references: int) -> tuple[list[str], list[list[str]]]:
    draw = random.Random(seed)

    def line() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(0, 9)))

    count = draw.randint(1, 8)
    return [line() for _ in range(count)], [[line() for _ in range(references)] for _ in range(count)]


@pytest.mark.parametrize("options", [{}, {"word_order": 2}, {"char_order": 3, "beta": 1}, {"lowercase": True}], ids=str)
def test_chrf_equals_sacrebleu(options: dict[str, Any]) -> None:
    for seed in range(60):
        hypotheses, references = corpus(seed, 1 + seed % 3)
        streams = [list(stream) for stream in zip(*references, strict=True)]
        expected = sacrebleu.CHRF(**options).corpus_score(hypotheses, streams).score / 100
        assert float(chrf(hypotheses, references, **options)) == pytest.approx(expected, abs=1e-12), seed


@pytest.mark.parametrize("lowercase", [False, True])
def test_the_table_of_aligned_texts_equals_sacrebleu(lowercase: bool) -> None:
    hypotheses, references = [], []
    for seed in range(30):  # long enough that no order is empty
        more, own = corpus(seed, 2)
        hypotheses += [*more, own[0][0]]
        references += [*own, own[0]]
    streams = [list(stream) for stream in zip(*references, strict=True)]
    got = {name: float(score) for name, score in score_aligned(hypotheses, references, lowercase=lowercase).items()}

    def bleu(**how: Any) -> float:
        return float(
            sacrebleu.BLEU(lowercase=lowercase, force=True, **how).corpus_score(hypotheses, streams).score / 100
        )

    fold: Callable[[str], str] = str.lower if lowercase else str
    hits = [fold(one) in [fold(x) for x in own] for one, own in zip(hypotheses, references, strict=True)]
    assert 0 < sum(hits) < len(hits)
    assert got == pytest.approx(
        {
            "bleu_4": bleu(),
            "tokenized_bleu_4": bleu(tokenize="none", smooth_method="none"),
            "chrf": sacrebleu.CHRF(lowercase=lowercase).corpus_score(hypotheses, streams).score / 100,
            "chrf_pp": sacrebleu.CHRF(lowercase=lowercase, word_order=2).corpus_score(hypotheses, streams).score / 100,
            "exact_match": sum(hits) / len(hits),
        },
        abs=1e-12,
    )


def test_intervals_hold_the_values_and_one_line_has_none() -> None:
    hypotheses, references = corpus(4, 1)
    for name, score in score_aligned(hypotheses * 5, references * 5).items():
        low, high = score.stored_interval or (math.nan, math.nan)
        assert 0 <= low <= float(score) <= high <= 1, name
    assert all(score.stored_interval is None for score in score_aligned(["a b"], [["a c"]]).values())


def test_the_signature_has_sacrebleus_keys() -> None:
    assert str(chrf(["a"], [["a", "b"]], lowercase=True).signature).startswith(
        "chrf|nc:6|nw:0|beta:2|space:no|hyp:1|nrefs:2(own)|case:lc|version:"
    )
    assert str(score_aligned(["a"], [["b"]])["chrf_pp"].signature).startswith("chrf_pp|nc:6|nw:2|")


def test_texts_without_any_character_score_0() -> None:
    assert float(chrf(["", " "], [[""], ["a"]])) == 0.0 == sacrebleu.CHRF().corpus_score(["", " "], [["", "a"]]).score


def test_chrf_of_100_000_equal_characters_is_what_arithmetic_says() -> None:
    size = 100_000
    precision = sum((size - n) / (size - n + 1) for n in range(1, 7)) / 6  # the reference is one character shorter
    expected = 5 * precision / (4 * precision + 1)
    assert float(chrf(["a" * size], [["a" * (size - 1)]])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: chrf([], []), ValueError, "there are no hypotheses; give at least one"),
        (lambda: chrf(["a"], [[]]), ValueError, "references_per_hypothesis[0] is empty"),
        (lambda: chrf(["a", "b"], [["a"]]), ValueError, "must hold a list for each of 2 hypotheses, got 1"),
        (lambda: chrf([["a"]], [["a"]]), TypeError, "hypotheses must be lines (str) for chrF, got token lists"),
        (lambda: chrf(["a"], ["a"]), TypeError, "references_per_hypothesis[0] must be a list of lines"),
        (lambda: chrf(["a"], [["a"]], char_order=0), ValueError, "chrF needs char_order >= 1"),
        (lambda: chrf(["a"], [["a"]], beta=math.inf), ValueError, "beta > 0, got 6, 0 and inf"),
    ],
)
def test_wrong_input_is_named(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert words in str(raised.value)
