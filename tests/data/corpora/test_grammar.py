"""Grammars against brute force: every derivation of a small grammar is written out here, apart from the package."""

import itertools
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from seqgen.core.errors import DataError
from seqgen.data.corpora.grammar import Grammar, Tree, grammars

# A grammar as plain data: rule -> alternatives of (weight, items); an item is a token, or the number of a later rule.
Rules = list[list[tuple[int, list[str | int]]]]


def toml(rules: Rules, join: str = " ") -> str:
    def item(value: str | int) -> str:
        return value if isinstance(value, str) else f"<r{value}>"

    lines = [f'join = "{join}"', 'start = "r0"', "[rules]"]
    for number, alternatives in enumerate(rules):
        body = "\n".join(f"{weight}: " + " ".join(map(item, items)) for weight, items in alternatives)
        lines.append(f'r{number} = """\n{body}\n"""')
    return "\n".join(lines)


def derivations(rules: Rules, number: int = 0) -> list[tuple[tuple[str, ...], float]]:
    """Every derivation of a rule: its tokens and its probability."""
    found = []
    total = sum(weight for weight, _ in rules[number])
    for weight, items in rules[number]:
        parts = [[((item,), 1.0)] if isinstance(item, str) else derivations(rules, item) for item in items]
        for choice in itertools.product(*parts):
            tokens = tuple(token for text, _ in choice for token in text)
            found.append((tokens, weight / total * math.prod(probability for _, probability in choice)))
    return found


def language(rules: Rules) -> dict[tuple[str, ...], list[float]]:
    """Every text with the probabilities of its derivations."""
    texts: dict[tuple[str, ...], list[float]] = {}
    for tokens, probability in derivations(rules):
        texts.setdefault(tokens, []).append(probability)
    return texts


@st.composite
def small_rules(draw: st.DrawFn) -> Rules:
    """Two to four rules over three tokens; a rule refers to later ones, may be empty and is often ambiguous."""
    count = draw(st.integers(2, 4))
    rules: Rules = []
    for number in range(count):
        later: list[str | int] = [*range(number + 1, count)]
        items = st.lists(st.sampled_from(["a", "b", "c", *later * 2]), max_size=3 if number < count - 1 else 2)
        rules.append(draw(st.lists(st.tuples(st.integers(1, 5), items), min_size=1, max_size=3)))
    reached = {0}
    for number, alternatives in enumerate(rules):
        if number in reached:
            reached |= {item for _, items in alternatives for item in items if isinstance(item, int)}
    for number in range(1, count):  # an unreachable rule is an error of its own
        if number not in reached:
            rules[0][0][1].append(number)
            reached.add(number)
    return rules


AMBIGUOUS: Rules = [
    [(3, [1, 2]), (1, [2, 1]), (2, ["a", 1, "a"])],
    [(1, ["a"]), (1, ["a", "a"]), (2, [])],
    [(1, ["a", "a"]), (4, [1, "b"]), (1, ["a"])],
]


@pytest.mark.parametrize("join", [" ", ""])
@given(rules=small_rules())
@settings(max_examples=60, deadline=None)
def test_probability_is_the_sum_over_all_derivations(join: str, rules: Rules) -> None:
    grammar = Grammar(toml(rules, join))
    texts = language(rules)
    for tokens, probabilities in texts.items():
        assert grammar.log_probability(join.join(tokens)) == pytest.approx(math.log(sum(probabilities)))
    assert math.fsum(math.exp(grammar.log_probability(join.join(tokens))) for tokens in texts) == pytest.approx(1)
    written = derivations(rules)
    assert grammar.derivations == len(written)
    assert grammar.entropy == pytest.approx(-sum(p * math.log(p) for _, p in written))
    assert grammar.longest == max(map(len, texts))
    assert grammar.shortest == min(map(len, texts))
    assert grammar.vocabulary == sorted({token for tokens in texts for token in tokens})


@given(rules=small_rules())
@settings(max_examples=60, deadline=None)
def test_what_no_derivation_writes_is_impossible(rules: Rules) -> None:
    grammar = Grammar(toml(rules))
    texts = language(rules)
    for length in range(4):
        for tokens in itertools.product("abc", repeat=length):
            line = " ".join(tokens)
            assert grammar.grammatical(line) == (tokens in texts)
            if tokens not in texts:
                assert grammar.log_probability(line) == -math.inf
                assert grammar.parse(line) is None


def replayed(tree: Tree, rules: Rules) -> float:
    """The probability of a derivation, from the plain data: the tree must follow alternatives that exist."""
    number = int(tree.rule.removeprefix("r"))
    shape = [child if isinstance(child, str) else int(child.rule.removeprefix("r")) for child in tree.children]
    weights = [weight for weight, items in rules[number] if items == shape]
    inner = math.prod(replayed(child, rules) for child in tree.children if isinstance(child, Tree))
    # the same alternative may be listed twice: one derivation takes one of them
    return max(weights) / sum(weight for weight, _ in rules[number]) * inner


@given(rules=small_rules())
@settings(max_examples=60, deadline=None)
def test_parse_is_the_best_derivation(rules: Rules) -> None:
    grammar = Grammar(toml(rules))
    for tokens, probabilities in language(rules).items():
        tree = grammar.parse(" ".join(tokens))
        assert tree is not None
        assert tuple(tree.tokens()) == tokens
        assert tree.log_probability == pytest.approx(math.log(max(probabilities)))
        assert replayed(tree, rules) == pytest.approx(max(probabilities))


def test_an_ambiguous_grammar_has_less_entropy_than_its_derivations() -> None:
    grammar = Grammar(toml(AMBIGUOUS))
    texts = language(AMBIGUOUS)
    assert max(map(len, texts.values())) > 1
    of_lines = -sum(sum(p) * math.log(sum(p)) for p in texts.values())
    assert of_lines < grammar.entropy == pytest.approx(-sum(p * math.log(p) for _, p in derivations(AMBIGUOUS)))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_samples_are_as_frequent_as_probable(seed: int) -> None:
    texts = {" ".join(tokens): sum(p) for tokens, p in language(AMBIGUOUS).items()}
    count = 6000
    seen = Counter(Grammar(toml(AMBIGUOUS)).sample(count, seed))
    assert seen.keys() <= texts.keys()
    observed = [seen[text] for text in texts]
    assert chisquare(observed, [count * p for p in texts.values()]).pvalue > 1e-3
    # the test can tell: uniform frequencies over the same texts are refused
    assert chisquare(observed, [count / len(texts)] * len(texts)).pvalue < 1e-9


DIGITS = 'start = "line"\n[rules]\nline = "' + "<digit> " * 8 + '"\ndigit = "0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9"'


def test_line_k_depends_on_seed_and_k_alone() -> None:
    grammar = Grammar(DIGITS)
    assert grammar.sample(100, seed=5)[:7] == grammar.sample(7, seed=5)


def test_neighbouring_seeds_share_no_lines() -> None:
    grammar = Grammar(DIGITS)
    lines = [line for seed in range(20) for line in grammar.sample(20, seed)]
    assert len(set(lines)) == len(lines)


WORDS = """
start = "act(dog, run)"
[rules]
"act(who, does)" = "2: <who.a> <does.one> | <who.many> <does.many> | <rush(does.one)>"
"rush(what)" = "go <what>"
[words.dog]
forms = "a / many"
words = "a dog / dogs | 3: an old dog / old dogs"
[words.run]
forms = "one / many"
words = '''
{runs/run} fast
{sleeps/sleep} {here/there}
'''
"""


def test_word_lists_and_arguments_are_filled_in() -> None:
    grammar = Grammar(
        WORDS.replace('start = "act(dog, run)"', 'start = "s"').replace("[rules]", '[rules]\ns="<act(dog, run)>"')
    )
    expected = {
        "a dog runs fast": 2 / 4 * 1 / 4 * 1 / 2,
        "an old dog sleeps here": 2 / 4 * 3 / 4 * 1 / 2,
        "old dogs sleep there": 1 / 4 * 3 / 4 * 1 / 2,
        "go runs fast": 1 / 4 * 1 / 2,
    }
    for line, probability in expected.items():
        assert grammar.log_probability(line) == pytest.approx(math.log(probability))
    assert not grammar.grammatical("a dog run fast")
    assert grammar.derivations == 4 + 4 + 2
    assert str(grammar.parse("go runs fast")) == "(s (act(dog, run) (rush(run.one) go (run.one runs fast))))"


def test_braces_with_fewer_cells_are_taken_in_turn() -> None:
    source = 'start="s"\n[rules]\ns="<v.a> <v.b> <v.c> <v.d>"\n[words.v]\nforms="a/b/c/d"\nwords="{1/2/3/4}{x/y}"'
    assert Grammar(source).sample(1) == ["1x 2y 3x 4y"]


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (r"a \| b", "a | b"),
        (r"\<a\>", "<a>"),
        (r"3\: a", "3: a"),
        (r"a \\ b", "a \\ b"),
        ("10:30 o'clock", "10:30 o'clock"),
        (".5: a", "a"),
        ("2:", ""),
        ("", ""),
    ],
)
def test_signs_are_tokens_after_a_backslash(written: str, line: str) -> None:
    grammar = Grammar(f"start = 's'\n[rules]\ns = '''{written}'''")
    assert grammar.sample(1) == [line]
    assert grammar.log_probability(line) == 0


def test_spaces_count() -> None:
    grammar = Grammar('start = "s"\n[rules]\ns = "a b"')
    assert grammar.log_probability("a b") == 0
    for line in ["a  b", " a b", "a b ", "a\tb", "ab", ""]:
        assert grammar.log_probability(line) == -math.inf


LABELLED = """
[labels]
good = "3: <praise> ."
bad = "1: <blame> ."
[rules]
praise = "2: fine | 2: well made | so so"
blame = "poor | 3: so so"
"""


def test_labels_joint_conditional_and_marginal() -> None:
    grammar = Grammar(LABELLED)
    assert grammar.labels == {"good": 0.75, "bad": 0.25}
    both = {
        ("good", "fine ."): 0.75 * 0.4,
        ("good", "well made ."): 0.75 * 0.4,
        ("good", "so so ."): 0.75 * 0.2,
        ("bad", "poor ."): 0.25 * 0.25,
        ("bad", "so so ."): 0.25 * 0.75,
    }
    for (label, text), probability in both.items():
        assert grammar.log_probability(f"{label}\t{text}") == pytest.approx(math.log(probability))
        given_label = probability / grammar.labels[label]
        assert grammar.log_probability(text, label=label) == pytest.approx(math.log(given_label))
        alone = sum(p for (_, other), p in both.items() if other == text)
        assert grammar.log_probability(text) == pytest.approx(math.log(alone))
    assert grammar.log_probability("bad\tfine .") == -math.inf
    assert grammar.log_probability("other\tfine .") == -math.inf
    assert grammar.entropy == pytest.approx(-sum(p * math.log(p) for p in both.values()))
    tree = grammar.parse("so so .")
    assert tree is not None
    assert str(tree) == "(label bad (blame so so) .)"
    assert tree.log_probability == pytest.approx(math.log(0.25 * 0.75))


def test_labelled_samples_are_records() -> None:
    grammar = Grammar(LABELLED)
    lines, records = grammar.sample(4000, 3), grammar.sample_records(4000, 3)
    assert [f"{record['label']}\t{record['text']}" for record in records] == lines
    seen = Counter(record["label"] for record in records)
    assert chisquare([seen["good"], seen["bad"]], [3000, 1000]).pvalue > 1e-3
    assert Grammar('start = "s"\n[rules]\ns = "a"').sample_records(2) == [{"text": "a"}, {"text": "a"}]


def test_unknown_label_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^unknown label 'awful'; expected one of: good, bad$"):
        Grammar(LABELLED).log_probability("fine .", label="awful")


def rules_file(body: str) -> str:
    return f'start = "s"\n[rules]\n{body}'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("start = ", "g.toml: not valid TOML: invalid value (at end of document)"),
        (rules_file("s = 3"), "g.toml, line 3: rule 's' must be a string with its alternatives, got 3"),
        (rules_file("s = '<colr>'\ncolour = 'red'"), "g.toml, line 3: undefined rule <colr>; did you mean 'colour'?"),
        (rules_file("s = '<a'"), "g.toml, line 3: expected <rule>, got '<a'; write \\< for the sign itself"),
        (rules_file("s = 'a | -1: b'"), "g.toml, line 3: rule 's': a weight must be above 0, got '-1: b'"),
        (rules_file("s = 'a | 0: b'"), "g.toml, line 3: rule 's': a weight must be above 0, got '0: b'"),
        (rules_file("s = 'a'\nt = 'b'"), "g.toml, line 4: rule 't' is never used; remove it, or refer to <t>"),
        (
            rules_file("s = 'a | <t>'\nt = '<u> b'\nu = '<t>'"),
            "g.toml, line 3: rule 't' leads back to itself (t -> u -> t); spell the repetition out",
        ),
        (
            rules_file("s = '<t> <x>'\nt = '<y>'"),
            "g.toml, line 3: undefined rule <x>; line 4: undefined rule <y>",
        ),
        (rules_file("s = '<p>'\n'p(a)' = '<a>'"), "g.toml, line 3: <p> has 0 arguments, but the rule is 'p(a)'"),
        (
            rules_file("s = '<p(q)>'\n'p(a)' = '<a>'"),
            "g.toml, line 3: no rule has 'q' in its name, the argument in <p(q)>",
        ),
        (
            rules_file("s = '<v.b>'\n[words.v]\nforms = 'a/b'\nwords = 'x'"),
            "g.toml, line 6: words.v: expected 2 forms (a / b), got 'x'",
        ),
        (
            rules_file("s = '<v.b>'\n[words.v]\nforms = 'a/b'"),
            "g.toml, line 4: words.v must be a table with `forms` and `words`",
        ),
        ("strat = 's'", "g.toml, line 1: unknown key 'strat'; did you mean 'start'?"),
        ("[rules]\ns = 'a'", "g.toml, expected either start = RULE or a table [labels], got none"),
        (
            "start = 's'\njoin = '-'\n[rules]\ns = 'a'",
            'g.toml, line 2: join must be " " (words) or "" (characters), got \'-\'',
        ),
        ("[labels]\ng = 'a | b'", "g.toml, line 2: label 'g' must be one alternative, got 'a | b'"),
        (
            rules_file("s = ''' '''\n's t' = 'b'"),
            "g.toml, line 4: rule name 's t' must be a word, or a word with parameters in brackets",
        ),
    ],
)
def test_faults_are_named_with_their_line(source: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Grammar(source, where="g.toml")
    assert str(caught.value) == message


def test_endless_nesting_is_refused() -> None:
    chain = "\n".join(f"r{number} = '<r{number + 1}>'" for number in range(300))
    with pytest.raises(DataError, match="rules are nested more than 200 deep at 'r200'"):
        Grammar(f"start = 'r0'\n[rules]\n{chain}\nr300 = 'a'")


def test_a_grammar_is_found_by_path_or_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LABELLED, encoding="utf-8")
    assert Grammar.load(path).labels.keys() == {"good", "bad"}
    assert Grammar.load("captions").vocabulary == Grammar.load(grammars()["captions"]).vocabulary
    with pytest.raises(DataError, match=r"^no grammar 'capshuns': expected a TOML file or one of captions\b"):
        Grammar.load("capshuns")
    path.write_bytes(b"start = '\xff'")
    with pytest.raises(DataError, match=r"mine.toml: not UTF-8 \(byte 9\); convert the file to UTF-8$"):
        Grammar.load(path)
