"""report.html of a run: curves, samples over time, scores, settings, environment, in one file that needs no network."""

import base64
import html
import json
from pathlib import Path
from typing import Any

from seqgen.core import files, log
from seqgen.engine import pictures
from seqgen.engine import run as runs

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums } th { color: #666; font-weight: 600 }
img { max-width: 100% } pre { white-space: pre-wrap; background: #f6f6f6; padding: .8rem; border-radius: .3rem }
details { margin: .5rem 0 } summary { cursor: pointer; color: #444 }
"""


_SHOWN = (
    *("step", "nll_per_token", "perplexity", "nll_per_character"),
    *("bleu_4", "self_bleu_4", "real_self_bleu_4", "unique", "distinct_2", "novelty_4", "copied"),
)
"""What the table of validations shows; scores.jsonl holds all of it."""


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder from what lies there, and return its path."""
    name = runs.stored_sections(folder)["name"]
    scores = log.read(folder / "scores.jsonl")
    lines = log.read(folder / "log.jsonl")
    parts = [
        f"<h1>{html.escape(name)} · {html.escape(folder.name)}</h1>",
        _curves(lines, scores),
        _section("Scores", _score_table(scores)),
        _section("Evaluation", _evaluation(folder)),
        _section("Samples", _samples(folder)),
        _section("Settings", f"<pre>{html.escape((folder / 'config.toml').read_text(encoding='utf-8'))}</pre>"),
        _section("Environment", f"<pre>{html.escape((folder / 'env.json').read_text(encoding='utf-8'))}</pre>"),
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(folder.name)}</title>'
    page += f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    path = folder / "report.html"
    files.write_text(path, page)
    return path


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}" if body else ""


def _curves(lines: list[dict[str, Any]], scores: list[dict[str, Any]]) -> str:
    """Training loss and held-out likelihood over the steps, as an inline picture."""
    if not lines:
        return ""
    figure, axes = pictures.plain_figure(9, 3.6)
    points = [(r["step"], r["loss"]) for r in lines if r.get("loss") is not None]
    axes.plot(*zip(*points, strict=True), color="#9ab", linewidth=1, label="training loss")
    held_out = [(r["step"], r["nll_per_token"]) for r in scores if r.get("nll_per_token") is not None]
    if held_out:
        axes.plot(
            *zip(*held_out, strict=True), color="#c33", marker="o", markersize=3, label="held-out, nats per token"
        )
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    picture = base64.b64encode(pictures.png(figure)).decode()
    return f'<img alt="loss over steps" src="data:image/png;base64,{picture}">'


def _score_table(scores: list[dict[str, Any]]) -> str:
    if not scores:
        return ""
    names = [name for name in _SHOWN if any(name in row for row in scores)]
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td class="number">{_number(row.get(name))}</td>' for name in names) + "</tr>"
        for row in scores
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _evaluation(folder: Path) -> str:
    """The tables that `seqgen evaluate` left in the folder."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return ""
    columns = files.read_json(path)["columns"]
    head = "<th></th>" + "".join(f"<th>{html.escape(column['name'])}</th>" for column in columns)
    values = [c["likelihood"] | {name: score["value"] for name, score in c["scores"].items()} for c in columns]
    body = ""
    for name in dict.fromkeys(name for column in values for name in column):
        cells = "".join(f'<td class="number">{_number(column.get(name))}</td>' for column in values)
        body += f"<tr><th>{html.escape(name)}</th>{cells}</tr>"
    made = "\n".join(score["signature"] for column in columns for score in column["scores"].values())
    about = "".join(f"<li>{html.escape(c['name'])}: {html.escape(c['about'])}</li>" for c in columns)
    details = f"<details><summary>How each number was made</summary><pre>{html.escape(made)}</pre></details>"
    return f"<table><tr>{head}</tr>{body}</table><ul>{about}</ul>{details}"


def _samples(folder: Path) -> str:
    paths = sorted((folder / "samples").glob("*.txt"))
    return "".join(
        f"<details{' open' if path == paths[-1] else ''}><summary>step {int(path.stem)}</summary>"
        f"<pre>{html.escape(path.read_text(encoding='utf-8'))}</pre></details>"
        for path in paths
    )


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 1000 or (value and abs(value) < 0.01) else f"{value:.4f}".rstrip("0")
    return html.escape("" if value is None else value if isinstance(value, str) else json.dumps(value))
