"""Tables of text and numbers as Markdown, CSV and LaTeX, right for whatever a name holds.

A cell in Markdown or LaTeX is read back as the text that was put in, its white space as single spaces: neither form
can hold a line break in a cell.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_SPELT = "backslash asciitilde asciicircum asciigrave less greater bar quotesingle"
_LATEX = {
    **{sign: rf"\{sign}" for sign in "{}$&#%_"},
    **{sign: rf"\text{word}{{}}" for sign, word in zip("\\~^`<>|'", _SPELT.split(), strict=True)},
    **{sign: rf"$\{word}$" for sign, word in zip("↑↓≈", ("uparrow", "downarrow", "approx"), strict=True)},
    **{sign: f"{{{sign}}}" for sign in "[*"},  # a row that begins with one would end the row before it otherwise
    '"': r"\char34{}",
}
_LIGATURES = re.compile("-(?=-)|,(?=,)")
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&$]")


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table: a number as text, and what to do with it."""

    text: str
    best: bool = False
    """Set in bold: the best of its column."""
    mark: bool = False
    """Followed by a dagger: a note below says why it may not be compared with the others."""


def _plain(text: str) -> str:
    """Return the text in one line, without what no typeset cell can show."""
    shown = ("?" if unicodedata.category(sign) in ("Cc", "Cs") and not sign.isspace() else sign for sign in text)
    return " ".join("".join(shown).split())


def escaped_markdown(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\g<0>", _plain(text))


def escaped_latex(text: str) -> str:
    """Return text that LaTeX sets as it is; other scripts than Latin need XeLaTeX or LuaLaTeX and a font."""
    return _LIGATURES.sub(r"\g<0>{}", "".join(_LATEX.get(sign, sign) for sign in _plain(text)))


def markdown(head: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], notes: Sequence[str] = ()) -> str:
    """Return a table whose rows are a name and cells, the notes below it."""

    def cell(one: Cell) -> str:
        return (f"**{one.text}**" if one.best else one.text) + ("†" if one.mark else "")

    lines = [["", *head], ["---", *["--:"] * len(head)], *([escaped_markdown(n), *map(cell, c)] for n, c in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return table + "".join(f"\n\n† {escaped_markdown(note)}" for note in notes)


def latex(head: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], notes: Sequence[str] = ()) -> str:
    """Return a `tabular` with the rules of the package booktabs."""

    def cell(one: Cell) -> str:
        text = one.text.replace("±", r"$\pm$")
        return (rf"\textbf{{{text}}}" if one.best else text) + (r"$^\dagger$" if one.mark else "")

    def row(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    wide = len(head) + 1
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * len(head)}}}",
        r"\toprule",
        row(["", *map(escaped_latex, head)]),
        r"\midrule",
        *(row([escaped_latex(name), *map(cell, cells)]) for name, cells in rows),
        r"\bottomrule",
        *(rf"\multicolumn{{{wide}}}{{l}}{{\footnotesize $^\dagger$ {escaped_latex(note)}}} \\" for note in notes),
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def comma_separated(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV (RFC 4180, but with plain newlines), as Python's `csv` reads them."""
    buffer = io.StringIO()
    # a carriage return alone is no reason for quotes to `csv`, though its reader ends a row there
    quoting: Literal[0, 1] = csv.QUOTE_ALL if any("\r" in cell for row in rows for cell in row) else csv.QUOTE_MINIMAL
    csv.writer(buffer, lineterminator="\n", quoting=quoting).writerows(rows)
    return buffer.getvalue().rstrip("\n")
