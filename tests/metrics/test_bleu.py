import hashlib
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate import bleu_score as nltk_bleu

from seqgen.metrics.bleu import (
    BleuKeywords,
    BleuSettings,
    BleuStats,
    ReferenceIndex,
    bleu,
    bleu_orders,
    bleu_stats,
    corpus_bleu,
    self_bleu,
    self_bleu_orders,
    self_bleu_stats,
    sentence_scores,
)
from seqgen.metrics.ngrams import Packed, encode, pack
from seqgen.metrics.tokens import tokenize

SMOOTH = nltk_bleu.SmoothingFunction()
# nltk announces every order without a match, in method0
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*The hypothesis contains 0 counts:UserWarning")

Tokens = list[list[str]]


def nltk_sentence(references: Sequence[Sequence[str]], hyp: Sequence[str], order: int, method: int) -> float:
    smoothing = getattr(SMOOTH, f"method{method}")
    return float(nltk_bleu.sentence_bleu(references, hyp, (1 / order,) * order, smoothing))


def random_corpus(draw: random.Random, sizes: tuple[int, int], vocabulary: int, longest: int) -> Tokens:
    lengths = [draw.choice([0, 1, 2, 3, draw.randint(0, longest)]) for _ in range(draw.randint(*sizes))]
    return [[f"w{min(draw.randrange(vocabulary), draw.randrange(vocabulary))}" for _ in range(n)] for n in lengths]


def worst_error(seed: int, sets: int) -> tuple[int, float]:
    """Compare random sets with nltk in every form; the number of comparisons and the largest relative error."""
    draw = random.Random(seed)
    compared, worst = 0, 0.0
    for _ in range(sets):
        vocabulary, longest = draw.choice([2, 3, 10, 50]), draw.choice([5, 12, 25])
        hypotheses = random_corpus(draw, (2, 8), vocabulary, longest)
        references = random_corpus(draw, (1, draw.choice([3, 12, 60])), vocabulary, longest)
        own = [random_corpus(draw, (1, 4), vocabulary, longest) for _ in hypotheses]
        others = [hypotheses[:i] + hypotheses[i + 1 :] for i in range(len(hypotheses))]
        forms: list[tuple[BleuStats, list[Tokens]]] = [
            (bleu_stats(hypotheses, references, 9), [references] * len(hypotheses)),
            (self_bleu_stats(hypotheses, 9), others),
            (bleu_stats(hypotheses, None, 9, references_per_hypothesis=own), own),
        ]
        for method in range(8):
            order = draw.randint(3 if method == 6 else 1, 9)
            for stats, references in forms:
                no_trigram = (stats.num[:, 0] > 0) & (stats.num[:, 2] == 0)
                if method == 6 and no_trigram.any():
                    continue
                ours = sentence_scores(stats, order, f"method{method}")
                for i, hyp in enumerate(hypotheses):
                    theirs = nltk_sentence(references[i], hyp, order, method)
                    compared += 1
                    worst = max(worst, abs(float(ours[i]) - theirs) / (theirs or 1.0))
    return compared, worst


def test_bleu_equals_nltk() -> None:
    compared, worst = worst_error(seed=0, sets=30)
    assert compared > 2_500
    assert worst <= 1e-12


@pytest.mark.slow
def test_bleu_equals_nltk_on_100_000_comparisons() -> None:
    compared, worst = worst_error(seed=1, sets=1_100)
    assert compared >= 100_000
    assert worst <= 1e-12


def test_comparison_with_nltk_sees_a_wrong_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[self_bleu_stats.__module__]  # the name leads to the function of the same name
    monkeypatch.setattr(module, "_second_largest", lambda runs: runs.first_run * 0 + 1)
    _, worst = worst_error(seed=0, sets=30)
    assert worst > 1e-3


def test_self_bleu_is_right_on_3_000_small_sets() -> None:
    """Two to five short sentences: one library takes a length from beyond its array on a fifth of such sets."""
    draw = random.Random(7)
    wrong = 0
    for _ in range(3_000):
        sents = [[draw.choice("abcd") for _ in range(draw.randint(1, 6))] for _ in range(draw.randint(2, 5))]
        ours = sentence_scores(self_bleu_stats(sents, 3), 3)
        theirs = [nltk_sentence(sents[:i] + sents[i + 1 :], sent, 3, 1) for i, sent in enumerate(sents)]
        wrong += not np.allclose(ours, theirs, rtol=1e-12, atol=0)
    assert wrong == 0


def counted(hyp: Sequence[object], references: Sequence[Sequence[object]], n: int) -> int:
    """Clipped matches by the definition."""

    def grams(tokens: Sequence[object]) -> Counter[tuple[object, ...]]:
        return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    clip: Counter[tuple[object, ...]] = Counter()
    for ref in references:
        clip |= grams(ref)
    return sum((grams(hyp) & clip).values())


sentences = st.lists(st.lists(st.integers(0, 3), max_size=7), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(sentences, sentences)
def test_statistics_equal_the_definition(hypotheses: list[list[int]], references: list[list[int]]) -> None:
    shared, alone = bleu_stats(hypotheses, references, 9), self_bleu_stats(hypotheses, 9)
    own = bleu_stats(
        hypotheses,
        None,
        9,
        references_per_hypothesis=[references[: 1 + i % len(references)] for i in range(len(hypotheses))],
    )
    for i, hyp in enumerate(hypotheses):
        for n in range(1, 10):
            assert shared.num[i, n - 1] == counted(hyp, references, n)
            assert alone.num[i, n - 1] == counted(hyp, hypotheses[:i] + hypotheses[i + 1 :], n)
            assert own.num[i, n - 1] == counted(hyp, references[: 1 + i % len(references)], n)
            assert shared.den[i, n - 1] == max(1, len(hyp) - n + 1)
        nearest = min((abs(len(ref) - len(hyp)), len(ref)) for ref in references)[1]
        assert shared.ref_len[i] == nearest


@settings(max_examples=60, deadline=None)
@given(sentences, sentences)
def test_reference_index_equals_bleu_stats(hypotheses: list[list[int]], references: list[list[int]]) -> None:
    (packed_hypotheses, packed_references), _ = encode(hypotheses, references)
    wanted = bleu_stats(hypotheses, references, 6)
    for got in (ReferenceIndex(references, 6)(hypotheses), ReferenceIndex(packed_references, 6)(packed_hypotheses)):
        for mine, theirs in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert ReferenceIndex(references, 6)(hypotheses, 2).num.shape == (len(hypotheses), 2)


def test_tokens_with_spaces_do_not_collide() -> None:
    assert bleu_stats([["a b", "c"]], [["a", "b c"]], 2).num.tolist() == [[0, 0]]


def test_ids_with_wide_gaps_give_the_same_statistics() -> None:
    wide = Packed(np.array([2**61, 5, 2**61, 5, 2**61]), np.array([2, 3]))
    narrow = Packed(np.array([1, 0, 1, 0, 1]), np.array([2, 3]))
    for mine, theirs in zip(self_bleu_stats(wide), self_bleu_stats(narrow), strict=True):
        np.testing.assert_array_equal(mine, theirs)


# ------------------------------------------------------------------------------
# edge cases: BLEU-4 with method1


@pytest.mark.parametrize(
    ("hyp", "references", "value"),
    [
        ("a b c d e f", ["a b c d e f"], 1.0),
        ("a b", ["a b"], 0.316228),
        ("a", ["a"], 0.177828),
        ("", ["a b"], 0.0),
        ("a b", [""], 0.0),
        ("a b", ["c d"], 0.0),
        ("a c e g", ["a b c d e f g"], 0.053671),
        ("a b c d", ["a b c d e", "a b c"], 1.0),
        ("a b c d", ["a b c", "a b c d e"], 1.0),
    ],
)
def test_edge_cases(hyp: str, references: list[str], value: float) -> None:
    assert float(bleu([hyp], references)) == pytest.approx(value, abs=5e-7)
    tokens = [ref.split() for ref in references]
    assert nltk_sentence(tokens, hyp.split(), 4, 1) == pytest.approx(value, abs=5e-7)


@pytest.mark.parametrize(
    ("hyp", "ref", "unsmoothed", "corpus"),
    [
        ("a b c d e f", "a b c d e f", 1.0, 1.0),
        ("a b", "a b", 1.5e-154, 0.0),
        ("a", "a", 1.8e-231, 0.0),
        ("a c e g", "a b c d e f g", 8.6e-232, 0.106708),
    ],
)
def test_edge_cases_of_other_levels(hyp: str, ref: str, unsmoothed: float, corpus: float) -> None:
    assert float(bleu([hyp], [ref], smoothing="method0")) == pytest.approx(unsmoothed, rel=0.05)
    ours = float(bleu([hyp], [ref], level="sacrebleu", smoothing="method3"))
    assert ours == pytest.approx(corpus, abs=5e-7)


def test_one_token_under_method4_skips_empty_orders_as_nltk_does() -> None:
    assert float(bleu(["a"], ["a"], smoothing="method4")) == 1.0 == nltk_sentence([["a"]], ["a"], 4, 4)


def test_method5_of_bleu_2_reads_the_5_gram_as_a_single_nltk_call_does() -> None:
    hyp, ref = "a b c d e f g h", "a b c d x f g h"
    score = bleu([hyp], [ref], order=4, smoothing="method5")
    assert score.orders[2] == pytest.approx(0.8482, abs=5e-5)
    assert score.orders[2] == pytest.approx(nltk_sentence([ref.split()], hyp.split(), 2, 5), rel=1e-12)


def test_empty_hypothesis_is_counted_and_scores_0() -> None:
    assert float(bleu(["", "a b c d e"], ["a b c d e"])) == 0.5


# ------------------------------------------------------------------------------
# corpus level


@pytest.mark.parametrize(("ours", "theirs"), [(0, "none"), (1, "floor"), (2, "add-k"), (3, "exp")])
def test_corpus_bleu_equals_sacrebleu(ours: int, theirs: str) -> None:
    draw = random.Random(ours)
    for _ in range(40):
        hypotheses = random_corpus(draw, (1, 12), 6, 15)
        streams = [[random_corpus(draw, (1, 1), 6, 15)[0] for _ in hypotheses] for _ in range(draw.randint(1, 4))]
        order = draw.randint(1, 6)
        stats = bleu_stats(hypotheses, None, order, references_per_hypothesis=list(zip(*streams, strict=True)))
        metric = sacrebleu.BLEU(tokenize="none", smooth_method=theirs, max_ngram_order=order, force=True)
        lines = [" ".join(hyp) for hyp in hypotheses], [[" ".join(ref) for ref in stream] for stream in streams]
        got = corpus_bleu(stats, order, style="sacrebleu", smoothing=f"method{ours}")
        assert got == pytest.approx(metric.corpus_score(*lines).score / 100, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("method", range(5))
def test_corpus_bleu_equals_nltk(method: int) -> None:
    draw = random.Random(method)
    for _ in range(40):
        hypotheses = random_corpus(draw, (1, 12), 6, 15)
        own = [random_corpus(draw, (1, 4), 6, 15) for _ in hypotheses]
        order = draw.randint(1, 6)
        stats = bleu_stats(hypotheses, None, order, references_per_hypothesis=own)
        smoothing = getattr(SMOOTH, f"method{method}")
        theirs = float(nltk_bleu.corpus_bleu(own, hypotheses, (1 / order,) * order, smoothing))
        got = corpus_bleu(stats, order, smoothing=f"method{method}")
        assert got == pytest.approx(theirs, rel=1e-12, abs=1e-300)


WORDS = ["it's", "a", "b", "3.5", "c,", "(d)", "--", "e.", "\u4e2d\u6587", "&amp;", "5-6", '"f"', "cannot"]


def random_lines(draw: random.Random, count: int) -> list[str]:
    return [" ".join(draw.choices(WORDS, k=draw.choice([0, 1, 3, 7, 12]))) for _ in range(count)]


@pytest.mark.parametrize(("ours", "theirs"), [("split", "none"), ("13a", "13a"), ("zh", "zh"), ("char", "char")])
def test_level_sacrebleu_is_sacrebleus_default(ours: Any, theirs: str) -> None:
    draw = random.Random(ours)
    for _ in range(75):
        hypotheses = random_lines(draw, draw.randint(1, 4))
        streams = [random_lines(draw, len(hypotheses)) for _ in range(draw.randint(1, 3))]
        expected = sacrebleu.corpus_bleu(hypotheses, streams, tokenize=theirs, force=True).score / 100
        own = list(zip(*streams, strict=True))
        got = bleu(hypotheses, references_per_hypothesis=own, tokenizer=ours, level="sacrebleu")
        assert float(got) == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert got.signature.fields["smooth"] == "m3"


@pytest.mark.parametrize("tokenizer", ["split", "nltk", "char"])
def test_level_corpus_is_nltks_default(tokenizer: str) -> None:
    draw = random.Random(tokenizer)
    for _ in range(75):
        hypotheses, references = random_lines(draw, draw.randint(1, 4)), random_lines(draw, draw.randint(1, 5))
        tokens = tokenize(references, tokenizer)
        expected = float(nltk_bleu.corpus_bleu([tokens] * len(hypotheses), tokenize(hypotheses, tokenizer)))
        got = bleu(hypotheses, references, tokenizer=tokenizer, level="corpus")
        assert float(got) == pytest.approx(expected, rel=1e-12, abs=1e-300)
        assert got.signature.fields["smooth"] == "m0"


def test_a_smoothing_that_is_asked_for_holds_at_every_level() -> None:
    for level in ("sentence", "corpus", "sacrebleu"):
        got = bleu(["a b c"], ["a b d"], level=level, smoothing="method1")
        assert got.signature.fields["smooth"] == "m1(0.1)"


def test_a_two_token_line_counts_for_nltk_and_not_for_sacrebleu() -> None:
    lines = ["a b c d e f", "g h i j k x", "m n"]
    references = [["a b c d e f"], ["g h i j k l"], ["m n"]]
    stats = bleu_stats(
        [line.split() for line in lines],
        None,
        4,
        references_per_hypothesis=[[r.split() for r in own] for own in references],
    )
    assert corpus_bleu(stats, style="nltk") < corpus_bleu(stats, style="sacrebleu")


def test_corpus_level_interval_holds_the_score() -> None:
    draw = random.Random(0)
    hypotheses, references = random_corpus(draw, (50, 50), 5, 12), random_corpus(draw, (20, 20), 5, 12)
    for level in ("corpus", "sacrebleu"):
        score = bleu(hypotheses, references, level=level)
        assert score.interval is not None
        assert score.interval[0] < float(score) < score.interval[1]


def test_weights_are_nltks() -> None:
    weights = (0.1, 0.3, 0.5, 0.1)
    hyp, ref = list("acsomtd"), list("acsoxmtdk")
    theirs = nltk_bleu.sentence_bleu([ref], hyp, weights, SMOOTH.method1)
    score = bleu([hyp], [ref], weights=weights)
    assert float(score) == pytest.approx(theirs, rel=1e-12)
    assert score.orders == {4: float(score)}
    assert score.signature.fields["n"] == "1-4(0.1,0.3,0.5,0.1)"


# ------------------------------------------------------------------------------
# the public functions


def test_lines_and_their_tokens_score_the_same() -> None:
    lines, references = ["a b c", "b c d e"], ["a b c d", "c d e f"]
    by_line, by_token = bleu(lines, references), bleu([x.split() for x in lines], [x.split() for x in references])
    assert by_line.orders == by_token.orders
    assert by_line.signature.fields["tok"] == "split"
    assert by_token.signature.fields["tok"] == "given"


def test_orders_hold_1_to_order_and_equal_single_calls() -> None:
    draw = random.Random(3)
    hypotheses, references = random_corpus(draw, (9, 9), 4, 12), random_corpus(draw, (9, 9), 4, 12)
    score = bleu(hypotheses, references, order=9)
    assert list(score.orders) == list(range(1, 10))
    for n in range(1, 10):
        assert score.orders[n] == float(bleu(hypotheses, references, order=n))
    by_order = bleu_orders(hypotheses, references, BleuSettings(orders=(2, 5)))
    assert {n: float(s) for n, s in by_order.items()} == {2: score.orders[2], 5: score.orders[5]}
    assert {n: float(s) for n, s in self_bleu_orders(hypotheses).items()} == {
        n: self_bleu(hypotheses, order=5).orders[n] for n in (2, 3, 4, 5)
    }


def test_keywords_are_the_fields_of_the_settings() -> None:
    types = {field.name: field.type for field in fields(BleuSettings) if field.name != "orders"}
    assert {name: kind.__forward_arg__ for name, kind in BleuKeywords.__annotations__.items()} == types


def test_self_bleu_takes_every_setting_of_bleu() -> None:
    lines = ["A b c d e", "a b c f g", "b c d e a"]
    how: BleuKeywords = {"level": "corpus", "lowercase": True, "weights": (0.5, 0.5)}
    tokens = [line.lower().split() for line in lines]
    others = [tokens[:i] + tokens[i + 1 :] for i in range(3)]
    expected = float(nltk_bleu.corpus_bleu(others, tokens, (0.5, 0.5)))
    assert float(self_bleu(lines, order=2, **how)) == pytest.approx(expected, rel=1e-12)


def test_self_bleu_against_others_is_bleu() -> None:
    lines, others = ["a b c d", "b c d e"], ["a b c e", "c d e f", "a"]
    assert float(self_bleu(lines, against=others)) == float(bleu(lines, others))
    assert self_bleu(lines, against=others).signature.fields["self"] == "split"


def test_a_line_among_its_own_references_gives_1() -> None:
    score = self_bleu(["a b c d e", "f g h i j k"], keep_self=True)
    assert float(score) == 1.0
    assert score.signature.fields["self"] == "included"


def test_sample_is_seeded_and_says_so() -> None:
    draw = random.Random(5)
    lines = random_corpus(draw, (40, 40), 6, 12)
    first, again, other = (self_bleu(lines, sample=10, seed=seed) for seed in (1, 1, 2))
    assert float(first) == float(again) != float(other)
    assert str(first.signature).endswith("|seed:1")
    assert first.signature.fields["hyp"] == "10 of 40"


def test_signature_names_how_the_number_was_made() -> None:
    score = bleu(["A b c"], ["a b c", "d"], order=3, smoothing="method2", lowercase=True, tokenizer="char")
    assert str(score.signature).startswith(
        "bleu|n:1-3|lvl:sent-mean|smooth:m2|hyp:1|nrefs:2|tok:char|case:lc|version:1.0|in:"
    )
    assert float(score) == 1.0


def test_padded_ids_score_as_their_tokens() -> None:
    ids = np.array([[1, 2, 3, 0], [2, 3, 9, 9]])
    corpus = pack(ids, [3, 2])
    assert corpus.tokens.tolist() == [1, 2, 3, 2, 3]
    assert self_bleu(corpus).orders == self_bleu([["1", "2", "3"], ["2", "3"]]).orders
    assert self_bleu(corpus).signature.fields["tok"] == "ids"


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: bleu("a b", ["a"]), TypeError, "hypotheses must be a list of lines or of token lists, got str"),
        (lambda: bleu(["a"], "a b"), TypeError, "references must be a list of lines or of token lists, got str"),
        (lambda: bleu(["a"], [["a"]]), TypeError, "hypotheses are lines, but references are token lists"),
        (lambda: bleu(["a", ["b"]], ["a"]), TypeError, "hypotheses: item 0 is a line (str), but item 1 is a list"),
        (lambda: bleu([["a"], "b"], ["a"]), TypeError, "hypotheses: item 0 is a list, but item 1 is a str"),
        (lambda: bleu_stats(["a"], [["a"]]), TypeError, "corpus 0, sentence 0: must be a list of tokens, got str 'a'"),
        (lambda: bleu_stats("ab", [["a"]]), TypeError, "corpus 0 must be a list of token lists, got one str"),
        (lambda: bleu_stats([1], [["a"]]), TypeError, "corpus 0, sentence 0: must be a list of tokens, got int 1"),
        (lambda: bleu([], ["a"]), ValueError, "there are no hypotheses"),
        (lambda: bleu(["a"], []), ValueError, "there are no references"),
        (
            lambda: bleu(["a"]),
            ValueError,
            "give either references, shared by all hypotheses, or references_per_hypothesis",
        ),
        (lambda: bleu(["a"], references_per_hypothesis=[[]]), ValueError, "references_per_hypothesis[0] is empty"),
        (
            lambda: bleu(["a", "b"], references_per_hypothesis=[["a"]]),
            ValueError,
            "a list for each of 2 hypotheses, got 1;",
        ),
        (
            lambda: bleu(["a", "b", "c"], references_per_hypothesis=[["a", "b", "c"], ["d", "e", "f"]]),
            ValueError,
            "each holds 3 entries, so they look transposed: give zip(*streams)",
        ),
        (lambda: bleu(["a"], ["a"], order=0), ValueError, "order must be an integer in 1..9, got 0"),
        (lambda: bleu(["a"], ["a"], order=10), ValueError, "order must be an integer in 1..9, got 10"),
        (lambda: bleu(["a"], ["a"], smoothing="m1"), ValueError, "unknown smoothing 'm1'; known: method0, method1"),
        (lambda: bleu(["a"], ["a"], tokenizer="moses"), ValueError, "unknown tokenizer 'moses'; known: split, nltk"),
        (lambda: bleu(["a"], ["a"], weights=(1.0,)), ValueError, "weights must hold one number per order 1..4, got 1"),
        (lambda: bleu(["a"], ["a"], weights=(1, 1, 1, 1)), ValueError, "weights must add up to 1, got 4.0"),
        (lambda: bleu(["a b"], ["a b"], smoothing="method6"), ValueError, "1 hypotheses have none: 0"),
        (lambda: bleu(["a"], ["a"], order=2, smoothing="method6"), ValueError, "method6 extrapolates"),
        (
            lambda: bleu(["a"], ["a"], order=2, weights=(math.nan, 1.0)),
            ValueError,
            "weights must be finite and >= 0, got nan, 1.0",
        ),
        (
            lambda: bleu(["a"], ["a"], order=2, weights=(-1.0, 2.0)),
            ValueError,
            "weights must be finite and >= 0, got -1.0, 2.0",
        ),
        (lambda: bleu(["a"], ["a"], level="x"), ValueError, "level must be sentence, corpus or sacrebleu, got 'x'"),
        (lambda: bleu(["a"], ["a"], level="corpus", smoothing="method5"), ValueError, "knows method0 to method4"),
        (lambda: bleu(["a"], ["a"], level="sacrebleu", smoothing="method4"), ValueError, "knows method0 to method3"),
        (lambda: self_bleu(["a"]), ValueError, "Self-BLEU needs at least 2 sentences, got 1"),
        (lambda: self_bleu(["a", "b"], sample=3), ValueError, "sample must be in 2..2, the number of lines, got 3"),
        (lambda: self_bleu(["a", "b"], sample=2, against=["c"]), ValueError, "it excludes sample and keep_self"),
        (lambda: ReferenceIndex([]), ValueError, "there are no references"),
        (lambda: ReferenceIndex([["a"]], 2)([["a"]], 3), ValueError, "the index holds orders up to 2, got 3"),
        (lambda: ReferenceIndex([["a"]], 2)(pack([[1]], [1])), TypeError, "hypotheses must be token lists"),
        (lambda: pack([[1, 2]], [3]), ValueError, "lengths[0] must be in 0..2, got 3"),
        (lambda: pack([[1.5]], [1]), TypeError, "ids and lengths must be integers"),
        (lambda: pack([1], [1]), ValueError, "ids must be (N, L) and lengths (N,)"),
        (lambda: self_bleu(pack([[1, 2]], [2]), lowercase=True), TypeError, "packed ids have no case"),
        (lambda: self_bleu([[1], [2]], lowercase=True), TypeError, "lower=True needs tokens that are str, got int"),
        (lambda: bleu_stats([["a"]], pack([[1]], [1])), TypeError, "got a mix; encode them together"),
    ],
)
def test_wrong_input_is_named(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


def test_method6_lists_the_hypotheses_without_a_trigram() -> None:
    with pytest.raises(ValueError, match="method6 needs a matching trigram; 2 hypotheses have none: 1, 3; use another"):
        bleu(["a b c d", "a b", "x", "a c b"], ["a b c d"], smoothing="method6")


# ------------------------------------------------------------------------------
# published captions


def captions(find: Callable[[str], Path]) -> dict[str, list[str]]:
    """The captions as the published figures had them: periods dropped but for one at the end, commas set apart."""
    expected = {"train": "3b9d157bb2d5662de548a8ecb052d0d5", "test": "96d6ab3c4279a08d511f556e5b9eee97"}
    sets = {}
    for name, digest in expected.items():
        raw = find(f"text/image-coco/{name}.txt").read_text(encoding="utf-8").splitlines()
        lines = [line.rstrip().replace(",", " ,").replace(".", "") + " ." for line in raw]
        assert hashlib.md5(("\n".join(lines) + "\n").encode(), usedforsecurity=False).hexdigest() == digest
        sets[name] = lines
    return sets


@pytest.mark.parametrize(
    ("tokenizer", "quality", "diversity"),
    [
        ("nltk", (0.7442, 0.5263, 0.3438, 0.2217), (0.8947, 0.7512, 0.5805, 0.4220)),
        ("split", (0.7434, 0.5255, 0.3434, 0.2216), (0.8941, 0.7505, 0.5799, 0.4217)),
    ],
)
def test_published_caption_scores_to_four_decimals(
    public_set: Callable[[str], Path], tokenizer: str, quality: tuple[float, ...], diversity: tuple[float, ...]
) -> None:
    sets = captions(public_set)
    train, test = (tokenize(sets[name], tokenizer) for name in ("train", "test"))
    ahead, alike = bleu(train, test, order=5), self_bleu(train, order=5)
    assert tuple(round(ahead.orders[n], 4) for n in (2, 3, 4, 5)) == quality
    assert tuple(round(alike.orders[n], 4) for n in (2, 3, 4, 5)) == diversity


@pytest.mark.parametrize(
    ("hypotheses", "references", "values"),
    [
        (1000, 200, (0.443, 0.220, 0.125, 0.081)),
        (1000, 500, (0.518, 0.286, 0.162, 0.102)),
        (1000, 1000, (0.568, 0.327, 0.187, 0.118)),
        (1000, 2000, (0.630, 0.389, 0.228, 0.142)),
        (1000, 5000, (0.703, 0.468, 0.290, 0.181)),
        (1000, 10_000, (0.742, 0.520, 0.339, 0.217)),
        (2000, 10_000, (0.739, 0.518, 0.335, 0.214)),
    ],
)
def test_published_sensitivity_to_the_number_of_references(
    public_set: Callable[[str], Path], hypotheses: int, references: int, values: tuple[float, ...]
) -> None:
    sets = captions(public_set)
    got = bleu(sets["train"][:hypotheses], sets["test"][:references], order=5).orders
    assert [got[n] for n in (2, 3, 4, 5)] == pytest.approx(values, abs=6e-4)


@pytest.mark.parametrize(
    ("size", "values"),
    [
        (200, (0.647, 0.423, 0.269, 0.175)),
        (500, (0.713, 0.491, 0.314, 0.203)),
        (1000, (0.758, 0.549, 0.363, 0.237)),
        (2000, (0.813, 0.622, 0.435, 0.295)),
        (5000, (0.861, 0.693, 0.510, 0.357)),
        (10_000, (0.894, 0.750, 0.580, 0.422)),
    ],
)
def test_published_sensitivity_of_self_bleu_to_its_size(
    public_set: Callable[[str], Path], size: int, values: tuple[float, ...]
) -> None:
    got = self_bleu(captions(public_set)["train"][:size], order=5).orders
    assert [got[n] for n in (2, 3, 4, 5)] == pytest.approx(values, abs=6e-4)


def test_published_sensitivity_to_smoothing_and_form(public_set: Callable[[str], Path]) -> None:
    sets = captions(public_set)
    for method, value in {0: 0.102, 1: 0.214, 2: 0.367, 3: 0.271, 4: 0.236, 5: 0.320, 7: 0.339}.items():
        score = bleu(sets["train"][:2000], sets["test"], order=5, smoothing=f"method{method}")
        assert float(score) == pytest.approx(value, abs=6e-4)
    capital = [line[0].upper() + line[1:] for line in sets["train"][:2000]]
    with pytest.warns(UserWarning, match="100% of the samples and 0% of the references have capitals"):
        got = bleu(capital, sets["test"], order=5).orders
    assert [got[n] for n in (2, 3, 4, 5)] == pytest.approx((0.655, 0.455, 0.289, 0.183), abs=6e-4)
    split = self_bleu(sets["test"][:200], against=sets["train"], order=5).orders
    assert [split[n] for n in (2, 3, 4, 5)] == pytest.approx((0.820, 0.618, 0.419, 0.273), abs=6e-4)


def test_scores_are_finite_for_every_method_on_empty_and_short_lines() -> None:
    for method in (0, 1, 2, 3, 4, 5, 7):
        scores = sentence_scores(bleu_stats([[], ["a"], ["b"]], [["a"], []], 9), 9, f"method{method}")
        assert all(math.isfinite(value) and 0 <= value <= 1 for value in scores)
