from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import word_tokenize
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from seqgen import metrics
from seqgen.metrics.tokens import NAMES, pack_texts, tokenize, written_differently

WESTERN = "ab1 2.,-'\"!?&;:()[]{}<>|~^_`#$%*+=/@\\\t\u00a0é"
CHINESE = "春月，。、《》“”…—①㊗ａＡ１豈\u2000\u2001\u2a6d\u2a6e\u3400\u4db6\u9fbb\u9fbc\uff00\ufff0\U00020000𠀀😀"
pieces = st.sampled_from(["&quot;", "&amp;", "&lt;", "&gt;", "<skipped>", "-\n", "\n", "1.5", "1,000", "a.b", "3-4"])


def text(alphabet: str) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(pieces, st.text(alphabet, max_size=6)), max_size=8).map("".join)


@settings(max_examples=400, deadline=None)
@given(text(WESTERN))
def test_13a_equals_sacrebleu(line: str) -> None:
    # what comes before a tokenizer there: trailing white space goes
    assert tokenize([line], "13a") == [Tokenizer13a()(line.rstrip()).split()]


@settings(max_examples=400, deadline=None)
@given(text(WESTERN + CHINESE))
def test_zh_equals_sacrebleu(line: str) -> None:
    assert tokenize([line], "zh") == [TokenizerZh()(line.rstrip()).split()]


def test_every_basic_character_is_cut_as_sacrebleu_cuts_it() -> None:
    lines = [f"a{chr(i)}b" for i in range(32, 0x10000) if not 0xD800 <= i < 0xE000]
    theirs = TokenizerZh()
    assert tokenize(lines, "zh") == [theirs(line).split() for line in lines]


def test_captions_are_cut_as_sacrebleu_cuts_them(public_set: Callable[[str], Path]) -> None:
    lines = public_set("text/image-coco/test.txt").read_text(encoding="utf-8").splitlines()
    theirs = Tokenizer13a()
    assert tokenize(lines, "13a") == [theirs(line.rstrip()).split() for line in lines]


def test_nltk_words_need_no_sentence_splitter() -> None:
    line = "They'll pay $3.88. Won't you? (Yes.)"
    assert tokenize([line], "nltk") == [word_tokenize(line, preserve_line=True)]
    assert "3.88." in tokenize([line], "nltk")[0]
    assert pack_texts({"a": [line]}, "nltk")[1] == "nltk(preserve_line)"


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("split", ["it's", "a", "b."]),
        ("nltk", ["it", "'s", "a", "b", "."]),
        ("13a", ["it's", "a", "b", "."]),
        ("zh", ["it's", "a", "b", "."]),
        ("char", ["i", "t", "'", "s", "a", "b", "."]),
    ],
)
def test_names(name: str, tokens: list[str]) -> None:
    assert name in NAMES
    assert tokenize(["it's a  b."], name) == [tokens]


def test_a_callable_cuts_lines() -> None:
    assert tokenize(["a-b", "c"], lambda line: line.split("-")) == [["a", "b"], ["c"]]


def test_wrong_input_is_named() -> None:
    with pytest.raises(TypeError, match="lines must be a list of str, got one str of 3 characters"):
        tokenize("a b")
    with pytest.raises(TypeError, match="line 1: must be a str, got list"):
        tokenize(["a", ["b"]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="unknown tokenizer 'moses'; known: split, nltk, 13a, zh, char, or a callable"):
        tokenize(["a"], "moses")


APART, TOGETHER = ["a dog runs .", "where is it ?"] * 20, ["a dog runs.", "where is it?"] * 20
SAID = "{} of the samples and {} of the references have {}: cut at spaces, equal words differ"
STOPS = SAID.format("100%", "0%", "full stops apart from words")
CAPITALS = SAID.format("0%", "100%", "capitals")


@pytest.mark.parametrize(
    ("samples", "references", "said"),
    [
        (APART, TOGETHER, [STOPS]),
        (TOGETHER, [line.capitalize() for line in TOGETHER], [CAPITALS]),
        (APART, [line.capitalize() for line in TOGETHER], [STOPS, CAPITALS]),
        (APART, APART, []),
        (TOGETHER, [*TOGETHER, *APART[:10]], []),
        (APART[:19], TOGETHER, []),  # too few to say so
        (["a dog runs"] * 40, TOGETHER, []),  # no full stops at all
        (["一只狗 。"] * 40, ["一只狗。"] * 40, []),
        (["", ".", " . "] * 40, TOGETHER, []),
    ],
)
def test_texts_that_are_written_differently(samples: list[str], references: list[str], said: list[str]) -> None:
    assert [text.split(";")[0] for text in written_differently(samples, references)] == said


def test_the_table_warns_where_cutting_at_spaces_splits_equal_words() -> None:
    with pytest.warns(UserWarning, match="full stops apart"):
        metrics.bleu(APART, TOGETHER)
    assert metrics.bleu(APART, TOGETHER, tokenizer="13a").value == 1
    assert metrics.bleu(TOGETHER, [line.upper() for line in TOGETHER], order=2, lowercase=True).value == 1
    with pytest.warns(UserWarning, match="full stops apart"):
        cut_at_spaces = metrics.evaluate_text(APART, TOGETHER).scores["bleu_2"]
    assert float(cut_at_spaces) < 0.8
    # what it names repairs it, and says nothing (warnings are errors here)
    assert float(metrics.evaluate_text(APART, TOGETHER, tokenizer="nltk").scores["bleu_2"]) == 1
    assert float(metrics.evaluate_text(APART, TOGETHER, protocol="texygen").scores["bleu_2"]) == 1
