"""A model card: README.md of a folder that others get, written from a run's own figures.

Its header is what the Hugging Face Hub reads: library_name, tags, and every score with the signature that says how it
was computed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqgen import metrics
from seqgen.core import files, log
from seqgen.data.text import read_lines
from seqgen.engine import checkpoint
from seqgen.engine import run as runs
from seqgen.engine.evaluate import Table
from seqgen.engine.stored import stored_sections
from seqgen.metrics import tables

_SAMPLES = 5

_USE = {
    "onnx": """`model.onnx` is one step: `(ids, state) -> (logits, next_state)`, with `ids` int64, one a row, and
`state` float32, zeros of the shape in `config.json` at first. A text begins behind the id `start` and ends with `stop`;
the ids in `suppress` are never written. `tokens.json` says what each id adds to the text. seqgen's docs/export.md has a
reader in 30 lines of numpy.
""",
    "safetensors": """```sh
pip install neural-seqgen
seqgen generate {name} --count 5
```

The folder is a run of seqgen {version} without its training: `seqgen.load("{name}")` in Python, and
`seqgen train {model} --from {name}` goes on from its weights.
""",
}


def model_card(folder: Path, name: str, format: str) -> str:
    """Return the card of a run that is written as `name` in a format; RunError for a run whose files are altered."""
    sections = stored_sections(folder)
    env = files.read_object(folder / "env.json", data_sha256=str)
    model, tokenizer = str(sections["name"]), sections.get("tokenizer")
    state = checkpoint.last_state(folder)
    data = [Path(str(file)).name for file in sections["data"]["files"]]
    scores = _scores(folder, state.get("best_step"))
    header: list[tuple[str, Any]] = [
        ("library_name", "seqgen"),
        ("pipeline_tag", "text-generation" if tokenizer else "unconditional-image-generation"),
        ("tags", ["seqgen", model, format]),
    ]
    if scores:
        task = {"type": header[1][1]}
        result = {
            "task": task,
            "dataset": {"name": ", ".join(data) or "texts", "type": ", ".join(data) or "texts"},
            "metrics": [
                {"type": one, "value": value, "name": one, "args": {"signature": made}} for one, value, made in scores
            ],
        }
        header.append(("model-index", [{"name": name, "results": [result]}]))
    facts = [
        f"Model: {_title(sections)}",
        f"Trained on: {', '.join(data) or 'data given in Python'} (SHA-256 `{env['data_sha256'][:16]}`)"
        if env["data_sha256"]
        else "Imported, not trained here",
        f"Tokens: {tokenizer['kind']}, {tokenizer['vocab_size']:,} in all"
        if tokenizer and tokenizer["vocab_size"]
        else "",
        f"Steps: {state['best_step']:,} of {sections['train']['steps']:,}" if state.get("best_step") else "",
        f"Seed: {sections['seed']}",
        f"Made with: seqgen {env.get('seqgen')}, torch {env.get('torch')}",
    ]
    parts = [
        "---\n" + "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in header) + "---\n",
        f"# {name}\n",
        "".join(f"- {fact}\n" for fact in facts if fact),
        "## Use\n",
        _USE[format].format(name=name, version=env.get("seqgen"), model=model),
    ]
    if texts := _samples(folder, state.get("best_step")):
        parts += ["## Samples\n", "As they come, of the weights here:\n", _quoted(texts)]
    if scores:
        rows = [
            f"| {one} {metrics.metric(one).arrow} | {value:.4g} | {tables.escaped_markdown(made)} |\n"
            for one, value, made in scores
        ]
        parts += ["## Scores\n", "| score | value | how it was computed |\n| --- | --- | --- |\n" + "".join(rows)]
    return "\n".join(parts)


def _title(sections: dict[str, Any]) -> str:
    if sections.get("module"):
        return f"{sections['name']}, a model of its author's own"
    return (runs.model_module(str(sections["name"])).__doc__ or "").partition("\n")[0].rstrip(".")


def _scores(folder: Path, best: int | None) -> list[tuple[str, float, str]]:
    """Return (name, value, signature) of the run's scores: of `seqgen evaluate`, else of the best validation."""
    path = folder / "evaluation.json"
    if path.is_file():
        column = Table.from_dict(files.read_json(path)).columns[0]
        return [(score.signature.metric, float(score), str(score.signature)) for score in column.all_scores()]
    row = next((row for row in log.read(folder / "scores.jsonl") if row["step"] == best), {})
    names = ("nll_per_token", "bound_per_token", *metrics.shown("validation"))
    shown = [name for name in names if name in row and not name.startswith("real_")]
    made = f"validation of step {best}, on held-out rows of the training data"
    known = [(name, row[name]) for name in dict.fromkeys(shown) if isinstance(row[name], int | float)]
    return [(name, value, f"{made}; {row['signature']}" if name == "bleu_4" else made) for name, value in known]


def _samples(folder: Path, best: int | None) -> list[str]:
    """Return the first texts of the best validation."""
    if best is None:
        return []
    for ending in (".txt", ".jsonl"):
        path = folder / "samples" / f"{best:08d}{ending}"
        if path.is_file():
            return read_lines(path)[:_SAMPLES]
    return []


def _quoted(texts: Sequence[str]) -> str:
    """Return texts as a block of code, whatever they hold."""
    fence = "```"
    while any(fence in text for text in texts):
        fence += "`"
    return f"{fence}text\n" + "\n\n".join(text.rstrip("\n") for text in texts) + f"\n{fence}\n"
