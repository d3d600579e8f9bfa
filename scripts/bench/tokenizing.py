"""Tokenizers against the usual ways: sentencepiece for pieces, a Python dictionary for characters.

Bytes of text per CPU-second, one thread, on the sentences of Python's own documentation (2 MB in rows of some 70
bytes), 8,000 pieces of sentencepiece's default settings. Both sides start from a list of str; sentencepiece ends with
lists, ours with one packed tensor. Warm: the words of the text have been met before; cold: with an empty word table.
The row without a floor: the models this package trains.
Run: scripts/bench.py tokenize
"""

import ast
import io
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from measure import ratios, row
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from seqgen.data.tokenizers import CharTokenizer, PieceTokenizer, TokenizerConfig, train_tokenizer

VOCAB = 8000


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """One row per case: how many times sentencepiece's (or the dictionary's) speed ours has."""
    torch.set_num_threads(1)
    lines = documentation()
    rounds = 5 if quick else 9

    models = {kind: trained(kind, lines) for kind in ("bpe", "unigram")}
    for kind, floor in (("bpe", 10.0), ("unigram", 4.0)):
        yield encoding(kind, f"{kind}, warm, against sentencepiece", models[kind], lines, rounds, floor)
    yield cold(models["bpe"], lines, rounds)
    yield characters(lines, rounds)
    yield decoding(models["bpe"], lines, rounds)

    ours = train_tokenizer(TokenizerConfig(kind="bpe", vocab_size=VOCAB), lines, seed=0)
    assert isinstance(ours, PieceTokenizer)
    yield encoding("bpe", "as trained here, warm, against sentencepiece", ours.model, lines, rounds, None)
    joined = [line.replace(" ", "") for line in lines]
    yield encoding("bpe", "without spaces, against sentencepiece", models["bpe"], joined, rounds, 1.0)


def documentation() -> list[str]:
    """The sentences of the help topics and of the standard library's docstrings."""
    texts = list(topics.values())
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        if not {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(path.parts):
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            texts += [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    paragraphs = (" ".join(part.split()) for text in texts for part in re.split(r"\n\s*\n", text))
    lines = (line for paragraph in paragraphs for line in re.split(r"(?<=[.:;]) ", paragraph))
    return [line for line in lines if line and not re.search(r"[-=+_|*]{4}", line)]  # no drawn tables


def trained(kind: str, lines: list[str]) -> bytes:
    generator = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=generator, model_type=kind, vocab_size=VOCAB, minloglevel=3
    )
    return generator.getvalue()


def encoding(kind: str, case: str, model: bytes, lines: list[str], count: int, floor: float | None) -> dict[str, Any]:
    theirs, ours = SentencePieceProcessor(model_proto=model), PieceTokenizer(model)
    ours.encode(lines)
    measured = ratios(lambda: theirs.encode(lines, num_threads=1), lambda: ours.encode(lines), rounds=count)
    return row("tokenize", case, measured, floor, same(ours.encode(lines).tolist(), theirs.encode(lines)))


def cold(model: bytes, lines: list[str], count: int) -> dict[str, Any]:
    theirs = SentencePieceProcessor(model_proto=model)
    # A tokenizer for every round, made beforehand, so that reading the model is on neither side.
    fresh = iter([PieceTokenizer(model) for _ in range(count + 2)])
    measured = ratios(lambda: theirs.encode(lines, num_threads=1), lambda: next(fresh).encode(lines), rounds=count)
    gate = same(next(fresh).encode(lines).tolist(), theirs.encode(lines))
    return row("tokenize", "cold-bpe, first pass, against sentencepiece", measured, 1.5, gate)


def characters(lines: list[str], count: int) -> dict[str, Any]:
    symbols = sorted(set().union(*lines))
    ours = CharTokenizer(symbols)
    ids = {symbol: ours.token_to_id(symbol) for symbol in symbols}

    def looked_up() -> list[list[int]]:
        return [[ids[character] for character in line] for line in lines]

    measured = ratios(looked_up, lambda: ours.encode(lines), rounds=count)
    return row("tokenize", "chars against a dictionary", measured, 5.0, same(ours.encode(lines).tolist(), looked_up()))


def decoding(model: bytes, lines: list[str], count: int) -> dict[str, Any]:
    theirs, ours = SentencePieceProcessor(model_proto=model), PieceTokenizer(model)
    packed, lists = ours.encode(lines), theirs.encode(lines)
    measured = ratios(lambda: theirs.decode(lists, num_threads=1), lambda: ours.decode(packed), rounds=count)
    gate = same(ours.decode(packed), theirs.decode(lists))
    return row("tokenize", "decode against sentencepiece", measured, 1.0, gate)


def same(ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    different = sum(a != b for a, b in zip(ours, theirs, strict=True))
    return "ok" if different == 0 else f"{different} of {len(theirs)} rows differ"


BENCHES: dict[str, Callable[[bool], Iterator[dict[str, Any]]]] = {"tokenize": rows}
