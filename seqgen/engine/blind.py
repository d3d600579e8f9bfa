"""Blind human evaluation: a page that shows two texts side by side without their origin, and statistics of the answers.

The page works offline. It holds texts and pair numbers only; the origin of each text lies in a key file of its own.
Preferences are reported with a 95 % Wilson interval and an exact binomial test against a coin.
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from seqgen import metrics
from seqgen.core import rng
from seqgen.core.errors import DataError


@dataclass(frozen=True)
class BlindResult:
    """Preferences counted from the answers of one sheet."""

    name_a: str
    name_b: str
    preferred_a: int
    """Pairs in which A's text was chosen."""
    preferred_b: int
    undecided: int
    """Pairs answered with `no difference`."""
    share_a: float
    """Share of A among the decided pairs."""
    interval: tuple[float, float]
    """95 % Wilson interval of that share."""
    p_value: float
    """Exact two-sided binomial test against 1/2."""


def sheet(
    a: Sequence[str], b: Sequence[str], *, names: tuple[str, str] = ("A", "B"), count: int = 50, seed: int = 0
) -> tuple[str, dict[str, Any]]:
    """Return (page, key): an HTML page of `count` pairs in random order and place, and the key that `tally` needs.

    Texts are drawn by the seed, without repetition. Raises DataError where a side has fewer than `count` texts.
    """
    for name, lines in zip(names, (a, b), strict=True):
        if len(lines) < count:
            raise DataError(f"{name} has {len(lines)} texts, fewer than the {count} pairs asked for; lower --count")
    generator = rng.generator("blind", seed)
    drawn = [torch.randperm(len(lines), generator=generator)[:count].tolist() for lines in (a, b)]
    a_is_left = torch.randint(0, 2, (count,), generator=generator).bool().tolist()
    pairs = []
    for i, j, left in zip(*drawn, a_is_left, strict=True):
        pairs.append([a[i], b[j]] if left else [b[j], a[i]])
    number = format(rng.hash64("sheet", seed, *(text for pair in pairs for text in pair)), "016x")
    key = {"sheet": number, "names": list(names), "a_is_left": a_is_left}
    return _page(number, pairs), key


def tally(key: Mapping[str, Any], answers: Mapping[str, Any]) -> BlindResult:
    """Count the answers that the page saved. Raises DataError where they belong to another sheet or are incomplete."""
    if answers.get("sheet") != key["sheet"]:
        raise DataError(f"these answers belong to sheet {answers.get('sheet')}, the key to sheet {key['sheet']}")
    chosen = answers.get("answers")
    sides = key["a_is_left"]
    if not isinstance(chosen, list) or len(chosen) != len(sides):
        given = len(chosen) if isinstance(chosen, list) else 0
        raise DataError(f"expected {len(sides)} answers, got {given}; save the page's answers again")
    bad = next((c for c in chosen if c not in ("left", "right", "same", None)), None)
    if bad is not None:
        raise DataError(f"an answer must be left, right, same or null, got {bad!r}")
    for_a = sum((c == "left") == left for c, left in zip(chosen, sides, strict=True) if c in ("left", "right"))
    decided = sum(c in ("left", "right") for c in chosen)
    if not decided:
        raise DataError("no pair was decided, so there is no preference to report")
    return BlindResult(
        key["names"][0],
        key["names"][1],
        for_a,
        decided - for_a,
        sum(c == "same" for c in chosen),
        for_a / decided,
        metrics.wilson_interval(for_a, decided),
        metrics.binomial_test(for_a, decided),
    )


_STYLE = """
body { font: 18px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; margin: 2rem 0 .5rem }
.text { background: #f6f6f6; padding: 1rem; border-radius: .4rem; white-space: pre-wrap }
label { margin-right: 1.5rem } button { font: inherit; padding: .5rem 1rem } #left { color: #666 }
"""

_SCRIPT = """
const form = document.querySelector("form"), count = Number(form.dataset.count);
const answers = () => Array.from({length: count}, (_, i) => (new FormData(form)).get("pair" + i));
const update = () => { const open = answers().filter(a => a === null).length;
  document.getElementById("open").textContent = open ? open + " pairs to go" : "all answered"; };
form.addEventListener("change", update); update();
document.getElementById("save").addEventListener("click", () => {
  const content = JSON.stringify({sheet: form.dataset.sheet, answers: answers()});
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type: "application/json"}));
  link.download = "answers.json"; link.click(); });
"""


def _page(number: str, pairs: Sequence[Sequence[str]]) -> str:
    choices = (("left", "left is better"), ("right", "right is better"), ("same", "no difference"))
    body = ""
    for i, (left, right) in enumerate(pairs):
        texts = "".join(f'<div class="text">{html.escape(text)}</div>' for text in (left, right))
        inputs = "".join(
            f'<label><input type="radio" name="pair{i}" value="{value}"> {words}</label>' for value, words in choices
        )
        body += f'<div class="pair">{texts}</div><div>{inputs}</div>'
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Which is better?</title>'
        f"<style>{_STYLE}</style><body><h1>Which text reads better?</h1>"
        f"<p>{len(pairs)} pairs. Choose for each, then save your answers.</p>"
        f'<form data-sheet={json.dumps(number)} data-count="{len(pairs)}">{body}</form>'
        '<p><button id="save">Save answers</button> <span id="open"></span></p>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )
