"""`seqgen play`: its texts are those of `generate`, its commands change the options, and a fault ends nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL, Ended, call

from seqgen.cli import play
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load

Seqgen = Callable[..., Ended]


@pytest.fixture
def played(stdin: Callable[[str], None]) -> Callable[..., Ended]:
    """Play a run with lines that come through a pipe."""

    def lines(run: Path, *typed: str) -> Ended:
        stdin("".join(f"{line}\n" for line in typed))
        return call("play", run)

    return lines


def test_texts_are_those_of_generate_with_the_same_options(played: Any, run: Path) -> None:
    ended = played(run, "the cat", "/temperature 0.5", "/count 3", "/top-p .9", "/seed 5", "the", "/again", "")
    generator = load(run)
    how = {"temperature": 0.5, "top_p": 0.9}
    expected = generator.generate(prompt="the cat")
    expected += generator.generate(3, prompt="the", seed=5, **how) + generator.generate(3, prompt="the", seed=6, **how)
    expected += generator.generate(3, seed=6, **how)
    assert (ended.code, ended.out.splitlines()) == (0, expected)
    assert ended.err.splitlines()[1:] == ["/temperature 0.5", "/count 3", "/top-p 0.9", "/seed 5"]


def test_a_fault_is_one_line_and_the_session_goes_on(played: Any, run: Path) -> None:
    ended = played(
        run,
        "/again",
        "/temperature -1",
        "/count x",
        "/nothing",
        "/keep 1",
        "qqq",
        "/temperature",
        "the",
        "/keep 2",
        f"/keep 1 {run}",
    )
    assert (ended.code, len(ended.out.splitlines())) == (0, 1)
    assert ended.err.splitlines()[1:] == [
        "error: there is no beginning yet; type one",
        "error: /temperature must be a number >= 0, got -1",
        "error: /count must be an integer >= 1, got 'x'",
        "error: unknown command /nothing; /help lists them, and // begins a text with /",
        "error: /keep takes the number of a text, none yet; got '1'",
        "error: the prompt holds 'qqq', which this run's vocabulary of 17 does not; use words or characters of its "
        "training text",
        "/temperature 1.0",
        "error: /keep takes the number of a text, 1 to 1; got '2'",
        f"error: {run}: Is a directory",
    ]


def test_help_names_the_commands_and_quit_ends(played: Any, run: Path) -> None:
    ended = played(run, "/help", "/options", "/quit", "the")
    assert (ended.code, ended.out) == (0, "")
    for word in ("/again", "/keep N [FILE]", "/top-p", "/count", "/seed", "Ctrl-D"):
        assert word in ended.err
    assert "/temperature 1.0  /top-k 0" in ended.err


def test_what_is_kept_stands_in_a_file(
    played: Any, run: Path, running: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = played(run, "/count 3", "the", "/keep 2", "/keep 1 mine.txt", "/again", "/keep 3")
    first, second, _, *_, last = ended.out.splitlines()
    assert Path("kept.txt").read_text() == f"{second}\n"
    assert Path("mine.txt").read_text() == f"{first}\n{last}\n"
    ended = played(running, "/max-new-tokens 30", "to", "/keep 1")
    (text,) = load(running).generate(prompt="to", max_new_tokens=30)
    assert ended.out.startswith(text)
    assert json.loads(Path("kept.jsonl").read_text()) == {"text": text}


def test_conditions_gaps_and_slashes(played: Any, run: Path, labelled: Path) -> None:
    ended = played(labelled, "/count 2", "up")
    assert ended.out.splitlines() == load(labelled).generate(2, sources=["up"])
    ended = played(run, "the [MASK] sees the dog now .", "//")
    assert ended.out.splitlines() == [load(run).fill(["the [MASK] sees the dog now ."])[0].text]
    assert ended.err.splitlines()[-1].startswith("error: the prompt holds '/'")


def test_ctrl_c_stops_the_text_and_not_the_session(played: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TextGenerator.stream

    def stopped(self: TextGenerator, **options: Any) -> Any:
        pieces = whole(self, **options)
        yield next(iter(pieces))
        if options["seed"] == 0:
            raise KeyboardInterrupt
        yield from pieces

    monkeypatch.setattr(TextGenerator, "stream", stopped)
    ended = played(run, "the", "/keep 1", "/again")
    first, second = ended.out.splitlines()
    assert load(run).generate(prompt="the")[0].startswith(first)
    assert [second] == load(run).generate(prompt="the", seed=1)
    assert ended.err.splitlines()[1:] == ["stopped", "error: /keep takes the number of a text, none yet; got '1'"]


def test_runs_that_choose_among_whole_texts_or_write_in_any_order_play_too(
    played: Any, text: Path, tmp_path: Path
) -> None:
    small = [word for word in SMALL if "embedding" not in word]
    assert call("train", "masked", "--data", text, "--out", tmp_path / "masked", *small, "model.heads=2").code == 0
    ended = played(tmp_path / "masked", "/count 2", "the", "the [MASK] sees the dog now .")
    generator = load(tmp_path / "masked")
    expected = generator.generate(2, prompt="the")
    expected += [one.text for one in generator.fill(["the [MASK] sees the dog now ."], count=2)]
    assert ended.out.splitlines() == expected


def test_options_are_those_of_generate() -> None:
    from seqgen.core.options import Drawing, Request, help_texts

    known = help_texts(Drawing) | help_texts(Request)
    assert set(vars(play.Playing())) <= set(known)
