import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from seqgen.metrics.ngram_lm import KneserNey
from seqgen.metrics.ngrams import Packed, encode

START, END, UNKNOWN = "<s>", "</s>", "<unknown>"


def discounts(counts: Iterable[int]) -> Callable[[int], float]:
    """From a count to what is taken from it, by fractions."""
    have = Counter(counts)
    fallback = {0: 0.0, 1: 0.5, 2: 1.0, 3: 1.5}
    if not have[1] or not have[2] or not have[3]:
        return lambda count: fallback[min(count, 3)]
    y = Fraction(have[1], have[1] + 2 * have[2])
    exact = {0: Fraction(0)} | {j: j - (j + 1) * y * Fraction(have[j + 1], have[j]) for j in (1, 2, 3)}
    if not all(0 < exact[j] <= j for j in (1, 2, 3)):
        return lambda count: fallback[min(count, 3)]
    return lambda count: float(exact[min(count, 3)])


class Plain:
    """Interpolated modified Kneser-Ney by its equations (Chen and Goodman 1999, 21 to 26), with dictionaries."""

    def __init__(self, sents: list[list[str]], order: int) -> None:
        raw: dict[int, Counter[tuple[str, ...]]] = defaultdict(Counter)
        for sentence in sents:
            wrapped = [START, *sentence, END]
            for n in range(1, order + 2):
                raw[n].update(tuple(wrapped[i : i + n]) for i in range(len(wrapped) - n + 1))
        left: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for n in range(2, order + 1):
            for gram in raw[n]:
                left[gram[1:]].add(gram[0])
        self.order = order
        self.counts = {
            n: {g: c if n == order or g[0] == START else len(left[g]) for g, c in raw[n].items()}
            for n in range(1, order + 1)
        }
        self.counts[1].pop((START,))
        self.words = {word for sentence in sents for word in sentence}
        self.discount = {n: discounts(table.values()) for n, table in self.counts.items()}

    def probability(self, before: list[str], word: str, n: int | None = None) -> float:
        n = min(self.order, len(before) + 1) if n is None else n
        if n == 0:
            return 1 / (len(self.words) + 2)
        context = tuple(before[len(before) - n + 1 :])
        follow = {gram[-1]: count for gram, count in self.counts[n].items() if gram[:-1] == context}
        lower = self.probability(before, word, n - 1)
        if not follow:
            return lower
        total = sum(follow.values())
        d = self.discount[n]
        kept = max(follow.get(word, 0) - d(follow.get(word, 0)), 0.0) / total
        return kept + sum(map(d, follow.values())) / total * lower

    def log_probability(self, sentence: list[str]) -> float:
        wrapped = [START, *sentence, END]
        return math.fsum(math.log(self.probability(wrapped[:i], wrapped[i])) for i in range(1, len(wrapped)))


def random_sentences(draw: random.Random, count: int, vocabulary: int) -> list[list[str]]:
    return [[f"t{draw.randrange(vocabulary)}" for _ in range(draw.choice([0, 1, 2, 4, 9]))] for _ in range(count)]


def test_log_probability_equals_the_equations() -> None:
    draw = random.Random(0)
    by_equation = 0
    for _ in range(60):
        vocabulary, order = draw.choice([1, 2, 4, 8, 30]), draw.randint(1, 6)
        train = random_sentences(draw, draw.randint(1, 40), vocabulary)
        scored = random_sentences(draw, 4, vocabulary + 1)  # one word the training text may not have
        model, plain = KneserNey(train, order), Plain(train, order)
        wanted = [plain.log_probability(sentence) for sentence in scored]
        np.testing.assert_allclose(model.log_probability(scored), wanted, rtol=1e-11)
        by_equation += sum(plain.discount[n](1) != 0.5 for n in range(1, order + 1))
        per_token = model.token_log_probability(scored)
        assert [len(one) for one in per_token] == [len(sentence) + 1 for sentence in scored]
        np.testing.assert_allclose([one.sum() for one in per_token], wanted, rtol=1e-11)
        (packed_train, packed_scored), _ = encode(train, scored)
        np.testing.assert_allclose(KneserNey(packed_train, order).log_probability(packed_scored), wanted, rtol=1e-11)
    assert by_equation > 30  # of about 200 orders; the others are too small for the equations


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        # n1 .. n4 = 4, 2, 1, 1: Y = 1/2
        ([1] * 4 + [2] * 2 + [3, 4], (0.5, 1.25, 1.0)),
        ([1] * 4 + [2] * 2 + [3], (0.5, 1.25, 3.0)),  # none of count 4
        ([1] * 4 + [2] * 2 + [4], (0.5, 1.0, 1.5)),  # none of count 3
        ([1] * 4 + [3, 4], (0.5, 1.0, 1.5)),
        ([2, 3, 4], (0.5, 1.0, 1.5)),
        ([1] * 4 + [2] * 2 + [3] * 4, (0.5, 1.0, 1.5)),  # the equation gives D2 = -1
        ([1] * 4 + [2] + [3], (0.5, 1.0, 1.5)),  # and here 0
    ],
)
def test_discounts_of_sparse_counts(counts: list[int], wanted: tuple[float, ...]) -> None:
    sentence = [f"t{i}" for i, count in enumerate(counts) for _ in range(count)]
    sentences = [sentence, *[[]] * 9]  # </s> ten times: none of the counts above
    assert KneserNey(sentences, 1).discounts == [pytest.approx(wanted)]


def test_probabilities_of_all_symbols_add_up_to_1() -> None:
    draw = random.Random(1)
    train = random_sentences(draw, 12, 5)
    model = KneserNey(train, 4)
    words = sorted({word for sentence in train for word in sentence})
    for before in ([], ["t0"], ["t1", "t2"], ["t3", "t3", "t0", "t1"], ["never seen"]):
        endings = [[*before, word] for word in [*words, UNKNOWN]]
        chances = [np.exp(one[len(before)]) for one in model.token_log_probability([*endings, before])]
        assert math.fsum(chances) == pytest.approx(1.0, rel=1e-12)


def test_perplexity_counts_the_end_of_every_sentence() -> None:
    model = KneserNey([["a", "b"], ["a"], ["b", "b", "a"]], 3)
    scored = [["a"], ["b", "a"]]
    assert model.perplexity(scored) == pytest.approx(math.exp(-model.log_probability(scored).sum() / 5))


def test_samples_follow_the_model() -> None:
    train = [list("ab"), list("ab"), list("ba"), list("abb"), list("c")]
    model, plain = KneserNey(train, 3), Plain(train, 3)
    size = 60_000
    seen = Counter(map(tuple, model.sample(size, seed=3)))

    def chance(sentence: tuple[str, ...]) -> float:
        wrapped, product = [START, *sentence, END], 1.0
        for i in range(1, len(wrapped)):
            # the unknown token is never drawn, and its share is spread evenly over the others
            spread = plain.probability(wrapped[:i], UNKNOWN) / (len(plain.words) + 1)
            product *= plain.probability(wrapped[:i], wrapped[i]) + spread
        return product

    for sentence, count in seen.most_common(12):
        expected = chance(sentence)
        assert abs(count / size - expected) < 4.5 * math.sqrt(expected / size), sentence


def test_sample_k_depends_on_seed_and_k_alone() -> None:
    model = KneserNey(random_sentences(random.Random(2), 50, 6))
    many = model.sample(200, seed=7)
    assert model.sample(20, seed=7) == many[:20]
    neighbours = model.sample(200, seed=8)
    # hashed, not added: text k of one seed is not text k - 1 of the next
    assert sum(a == b for a, b in zip(many[1:], neighbours[:-1], strict=True)) < 40
    assert all(len(text) <= 3 for text in model.sample(50, seed=1, max_tokens=3))


def test_one_sentence_and_only_empty_sentences_can_be_learnt() -> None:
    assert KneserNey([[]]).sample(3, seed=0) == [[], [], []]
    assert KneserNey([["a"]], 5).perplexity([["a"], ["b"]]) > 1


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="a language model needs at least one training sentence, got none"):
        KneserNey([])
    with pytest.raises(ValueError, match="order must be an integer >= 1, got 0"):
        KneserNey([["a"]], 0)
    with pytest.raises(TypeError, match="training sentences, sentence 0: must be a list of tokens, got str 'a b'"):
        KneserNey(["a b"])
    with pytest.raises(ValueError, match="perplexity needs at least one sentence, got none"):
        KneserNey([["a"]]).perplexity([])
    with pytest.raises(ValueError, match="count and max_tokens must be >= 1, got 0 and 200"):
        KneserNey([["a"]]).sample(0, seed=0)


def test_symbols_share_what_the_unigrams_leave() -> None:
    train = Packed(np.array([3, 5, 3, 4, 3, 5, 9]), np.array([3, 2, 2]))
    model = KneserNey(train, 3, symbols=12)  # eleven ids that may be written, and the end of the sentence
    for before in ([], [3], [5, 3], [8]):
        rows = [[*before, token] for token in range(11)] + [before]
        packed = Packed(np.array([t for r in rows for t in r], dtype=np.int64), np.array([len(r) for r in rows]))
        chances = [np.exp(one[len(before)]) for one in model.token_log_probability(packed)]
        assert math.fsum(chances) == pytest.approx(1.0, rel=1e-12)
    with pytest.raises(ValueError, match="symbols must be more than the 4 training tokens, got 4"):
        KneserNey(train, symbols=4)


FOREIGN = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.2\t<unk>
-99\t<s>\t-0.3
-0.5\tthe\t-0.7
-0.9\tcat\t0.1
-0.6\t</s>

\\2-grams:
-0.2\t<s> the
-0.4\tthe cat
-0.15\tcat </s>

\\end\\
"""


def test_arpa_files_give_kenlm_and_us_the_same(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="pip install kenlm reads ARPA files by other code than ours")
    draw = random.Random(4)
    train = random_sentences(draw, 300, 30)
    model = KneserNey(train, 5)
    model.write_arpa(tmp_path / "own.arpa")
    (tmp_path / "foreign.arpa").write_text(FOREIGN)
    scored = [*random_sentences(draw, 40, 32), *train[:20], ["the", "cat"], ["cat", "the", "the"], ["dog"]]
    for name, ours in [("own", model), ("own", KneserNey.read_arpa(tmp_path / "own.arpa")),
                       ("foreign", KneserNey.read_arpa(tmp_path / "foreign.arpa"))]:  # fmt: skip
        reader = kenlm.Model(str(tmp_path / f"{name}.arpa"))
        for sentence, got in zip(scored, ours.token_log_probability(scored), strict=True):
            wanted = [score * math.log(10) for score, *_ in reader.full_scores(" ".join(sentence))]
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)  # KenLM keeps float32


def test_a_model_is_read_back_from_arpa(tmp_path: Path) -> None:
    draw = random.Random(5)
    train, scored = random_sentences(draw, 60, 9), random_sentences(draw, 30, 11)
    model = KneserNey(train, 4)
    model.write_arpa(tmp_path / "a.arpa")
    again = KneserNey.read_arpa(tmp_path / "a.arpa")
    np.testing.assert_allclose(again.log_probability(scored), model.log_probability(scored), rtol=1e-8)
    assert again.sample(50, seed=1) == model.sample(50, seed=1)
    again.write_arpa(tmp_path / "b.arpa")
    assert [line.split("\t")[1:2] for line in (tmp_path / "b.arpa").read_text().splitlines()].count(["<unk>"]) == 1
    (packed,), _ = encode(train)
    KneserNey(packed, 4).write_arpa(tmp_path / "c.arpa", [f"t{i}" for i in range(9)])
    assert (tmp_path / "c.arpa").read_text().count("\n") == (tmp_path / "a.arpa").read_text().count("\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.arpa", "b.arpa", "c.arpa"]


def test_what_arpa_files_cannot_hold_is_named(tmp_path: Path) -> None:
    for word in ("a b", "", "<s>", "</s>", "<unk>", "\t"):
        with pytest.raises(ValueError, match=f"an ARPA file cannot hold the token {re.escape(repr(word))}"):
            KneserNey([["a", word]]).write_arpa(tmp_path / "x")
    with pytest.raises(ValueError, match="an ARPA file cannot hold two tokens of one spelling"):
        KneserNey([["1", 1]]).write_arpa(tmp_path / "x")
    assert not list(tmp_path.iterdir())
    for text, fault in [
        (FOREIGN.replace("-0.5\tthe", "x\tthe"), r"line 8: expected log10 P, 1 tokens and perhaps a back-off weight"),
        (FOREIGN.replace("the cat", "the dog"), "the 2-grams hold 'dog', which is not among the 1-grams"),
        (FOREIGN.replace("\\end\\", ""), "no ARPA file, or one cut off"),
        ("hello\n", "no ARPA file, or one cut off"),
    ]:
        (tmp_path / "x").write_text(text)
        with pytest.raises(ValueError, match=fault):
            KneserNey.read_arpa(tmp_path / "x")
    (tmp_path / "x").write_text(FOREIGN.replace("-0.4\t", "-2\t"))
    with pytest.raises(ValueError, match="sampling needs an interpolated model; this one backs off without"):
        KneserNey.read_arpa(tmp_path / "x").sample(1, seed=0)
