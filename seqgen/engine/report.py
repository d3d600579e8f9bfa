"""report.html of a run: samples first, then curves, scores beside real text, settings, and how to make it again.

One file that needs no network. It is made from what lies in the run's folder; of a text VAE the last model draws a map.
"""

import base64
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from seqgen import metrics
from seqgen.core import files, log
from seqgen.core.errors import RunError, SeqgenError
from seqgen.data.text import read_lines
from seqgen.engine import checkpoint
from seqgen.engine import run as runs
from seqgen.engine.charts import Point, Series, averaged, chart, heat_map
from seqgen.engine.evaluate import Table
from seqgen.engine.folder import CONFIG
from seqgen.engine.latent import LatentSpace, overview
from seqgen.engine.loading import load
from seqgen.engine.molecules import PROTOCOL, drawings
from seqgen.engine.page import facts, lines, page, section, table
from seqgen.engine.stored import stored_sections

_HELD_OUT = {
    "nll_per_token": "held-out, nats per token",
    "bound_per_token": "held-out, a bound, nats per token",
    "loss": "held-out",
}
"""Scores on the scale of the training loss; the first found is drawn beside it."""

_CURVES = {
    "ffd": "feature Fréchet distance of samples",
    "policy_loss": "policy's loss",
    "reward": "reward of sampled texts",
    "entropy": "entropy of sampled texts, nats per token",
    "length": "length of sampled texts, tokens",
    "critic_accuracy": "critic's accuracy",
    "wasserstein": "critic on real less on made",
    "reconstruction": "reconstruction, nats",
    "kl": "KL, nats",
    "kl_weight": "factor of the KL",
    "mutual_information": "mutual information of data and latent, nats",
    "active_units": "active units of the latent",
    "recall": "recall of samples",
}
"""Curves beside the loss, where a run has more than one value; names in log.jsonl and scores.jsonl with their words."""

_SHOWN = 10
"""Samples that stand open on the page."""


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder from what lies there, and return its path.

    RunError where a log or evaluation.json holds what no training and no evaluation writes.
    """
    try:
        content = _page(folder)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        if isinstance(error, SeqgenError):
            raise
        raise RunError(
            f"{folder}: log.jsonl, scores.jsonl or evaluation.json is altered ({type(error).__name__}: {error})"
        ) from None
    path = folder / "report.html"
    files.write_text(path, content)
    return path


def summary(folder: Path) -> str:
    """Return the first parts of a run's page, as HTML: what it is, its samples and its curves."""
    logged, scores = log.read(folder / "log.jsonl"), log.read(folder / "scores.jsonl")
    sections, state, by_step = stored_sections(folder), checkpoint.last_state(folder), _sample_files(folder)
    env = files.read_object(folder / "env.json", data_sha256=str)
    shown = _shown_step(state, by_step)
    known = _facts(sections, env, logged, scores, state)
    return f"<b>{escape(folder.resolve().name)}</b>{known}{_samples(by_step, shown)}{_curves(logged, scores)}"


def _shown_step(state: Mapping[str, Any], by_step: Mapping[int, Any]) -> int | None:
    """Return the step whose samples stand first: that of the checkpoint in use, else the last."""
    return state["best_step"] if state.get("best_step") in by_step else max(by_step, default=None)


def _page(folder: Path) -> str:
    sections = stored_sections(folder)
    env = files.read_object(folder / "env.json", data_sha256=str)
    logged, scores = log.read(folder / "log.jsonl"), log.read(folder / "scores.jsonl")
    state = checkpoint.last_state(folder)
    by_step = _sample_files(folder)
    shown = _shown_step(state, by_step)
    name = str(sections["name"])
    parts = [
        f"<h1>{escape(folder.resolve().name)}</h1>",
        _about(name, sections),
        _facts(sections, env, logged, scores, state),
        section("Samples", _samples(by_step, shown)),
        section("Molecules", _molecules(folder, by_step, shown)),
        section("Beside the training text", _copied(by_step, shown)),
        section("Curves", _curves(logged, scores)),
        section("Samples over time", _over_time(by_step, shown)),
        section("Scores", _evaluation(folder) or _no_evaluation(folder, scores)),
        section("Validations", _validations(scores, state.get("best_step"))),
        section("Quality and diversity", _quality_diversity(folder, scores)),
        section("Map of latents", _latents(folder, name)),
        section("Attention", _attention(folder, name)),
        section("How to make it again", _again(folder, sections, env)),
        section("Settings", _folded("config.toml", (folder / CONFIG).read_text(encoding="utf-8"))),
        section("Environment", _folded("env.json", json.dumps(env, indent=2, ensure_ascii=False))),
    ]
    return page(f"{folder.resolve().name} · {name}", "".join(parts))


# ------------------------------------------------------------------------------
# what it is


def _about(name: str, sections: Mapping[str, Any]) -> str:
    """Say what the model is, in the words of its own file; the file of a model of one's own is not opened."""
    if sections.get("module"):
        return f"<p>{escape(name)}, a model of your own: {escape(str(sections['module']))}</p>"
    title, _, rest = (runs.model_module(name).__doc__ or "").partition("\n\n")
    words = re.split(r"\n(?=Shapes:|Run:)", rest)[0]
    code = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(words))
    return f"<p><b>{escape(title.strip())}</b></p><p>{code}</p>"


def _facts(
    sections: Mapping[str, Any],
    env: Mapping[str, Any],
    logged: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Any]],
    state: Mapping[str, Any],
) -> str:
    data, tokenizer, train = sections["data"], sections.get("tokenizer"), sections["train"]
    step = max((row["step"] for row in (*logged[-1:], *scores[-1:])), default=0)
    best = next((row for row in scores if row["step"] == state.get("best_step")), {})
    likelihood = [f"{best[n]:.4g} {metrics.metric(n).unit}" for n in _DECIDING if best.get(n) is not None][:1]
    seconds = env.get("wall_seconds")
    where = env.get("gpu") or env.get("device", "")
    return facts(
        [
            ("model", f"{sections['name']}{_size(sections['model'])}"),
            ("data", ", ".join(Path(str(file)).name for file in data["files"])),
            ("tokens", f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} in all" if tokenizer else ""),
            ("trained", f"{step:,} of {train['steps']:,} steps of {train['batch']:,}" + _clock(seconds, str(where))),
            ("best", ", ".join([f"step {state['best_step']:,}", *likelihood]) if best else ""),
            ("seed", str(sections["seed"])),
            ("seen", "; ".join(f"step {e['step']}: {e['event']}" for e in state.get("events", ()))),
        ]
    )


_DECIDING = ("nll_per_token", "bound_per_token", "loss", "ffd")


def _size(model: Mapping[str, Any]) -> str:
    """Return the width and depth among the settings of a model, where it has them at the top."""
    known = [f"{model[name]} {name}" for name in ("layers", "hidden", "latent") if isinstance(model.get(name), int)]
    return f" with {', '.join(known)}" if known else ""


def _clock(seconds: float | None, where: str) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f" in {minutes // 60}:{minutes % 60:02d}:{rest:02d} on {where}"


def _again(folder: Path, sections: Mapping[str, Any], env: Mapping[str, Any]) -> str:
    """Say which commands make the run again, and what must be the same for the same bits."""
    made_by = "" if sections.get("module") else getattr(runs.model_module(str(sections["name"])), "MADE_BY", "")
    given = [str(word) for word in env.get("command", [])]
    # a run that a program or a notebook made has that one's arguments there
    began = shlex.join(given) if given[:2] == (made_by or "seqgen train").split() else ""
    words = ["seqgen", "train", "--config", str(Path(folder.resolve().name) / CONFIG), "--out", "again"]
    if isinstance(origin := env.get("from"), dict):
        words += ["--from", str(origin.get("run"))]
    if sections.get("module"):
        words += ["--module", str(sections["module"])]
    commands = [f"pip install neural-seqgen=={env.get('seqgen')} torch=={str(env.get('torch')).partition('+')[0]}"]
    commands.append((began or made_by) if made_by else shlex.join(words))
    return (
        f"<pre>{escape(chr(10).join(commands))}</pre>"
        f"<p>The settings name the data, whose SHA-256 is <code>{escape(env['data_sha256'])}</code>. The same software "
        f"on the same kind of machine with as many threads ({escape(str(env.get('threads')))}) gives the same bits.</p>"
        + (f"<p>This run began as: <code>{escape(began)}</code></p>" if began and not made_by else "")
    )


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(content)}</pre></details>"


# ------------------------------------------------------------------------------
# samples


def _sample_files(folder: Path) -> dict[int, dict[str, Path]]:
    """Return what validations left of samples: by step, by the ending of the name; other files are none of it."""
    by_step: dict[int, dict[str, Path]] = {}
    for path in sorted((folder / "samples").iterdir()) if (folder / "samples").is_dir() else []:
        if made := re.fullmatch(r"(\d{8,})((-[a-z]+)?\.(txt|jsonl|png))", path.name):
            by_step.setdefault(int(made[1]), {})[made[2]] = path
    return by_step


def _texts(paths: Mapping[str, Path]) -> list[str]:
    """Return the texts that a validation shows, none of an image run."""
    if ".txt" in paths:
        return paths[".txt"].read_bytes().decode().removesuffix("\n").split("\n")
    return read_lines(paths[".jsonl"]) if ".jsonl" in paths else []


def _samples(by_step: Mapping[int, Mapping[str, Path]], shown: int | None) -> str:
    """Show the samples of the checkpoint that `generate` uses: texts, or grids and strips of images."""
    if shown is None:
        return ""
    texts = _texts(by_step[shown])
    body = _written(texts[:_SHOWN])
    if texts[_SHOWN:]:
        rest = _written(texts[_SHOWN:], start=_SHOWN + 1)
        body += f"<details><summary>{len(texts) - _SHOWN} more</summary>{rest}</details>"
    return f'<p class="dim">Of step {shown:,}, as they come.</p>' + body + _images(by_step[shown])


def _written(texts: Sequence[str], start: int = 1) -> str:
    if any("\n" in text for text in texts):
        return "".join(f"<pre>{escape(text)}</pre>" for text in texts)
    return lines(texts, start=start) if texts else ""


def _molecules(folder: Path, by_step: Mapping[int, Mapping[str, Path]], shown: int | None) -> str:
    """Draw the samples that are molecules, of a run that was evaluated as molecules; without RDKit draw none."""
    stored = folder / "evaluation.json"
    if shown is None or not stored.is_file() or files.read_object(stored, protocol=str)["protocol"] != PROTOCOL:
        return ""
    texts = _texts(by_step[shown])[:_SHOWN]
    drawn = "".join(
        f'<figure><img alt="{escape(text)}" src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
        for text, svg in zip(texts, drawings(texts), strict=True)
        if svg
    )
    return f'<div class="strip">{drawn}</div>' if drawn else ""


def _images(paths: Mapping[str, Path]) -> str:
    found = [(ending, path) for ending, path in sorted(paths.items(), key=lambda p: len(p[0])) if path.suffix == ".png"]
    return "".join(_figure(path, ending.removesuffix(".png").strip("-") or "samples") for ending, path in found)


def _figure(path: Path, what: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{escape(what)}" src="data:image/png;base64,{content}">'
    return f"<figure>{image}<figcaption>{escape(what)}</figcaption></figure>"


def _over_time(by_step: Mapping[int, Mapping[str, Path]], shown: int | None) -> str:
    """Show the first sample of every validation, which always has the same seed; all others folded below it."""
    if len(by_step) < 2:
        return ""
    parts, strip = [], ""
    for step, paths in by_step.items():
        texts = _texts(paths)
        if ".png" in paths and step != shown:
            strip += _figure(paths[".png"], f"step {step:,}")
            paths = {ending: path for ending, path in paths.items() if ending != ".png"}
        first = escape(texts[0].split("\n")[0]) if texts else ""
        inside = _written(texts) + _images(paths) if step != shown else "<p>These stand above.</p>"
        parts.append(f'<details><summary><span class="dim">step {step:,}</span> {first}</summary>{inside}</details>')
    return (f'<div class="strip">{strip}</div>' if strip else "") + "".join(parts)


def _copied(by_step: Mapping[int, Mapping[str, Path]], shown: int | None) -> str:
    """Show each sample beside the training line with which it shares its longest run of tokens, that run marked."""
    path = by_step[shown].get("-copied.jsonl") if shown is not None else None
    if path is None:
        return ""
    rows = log.read(path)
    pairs = []
    for row in rows:
        text, begin, end = row["text"], row["begin"], row["end"]
        own = escape(text[:begin]) + f"<mark>{escape(text[begin:end])}</mark>" + escape(text[end:])
        source = escape(row["source"]).replace(escape(text[begin:end]), f"<mark>{escape(text[begin:end])}</mark>", 1)
        pairs.append(f"<div class=pair><div>{own}</div><div>{source if row['tokens'] else ''}</div></div>")
    longest = max((row["tokens"] for row in rows), default=0)
    body = "".join(pairs[:_SHOWN])
    if pairs[_SHOWN:]:
        body += f"<details><summary>{len(pairs) - _SHOWN} more</summary>{''.join(pairs[_SHOWN:])}</details>"
    about = "Each sample, and the training line with which it shares the longest run of tokens: "
    return f'<p class="dim">{about}at most {longest} tokens here.</p>{body}'


# ------------------------------------------------------------------------------
# curves


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    return [(row["step"], row[name]) for row in rows if row.get(name) is not None]


def _curves(logged: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]) -> str:
    drawn = []
    trained, how = averaged(_points(logged, "loss"))
    held_out = next((n for n in _HELD_OUT if _points(scores, n)), "")
    pair = [Series(f"training, {how}", trained)]
    pair += [Series(_HELD_OUT[held_out], _points(scores, held_out), dots=True)] if held_out else []
    drawn.append(_curve("loss", pair))
    adversarial = [(who, averaged(_points(logged, f"{who}_loss"))) for who in ("critic", "generator")]
    drawn.append(
        _curve("losses of the networks", [Series(f"{who}, {how}", points) for who, (points, how) in adversarial])
    )
    for name, label in _CURVES.items():
        of_batches, how = averaged(_points(logged, name))
        own = [Series(how, of_batches)] if of_batches else []
        held = _points(scores, name)
        own += (
            [Series("held-out" if name in ("kl", "reconstruction") else "at validations", held, dots=True)]
            if held
            else []
        )
        drawn.append(_curve(label, own))
    return f'<div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""


def _curve(title: str, series: Sequence[Series]) -> str:
    """Return a chart over the steps, "" where nothing has two points."""
    return chart(series, title=title) if any(len(one.points) > 1 for one in series) else ""


def _quality_diversity(folder: Path, scores: Sequence[Mapping[str, Any]]) -> str:
    """Draw quality against diversity: over temperatures where `seqgen curve` was called, and over the validations."""
    drawn = []
    quality, diversity = "quality: BLEU-4", "up: diversity, 1 - Self-BLEU-4"
    path = folder / "curve.json"
    if path.is_file():
        points = files.read_json(path)["points"]
        own = [p for p in points if p["temperature"] is not None]
        real = [(p["quality"], p["diversity"]) for p in points if p["temperature"] is None]
        over = Series(
            "temperatures",
            [(p["quality"], p["diversity"]) for p in own],
            dots=True,
            names=[f"{p['temperature']:g}" for p in own],
        )
        star = Series("real text", real, dots=True, names=["real text"] * len(real))
        drawn.append(chart([over, star], title="over temperatures", across=quality, up=diversity))
    rows = [row for row in scores if row.get("bleu_4") is not None and row.get("self_bleu_4") is not None]
    if len(rows) > 1:
        last = len(rows) - 1
        names = [f"step {row['step']}" if i in (0, last) else "" for i, row in enumerate(rows)]
        places = [(row["bleu_4"], 1 - row["self_bleu_4"]) for row in rows]
        real_level = rows[-1].get("real_self_bleu_4")
        level = None if real_level is None else ("real text's diversity", 1 - real_level)
        over = Series("validations", places, dots=True, names=names)
        drawn.append(chart([over], title="over the steps", across=quality, up=diversity, level=level))
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


# ------------------------------------------------------------------------------
# scores


def _validations(scores: Sequence[Mapping[str, Any]], best: int | None) -> str:
    names = [name for name in metrics.shown("validation") if any(row.get(name) is not None for row in scores)]
    if not names:
        return ""
    head = ["step"]
    head += [
        f'<span title="{escape(metrics.metric(n).about)}">{escape(n)} {metrics.metric(n).arrow}</span>' for n in names
    ]
    rows = [[f"{row['step']:,}", *(_number(row.get(name)) for name in names)] for row in scores]
    chosen = next((i for i, row in enumerate(scores) if row["step"] == best), None)
    bold = "" if chosen is None else " The checkpoint in bold is the one that is used."
    signs = [f"<li>step {row['step']:,}: {escape(str(sign))}</li>" for row in scores for sign in row.get("signs") or ()]
    warned = f"<ul>{''.join(signs)}</ul>" if signs else ""
    return (
        table(head, rows, chosen=chosen)
        + f'<p class="dim">↑ higher is better, ↓ lower, ≈ as real text has it.{bold}</p>'
        + warned
    )


def _evaluation(folder: Path) -> str:
    """Show the tables that `seqgen evaluate` left in the folder."""
    path = folder / "evaluation.json"
    return Table.from_dict(files.read_json(path)).html() if path.is_file() else ""


def _no_evaluation(folder: Path, scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return ""
    images = not {"bleu_4", "nll_per_token", "bound_per_token"} & {*scores[-1]}
    command = shlex.join(["seqgen", "evaluate", folder.resolve().name, *([] if images else ["--references"])])
    return f"<p>Not yet beside real data: <code>{escape(command)}{'' if images else ' FILE'}</code></p>"


def _number(value: Any) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return f"{value:.4g}" if abs(value) >= 1000 or (value and abs(value) < 0.001) else f"{value:.4f}"
    return escape("" if value is None else value if isinstance(value, str) else json.dumps(value))


# ------------------------------------------------------------------------------
# latents

_WIDE, _HIGH = 900, 560


_ANSWERED = 3
"""Held-out sources whose answers the page shows."""

_WORDS = 16
"""Words of such a source at most: a larger picture says less."""


def _attention(folder: Path, name: str) -> str:
    """Draw where the model looks in a few held-out sources while it writes its answers; for models with an encoder."""
    if name != "seq2seq" or not checkpoint.steps(folder):
        return ""
    try:
        generator = load(folder, device="cpu")
        sources = list(dict.fromkeys(generator.own_text().valid_sources or ()))
        short = [source for source in sources if len(source.split()) <= _WORDS] or sources
        answers = generator.search(1, sources=short[:_ANSWERED], num_beams=5)
        shown = [generator.attention(answer.text, answer.source) for answer in answers]
    except SeqgenError as error:
        return f"<p>{escape(str(error))}</p>"
    body = (
        "<p>Each row is a token of the answer, which five beams found; its cells say how much it looks at each token "
    )
    body += "of the source.</p>"
    for answer, one in zip(answers, shown, strict=True):
        body += heat_map(one.source, one.tokens, one.weights, title=answer.text)
    return body


def _latents(folder: Path, name: str) -> str:
    """Draw a map of the latents of held-out texts, and interpolations between them; for text VAEs."""
    if name != "text-vae" or not checkpoint.steps(folder):
        return ""
    try:
        shown = overview(LatentSpace(load(folder, device="cpu")))
    except SeqgenError as error:
        return f"<p>{escape(str(error))}</p>"
    low, high = shown.places.amin(0), shown.places.amax(0)
    places = ((shown.places - low) / (high - low).clamp_min(1e-9)).tolist()
    points = "".join(
        f'<circle cx="{20 + x * (_WIDE - 40):.1f}" cy="{20 + y * (_HIGH - 40):.1f}" r="6">'
        f"<title>{escape(line)}</title></circle>"
        for (x, y), line in zip(places, shown.lines, strict=True)
    )
    body = f"<p>{len(shown.lines)} held-out texts by their latents; point at one to read its text. The two axes hold "
    body += f"{shown.share:.0%} of what sets latents apart.</p>"
    body += f'<svg class="map" viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="map of latents">{points}</svg>'
    for number, path in enumerate(shown.interpolations):
        way = '<ol class="path">' + "".join(f"<li>{escape(text)}</li>" for text in path.between) + "</ol>"
        title = f"From <i>{escape(path.begin)}</i> to <i>{escape(path.end)}</i>"
        body += f"<details{' open' if number < 2 else ''}><summary>{title}</summary>{way}</details>"
    return body
