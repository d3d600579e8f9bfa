"""`seqgen config`, which explains every setting, and `seqgen doctor`, which shows what the machine has."""

import contextlib
import importlib.util
import os
import platform
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer

from seqgen._version import __version__
from seqgen.cli import output
from seqgen.cli.options import Json, Module

EXTRAS = {
    "chem": "rdkit",
    "export": "onnxruntime",
    "hf": "tokenizers",
    "parquet": "pyarrow",
    "serve": "starlette",
    "sweep": "optuna",
    "torchtext": "torchtext",
    "track": "tensorboard",
}
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
    """Show what this machine has, and whether seqgen works on it.

    A small model is trained, stopped and continued, and writes texts: a few seconds. The exit code is 1 where a check
    fails.
    """
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
    began = time.perf_counter()
    tried = {"train": _check_run, "resume": _check_resume, "bleu": _check_bleu}
    checks = {f"check {name}": _outcome(check) for name, check in tried.items()}
    checks["seconds"] = f"{time.perf_counter() - began:.1f} for the checks"
    if json:
        output.write(output.json_line(facts | checks))
    else:
        _write_facts(checks)
    if any(found.startswith("FAILED") for found in checks.values()):
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


_LINES = [f"{a} {b} {c}" for a in "abcd" for b in "efgh" for c in "ijkl"]
_SMALL = {"model.hidden": 8, "model.embedding": 8, "train.batch": 8, "train.samples": 0, "train.schedule": "constant"}


def _trained(folder: Path, *steps: int) -> Any:
    """Return a tiny run, trained on a few lines to each of these steps in turn."""
    from seqgen.engine import loading, loop
    from seqgen.engine import run as runs

    text = folder / "text.txt"
    text.write_text("".join(f"{line}\n" for line in _LINES), encoding="utf-8")
    out = folder / "-".join(map(str, steps))
    for step in steps:
        chosen = runs.config("lm", text, overrides={**_SMALL, "train.steps": step})
        loop.train(chosen, out, progress=lambda _: None)
    return loading.load(out, step=steps[-1])


def _check_run() -> None:
    """Train a tiny run on a few lines, load it, generate texts and score lines."""
    with tempfile.TemporaryDirectory() as folder:
        generator = _trained(Path(folder), 2)
        nats = generator.score(_LINES[:4]).nats
        if generator.generate(3, seed=1)[:1] != generator.generate(1, seed=1):
            raise RuntimeError("a text depends on how many are written with it")
    if not 0 < nats < 1000:
        raise RuntimeError(f"a log-probability of {-nats} cannot be")


def _check_resume() -> None:
    """Check that a run which was stopped and continued has the weights of one that was not, in every bit."""
    with tempfile.TemporaryDirectory() as folder:
        whole, continued = (_trained(Path(folder), *steps).model.state_dict() for steps in ((6,), (3, 6)))
        differ = [name for name, weights in whole.items() if not weights.equal(continued[name])]
    if differ:
        raise RuntimeError(f"a continued run differs from one in one go: {', '.join(differ)}")


def _check_bleu() -> None:
    """Check a case with a known result: half of the bigrams match."""
    from seqgen import metrics

    value = float(metrics.bleu(["a b c"], ["a b d"], order=2, smoothing="method0"))
    if abs(value - (2 / 3 * 1 / 2) ** 0.5) > 1e-12:
        raise RuntimeError(f"BLEU-2 of a known case is {value}")
