import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from seqgen.metrics.ngram_lm import KneserNey
from seqgen.metrics.ngrams import encode

START, END, UNKNOWN = "<s>", "</s>", "<unknown>"


class Plain:
    """Interpolated Kneser-Ney by its equations, with dictionaries."""

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
        self.discount = {}
        for n, table in self.counts.items():
            by_count = Counter(table.values())
            self.discount[n] = by_count[1] / (by_count[1] + 2 * by_count[2]) if by_count[1] else 0.5

    def probability(self, before: list[str], word: str, n: int | None = None) -> float:
        n = min(self.order, len(before) + 1) if n is None else n
        if n == 0:
            return 1 / (len(self.words) + 2)
        context = tuple(before[len(before) - n + 1 :])
        follow = {gram[-1]: count for gram, count in self.counts[n].items() if gram[:-1] == context}
        lowercase = self.probability(before, word, n - 1)
        if not follow:
            return lowercase
        total = sum(follow.values())
        kept = max(follow.get(word, 0) - self.discount[n], 0.0) / total
        return kept + self.discount[n] * len(follow) / total * lowercase

    def log_probability(self, sentence: list[str]) -> float:
        wrapped = [START, *sentence, END]
        return math.fsum(math.log(self.probability(wrapped[:i], wrapped[i])) for i in range(1, len(wrapped)))


def random_sentences(draw: random.Random, count: int, vocabulary: int) -> list[list[str]]:
    return [[f"t{draw.randrange(vocabulary)}" for _ in range(draw.choice([0, 1, 2, 4, 9]))] for _ in range(count)]


def test_log_probability_equals_the_equations() -> None:
    draw = random.Random(0)
    for _ in range(40):
        vocabulary, order = draw.choice([1, 2, 4, 8]), draw.randint(1, 6)
        train = random_sentences(draw, draw.randint(1, 8), vocabulary)
        scored = random_sentences(draw, 4, vocabulary + 1)  # one word the training text may not have
        model, plain = KneserNey(train, order), Plain(train, order)
        wanted = [plain.log_probability(sentence) for sentence in scored]
        np.testing.assert_allclose(model.log_probability(scored), wanted, rtol=1e-11)
        per_token = model.token_log_probability(scored)
        assert [len(one) for one in per_token] == [len(sentence) + 1 for sentence in scored]
        np.testing.assert_allclose([one.sum() for one in per_token], wanted, rtol=1e-11)
        (packed_train, packed_scored), _ = encode(train, scored)
        np.testing.assert_allclose(KneserNey(packed_train, order).log_probability(packed_scored), wanted, rtol=1e-11)


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
