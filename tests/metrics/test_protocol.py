import json
import math
import random
from typing import Any

import numpy as np
import pytest

from seqgen.metrics import protocol
from seqgen.metrics.bleu import BleuSettings, bleu, bleu_stats, corpus_bleu, self_bleu, self_bleu_orders
from seqgen.metrics.distance import jensen_shannon, ms_jaccard, ngram_kl
from seqgen.metrics.diversity import (
    distinct_n,
    length_distance,
    ngram_entropy,
    repetition_n,
    unique_share,
    zipf_exponent,
)
from seqgen.metrics.names import METRICS, Metric, Texts, UndefinedError, metric
from seqgen.metrics.ngram_lm import KneserNey
from seqgen.metrics.ngrams import pack
from seqgen.metrics.novelty import copied_share, copied_spans, novelty_n
from seqgen.metrics.protocol import CACCIA_MULTIPLIERS, PROTOCOLS, evaluate_text, protocol_named
from seqgen.metrics.tokens import tokenize

WORDS = "the a Cat dog man's red big sat ran on, under over table . mat".split(" ")  # noqa: SIM905


def lines(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 12))) for _ in range(count)]


HYPOTHESES, REFERENCES, TRAIN, REAL = lines(0, 60), lines(1, 50), [*lines(2, 40), lines(0, 60)[7]], lines(3, 70)


def values(scores: dict[str, Any]) -> dict[str, float]:
    return {name: float(score) for name, score in scores.items()}


def test_default_table_holds_what_the_single_functions_give() -> None:
    table = evaluate_text(HYPOTHESES, REFERENCES, train=TRAIN, temperature=0.8)
    hyp, ref, train = (tokenize(text) for text in (HYPOTHESES, REFERENCES, TRAIN))
    spans = [span.length for span in copied_spans(hyp, train)]
    ahead, back, alike = (
        s.orders
        for s in (
            bleu(HYPOTHESES, REFERENCES, order=5),
            bleu(REFERENCES, HYPOTHESES, order=5),
            self_bleu(HYPOTHESES, order=5),
        )
    )
    lengths = [len(sentence) for sentence in hyp]
    wanted = {
        **{f"bleu_{n}": ahead[n] for n in (2, 3, 4, 5)},
        **{f"self_bleu_{n}": alike[n] for n in (2, 3, 4, 5)},
        **{f"backward_bleu_{n}": back[n] for n in (2, 3, 4, 5)},
        **{f"bleu_f1_{n}": 2 / (1 / ahead[n] + 1 / back[n]) for n in (2, 3, 4, 5)},
        **{f"distinct_{n}": distinct_n(hyp, n) for n in (1, 2, 3, 4)},
        **{f"entropy_{n}": ngram_entropy(hyp, n) for n in (1, 2, 3)},
        "zipf": zipf_exponent(hyp),
        **{f"ms_jaccard_{n}": ms_jaccard(hyp, ref, n) for n in (2, 3, 4, 5)},
        **{f"js_{n}": jensen_shannon(hyp, ref, n) for n in (1, 2, 3)},
        **{f"kl_{n}": ngram_kl(hyp, ref, n) for n in (1, 2, 3)},
        **{f"repetition_{n}": repetition_n(hyp, n) for n in (2, 3, 4)},
        "unique": unique_share(hyp),
        "length": sum(lengths) / len(lengths),
        "length_w1": length_distance(hyp, ref),
        **{f"novelty_{n}": novelty_n(hyp, train, n) for n in range(1, 9)},
        "copied": copied_share(hyp, train),
        "copied_span": sum(spans) / len(spans),
        "copied_span_max": max(spans),
        "kn_forward": math.log(KneserNey(train).perplexity(hyp)),
        "kn_reverse": math.log(KneserNey(hyp).perplexity(ref)),
    }
    got = values(table.scores)
    assert got.pop("frequency_w1") > 0
    assert got == pytest.approx(wanted, rel=1e-12)
    assert got["copied"] == 1 / 60
    for name, score in table.scores.items():
        assert score.signature.temperature == 0.8, name
        assert str(score.signature).endswith("|temp:0.8")
        assert score.signature.fields["hyp"] == ("50" if name.startswith("backward") else "60")


def test_scores_of_the_table_compare_with_those_of_the_functions() -> None:
    table = evaluate_text(HYPOTHESES, REFERENCES)
    assert table["bleu_4"] - bleu(HYPOTHESES, REFERENCES) == 0
    assert table["self_bleu_4"] - self_bleu(HYPOTHESES) == 0
    assert "novelty_2" not in table.scores
    with pytest.raises(KeyError, match="no score 'blue-4'; there are bleu_2, bleu_3"):
        table["blue-4"]


@pytest.mark.filterwarnings("ignore:protocol")
def test_a_metric_is_one_row_with_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def longest(texts: Texts, n: int) -> float:
        if texts.samples.lengths.max() < n:
            raise UndefinedError(f"no sample has {n} tokens")
        return float(texts.samples.lengths.max())

    row = Metric("longest", "real", "tokens", "tokens of the longest sample", orders=(1, 99), compute=longest)
    monkeypatch.setattr(protocol, "METRICS", (*METRICS, row))
    table = evaluate_text(HYPOTHESES, REFERENCES)
    assert float(table["longest_1"]) == max(len(line.split()) for line in HYPOTHESES)
    assert str(table["longest_1"].signature).startswith("longest|n:1|hyp:60|tok:split|case:mixed|version:")
    assert table["longest_99"].note == "undefined: no sample has 99 tokens"
    assert "longest_1" not in evaluate_text(HYPOTHESES, REFERENCES, protocol="leakgan").scores


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.filterwarnings("ignore:protocol")
def test_every_score_has_a_row(name: str) -> None:
    for score in evaluate_text(HYPOTHESES[:50], REFERENCES, train=TRAIN, protocol=name).scores:
        assert metric(score).about, score


def test_real_text_is_scored_at_the_size_of_the_samples() -> None:
    table = evaluate_text(HYPOTHESES, REFERENCES, train=TRAIN, real=REAL)
    alone = evaluate_text(REAL[:60], REFERENCES, train=TRAIN)
    assert table.real is not None
    assert values(table.real) == values(alone.scores)
    assert list(table.real) == list(table.scores)
    for name, score, real in table.rows():
        assert real is not None
        assert score - real == pytest.approx(float(score) - float(real)), name
    with pytest.raises(ValueError, match="real text must have as many lines as there are samples, 60, got 59"):
        evaluate_text(HYPOTHESES, REFERENCES, real=REAL[:59])


def test_the_table_is_json_with_intervals_by_choice() -> None:
    table = evaluate_text(HYPOTHESES, REFERENCES, real=REAL)
    stored = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert stored["protocol"] == "default"
    alone, shared = table["bleu_4"].to_dict(), dict(stored["scores"]["bleu_4"])
    # resamples of many scores are one matrix product, whose last bits depend on its width
    assert shared.pop("interval") == pytest.approx(alone.pop("interval"), rel=1e-12)
    assert shared == alone
    assert stored["scores"]["bleu_4"]["interval"][0] < float(table["bleu_4"])
    assert table.to_dict(intervals=False)["real"]["bleu_4"]["interval"] is None


def test_tokens_and_tokenizers_of_the_callers_choice() -> None:
    by_line = evaluate_text(HYPOTHESES, REFERENCES, tokenizer="char")
    given = evaluate_text(tokenize(HYPOTHESES, "char"), tokenize(REFERENCES, "char"))
    assert values(by_line.scores) == values(given.scores)
    assert by_line["zipf"].signature.fields["tok"] == "char"
    with pytest.raises(
        ValueError, match="protocol texygen fixes its tokenizer; choose one in the default protocol only"
    ):
        evaluate_text(HYPOTHESES, REFERENCES, protocol="texygen", tokenizer="char")


def test_undefined_figures_say_why_and_none_disappears() -> None:
    short = evaluate_text(["a b", ""], ["a b c d e f"], train=["a"])
    full = evaluate_text(HYPOTHESES, REFERENCES, train=TRAIN)
    assert list(short.scores) == list(full.scores)
    assert math.isnan(float(short["distinct_3"]))
    assert short["distinct_3"].note == "undefined: no sample has 3 tokens"
    assert short["js_3"].note == "undefined: no sample has 3 tokens"
    assert short["novelty_3"].note == "undefined: no sample is long enough"
    assert float(short["bleu_4"]) > 0
    assert evaluate_text(["", ""], ["a"])["zipf"].note == "undefined: no sample has 1 tokens"
    assert evaluate_text(["a", "a"], ["a"])["zipf"].note == "undefined: the samples hold fewer than 2 different tokens"
    json.dumps(short.to_dict(), allow_nan=False)


# ------------------------------------------------------------------------------
# presets


def nltk_lower(text: list[str]) -> list[Any]:
    return tokenize([line.lower() for line in text], "nltk")


def test_texygen_is_the_whole_file_lower_cased() -> None:
    got = values(evaluate_text(HYPOTHESES, REFERENCES, protocol="texygen").scores)
    ahead, alike = (
        bleu(nltk_lower(HYPOTHESES), nltk_lower(REFERENCES), order=5).orders,
        self_bleu(nltk_lower(HYPOTHESES), order=5).orders,
    )
    assert got == {f"{name}_{n}": s[n] for name, s in (("bleu", ahead), ("self_bleu", alike)) for n in (2, 3, 4, 5)}


def test_texygen_fast_takes_the_first_500() -> None:
    hypotheses, references = lines(4, 520), lines(5, 510)
    got = evaluate_text(hypotheses, references, protocol="texygen-fast").scores
    assert float(got["bleu_3"]) == float(bleu(nltk_lower(hypotheses), nltk_lower(references[:500]), order=3))
    assert float(got["self_bleu_3"]) == float(self_bleu(nltk_lower(hypotheses[:500]), order=3))
    assert got["bleu_3"].signature.fields["nrefs"] == got["self_bleu_3"].signature.fields["hyp"] == "500"


def test_textgan_scores_200_rounded_and_splits_for_self_bleu() -> None:
    hypotheses = lines(6, 260)
    got = evaluate_text(hypotheses, REFERENCES, protocol="textgan").scores
    assert list(got) == [*(f"bleu_{n}" for n in (2, 3, 4, 5)), *(f"self_bleu_{n}" for n in (2, 3, 4))]
    assert float(got["bleu_2"]) == round(float(bleu(nltk_lower(hypotheses[:200]), nltk_lower(REFERENCES), order=2)), 3)
    fresh = self_bleu(nltk_lower(hypotheses[60:]), against=nltk_lower(hypotheses[:60]), order=4)
    assert float(got["self_bleu_4"]) == round(float(fresh), 3)
    assert got["self_bleu_4"].signature.fields["self"] == "split"
    assert got["self_bleu_4"].signature.fields["round"] == "3"


def test_relgan_keeps_every_line_among_its_references_and_warns() -> None:
    hypotheses = lines(7, 220)
    with pytest.warns(UserWarning, match="protocol relgan, self_bleu: every line is among its own references"):
        got = evaluate_text(hypotheses, REFERENCES, protocol="relgan").scores
    assert float(got["bleu_4"]) == float(bleu(tokenize(hypotheses[:100], "nltk"), tokenize(REFERENCES, "nltk")))
    long_enough = lines(8, 9)
    with pytest.warns(UserWarning, match="it says nothing"):
        again = evaluate_text([line + " x y z" for line in long_enough], REFERENCES, protocol="relgan")
    assert float(again["self_bleu_4"]) == 1.0
    assert again["self_bleu_4"].note.startswith("every line is among its own references")
    assert again["self_bleu_4"].signature.fields["self"] == "included"


def test_leakgan_scores_unsmoothed_and_records_its_shuffle() -> None:
    hypotheses = lines(9, 2100)
    with pytest.warns(UserWarning, match=r"protocol leakgan, bleu: published values came from nltk before 3\.3"):
        got = evaluate_text(hypotheses, REFERENCES, protocol="leakgan", seed=5)
    assert list(got.scores) == ["bleu_2", "bleu_3", "bleu_4", "bleu_5"]
    drawn = [hypotheses[i] for i in np.random.default_rng(5).permutation(2100)[:2000]]
    assert float(got["bleu_3"]) == pytest.approx(
        float(bleu(drawn, REFERENCES, order=3, smoothing="method0")), rel=1e-12
    )
    assert got["bleu_3"].signature.seed == 5
    assert got["bleu_3"].signature.fields["smooth"] == "m0"


def test_caccia_reports_order_5_over_19_factors() -> None:
    got = evaluate_text(HYPOTHESES, REFERENCES, protocol="caccia").scores
    assert list(got) == ["bleu_5", "self_bleu_5"]
    assert float(got["self_bleu_5"]) == float(self_bleu(tokenize(HYPOTHESES, "nltk"), order=5))
    assert (len(CACCIA_MULTIPLIERS), CACCIA_MULTIPLIERS[0], CACCIA_MULTIPLIERS[-1]) == (19, 0.9, 4.0)
    assert list(CACCIA_MULTIPLIERS) == sorted(set(CACCIA_MULTIPLIERS))
    assert PROTOCOLS["caccia"].hypotheses == PROTOCOLS["caccia"].references == PROTOCOLS["caccia"].self_count == 10_000


def test_cotk_scores_own_references_and_1000_shuffled_samples() -> None:
    hypotheses, references = lines(10, 1100), lines(11, 1100)
    got = evaluate_text(hypotheses, references, protocol="cotk").scores
    tokens = [[ref] for ref in tokenize(references)]
    stats = bleu_stats(tokenize(hypotheses), None, 4, references_per_hypothesis=tokens)
    assert float(got["bleu_4"]) == corpus_bleu(stats, 4, smoothing="method3")
    shuffled_hypotheses, shuffled_references = hypotheses.copy(), references.copy()
    for text in (shuffled_hypotheses, shuffled_references):
        random.Random(1229).shuffle(text)
    first, second = shuffled_hypotheses[:1000], shuffled_references[:1000]
    assert float(got["self_bleu_4"]) == float(self_bleu_orders(first, BleuSettings(orders=(4,)))[4])
    assert float(got["forward_bleu_4"]) == float(bleu(first, second))
    assert float(got["backward_bleu_4"]) == float(bleu(second, first))
    assert got["self_bleu_4"].signature.seed == 1229
    with pytest.raises(
        ValueError, match="scores hypothesis i against reference i; give as many references, got 50 for"
    ):
        evaluate_text(HYPOTHESES, REFERENCES, protocol="cotk")


def test_every_preset_names_its_toolkit() -> None:
    assert list(PROTOCOLS) == ["default", "texygen", "texygen-fast", "textgan", "relgan", "leakgan", "caccia", "cotk"]
    for name in PROTOCOLS:
        assert protocol_named(name).source
    with pytest.raises(ValueError, match="unknown protocol 'texgan'; known: default, texygen, texygen-fast"):
        protocol_named("texgan")


@pytest.mark.parametrize(
    ("texts", "error", "text"),
    [
        (([], REFERENCES), ValueError, "hypotheses: nothing to score; give at least one line"),
        ((HYPOTHESES, []), ValueError, "references: nothing to score; give at least one line"),
        (("a", REFERENCES), TypeError, "hypotheses must be a list of lines or of token lists, got str"),
        ((HYPOTHESES, tokenize(REFERENCES)), TypeError, "hypotheses are lines, but references are token lists"),
        ((HYPOTHESES[:1], REFERENCES), ValueError, "Self-BLEU needs at least 2 sentences, got 1"),
    ],
)
def test_wrong_input_is_named(texts: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        evaluate_text(*texts)


@pytest.mark.slow
def test_lines_of_100_000_equal_tokens_are_what_arithmetic_says() -> None:
    long, size = ["a " * 100_000] * 3, 100_000
    got = values(evaluate_text(long, long, train=long).scores)
    wanted = {"bleu_5": 1, "self_bleu_5": 1, "backward_bleu_5": 1, "distinct_2": 1 / (3 * (size - 1)), "entropy_3": 0}
    wanted |= {"repetition_2": (size - 2) / (size - 1), "unique": 1 / 3, "length": size, "novelty_8": 0, "copied": 1}
    wanted |= {"copied_span_max": size, "ms_jaccard_5": 1, "js_3": 0, "kl_3": 0, "length_w1": 0}
    assert {name: got[name] for name in wanted} == pytest.approx(wanted, rel=1e-12)


@pytest.mark.slow
def test_as_many_tokens_as_a_vocabulary_of_200_000() -> None:
    # every token once on each side, in an order without a common bigram
    tokens = np.arange(200_000).reshape(-1, 20)
    got = values(evaluate_text(pack(tokens, [20] * 10_000), pack(tokens[:, ::-1], [20] * 10_000)).scores)
    assert got["distinct_1"] == got["distinct_4"] == 1
    assert got["entropy_1"] == pytest.approx(math.log(200_000))
    assert (got["js_1"], got["js_2"], got["zipf"]) == pytest.approx((0, math.log(2), 0), abs=1e-12)
    # all unigrams match and nothing else: method1 gives orders 2..4 0.1 / (21 - n)
    assert got["bleu_4"] == pytest.approx((0.1**3 / (19 * 18 * 17)) ** 0.25)
    assert got["self_bleu_4"] == 0
