"""How far a long piece of work is, on standard error."""

import io
import sys

import pytest

from seqgen.core import log
from seqgen.engine import progress


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
