"""A trained run as a folder for others: ONNX for any runtime, or safetensors as a run without its training.

The folder appears whole, and only after a check: onnxruntime must give the logits and the greedy tokens that seqgen
gives, weights written must be read back equal. Nothing in it is a pickle, and nothing in it is executed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from seqgen._version import __version__
from seqgen.core import config as settings_of
from seqgen.core import files
from seqgen.core.errors import ConfigError, DataError, RunError
from seqgen.core.log import messages
from seqgen.core.options import Drawing, Sampling
from seqgen.data.tokenizers import Tokenizer
from seqgen.data.tokenizers.byte_bpe import ByteBpeTokenizer, byte_values
from seqgen.engine import card, checkpoint, loop, onnx_graph
from seqgen.engine import run as runs
from seqgen.engine.folder import CONFIG
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load, load_image_generator
from seqgen.engine.stored import stored_sections
from seqgen.nn.decode import Decoder

Format = Literal["onnx", "safetensors"]
FORMATS: tuple[Format, ...] = ("onnx", "safetensors")

_PRIVATE = ("command", "from", "mixed_from", "imported_from")
"""What env.json knows of the places of files."""

_PROMPTS, _LENGTH = 8, 32
"""Held-out texts of a check, and tokens that each is continued by."""

_TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit where that is above 1."""


def export(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: Format = "onnx",
    verify: bool = True,
    step: int | None = None,
    module: runs.Module | None = None,
) -> Path:
    """Write a trained run as a folder for others and return its path; `step`: of that checkpoint, else the best.

    `onnx` holds the graph of one step, (ids, state) -> (logits, state). `safetensors` is a run without its training,
    which `seqgen.load` opens. RunError for a folder that exists, a run that has no such form and a check that fails,
    which leaves nothing; ConfigError for another format; MissingExtraError without the packages of ONNX.
    """
    folder, target = Path(run), Path(out)
    if format not in FORMATS:
        raise ConfigError(f"format must be {' or '.join(FORMATS)}, got {format!r}")
    if target.exists():
        raise RunError(f"{target} exists; use another --out, or remove it")
    opened: Any
    if "tokenizer" in stored_sections(folder):
        opened = load(folder, step=step, device="cpu", module=module)
    elif format == "onnx":
        raise RunError(f"{folder} makes images, which have no form as an ONNX graph here; use --format safetensors")
    else:
        opened = load_image_generator(folder, step=step, device="cpu", module=module)
    with files.new_folder(target) as beside:
        (_write_onnx if format == "onnx" else _write_run)(beside, folder, opened, verify)
        files.write_text(beside / "README.md", card.model_card(folder, target.name, format))
    return target


def _sections(folder: Path) -> dict[str, Any]:
    """Return the settings of a run; files of text by their names, for where they lie is nobody else's business."""
    sections = stored_sections(folder)
    named = {key: [Path(str(file)).name for file in sections["data"].get(key, ())] for key in ("files", "valid")}
    return {**sections, "data": {**sections["data"], **named}}


# --------------------------------------------------------------------------------------------------------- safetensors


def _write_run(out: Path, folder: Path, opened: Any, verify: bool) -> None:
    """Write the files of a run with one checkpoint and without optimizer, logs and samples."""
    env = files.read_object(folder / "env.json", data_sha256=str)
    files.write_json(out / "env.json", {name: value for name, value in env.items() if name not in _PRIVATE})
    if isinstance(opened, TextGenerator):
        opened.tokenizer.save(out / "tokenizer")
    sections = _sections(folder)
    files.write_json(out / "config.json", {"seqgen": __version__, **sections})
    files.write_text(out / CONFIG, settings_of.to_toml(sections))
    checkpoint.save(out, 0, opened.model, {}, {}, loop.state_at_first())
    if verify:
        read = checkpoint.read_tensors(out, 0)
        for name, tensor in opened.model.state_dict().items():
            if name in read and not torch.equal(read[name], tensor.cpu()):
                raise RunError(f"{name} was not read back as it was written; nothing is kept")


# ---------------------------------------------------------------------------------------------------------------- ONNX


def _write_onnx(out: Path, folder: Path, generator: TextGenerator, verify: bool) -> None:
    settings, tokenizer = generator.settings, generator.tokenizer
    graph = onnx_graph.step_graph(generator.model, settings.name)
    tokens, joiner = token_table(tokenizer)
    decoder, running = generator.left_to_right("an ONNX graph"), generator.running
    if running:
        tokens[tokenizer.newline] = "\n"
    described = {
        "format": "seqgen-step-1",
        "seqgen": __version__,
        "model": settings.name,
        "state": list(graph.state),
        "context": graph.context,
        "vocab_size": tokenizer.vocab_size,
        "start": tokenizer.newline if running else tokenizer.bos,
        "stop": decoder.stop,
        "separator": tokenizer.sep,
        "suppress": sorted(decoder.suppress_tokens),
        "max_tokens": generator.sampling(Drawing()).limit(decoder.max_length),
        "source": settings.data.source,
        "tokenizer": tokenizer.kind,
        "joiner": joiner,
        "settings": _sections(folder),
    }
    if verify:
        described["verified"] = _verify(generator, decoder, graph, described, tokens)
    files.write_bytes(out / "model.onnx", graph.content)
    files.write_json(out / "config.json", described)
    files.write_json(out / "tokens.json", tokens)
    tokenizer.save(out / "tokenizer")


def token_table(tokenizer: Tokenizer) -> tuple[list[str | list[int]], str]:
    """Return what each id adds to a text, bytes where these are no character, and what a text's beginning drops.

    The text of ids is all they add, one after the other, less the second at its beginning, and behind line breaks.
    """
    surfaces = tokenizer.surfaces()
    base = next(i for i, text in enumerate(surfaces) if text.strip() and "\ufffd" not in text)
    begun = len(tokenizer.decode([[base]])[0])
    inside = [text[begun:] for text in tokenizer.decode([[base, i] for i in range(len(surfaces))])]
    alone = tokenizer.decode([[i] for i in range(len(surfaces))])
    pairs = zip(inside, alone, strict=True)
    joiner = next((a[: len(a) - len(b)] for a, b in pairs if a != b and a.endswith(b)), "")
    tokens: list[str | list[int]] = [
        _bytes(tokenizer, i) if "\ufffd" in text and i != tokenizer.unk else text for i, text in enumerate(inside)
    ]
    return tokens, joiner


def _bytes(tokenizer: Tokenizer, i: int) -> list[int]:
    """Return the bytes of a token that is no character by itself."""
    token = tokenizer.id_to_token(i)
    if isinstance(tokenizer, ByteBpeTokenizer):
        return [byte_values()[character] for character in token]
    return [int(token[3:5], 16)]  # <0xE4>


def text_of(ids: Sequence[int], tokens: Sequence[str | list[int]], joiner: str) -> str:
    """Return the text of ids by the rule of tokens.json, which needs no tokenizer."""
    parts = (tokens[i] for i in ids)
    text = b"".join(part.encode() if isinstance(part, str) else bytes(part) for part in parts).decode(errors="replace")
    return text.removeprefix(joiner).replace(f"\n{joiner}", "\n")


def _verify(
    generator: TextGenerator,
    decoder: Decoder,
    graph: onnx_graph.StepGraph,
    described: dict[str, Any],
    tokens: Sequence[str | list[int]],
) -> dict[str, Any]:
    """Compare the graph with the model on held-out texts, or the run's own; returns what was compared.

    RunError for logits that differ by more than the tolerance, other greedy tokens, or another text of them.
    """
    rows, what = _rows(generator, graph.context)
    step = onnx_graph.session(graph.content)
    largest = 0.0
    for row in rows:
        expected = _logits(decoder, row)
        found, _ = _run(step, graph.state, row)
        if not np.array_equal(np.isneginf(expected), np.isneginf(found)):
            raise RunError("the graph rules out other tokens than seqgen; nothing is kept")
        finite = np.isfinite(expected)
        scale = max(1.0, float(np.abs(expected[finite]).max(initial=0)))
        largest = max(largest, float(np.abs(expected[finite] - found[finite]).max(initial=0)) / scale)
        if not largest <= _TOLERANCE:
            raise RunError(f"a logit of the graph differs by {largest:.2g}, more than {_TOLERANCE:g}; nothing is kept")
        prompt = row[: max(1, len(row) // 2)]
        room = min(_LENGTH, described["max_tokens"], graph.context - len(prompt) if graph.context else _LENGTH)
        if room > 0:
            sampling = Sampling(greedy=True, max_new_tokens=room)
            own = decoder.decode([prompt], torch.zeros(1, dtype=torch.int64), sampling).ids[0]
            other = _greedy(step, graph.state, prompt, room, described)
            if own != other:
                raise RunError(f"behind {prompt} the graph writes {other} and seqgen {own}; nothing is kept")
            if text_of(own, tokens, described["joiner"]) != generator.decoded([own])[0]:
                raise RunError(f"the text of {own} by tokens.json is not seqgen's; nothing is kept")
    return {"texts": len(rows), "of": what, "largest_difference": largest, "tolerance": _TOLERANCE}


def _rows(generator: TextGenerator, context: int) -> tuple[list[list[int]], str]:
    """Return texts to compare on, as the model reads them, and what they are: held-out ones where they are at hand."""
    try:
        data = generator.own_text()
        lines, sources = data.valid_lines, data.valid_sources
        kept = [n for n, line in enumerate(lines) if line][:_PROMPTS]
        chosen = [lines[n] for n in kept]
        asked = None if sources is None else [sources[n] for n in kept]
        what = "held-out text"
    except (DataError, RunError, OSError) as error:
        if generator.settings.data.source:
            raise RunError(f"{error}; --no-verify exports without a check") from None
        messages.info("%s; compared on texts of the run itself", error)
        chosen, asked, what = [text for text in generator.generate(_PROMPTS) if text], None, "texts of the run itself"
    (batch,) = generator.batches(chosen, asked)
    most = min(2 * _LENGTH, context or 2 * _LENGTH)
    rows = zip(batch.inputs.tolist(), batch.lengths.tolist(), strict=True)
    return [row[: min(length, most)] for row, length in rows], what


@torch.inference_mode()
def _logits(decoder: Decoder, row: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return the model's own logits behind every token of a row, (T, V)."""
    state = decoder.prefill([row[:1]], room=len(row))
    found = []
    for token in row:
        features, state = decoder.step(torch.tensor([token]), state)
        found.append(decoder.output.logits(features[:1], decoder.output.plain_bias)[0, : decoder.output.vocab_size])
    return torch.stack(found).numpy()


def _run(step: Any, shape: onnx_graph.StateShape, row: Sequence[int]) -> tuple[np.ndarray[Any, Any], Any]:
    """Return the graph's logits behind every token of a row, (T, V), and the state after it."""
    state = np.zeros([1 if size == "batch" else int(size) for size in shape], np.float32)
    found = []
    for token in row:
        logits, state = step(np.array([token], np.int64), state)
        found.append(logits[0])
    return np.stack(found), state


def _greedy(step: Any, shape: onnx_graph.StateShape, prompt: Sequence[int], room: int, known: Any) -> list[int]:
    logits, state = _run(step, shape, prompt)
    ids: list[int] = []
    last = logits[-1]
    while True:
        last[known["suppress"]] = -np.inf
        token = int(last.argmax())
        if token == known["stop"]:
            return ids
        ids.append(token)
        if len(ids) == room:
            return ids
        logits, state = step(np.array([token], np.int64), state)
        last = logits[0]
