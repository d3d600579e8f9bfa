"""Tables that hold any name: read back by Python's csv, by a Markdown parser, and compiled by LaTeX."""

import csv
import io
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from seqgen.metrics import names
from seqgen.metrics.names import METRICS, metric
from seqgen.metrics.tables import Cell, comma_separated, escaped_latex, latex, markdown

AWKWARD = [
    "50%",
    "a|b",
    "&#_",
    "a\\b",
    "{x}",
    "$5",
    "#1",
    "~^",
    "<b>&amp;*_x_*",
    "[1mm] x",
    "* y",
    "a--b,,c",
    '"q"',
    "`",
]
AWKWARD += ["line\nbreak\ttab", "\\|", "&#124;", "!`?`''"]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(AWKWARD)


def in_one_line(name: str) -> str:
    """What a typeset cell can show of a name: no line breaks, no control characters."""
    return " ".join("".join("?" if unicodedata.category(c) == "Cc" and not c.isspace() else c for c in name).split())


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_csv_is_read_back_as_it_was(names: list[str]) -> None:
    rows = [["name", "x"], *([name, "0.5"] for name in names)]
    assert list(csv.reader(io.StringIO(comma_separated(rows), newline=""))) == rows


def cells_of(text: str) -> list[list[str]]:
    """The cells of the one table of a Markdown text, their inline marks undone; bold as `**`."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline" and rows:
            parts = {"text": "", "text_special": "", "strong_open": "**", "strong_close": "**"}
            rows[-1].append("".join(part.content or parts[part.type] for part in token.children or []))
    return rows


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_markdown_is_read_back_as_it_was(names: list[str]) -> None:
    made = markdown(["bleu_4 ↑"], [(name, [Cell("0.50 [0.40, 0.60]", best=True)]) for name in names])
    assert cells_of(made) == [["", "bleu_4 ↑"], *([in_one_line(n), "**0.50 [0.40, 0.60]**"] for n in names)]


def set_by_latex(text: str) -> str:
    """What LaTeX sets for escaped text, by its own rules; fails at anything that means something else to it."""
    words = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textasciigrave": "`"}
    words |= {"textless": "<", "textgreater": ">", "textbar": "|", "textquotesingle": "'", "char34": '"'}
    pattern = r"\\([{}$&#%_])|\\([a-z]+(?:34)?)\{\}|(?<=[-,])(\{\})(?=[-,])|\{([\[*])\}|([^\\{}$&#%_~^<>|`'\"\[*])"
    shown, at = "", 0
    for found in re.finditer(pattern, text, re.DOTALL):
        assert found.start() == at, text
        at = found.end()
        sign, word, _, braced, plain = found.groups()
        shown += sign or (words[word] if word else "") or braced or plain or ""
    assert at == len(text), text
    assert not re.search(r"--|,,", text)
    return shown


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="↑↓≈"), max_size=12) | st.sampled_from(AWKWARD)
)
def test_latex_sets_what_was_put_in(name: str) -> None:
    assert set_by_latex(escaped_latex(name)) == in_one_line(name)


def test_latex_has_the_rules_of_booktabs_the_best_in_bold_and_notes_below() -> None:
    rows = [("a_b", [Cell("0.30 ± 0.02 (n = 3)", best=True), Cell("0.1", mark=True)]), ("[c]", [Cell(""), Cell("0.2")])]
    assert latex(["bleu_4 ↑", "length ≈"], rows, ["a_b differs"]).splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & bleu\_4 $\uparrow$ & length $\approx$ \\",
        r"\midrule",
        r"a\_b & \textbf{0.30 $\pm$ 0.02 (n = 3)} & 0.1$^\dagger$ \\",
        r"{[}c] &  & 0.2 \\",
        r"\bottomrule",
        r"\multicolumn{3}{l}{\footnotesize $^\dagger$ a\_b differs} \\",
        r"\end{tabular}",
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex to compile the table")
def test_latex_compiles(tmp_path: Path) -> None:
    table = latex(["bleu_4 ↑", "x ↓", "y ≈"], [(name, [Cell("0.3", best=True)] * 3) for name in AWKWARD], AWKWARD)
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + f"\n{table}\n" + r"\end{document}"
    (tmp_path / "t.tex").write_text(document, encoding="utf-8")
    words = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("name", "arrow", "training"),
    [
        ("bleu_4", "↑", False),
        ("self_bleu_3", "≈", False),
        ("kl", "", False),
        ("kl_2", "↓", False),
        ("copied", "≈", True),
    ],
)
def test_a_metric_is_known_at_every_order(name: str, arrow: str, training: bool) -> None:
    found = metric(name)
    assert (found.name, found.arrow, found.training) == (name, arrow, training)


def test_an_unknown_number_is_no_more_than_its_name() -> None:
    assert metric("of_ones_own_7").arrow == metric("of_ones_own_7").unit == ""


def test_each_name_has_one_row_that_says_what_it_is() -> None:
    assert len({(row.name, bool(row.orders)) for row in METRICS}) == len(METRICS)
    for row in METRICS:
        assert row.about
        assert row.name == row.name.lower().replace("-", "_")
        assert (row.shown_order in row.orders) if row.tables and row.orders else row.shown_order == 0
    assert names.shown("compare")[:4] == ("nll_per_character", "bound_per_character", "bleu_4", "self_bleu_4")
