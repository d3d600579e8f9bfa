from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgen.metrics import novelty
from seqgen.metrics.ngrams import encode
from seqgen.metrics.novelty import (
    CopiedSpan,
    copied_share,
    copied_spans,
    leaked,
    match_training,
    novelty_n,
    span_lengths,
)

corpora = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=6)


def holds(sentence: list[int], part: list[int]) -> bool:
    return any(sentence[j : j + len(part)] == part for j in range(len(sentence) - len(part) + 1))


alike = st.lists(st.lists(st.integers(0, 1), max_size=40), min_size=1, max_size=4)


@pytest.mark.parametrize("block", [novelty._BLOCK, 3])
@settings(max_examples=150, deadline=None)
@given(st.one_of(st.tuples(corpora, corpora), st.tuples(alike, alike)))
def test_matches_equal_the_definition(block: int, both: tuple[list[list[int]], list[list[int]]]) -> None:
    sents, train = both
    with mock.patch.object(novelty, "_BLOCK", block):
        matches = match_training(sents, train)
    position = 0
    for i, sentence in enumerate(sents):
        assert matches.copied[i] == (sentence in train)
        for start in range(len(sentence)):
            longest = max(
                n for n in range(len(sentence) - start + 1) if any(holds(t, sentence[start : start + n]) for t in train)
            )
            assert matches.length[position] == longest
            if longest:
                assert holds(train[matches.source[position]], sentence[start : start + longest])
            position += 1
    for n in range(1, 6):
        parts = [s[i : i + n] for s in sents for i in range(len(s) - n + 1)]
        if parts:
            absent = sum(not any(holds(t, part) for t in train) for part in parts)
            assert novelty_n(sents, train, n) == absent / len(parts)


@settings(max_examples=100, deadline=None)
@given(corpora, corpora)
def test_longest_span_is_the_longest_match(sents: list[list[int]], train: list[list[int]]) -> None:
    matches = match_training(sents, train)
    spans = copied_spans(sents, train)
    assert [span.length for span in spans] == span_lengths(matches).tolist()
    for sentence, span in zip(sents, spans, strict=True):
        if span.length:
            assert holds(train[span.source], sentence[span.start : span.start + span.length])
        else:
            assert span == CopiedSpan(0, 0, -1)


def test_a_copied_line_is_found_with_its_source() -> None:
    train = ["a cat sat".split(), "the dog ran off today".split(), "birds sing".split()]  # noqa: SIM905
    (span,) = copied_spans([["yes", "the", "dog", "ran", "away"]], train)
    assert span == CopiedSpan(length=3, start=1, source=1)
    assert copied_share([["birds", "sing"], ["birds", "sing", "now"]], train) == 0.5


def test_long_copies_cost_no_more_than_short_ones() -> None:
    """A text of 60,000 tokens copied whole: a comparison position by position would take 10^9 steps."""
    line = np.random.default_rng(0).integers(0, 3, 60_000).tolist()
    (packed, train), _ = encode([line], [[9, *line, 9]])
    matches = match_training(packed, train)
    np.testing.assert_array_equal(matches.length, np.arange(60_000, 0, -1))


def test_empty_sentences_match_only_empty_sentences() -> None:
    assert match_training([[], ["a"]], [["a"]]).copied.tolist() == [False, True]
    assert match_training([[]], [["a"], []]).copied.tolist() == [True]
    assert match_training([[]], [[]]).length.size == 0


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="there are no samples; give at least one sentence"):
        novelty_n([], [["a"]], 1)
    with pytest.raises(ValueError, match="the training text is empty; give at least one sentence"):
        copied_share([["a"]], [])
    with pytest.raises(ValueError, match="some sample must have n tokens, got n = 3 for 1 samples"):
        novelty_n([["a"]], [["a"]], 3)
    with pytest.raises(TypeError, match="must be a list of tokens, got str"):
        novelty_n(["a b"], [["a"]], 1)


def test_lines_that_were_trained_on_are_counted_whatever_stands_at_their_ends() -> None:
    assert leaked(["a b", " a b\t", "", "c", "  "], ["a b ", "", "d"]) == (2, 3)
    assert leaked(["", " "], [""]) == (0, 0)
