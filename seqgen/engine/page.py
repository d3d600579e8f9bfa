"""What the HTML pages of this package are made of: one file that needs no network, in light and dark, at any width."""

import html
import math
from collections.abc import Sequence

from seqgen.engine.charts import COLOURS

_LIGHT = """{ color-scheme: light dark; --ink: #1c2024; --dim: #667; --line: #d8dce2; --back: #fff; --soft: #f4f6f8;
  --mark: #ffe08a; --c0: #3566b8; --c1: #c8453a; --c2: #2f8f5b; --c3: #a0651a; --c4: #7a4fb0 }"""
_DARK = """{ --ink: #e4e6ea; --dim: #9aa2ae; --line: #353b45; --back: #15181c;
  --soft: #1f242a; --mark: #6a5200; --c0: #7ea8ee; --c1: #ef8277; --c2: #6fcf97; --c3: #e0a458; --c4: #b996ea }"""

_BODY = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem;
  color: var(--ink); background: var(--back); overflow-wrap: anywhere }
"""

_RULES = """
* { box-sizing: border-box }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .5rem 0 } h2 { font-size: 1.2rem; margin: 2.5rem 0 .8rem;
  padding-bottom: .2rem; border-bottom: 1px solid var(--line) }
p, ul, ol, dl { margin: .6rem 0 } small, .dim, figcaption, th { color: var(--dim) } code, pre { font-size: .88em }
pre { white-space: pre-wrap; background: var(--soft); padding: .7rem .9rem; border-radius: .4rem; margin: .5rem 0 }
mark { background: var(--mark); color: inherit; border-radius: .15rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .93rem }
td, th { overflow-wrap: normal; padding: .25rem .9rem .25rem 0; text-align: left;
  vertical-align: top; font-weight: 400 }
tr { border-bottom: 1px solid var(--line) } td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums } tr.chosen td { font-weight: 600 }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem }
dt { color: var(--dim) } dd { margin: 0 }
details { margin: .4rem 0 } summary { cursor: pointer; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
figure { margin: 0 0 .6rem } img { max-width: 100%; image-rendering: pixelated } figcaption > * { margin-right: .8rem }
.strip { display: flex; flex-wrap: wrap; gap: 1rem } .strip figure { flex: 0 1 11rem }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1.4rem }
.chart { max-width: 30rem; font-size: .85rem; line-height: 1.35 }
.chart b { display: block; color: var(--ink); font-weight: 600 }
svg { width: 100%; height: auto; display: block } svg text { font: 11px system-ui, sans-serif; fill: var(--dim) }
svg path { fill: none; stroke-width: 1.6; stroke-linejoin: round } svg .grid { stroke: var(--line); stroke-width: .7 }
svg .axis { stroke: var(--dim); stroke-width: 1 } svg .level { stroke: var(--dim); stroke-dasharray: 4 3 }
figcaption i { display: inline-block; width: .8rem; height: .2rem; margin-right: .3rem; vertical-align: middle }
i.dashed { border-top: 2px dashed var(--dim); height: 0 } .map circle { fill: var(--c0); fill-opacity: .55 }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 1.5rem;
  padding: .45rem 0; border-bottom: 1px solid var(--line) } .pair > :last-child { color: var(--dim) }
.lines { white-space: pre-wrap; padding-left: 2rem }
.lines li { padding: .1rem 0 } .lines li::marker { color: var(--dim) }
.token { border-radius: .2rem; padding: 0 .15rem; white-space: pre-wrap }
@media (max-width: 32rem) { dl { grid-template-columns: minmax(0, 1fr) } dd { margin-bottom: .4rem }
  h1 { font-size: 1.4rem }
  .wide td:nth-child(2), .wide th:nth-child(2) { display: none } }
@media print { body { max-width: none } details { break-inside: avoid } }
""" + "".join(
    f"path.c{n} {{ stroke: var(--c{n}) }} circle.c{n}, rect.c{n} {{ fill: var(--c{n}) }} "
    f"i.c{n} {{ background: var(--c{n}) }}\n"
    for n in range(COLOURS)
)


def _colours(where: str) -> str:
    """Return the colours, light and dark, of what a selector names."""
    return f"{where} {_LIGHT} @media (prefers-color-scheme: dark) {{ {where} {_DARK} }}"


STYLE = _colours(":root") + _BODY + _RULES
"""The style of every page; charts take their colours from it."""

_NOTHING_FROM_OUTSIDE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, body: str) -> str:
    """Return a whole page; `body` is HTML. A browser loads nothing for it and runs nothing in it."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_NOTHING_FROM_OUTSIDE}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def fragment(body: str) -> str:
    """Return HTML that can stand in somebody else's page, such as a notebook's, whose own style it leaves alone."""
    own = f"{_colours('.seqgen')} .seqgen {{ color: var(--ink); background: var(--back); padding: .4rem .6rem }}"
    return f'<div class="seqgen"><style>{own} @scope (.seqgen) {{ {_RULES} }}</style>{body}</div>'


def tokens(names: Sequence[str], log_probs: Sequence[float]) -> str:
    """Return tokens side by side, the less likely the stronger coloured; pointing at one shows its probability."""
    spans = []
    for name, log_prob in zip(names, log_probs, strict=True):
        share = min(70.0, -100 * log_prob / 12)  # of the colour: all of it from 8.4 nats on
        colour = f"background: color-mix(in srgb, var(--c1) {max(share, 0.0):.0f}%, transparent)"
        about = f"{math.exp(log_prob):.2%}, {-log_prob:.2f} nats"
        spans.append(f'<span class="token" style="{colour}" title="{about}">{html.escape(name)}</span>')
    return " ".join(spans)


def section(title: str, body: str) -> str:
    """Return a part of a page under its title, "" where it is empty."""
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, chosen: int | None = None) -> str:
    """Return a table of cells that are HTML: the first `left` columns flush left, the row `chosen` set off.

    Of two columns flush left the second says what the first means, and is left out on a phone.
    """

    def cells(row: Sequence[str], kind: str) -> str:
        return "".join(f"<{kind}{'' if i < left else ' class=number'}>{cell}</{kind}>" for i, cell in enumerate(row))

    body = "".join(
        f"<tr{' class=chosen' if number == chosen else ''}>{cells(row, 'td')}</tr>" for number, row in enumerate(rows)
    )
    wide = " wide" if left > 1 else ""
    return f'<div class="scroll{wide}"><table><tr>{cells(head, "th")}</tr>{body}</table></div>'


def lines(texts: Sequence[str], *, start: int = 1) -> str:
    """Return texts as a numbered list, with the white space that they have."""
    first = f' start="{start}"' if start > 1 else ""
    return f'<ol class="lines"{first}>' + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ol>"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names and values, those that are empty left out."""
    return "<dl>" + "".join(f"<dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd>" for n, v in pairs if v) + "</dl>"
