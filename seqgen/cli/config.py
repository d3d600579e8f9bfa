"""`seqgen config`, which explains every setting, and `seqgen doctor`, which shows what the machine has."""

import contextlib
import importlib.util
import os
import platform
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer

from seqgen._version import __version__
from seqgen.cli import output
from seqgen.cli.options import Json, Module

EXTRAS = {"parquet": "pyarrow", "serve": "starlette", "torchtext": "torchtext"}
"""The optional parts of the package, and the module that each needs."""


def config(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Name of the model: lm, ...; without it the models and presets are listed."
        ),
    ] = "",
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Show the values of this preset.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Show the values of this TOML file.")
    ] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Write TOML, an input of train --config.")] = False,
    module: Module = None,
    json: Json = False,
) -> None:
    """Show every setting of a model: value, range, meaning."""
    from seqgen.core import config as settings_of
    from seqgen.engine import run as runs

    if toml and json:
        raise output.CommandError("--toml and --json: give one")
    if not (model or preset or file or module):
        names = {"models": runs.model_names(), "presets": runs.preset_names()}
        plain = "".join(f"{kind:8} {' '.join(found)}\n" for kind, found in names.items())
        output.write(output.json_line(names) if json else plain)
        return
    settings = runs.config(model, preset=preset, file=file, module=module)
    sections = settings.sections()
    if toml:
        sections.pop("version")
        output.write(settings_of.to_toml(sections))
        return
    width = max(60, min(120, shutil.get_terminal_size().columns))
    values = settings_of.flat(sections)
    parts = {"data": settings.data, "tokenizer": settings.tokenizer, "model": settings.model, "train": settings.train}
    described = {
        section: settings_of.describe(type(part)(), section=section)
        for section, part in parts.items()
        if part is not None
    }
    if json:
        rows = [
            {"name": name, "value": values[name], "default": loads(default), "accepted": accepted, "help": text}
            for section in described.values()
            for name, default, accepted, text in section
        ]
        output.write(output.json_line({"name": settings.name, "seed": settings.seed, "settings": rows}))
        return
    output.write(f'name = "{settings.name}"\nseed = {settings.seed}\n')
    for section in described.values():
        output.write("\n")
        for name, default, accepted, text in section:
            value = settings_of.to_toml({"v": values[name]}).removeprefix("v = ").strip()
            changed = "" if value == default else f", default {default}"
            words = f"{text} [{accepted}{changed}]"
            output.write(f"{name} = {value}\n")
            output.write(textwrap.indent(textwrap.fill(words, width - 4, break_on_hyphens=False), "    ") + "\n")


def doctor(json: Json = False) -> None:
    """Show what this machine has, and whether seqgen works on it."""
    from importlib import metadata  # late: it brings the email package with it

    import torch

    from seqgen.engine import run as runs

    device = runs.choose_device("auto")
    facts = {
        "seqgen": __version__,
        "python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "torch": str(torch.__version__),
        "device": f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bf16 units": _bf16_units(device),
        **{name: metadata.version(name) for name in ("numpy", "sentencepiece", "nltk", "safetensors")},
    }
    for name, module in EXTRAS.items():
        missing = importlib.util.find_spec(module) is None
        facts[name] = f"not installed (pip install 'neural-seqgen[{name}]')" if missing else "installed"
    with contextlib.suppress(metadata.PackageNotFoundError):
        other = metadata.version("seqgen")
        facts["clash"] = f"another package, seqgen {other}, shares this one's files; use two environments"
    facts["public sets"] = _public_sets()
    if not json:
        _write_facts(facts)
    checks = {f"check {name}": _outcome(check) for name, check in (("train", _check_run), ("bleu", _check_bleu))}
    if json:
        output.write(output.json_line(facts | checks))
    else:
        _write_facts(checks)
    if any(found != "ok" for found in checks.values()):
        raise typer.Exit(1)


def _write_facts(facts: Mapping[str, str]) -> None:
    output.write("".join(f"{name:14} {value}\n" for name, value in facts.items()))


def _outcome(check: Callable[[], None]) -> str:
    """Return `ok`, or in what way a check failed."""
    try:
        check()
    except Exception as error:
        return f"FAILED: {type(error).__name__}: {error}"
    return "ok"


def _bf16_units(device: Any) -> str:
    """Return whether bfloat16 products have hardware of their own here, without which float32 is faster."""
    from seqgen.core import numerics

    units = numerics.bf16_units(device)
    if units is None:
        return "unknown"
    return f"yes ({units})" if units else "no (train.precision=bf16 will be slower here)"


def _public_sets() -> str:
    from seqgen.data.corpora import known

    there = [name for name, entry in known.read_catalogue().items() if not entry.shipped and entry.at_hand()]
    place = os.environ.get("SEQGEN_DATA")
    where = f"in {place}" if place else "in ./data; SEQGEN_DATA is not set"
    return f"{' '.join(there) or 'none'} ({where})"


def _check_run() -> None:
    """Train a tiny run on a few lines, load it, generate a line and score it."""
    from seqgen.engine import loading, loop
    from seqgen.engine import run as runs

    lines = [f"{a} {b} {c}" for a in "abcd" for b in "efgh" for c in "ijkl"]
    small = {"model.hidden": 8, "model.embedding": 8, "train.steps": 2, "train.batch": 8, "train.samples": 0}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        loop.train(runs.config("lm", text, overrides=small), Path(folder) / "run", progress=lambda _: None)
        generator = loading.load(Path(folder) / "run")
        nats = generator.score(generator.generate(1, seed=1) and lines[:4]).nats
    if not 0 < nats < 1000:
        raise RuntimeError(f"a log-probability of {-nats} cannot be")


def _check_bleu() -> None:
    """Check a case with a known result: half of the bigrams match."""
    from seqgen import metrics

    value = float(metrics.bleu(["a b c"], ["a b d"], order=2, smoothing="method0"))
    if abs(value - (2 / 3 * 1 / 2) ** 0.5) > 1e-12:
        raise RuntimeError(f"BLEU-2 of a known case is {value}")
