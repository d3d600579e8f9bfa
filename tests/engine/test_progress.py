"""How far a long piece of work is, on standard error."""

import io
import sys
from pathlib import Path

import pytest
from small_run import SMALL

from seqgen.core import log
from seqgen.engine import loop, progress
from seqgen.engine.loading import load
from seqgen.engine.run import config


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work() -> None:
    for done in range(3):
        log.part("steps", done, 3)
    log.part("the rest", 0)


def test_parts_are_lines_where_standard_error_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.shown_parts():
        work()
    assert capsys.readouterr() == ("", "")  # nothing in the first half minute
    monkeypatch.setattr(progress, "_QUIET_LINE_S", 0.0)
    with progress.shown_parts():
        work()
    assert capsys.readouterr() == ("", "steps 0 of 3\nsteps 1 of 3\nsteps 2 of 3\nthe rest\n")


def test_on_a_terminal_one_line_moves_and_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REFRESH_S", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.shown_parts():
        work()
    shown = sys.stderr.getvalue().split("\r")  # type: ignore[attr-defined]
    assert shown == ["", *(f"{x}\x1b[K" for x in ("steps 0 of 3", "steps 1 of 3", "steps 2 of 3", "the rest", ""))]


def test_a_bar_shows_what_was_drawn_at_each_temperature_and_no_more_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys, "stderr", Terminal())
    samples = ((0.7, "a short line"), (1.0, "a\nline of\ttwo"), (1.3, "春" * 40))
    bar = progress.Bar("loss")
    bar.show(progress.Progress(1, 2, {}, {"loss": 1.0}, samples=samples))
    bar.close()
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "  T 0.7  a short line\n" in shown
    assert "  T 1    a line of two\n" in shown
    assert f"  T 1.3  {'春' * 10}…\n" in shown  # each takes two columns


def test_a_validation_draws_from_one_seed_at_three_temperatures(text: Path, tmp_path: Path) -> None:
    seen: list[progress.Progress] = []
    settings = config("lm", text, overrides=[*SMALL, "train.steps=2", "train.eval_every=2"])
    loop.train(settings, tmp_path / "r", progress=seen.append)
    generator = load(tmp_path / "r")
    assert seen[-1].samples == tuple((t, generator.generate(1, temperature=t)[0]) for t in (0.7, 1.0, 1.3))
