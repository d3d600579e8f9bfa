"""Beam search against exhaustive search and a plain beam search in Python."""

import itertools
import math

import pytest
import torch
from peaked import peaked_model

from seqgen.core.options import Beam
from seqgen.nn.automaton import build, regex
from seqgen.nn.beam import beam_search

START, STOP, LONGEST = 0, 1, 4


def _model(vocab=4, seed=0, **options):
    return peaked_model(
        vocab, seed=seed, **({"embedding": 6, "hidden": 8, "stop": STOP, "max_length": LONGEST} | options)
    )


def _log_probs(model, prompt):
    """A function: tokens so far -> log-probability of each next token, by the whole-sequence path."""
    weight, bias = model.head()
    known = {}

    def after(tokens):
        if tokens not in known:
            with torch.no_grad():
                hidden, _ = model.scan(torch.tensor([[*prompt, *tokens]]))
                logits = (model.features(hidden[0, -1]) @ weight.t() + bias).double()
            known[tokens] = logits.log_softmax(0).tolist()
        return known[tokens]

    return after


def _exhaustive(model, prompt, power, *, stop=STOP):
    """Every text of up to LONGEST tokens: (finished, score, tokens with the stop)."""
    after = _log_probs(model, prompt)
    vocab = model.config.vocab_size
    texts = []
    for n in range(1, LONGEST + 1):
        for tokens in itertools.product(range(vocab), repeat=n):
            if stop in tokens[:-1] or (tokens[-1] != stop and n < LONGEST):
                continue
            log_prob = sum(after(tokens[:k])[tokens[k]] for k in range(n))
            texts.append((tokens[-1] == stop, log_prob / n**power, tokens))
    return sorted(texts, key=lambda text: (not text[0], -text[1]))


def _without_stop(tokens):
    return [token for token in tokens if token != STOP]


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_what_exhaustive_search_finds(power, seed):
    model = _model(seed=seed)
    for prompt in ([START], [START, 2, 3]):
        expected = _exhaustive(model, prompt, power)
        (found,) = beam_search(model.decoder(), [prompt], Beam(num_beams=512, length_penalty=power))
        assert [text.ids for text in found] == [_without_stop(tokens) for _, _, tokens in expected]
        assert [text.score for text in found] == pytest.approx([score for _, score, _ in expected], abs=1e-4)
        assert [text.finished for text in found] == [finished for finished, _, _ in expected]
        best = found[0]
        assert best.log_prob == pytest.approx(best.score * (len(best.ids) + best.finished) ** power, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_without_a_stop_all_texts_are_as_long_as_the_limit(seed):
    model = _model(seed=seed, stop=-1)
    expected = _exhaustive(model, [START], 1.0, stop=-1)
    (found,) = beam_search(model.decoder(), [[START]], Beam(num_beams=256))
    assert [text.ids for text in found] == [list(tokens) for _, _, tokens in expected]
    assert not any(text.finished for text in found)


def _plain_beam(model, prompt, width, power, longest):
    """The usual algorithm, one candidate at a time, without stopping early."""
    after = _log_probs(model, prompt)
    live, pool = [(0.0, ())], []
    for _ in range(longest):
        options = [(p + q, (*tokens, k)) for p, tokens in live for k, q in enumerate(after(tokens))]
        options = sorted(options, reverse=True)[: 2 * width]
        pool += [(True, p / len(tokens) ** power, tokens) for p, tokens in options if tokens[-1] == STOP]
        live = [(p, tokens) for p, tokens in options if tokens[-1] != STOP][:width]
    pool += [(False, p / len(tokens) ** power, tokens) for p, tokens in live]
    return sorted(pool, key=lambda text: (not text[0], -text[1]))[:width]


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_narrow_beams_equal_the_plain_algorithm_for_several_prompts_at_once(width, power):
    model = _model(9, seed=5, max_length=7)
    prompts = [[START], [START, 4, 5, 6], [START, 8], [START, 3, 3]]
    found = beam_search(model.decoder(), prompts, Beam(num_beams=width, length_penalty=power))
    for prompt, texts in zip(prompts, found, strict=True):
        expected = _plain_beam(model, prompt, width, power, 7)
        assert [text.ids for text in texts] == [_without_stop(tokens) for _, _, tokens in expected]
        assert [text.score for text in texts] == pytest.approx([score for _, score, _ in expected], abs=1e-4)


def test_the_first_tokens_of_diverse_groups_differ_when_the_penalty_is_large():
    model = _model(9, seed=5, max_length=7, suppress_tokens=(START,))
    plain, diverse = (
        beam_search(model.decoder(), [[START]], Beam(num_beams=4, num_beam_groups=groups, diversity_penalty=100.0))[0]
        for groups in (1, 4)
    )
    firsts = [text.ids[0] if text.ids else STOP for text in diverse]
    assert len(set(firsts)) == 4
    assert len({text.ids[0] if text.ids else STOP for text in plain}) < 4


def test_groups_without_a_penalty_find_the_same_text_once():
    model = _model(9, seed=5, max_length=7)
    (alike,) = beam_search(model.decoder(), [[START]], Beam(num_beams=4, num_beam_groups=4, diversity_penalty=0.0))
    (greedy,) = beam_search(model.decoder(), [[START]], Beam(num_beams=1))
    assert alike == greedy


def test_the_groups_equal_a_hand_made_round():
    # one step, two groups of one: the second loses `diversity` for the first one's token
    model = _model(6, seed=3, stop=-1, max_length=1)
    log_probs = _log_probs(model, [START])(())
    first, second = sorted(range(6), key=lambda k: -log_probs[k])[:2]
    gap = log_probs[first] - log_probs[second]
    for diversity, expected in ((gap * 0.9, [first]), (gap * 1.1, [first, second])):
        (found,) = beam_search(
            model.decoder(), [[START]], Beam(num_beams=2, num_beam_groups=2, diversity_penalty=diversity)
        )
        assert [text.ids[0] for text in found] == expected


def test_limits_forbidden_ids_and_never_hold():
    model = _model(9, max_length=7, suppress_tokens=(START,))
    (found,) = beam_search(
        model.decoder(), [[START]], Beam(num_beams=8, suppress_tokens=(4, 5), min_new_tokens=2, max_new_tokens=4)
    )
    for text in found:
        assert not {START, 4, 5} & set(text.ids)
        assert 2 <= len(text.ids) <= 4 - text.finished


def test_a_constrained_search_finds_the_best_allowed_text():
    model = _model(6, seed=2, max_length=5, suppress_tokens=(START,))
    surfaces = ["", "", *"abcd"]
    automaton = build([regex("a[bc]+|d{3}")], surfaces)
    (found,) = beam_search(model.decoder(), [[START]], Beam(num_beams=64, length_penalty=0.0), automaton=automaton)
    after = _log_probs(model, [START])
    texts = [(2, *rest) for n in range(1, 5) for rest in itertools.product((3, 4), repeat=n)] + [(5, 5, 5)]
    scores = {}
    for tokens in texts:
        # "ddd" and the longest others are over without a stop: nothing else may follow
        whole = tokens if tokens == (5, 5, 5) or len(tokens) == 5 else (*tokens, STOP)
        scores[tokens] = sum(after(whole[:k])[whole[k]] for k in range(len(whole)))
    finished = [text for text in found if text.finished]
    expected = sorted((t for t in texts if len(t) < 5), key=lambda t: -scores[t])
    assert [tuple(text.ids) for text in finished] == expected
    assert all(text.log_prob == pytest.approx(scores[tuple(text.ids)], abs=1e-4) for text in found)
    assert {tuple(text.ids) for text in found} == set(texts)


def test_scores_do_not_depend_on_the_company():
    model = _model(9, seed=5, max_length=7, embedding=12, hidden=16)
    prompts = [[START], [START, 4, 5, 6], [START, 8]]
    together = beam_search(model.decoder(), prompts, Beam(num_beams=3))
    alone = [beam_search(model.decoder(), [prompt], Beam(num_beams=3))[0] for prompt in prompts]
    assert together == alone
    assert beam_search(model.decoder(), [], Beam()) == []


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match=r"^num_beam_groups must divide num_beams = 8, got 3$"):
        beam_search(_model().decoder(), [[START]], Beam(num_beam_groups=3))
    with pytest.raises(ValueError, match=r"^beam.num_beams must be an integer >= 1, got 0$"):
        beam_search(_model().decoder(), [[START]], Beam(num_beams=0))
    assert math.isfinite(beam_search(_model().decoder(), [[START]], Beam())[0][0].score)
