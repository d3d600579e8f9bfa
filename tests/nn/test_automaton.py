"""Constraints against Python's own `re` and brute force; sampling under them; copied runs against a set of tuples."""

import itertools
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from peaked import peaked_model

from seqgen.core.options import Sampling
from seqgen.core.rng import text_seeds
from seqgen.nn.automaton import (
    NEVER,
    bad_words,
    build,
    no_copy,
    regex,
    required_words,
    template,
)

ALPHABET = "ab1 -"
LETTERS = ["", *ALPHABET]  # id 0 adds nothing, as a special does


def _accepts(automaton, ids):
    state = 0
    for token in ids:
        state = int(automaton.next[state, token])
        if state < 0:
            return False
    return bool(automaton.accepting[state])


def _spelled(text):
    return [LETTERS.index(char) for char in text]


def _texts(longest):
    return ("".join(chars) for n in range(longest + 1) for chars in itertools.product(ALPHABET, repeat=n))


@pytest.mark.parametrize(
    "pattern",
    [
        "ab",
        "a|b1",
        "(a|b)*",
        "(?:ab)+1?",
        "[ab]{2}",
        "a{1,3}b{0,1}",
        "a{2,}",
        "a{0}",
        r"\d+",
        r"\w\W\w",
        r"[^a\s]*",
        r"[a\-1]+",
        "[]a]+",
        "[a-b1-]*",
        r"\-|\D\S",
        "^ab?$",
        ".*ab.*",
        "(a*b|1)*?-",
        "",
        "()|a",
        "(a|)b",
        r"((a|b)(1| ))*-{0,2}",
    ],
)
def test_regex_equals_fullmatch(pattern):
    automaton = build([regex(pattern)], LETTERS)
    for text in _texts(4):
        assert _accepts(automaton, _spelled(text)) == bool(re.fullmatch(pattern, text)), text


_patterns = st.recursive(
    st.sampled_from(["a", "b", "1", " ", ".", r"\d", r"\w", r"\s", "[ab]", "[^a1]", r"[\d-]"]),
    lambda inner: (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})")
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{1,}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        )
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(pattern=_patterns, texts=st.lists(st.text(ALPHABET, max_size=7), min_size=20, max_size=20))
def test_any_regex_equals_fullmatch(pattern, texts):
    try:
        automaton = build([regex(pattern)], LETTERS)
    except ValueError:
        assume(False)
    for text in texts:
        assert _accepts(automaton, _spelled(text)) == bool(re.fullmatch(pattern, text)), text


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(ab", "cannot use an unclosed ( at character 4"),
        ("ab)", "cannot use an unbalanced ) at character 3"),
        ("[ab", "cannot use an unclosed [ at character 4"),
        ("*a", "cannot use a * with nothing to repeat at character 1"),
        ("a**", "cannot use a repetition of a repetition at character 3"),
        ("a{2", "cannot use a { that begins no {m}, {m,} or {m,n}; a literal one is written \\{, at character 2"),
        ("a{3,2}", "cannot use a repetition {3,2} (0 <= m <= n <= 1000) at character 2"),
        ("(?=a)b", "cannot use a group (?...) other than (?: ) at character 2"),
        (r"(a)\1", r"cannot use the escape \1 at character 4"),
        (r"\bab", r"cannot use the escape \b at character 1"),
        ("a^b", "cannot use a ^ inside (the whole text is matched) at character 2"),
        ("[b-a]", "cannot use a range that does not rise at character 5"),
    ],
)
def test_unsupported_syntax_is_named_with_its_place(pattern, message):
    with pytest.raises(ValueError, match="regular expression") as caught:
        regex(pattern)
    assert str(caught.value) == f"regular expression {pattern!r}: {message}"


def test_a_template_forces_fixed_characters_and_frees_the_others():
    automaton = build([template("a?-?")], LETTERS)
    for text in _texts(4):
        expected = len(text) == 4 and text[0] == "a" and text[2] == "-"
        assert _accepts(automaton, _spelled(text)) == expected


def test_an_escaped_question_mark_stands_for_itself():
    automaton = build([template(r"a\??")], ["", "a", "b", "?"])
    assert _accepts(automaton, [1, 3, 2])
    assert not _accepts(automaton, [1, 2, 2])


@pytest.mark.parametrize(
    ("word", "inside", "outside"),
    [
        ("ab", ["ab", "a ab b", "-ab-"], ["abb", "1ab", "a b", ""]),
        ("-", ["-", "a-b"], ["ab"]),
        ("a b", ["a b", "1 a b 1"], ["aa b", "a bb"]),
    ],
)
def test_words_stand_alone_where_their_script_writes_spaces(word, inside, outside):
    needed, banned = build(required_words([word]), LETTERS), build([bad_words([word])], LETTERS)
    for text in inside:
        assert _accepts(needed, _spelled(text))
        assert not _accepts(banned, _spelled(text))
    for text in outside:
        assert not _accepts(needed, _spelled(text))
        assert _accepts(banned, _spelled(text))


def test_words_equal_a_search_with_boundaries():
    needed, banned = build(required_words(["ab", "1"]), LETTERS), build([bad_words(["ab", "1"])], LETTERS)
    for text in _texts(5):
        found = [bool(re.search(rf"(?<!\w){word}(?!\w)", text)) for word in ("ab", "1")]
        assert _accepts(needed, _spelled(text)) == all(found), text
        assert _accepts(banned, _spelled(text)) == (not any(found)), text


def test_words_of_a_script_without_spaces_are_found_anywhere():
    letters = ["", *"春风夏"]
    automaton = build([bad_words(["春"])], letters)
    assert not _accepts(automaton, [2, 1, 3])
    assert _accepts(automaton, [2, 3, 2])


TOKENS = ["", " a", " ab", "b", "1", " ", "a1", "-", "\ufffd", "ab-"]


def test_tokens_are_read_character_by_character():
    pattern = "(ab?1?-?| )*"
    automaton = build([regex(pattern)], TOKENS)
    for n in range(4):
        for ids in itertools.product(range(len(TOKENS)), repeat=n):
            text = "".join(TOKENS[i] for i in ids)
            # tokens without text of their own, or with bytes that are no character, are not used
            expected = not {0, 8} & set(ids) and bool(re.fullmatch(pattern, text))
            assert _accepts(automaton, ids) == expected, ids


def test_the_first_token_adds_another_text():
    first = [token.removeprefix(" ") for token in TOKENS]
    automaton = build([regex(" ?ab( ab)*")], TOKENS, first)
    assert _accepts(automaton, [2, 2])
    assert not _accepts(automaton, [9, 2])
    assert not _accepts(build([regex("ab( ab)*")], [*TOKENS, "ab"]), [2, 2])


def test_constraints_together_allow_what_each_allows():
    constraints = [regex("[ab1 -]{3,5}"), template("a????"), *required_words(["b"]), bad_words(["1"])]
    each = [build([one], LETTERS) for one in constraints]
    together = build(constraints, LETTERS)
    for text in _texts(5):
        assert _accepts(together, _spelled(text)) == all(_accepts(one, _spelled(text)) for one in each), text


def test_distances_equal_a_breadth_first_search():
    automaton = build([regex("(ab| a1){2}b")], TOKENS)

    def nearest(state):
        ring, seen = {state}, {state}
        for distance in range(100):
            if any(automaton.accepting[s] for s in ring):
                return distance
            ring = {int(t) for s in ring for t in automaton.next[s] if t >= 0} - seen
            seen |= ring
        return NEVER

    distances = [nearest(state) for state in range(len(automaton.next))]
    assert automaton.distance.tolist() == distances
    assert distances[0] == 5  # " ", "a1", " ", "a1", "b": no token is "a" alone
    for state, row in enumerate(automaton.next.tolist()):
        behind = [distances[target] if target >= 0 else NEVER for target in row]
        assert automaton.away[state].tolist() == behind
        assert bool(automaton.final[state]) == (bool(automaton.accepting[state]) and set(behind) == {NEVER})


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ([template("春?")], "no text that this vocabulary can write meets the template '春?'"),
        ([regex("c+")], "no text that this vocabulary can write meets the regular expression 'c+'"),
        (
            [template("a?"), regex("b.*")],
            "no text that this vocabulary can write meets the template 'a?' and the regular expression 'b.*'",
        ),
        (
            [*required_words(["a"]), bad_words(["a", "b"])],
            "no text that this vocabulary can write meets the required word 'a' and the forbidden words 'a', 'b'",
        ),
        ([], "expected at least one constraint, got none"),
        ([regex("((a|b)*a(a|b){15})")], "the regular expression '((a|b)*a(a|b){15})' needs more than 20000 states"),
    ],
)
def test_constraints_that_cannot_be_met_are_named(constraints, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build(constraints, LETTERS)


def test_a_text_cannot_be_spelt_where_tokens_do_not_fit():
    with pytest.raises(ValueError, match=r"^no text that this vocabulary can write meets the template 'a1a'$"):
        build([template("a1a")], ["", "a1", "1a", "b"])


def test_words_must_be_a_list_of_words():
    with pytest.raises(TypeError, match=r"^expected a list of words, got the text 'cat'$"):
        bad_words("cat")
    with pytest.raises(ValueError, match=r"^expected words of at least one character, got \['a', ''\]$"):
        required_words(["a", ""])
    with pytest.raises(ValueError, match=r"^a template must hold at least one character, got ''$"):
        template("")


# ----------------------------------------------------------------------------------------------- sampling under them

PLAIN = Sampling()
VOCABULARY = ["", "", "", "", *"abcdefgh", "ab", "cde", " ", " a", "-"]
START, STOP = 2, 3


def _model(**options):
    fixed = {"stop": STOP, "suppress_tokens": (0, 1, START), "max_length": 12}
    return peaked_model(len(VOCABULARY), **(fixed | options))


def _written(model, constraints, count=40, *, sampling=PLAIN, prompts=None, begin=None):
    automaton = build(constraints, VOCABULARY)
    prompts = prompts or [[START]] * count
    samples = model.sample(prompts, text_seeds(0, 0, len(prompts)), sampling, automaton=automaton, begin=begin)
    return ["".join(VOCABULARY[i] for i in ids) for ids in samples.ids], samples


def test_behind_a_line_break_tokens_add_what_they_add_at_a_beginning():
    words = ["", "\n", " ab", " c"]  # a word tokenizer writes no space at the beginning of a line
    automaton = build([regex("ab c\nc( ab)?")], words, [word.strip(" ") for word in words], newline=1)
    break_, ab, c = 1, 2, 3
    allowed = {
        ids
        for n in range(1, 7)
        for ids in itertools.product((break_, ab, c), repeat=n)
        if "\n".join(" ".join(words[i].strip() for i in line) for line in _split(ids, break_))
        in ("ab c\nc", "ab c\nc ab")
    }
    assert allowed == {(ab, c, break_, c), (ab, c, break_, c, ab)}
    for n in range(1, 7):
        for ids in itertools.product((break_, ab, c), repeat=n):
            place = 0
            for token in ids:
                place = -1 if place < 0 else int(automaton.next[place, token])
            assert (place >= 0 and bool(automaton.accepting[place])) == (ids in allowed)


def _split(ids, at):
    lines = [[]]
    for i in ids:
        lines.append([]) if i == at else lines[-1].append(i)
    return lines


@pytest.mark.parametrize("stop", [STOP, -1])
def test_every_sample_fits_the_template(stop):
    texts, samples = _written(_model(stop=stop), [template("a??-??")])
    assert all(re.fullmatch("a..-..", text) for text in texts)
    assert len(set(texts)) > 10
    assert all(samples.finished)


@pytest.mark.parametrize("limit", [5, 6, 9])
def test_a_text_is_finished_in_the_length_there_is(limit):
    # an allowed end is always five letters away at most, and never nearer than the limit forces
    pattern = "(abcde-)+|a"
    texts, _ = _written(_model(), [regex(pattern)], sampling=Sampling(max_new_tokens=limit, temperature=3.0))
    assert all(re.fullmatch(pattern, text) for text in texts)


def test_required_and_forbidden_words_hold_in_samples():
    constraints = [*required_words(["ab"]), bad_words(["cde", "h"])]
    texts, _ = _written(_model(), constraints, sampling=Sampling(temperature=2.0))
    for text in texts:
        words = re.findall(r"\w+", text)
        assert "ab" in words
        assert not {"cde", "h"} & set(words)


def test_under_a_constraint_draws_follow_the_renormalised_softmax():
    model = _model()
    count = 20_000
    automaton = build([regex("[aceg]h?")], VOCABULARY)
    step = next(model.decoder().steps([[START]] * count, text_seeds(1, 0, count), Sampling(), automaton=automaton))
    with torch.no_grad():
        hidden, _ = model.scan(torch.tensor([[START]]))
        weight, bias = model.head()
        logits = model.features(hidden[0, -1]) @ weight.t() + bias
    allowed = torch.tensor([VOCABULARY.index(c) for c in "aceg"])
    expected = logits[allowed].softmax(0) * count
    observed = step.ids.bincount(minlength=len(VOCABULARY))
    assert int(observed[allowed].sum()) == count
    assert float(((observed[allowed] - expected) ** 2 / expected).sum()) < 16  # 3 degrees of freedom, p = .001


def test_the_prompt_is_part_of_the_constrained_text():
    automaton = build([template("abc?")], VOCABULARY)
    ids = [VOCABULARY.index("ab"), VOCABULARY.index("c")]
    texts, _ = _written(_model(), [template("abc?")], prompts=[[START, *ids]] * 5, begin=[automaton.after(ids)] * 5)
    assert all(len(text) == 1 for text in texts)
    with pytest.raises(ValueError, match=r"^no text that begins with the prompt meets the template 'abc\?'$"):
        automaton.after([VOCABULARY.index("b")])


def test_batch_size_does_not_change_a_constrained_text():
    model, constraints = _model(), [regex("[a-h]{2,9}")]
    automaton = build(constraints, VOCABULARY)
    texts, _ = _written(model, constraints)
    seeds = text_seeds(0, 0, 40)
    alone = [model.sample([[START]], seeds[k : k + 1], Sampling(), automaton=automaton).ids[0] for k in range(10)]
    assert ["".join(VOCABULARY[i] for i in ids) for ids in alone] == texts[:10]


@pytest.mark.parametrize(
    ("constraint", "sampling", "message"),
    [
        (
            template("a" * 9),
            Sampling(max_new_tokens=4),
            "the template 'aaaaaaaaa' needs 9 tokens or more; sample.max_new_tokens is 4",
        ),
        (
            template("-?"),
            Sampling(suppress_tokens=(len(VOCABULARY) - 1,)),
            "no text meets the template '-?' with the tokens that may be used",
        ),
        (
            template("h"),
            Sampling(min_new_tokens=3),
            "text 0, token 1: no token is left under the template 'h' and sample.min_new_tokens = 3; ask for less",
        ),
    ],
)
@pytest.mark.parametrize("greedy", [False, True])
def test_what_cannot_be_met_is_named(constraint, sampling, message, greedy):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        _written(_model(), [constraint], sampling=replace(sampling, greedy=greedy))


# -------------------------------------------------------------------------------------------------------- no copies


def _rows_of_ids(rows):
    lengths = torch.tensor([0, *map(len, rows)])
    return torch.tensor([i for row in rows for i in row], dtype=torch.int32), lengths.cumsum(0)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=5),
    history=st.lists(st.integers(0, 4), min_size=0, max_size=6),
    n=st.integers(1, 4),
)
@example(rows=[[1], [2]], history=[1], n=2)  # not across rows
@example(rows=[[1, 2], [2, 3]], history=[1, 2], n=3)
@example(rows=[[1, 4, 2]], history=[1, 4], n=3)  # not across an id that does not count
@example(rows=[[1, 2], [1, 2], [1, 3]], history=[1], n=2)  # several, each once
def test_copied_runs_equal_a_set_of_tuples(rows, history, n):
    ignore = [4]
    runs = {tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)}
    runs = {run for run in runs if not set(run) & set(ignore)}
    tail = tuple(history[len(history) - n + 1 :]) if n > 1 else ()
    expected = {token for token in range(5) if len(history) >= n - 1 and (*tail, token) in runs}
    block = no_copy(*_rows_of_ids(rows), n, ignore=ignore)
    padded = torch.tensor([[-1, -1, *history], [-1] * (len(history) + 2)])
    here, nowhere = ([i for i in row if i >= 0] for row in block.completions(padded).tolist())
    assert set(here) == expected
    assert n == 1 or not nowhere
    assert len(here) == len(set(here))


@pytest.mark.parametrize("n", [2, 3])
def test_samples_hold_no_run_of_the_training_text(n):
    model = _model(stop=-1)
    plain = model.sample([[START]] * 30, text_seeds(0, 0, 30), Sampling())
    training = plain.ids[:10]
    block = no_copy(*_rows_of_ids(training), n)
    samples = model.sample([[START]] * 30, text_seeds(0, 0, 30), Sampling(), no_copy=block)

    def runs(texts):
        return {tuple(ids[i : i + n]) for ids in texts for i in range(len(ids) - n + 1)}

    assert runs(plain.ids[10:]) & runs(training)
    assert not runs(samples.ids) & runs(training)


def test_the_copy_block_gives_way_where_it_would_leave_nothing():
    model = _model(stop=-1)
    everything = [[a, b] for a in range(len(VOCABULARY)) for b in range(len(VOCABULARY))]
    samples = model.sample(
        [[START]] * 3, text_seeds(0, 0, 3), Sampling(), no_copy=no_copy(*_rows_of_ids(everything), 2)
    )
    assert samples.ids == model.sample([[START]] * 3, text_seeds(0, 0, 3), Sampling()).ids


def test_runs_shorter_than_one_token_are_refused():
    with pytest.raises(ValueError, match=r"^no_copy must be an integer >= 1, got 0$"):
        no_copy(*_rows_of_ids([[1]]), 0)


def test_an_automaton_that_is_too_long_to_minimise_accepts_the_same_texts(monkeypatch):
    pattern = "(ab|a1){2}b?"
    minimal = build([regex(pattern)], LETTERS)
    monkeypatch.setattr("seqgen.nn.automaton._MOST_COMPARED", 1)
    long = build([regex(pattern)], LETTERS)
    assert len(long.next) > len(minimal.next)
    for length in range(6):
        for text in map("".join, itertools.product(ALPHABET[:3], repeat=length)):
            assert _accepts(long, _spelled(text)) == (re.fullmatch(pattern, text) is not None)
