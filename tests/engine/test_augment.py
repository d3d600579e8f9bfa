"""More labelled text: what is left out, on a run that writes from a table, and what labelled text must be."""

from typing import Any

import pytest

from seqgen.core.errors import DataError
from seqgen.engine.augment import augment, check_labelled

TEXTS = ["the good cat sleeps", "a good dog runs", "the bad cat bites", "a bad dog barks"]
LABELS = ["good", "good", "bad", "bad"]


class Writer:
    """Stands for a run: the texts of a label in turn, from a table."""

    def __init__(self, **table: list[str]) -> None:
        self.table = table
        self.seeds: list[int] = []

    def generate(self, count: int, *, sources: list[str], seed: int, temperature: float) -> list[str]:
        self.seeds.append(seed)
        assert temperature == 0.5
        return (self.table[sources[0]] * count)[:count]


def test_copies_near_duplicates_blanks_and_texts_of_other_labels_are_left_out() -> None:
    fresh = ["good old birds sing", "good horses"]
    writer: Any = Writer(
        good=[TEXTS[0], fresh[0], " ", "a good dog runs today", "the bad horse", fresh[1]],
        bad=["a bad horse", "bad weather"],
    )
    with pytest.warns(UserWarning, match="2 of 6 texts") as warned:
        bad, good = augment(writer, TEXTS, LABELS, 6, seed=3, temperature=0.5, near=0.5)
    assert [str(one.message) for one in warned] == [
        "label 'bad': 2 of 6 texts after 60 were written",
        "label 'good': 2 of 6 texts after 60 were written",
    ]
    assert (good.label, good.texts, good.written) == ("good", fresh, 60)
    # ten rounds: the two that stay are copies from the second on
    assert good.dropped == {"copied": 10 + 9 + 9, "blank": 10, "near": 10, "off label": 10}
    assert bad.texts == ["a bad horse", "bad weather"]
    assert writer.seeds == [*range(30, 40), *range(30, 40)]


def test_no_more_is_written_than_is_asked_for() -> None:
    writer: Any = Writer(good=["good horses", "good old birds sing"], bad=["bad weather", "some bad news came"])
    made = augment(writer, TEXTS, LABELS, 2, temperature=0.5)
    assert [(one.written, len(one.texts), dict(one.dropped)) for one in made] == [(2, 2, {}), (2, 2, {})]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["good", "", "bad", "bad"], "line 2: no label"),
        (["good"] * 4, "all 4 lines have the label 'good'; expected two labels or more"),
        (["good", "good", "good", "bad"], "label 'bad' has 1 line; expected at least 2 of each"),
    ],
)
def test_text_without_labels_to_learn_from_is_told(labels: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_labelled(TEXTS, labels, lambda row: f"line {row + 1}")
    assert str(caught.value) == message
