"""Rules of domains, on texts whose answer is Python's own."""

import pytest

from seqgen.core.errors import ConfigError
from seqgen.data.rewards import reward
from seqgen.metrics.domains import keeping, parses

GOOD = ["x = 1", "def f(a):\n    return a + 1\n", "", "'\\d'", "print(1)", "match x:\n    case 1: pass"]
BAD = ["x =", "def f(:", "  x = 1", "a b", "\0", "(" * 2000, "print 1"]


@pytest.mark.parametrize("text", GOOD)
def test_what_python_compiles_parses(text: str) -> None:
    assert parses(text)


@pytest.mark.parametrize("text", BAD)
def test_what_it_does_not_compile_does_not(text: str) -> None:
    assert not parses(text)


def test_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert parses("print('run')\nraise SystemExit")
    assert capsys.readouterr().out == ""


def test_the_share_has_an_interval_and_a_reward_judges_each_line() -> None:
    score = keeping("python", [*GOOD, *BAD])["parses"]
    assert score.value == pytest.approx(len(GOOD) / len(GOOD + BAD))
    assert score.interval is not None
    assert score.interval[0] < score.value < score.interval[1]
    assert reward("python")([*GOOD, *BAD]) == [1.0] * len(GOOD) + [0.0] * len(BAD)


def test_unknown_domains_and_no_texts_are_told() -> None:
    with pytest.raises(ValueError, match=r"^unknown domain 'rust'; known: python, molecules$"):
        keeping("rust", ["x"])
    with pytest.raises(ValueError, match=r"^no texts to score$"):
        keeping("python", [])
    with pytest.raises(ConfigError, match=r"python, chem:qed, similarity:SMILES, label:NAME:FILE"):
        reward("python:3")
