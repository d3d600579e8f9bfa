"""report.html of a run: curves, samples over time, scores, settings, environment, in one file that needs no network."""

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

from seqgen import metrics
from seqgen.core import files, log
from seqgen.core.errors import RunError, SeqgenError
from seqgen.data.text import read_lines
from seqgen.engine import checkpoint, plots
from seqgen.engine import run as runs
from seqgen.engine.folder import CONFIG
from seqgen.engine.latent import LatentSpace, overview
from seqgen.engine.loading import load

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums } th { color: #666; font-weight: 600 }
img { max-width: 100% } pre { white-space: pre-wrap; background: #f6f6f6; padding: .8rem; border-radius: .3rem }
details { margin: .5rem 0 } summary { cursor: pointer; color: #444 }
"""


_LOSSES = (
    ("loss", "training loss", "#9ab"),
    ("critic_loss", "critic's loss", "#9ab"),
    ("generator_loss", "generator's loss", "#b9a"),
)
_HELD_OUT = (
    ("nll_per_token", "held-out, nats per token"),
    ("loss", "held-out loss"),
    ("ffd", "feature Frechet distance of samples"),
)
"""What the curves show, where a run has it: names in log.jsonl with a label and a colour; the first found of scores."""

_WATCHED = {
    "reward": "reward of the policy's texts",
    "entropy": "the policy's entropy, nats per token",
    "length": "tokens of the policy's texts",
    "critic_accuracy": "critic's accuracy",
    "wasserstein": "critic on real less on made",
    "kl": "KL, nats",
    "kl_weight": "factor of the KL",
    "mutual_information": "mutual information of text and latent, nats",
    "active_units": "active units of the latent",
    "bleu_4": "BLEU-4 of samples",
    "self_bleu_4": "Self-BLEU-4 of samples",
    "recall": "recall of samples",
}
"""Curves of their own below, where a run has more than one value: from log.jsonl, else from scores.jsonl."""


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder from what lies there, and return its path.

    RunError where a log or evaluation.json holds what no training and no evaluation writes.
    """
    try:
        page = _page(folder)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        if isinstance(error, SeqgenError):
            raise
        raise RunError(
            f"{folder}: log.jsonl, scores.jsonl or evaluation.json is altered ({type(error).__name__}: {error})"
        ) from None
    path = folder / "report.html"
    files.write_text(path, page)
    return path


def _page(folder: Path) -> str:
    name = runs.stored_sections(folder)["name"]
    scores = log.read(folder / "scores.jsonl")
    lines = log.read(folder / "log.jsonl")
    parts = [
        f"<h1>{html.escape(name)} · {html.escape(folder.name)}</h1>",
        _curves(lines, scores),
        _watched(lines, scores),
        _section("Scores", _score_table(scores)),
        _section("Evaluation", _evaluation(folder)),
        _section("Quality and diversity over temperatures", _image(folder / "curve.png")),
        _section("Samples", _samples(folder)),
        _section("Codes", _latents(folder, str(name))),
        _section("Settings", f"<pre>{html.escape((folder / CONFIG).read_text(encoding='utf-8'))}</pre>"),
        _section("Environment", f"<pre>{html.escape((folder / 'env.json').read_text(encoding='utf-8'))}</pre>"),
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(folder.name)}</title>'
    page += f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    return page


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}" if body else ""


def _curves(lines: list[dict[str, Any]], scores: list[dict[str, Any]]) -> str:
    """Draw training loss and held-out likelihood over the steps, as an inline image."""
    if not lines:
        return ""
    figure, axes = plots.plain_figure(9, 3.6)
    for name, label, colour in _LOSSES:
        points = [(r["step"], r[name]) for r in lines if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, label=label)
    name, label = next(((n, w) for n, w in _HELD_OUT if any(r.get(n) is not None for r in scores)), ("", ""))
    held_out = [(r["step"], r[name]) for r in scores if r.get(name) is not None]
    if held_out:
        style = {"color": "#c33", "marker": "o", "markersize": 3}
        place = axes.twinx() if name == "ffd" else axes  # no loss: a scale of its own, on the right
        drawn = place.plot(*zip(*held_out, strict=True), label=label, **style)
        if place is not axes:
            place.spines["top"].set_visible(False)
            place.set_ylim(bottom=0)
            axes.add_line(type(drawn[0])([], [], label=f"{label} (right)", **style))
    axes.set_xlabel("step")
    axes.legend(frameon=False)
    image = base64.b64encode(plots.png(figure)).decode()
    return f'<img alt="loss over steps" src="data:image/png;base64,{image}">'


def _watched(lines: list[dict[str, Any]], scores: list[dict[str, Any]]) -> str:
    """Draw what the log holds beside the losses, a small image each; "" where there is nothing."""
    curves = []
    for name, label in _WATCHED.items():
        found = ([(r["step"], r[name]) for r in rows if r.get(name) is not None] for rows in (lines, scores))
        points = next((each for each in found if len(each) > 1), None)
        if points:
            curves.append((label, points))
    if not curves:
        return ""
    figure, places = plots.small_figures(len(curves))
    for axes, (label, points) in zip(places, curves, strict=True):
        axes.plot(*zip(*points, strict=True), color="#9ab", linewidth=1)
        axes.set_title(label, fontsize="small", loc="left")
    image = base64.b64encode(plots.png(figure)).decode()
    return f'<img alt="{html.escape("; ".join(label for label, _ in curves))}" src="data:image/png;base64,{image}">'


def _score_table(scores: list[dict[str, Any]]) -> str:
    if not scores:
        return ""
    names = [name for name in ("step", *metrics.shown("validation")) if any(name in row for row in scores)]
    head = "".join(f'<th title="{html.escape(metrics.metric(name).about)}">{html.escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td class="number">{_number(row.get(name))}</td>' for name in names) + "</tr>"
        for row in scores
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _evaluation(folder: Path) -> str:
    """Show the tables that `seqgen evaluate` left in the folder."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return ""
    columns = files.read_json(path)["columns"]
    head = "<th></th>" + "".join(f"<th>{html.escape(column['name'])}</th>" for column in columns)
    values = [{name: score["value"] for name, score in (c["likelihood"] | c["scores"]).items()} for c in columns]
    body = ""
    for name in dict.fromkeys(name for column in values for name in column):
        cells = "".join(f'<td class="number">{_number(column.get(name))}</td>' for column in values)
        body += f'<tr><th title="{html.escape(metrics.metric(name).about)}">{html.escape(name)}</th>{cells}</tr>'
    made = "\n".join(
        score["signature"] for column in columns for score in (column["likelihood"] | column["scores"]).values()
    )
    about = "".join(f"<li>{html.escape(c['name'])}: {html.escape(c['about'])}</li>" for c in columns)
    details = f"<details><summary>How each number was made</summary><pre>{html.escape(made)}</pre></details>"
    return f"<table><tr>{head}</tr>{body}</table><ul>{about}</ul>{details}"


def _image(path: Path, what: str = "") -> str:
    """Return a PNG of the folder inside the page, "" where there is none."""
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{what or path.stem}" src="data:image/png;base64,{content}">'


def _samples(folder: Path) -> str:
    """Show the samples of every validation: texts, or grids and strips of images."""
    by_step: dict[str, list[Path]] = {}
    for path in sorted((folder / "samples").iterdir()) if (folder / "samples").is_dir() else []:
        if made := re.fullmatch(r"(\d{8,})(-[a-z]+)?\.(txt|jsonl|png)", path.name):
            by_step.setdefault(made[1], []).append(path)
    return "".join(
        f"<details{' open' if step == max(by_step) else ''}><summary>step {int(step)}</summary>"
        + "".join(map(_sample, paths))
        + "</details>"
        for step, paths in by_step.items()
    )


def _sample(path: Path) -> str:
    if path.suffix == ".txt":
        return f"<pre>{html.escape(path.read_text(encoding='utf-8'))}</pre>"
    if path.suffix == ".jsonl":
        return "".join(f"<pre>{html.escape(text)}</pre>" for text in read_lines(path))
    what = html.escape(path.stem.partition("-")[2] or "samples")
    return f"<figure>{_image(path, what)}<figcaption>{what}</figcaption></figure>"


_WIDE, _HIGH = 900, 560


def _latents(folder: Path, name: str) -> str:
    """Draw a map of the latents of held-out texts, and interpolations between them; for text VAEs."""
    if name != "text-vae" or not checkpoint.steps(folder):
        return ""
    try:
        shown = overview(LatentSpace(load(folder, device="cpu")))
    except SeqgenError as error:
        return f"<p>{html.escape(str(error))}</p>"
    low, high = shown.places.amin(0), shown.places.amax(0)
    places = ((shown.places - low) / (high - low).clamp_min(1e-9)).tolist()
    points = "".join(
        f'<circle cx="{20 + x * (_WIDE - 40):.1f}" cy="{20 + y * (_HIGH - 40):.1f}" r="5">'
        f"<title>{html.escape(line)}</title></circle>"
        for (x, y), line in zip(places, shown.lines, strict=True)
    )
    page = f'<svg viewBox="0 0 {_WIDE} {_HIGH}" fill="#c33" fill-opacity=".5" role="img">{points}</svg>'
    page += f"<p>{len(shown.lines)} held-out texts by their latents; point at one to read its text. The two axes hold "
    page += f"{shown.share:.0%} of what sets latents apart.</p>"
    for path in shown.interpolations:
        page += f"<p>From <i>{html.escape(path.begin)}</i> to <i>{html.escape(path.end)}</i></p>"
        page += '<ol class="path">' + "".join(f"<li>{html.escape(text)}</li>" for text in path.between) + "</ol>"
    return page


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 1000 or (value and abs(value) < 0.01) else f"{value:.4f}".rstrip("0")
    return html.escape("" if value is None else value if isinstance(value, str) else json.dumps(value))
