"""Settings: what is typed, what is accepted, and the whole sentence when it is not."""

import math
import tomllib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from seqgen.core import config
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError


@dataclass(frozen=True)
class Example:
    """A section with one field of each kind."""

    hidden: Annotated[int, Field(ge=1)] = 8
    """Width."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of units
    set to zero."""
    cell: Literal["lstm", "gru"] = "lstm"
    """Kind of cell."""
    tied: bool = True
    """Tied."""
    pattern: str = ""
    """A regular expression."""
    files: tuple[str, ...] = ()
    """Paths."""


def typed(*words: str) -> Example:
    return config.build(Example, config.parse_overrides(words)["model"], section="model")


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("model.hidden=512", "hidden", 512),
        ("model.dropout=0.3", "dropout", 0.3),
        ("model.dropout=.3", "dropout", 0.3),
        ("model.dropout=.5e-1", "dropout", 0.05),
        ("model.dropout=0", "dropout", 0),
        ("model.dropout=1e-3", "dropout", 1e-3),
        ("model.cell=gru", "cell", "gru"),
        ("model.tied=false", "tied", False),
        ("model.pattern=[0-9]+|.", "pattern", "[0-9]+|."),
        ("model.pattern=12", "pattern", "12"),
        (r"model.pattern='\d=\d'", "pattern", r"\d=\d"),
        ("model.files=a.txt", "files", ("a.txt",)),
        ('model.files=["a.txt", "b.txt"]', "files", ("a.txt", "b.txt")),
    ],
)
def test_what_is_typed_is_read_by_the_option_s_own_type(word: str, field: str, value: Any) -> None:
    assert getattr(typed(word), field) == value


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.hiden=5", "unknown option model.hiden; did you mean model.hidden?"),
        ("model.hidden=0", "model.hidden must be an integer >= 1, got 0"),
        ("model.hidden=true", "model.hidden must be an integer >= 1, got True"),
        ("model.hidden=1.5", "model.hidden must be an integer >= 1, got 1.5"),
        ("model.hidden=wide", "model.hidden must be an integer >= 1, got 'wide'"),
        ("model.dropout=1", "model.dropout must be a number >= 0 and < 1, got 1"),
        ("model.dropout=nan", "model.dropout must be a number >= 0 and < 1, got nan"),
        ("model.cell=rnn", "model.cell must be one of lstm, gru, got 'rnn'"),
        ("model.tied=1", "model.tied must be true or false, got 1"),
        ("model.files=[1]", "model.files must be a list, each item a text, got [1]"),
    ],
)
def test_a_fault_is_told_in_the_option_s_own_name(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        typed(word)
    assert str(caught.value) == message


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"unknown option model\.x.*model\.hidden must be .*model\.cell must be"):
        typed("model.hidden=0", "model.x=1", "model.cell=no")


def test_a_word_without_equals_is_no_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse_overrides(["b.txt"])
    assert str(caught.value) == "'b.txt' is no setting; expected section.option=value, for example model.hidden=512"


def test_written_settings_are_a_valid_input_again() -> None:
    train = Train(steps=7, lr=0.25, schedule="linear")
    text = config.to_toml({"train": config.to_dict(train)})
    assert config.build(Train, tomllib.loads(text)["train"], section="train") == train


def test_later_layers_win_option_by_option() -> None:
    assert config.merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"b": 4}) == {"a": {"x": 1, "y": 3}, "b": 4}


def test_help_is_the_string_under_the_field() -> None:
    assert config.describe(Example(), section="model")[1] == (
        "model.dropout",
        "0.0",
        "a number >= 0 and < 1",
        "Share of units set to zero.",
    )


@dataclass(frozen=True)
class Outer:
    """A section with a section of its own, whose defaults differ from those of its class."""

    steps: int = 3
    """Steps."""
    inner: Example = Example(hidden=4)
    """Another section."""


def test_a_section_in_a_section_is_read_written_and_described() -> None:
    words = ["model.inner.files=[]", "model.inner.hidden=5", "model.inner.files=a.txt"]
    made = config.build(Outer, config.parse_overrides(words)["model"], section="model")
    assert made == Outer(3, Example(hidden=5, files=("a.txt",)))
    assert config.build(Outer, {"inner": {"tied": False}}, section="model").inner == Example(hidden=4, tied=False)
    written = tomllib.loads(config.to_toml({"model": config.to_dict(made)}))
    assert written["model"]["inner"]["hidden"] == 5
    assert config.build(Outer, written["model"], section="model") == made
    assert config.nested(config.flat(written)) == written
    rows = {name: default for name, default, *_ in config.describe(Outer(), section="model")}
    assert (rows["model.steps"], rows["model.inner.hidden"], rows["model.inner.dropout"]) == ("3", "4", "0.0")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.hidden=5", "unknown option model.hidden; did you mean model.inner.hidden?"),
        ("model.inner.hiden=5", "unknown option model.inner.hiden; did you mean model.inner.hidden?"),
        ("model.inner.hidden=0", "model.inner.hidden must be an integer >= 1, got 0"),
        (
            "model.inner=gru",
            "model.inner is a section; set one of model.inner.hidden, model.inner.dropout, model.inner.cell, "
            "model.inner.tied, model.inner.pattern, model.inner.files",
        ),
    ],
)
def test_a_fault_inside_a_section_has_its_whole_name(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.build(Outer, config.parse_overrides([word])["model"], section="model")
    assert str(caught.value) == message


def test_every_training_option_has_help() -> None:
    assert all(help_text for *_, help_text in config.describe(Train(), section="train"))


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 50, 1.0),
        ("cosine", 4, 0.5),  # (4 + 1) / 10 of the warm-up
        ("cosine", 10, 1.0),
        ("cosine", 60, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 50 / 100))),
        ("linear", 60, 0.1 + 0.9 * 0.5),
        ("linear", 110, 0.1),
        ("linear", 500, 0.1),
        ("inverse-sqrt", 39, 0.5),  # sqrt(10 / 40)
    ],
)
def test_the_learning_rate_is_the_closed_form(schedule: Any, step: int, expected: float) -> None:
    train = Train(steps=110, lr=1.0, warmup=10, lr_end=0.1, schedule=schedule)
    assert config.learning_rate(train, step) == pytest.approx(expected, rel=1e-12)
