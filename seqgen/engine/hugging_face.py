"""A GPT-2 checkpoint on disk as a run, which generates, scores and is fine-tuned: the files of `seqgen import`.

The folder is as Hugging Face's libraries write it: config.json, model.safetensors, and the tokenizer's files. Nothing
is fetched, and nothing in it is executed: weights in a pickle are refused.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from seqgen.core import files
from seqgen.core.config import to_toml
from seqgen.core.errors import ConfigError, DataError, RunError
from seqgen.data.prepare import facts
from seqgen.data.tokenizers.byte_bpe import read_hugging_face
from seqgen.engine import checkpoint, loop
from seqgen.engine import run as runs
from seqgen.engine.folder import CONFIG, is_run
from seqgen.models import _gpt_2, gpt

_WEIGHTS = "model.safetensors"


def import_checkpoint(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Make a run of a GPT-2 checkpoint in Hugging Face's format; returns the run's folder, `out`.

    Its texts are lines that begin behind <|endoftext|> and end with it. RunError for missing and unsafe weights and a
    folder `out` that exists, ConfigError for another architecture and weights that do not fit it, DataError for a
    tokenizer that does not, MissingExtraError without the library `tokenizers`.
    """
    source, run = Path(folder), Path(out)
    if is_run(run):
        raise RunError(f"{run} is a run already; use another --out, or remove it")
    with files.owned(run):
        loop.check_new(run)
        described = _read_config(source)
        config = _named(source / "config.json", _gpt_2.settings, described)
        end = described.get("eos_token_id", 50256)
        if type(end) is not int or described.get("bos_token_id", end) != end:
            raise ConfigError(
                f"{source}/config.json: eos_token_id must be one id and bos_token_id the same, as in GPT-2; got "
                f"{end!r} and {described.get('bos_token_id')!r}"
            )
        tokenizer = read_hugging_face(source, end=end)
        if tokenizer.vocab_size != config.vocab_size:
            raise DataError(
                f"{source}: the tokenizer has {tokenizer.vocab_size} ids, but the embedding of config.json "
                f"{config.vocab_size} rows; take the tokenizer that the weights were trained with"
            )
        plain = runs.build({"name": "gpt", "data": {"mode": "sentence", "max_length": config.context}})
        known = facts(tokenizer, "sentence", config.context)
        settings = runs.with_facts(
            dataclasses.replace(plain, model=config), known, plain.data, plain.tokenizer, batch=plain.train.batch
        )
        model = _named(source / "config.json", gpt.Model, settings.model)
        tensors = _tensors(source)
        checkpoint.fill(model, _named(source / _WEIGHTS, _gpt_2.weights, tensors, model), str(source / _WEIGHTS))
        tokenizer.save(run / "tokenizer")
        env = runs.environment(torch.device("cpu"))
        files.write_json(run / "env.json", env | {"data_sha256": "", "imported_from": str(source.absolute())})
        checkpoint.save(run, 0, model, {}, {}, loop.state_at_first())
        files.write_text(run / CONFIG, to_toml(settings.sections()))
    return run


def _read_config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    if not path.is_file():
        raise RunError(
            f"{source}: no config.json; expected a folder with config.json, {_WEIGHTS} and a tokenizer's files"
        )
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: not an object of settings")
    return found


def _tensors(source: Path) -> dict[str, torch.Tensor]:
    path = source / _WEIGHTS
    if not path.is_file():
        pickles = sorted(file.name for file in source.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if pickles:
            raise RunError(
                f"{source}: {pickles[0]} is a pickle, which can run any code when it is opened, and is not read; save "
                f"the weights as {_WEIGHTS} (save_pretrained does)"
            )
        parts = "; weights in several files are not read" if (source / f"{_WEIGHTS}.index.json").is_file() else ""
        raise RunError(f"{source}: no {_WEIGHTS}{parts}")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: not a safetensors file ({error})") from None


def _named(path: Path, function: Any, *arguments: Any) -> Any:
    """Return what a function of a file's content gives; its ConfigError names the file."""
    try:
        return function(*arguments)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
