"""What the kinds of tokenizers share: checks of lines and ids, running text, the choice of symbols, files."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqgen.core.errors import DataError
from seqgen.core.files import write_json, write_text
from seqgen.data.formats import check_unicode
from seqgen.data.ragged import Ragged, widen
from seqgen.data.tokenizers.protocol import FIRST, SPECIALS, Tokenizer

if TYPE_CHECKING:
    from seqgen.data.tokenizers.kinds import TokenizerConfig

FORMAT = 2
"""Of tokenizer.json."""
_MUCH = 1 << 20
"""Characters from which ids are made on a device: below, its transfers and kernels cost more than the work."""


def described(tokenizer: Tokenizer) -> str:
    """Return a tokenizer in a few words, for its `repr`."""
    return f"{type(tokenizer).__name__}({tokenizer.kind}, {tokenizer.vocab_size:,} ids)"


def prepared(lines: Sequence[str], lowercase: bool) -> Sequence[str]:
    """Return the lines, in lower case where asked; TypeError for one line in the place of a list."""
    if isinstance(lines, str):
        raise TypeError("lines must be a list of str, got one str; put it into a list")
    return [line.lower() for line in lines] if lowercase else lines


@contextlib.contextmanager
def naming_surrogates(lines: Iterable[str]) -> Iterator[None]:
    """Turn an encoding error, which knows nothing of lines, into the DataError that names the line."""
    try:
        yield
    except UnicodeEncodeError:
        for number, line in enumerate(lines, 1):
            check_unicode(line, f"line {number}")
        raise


def checked_rows(ids: Ragged | Sequence[Sequence[int]], vocab_size: int) -> Ragged:
    """Return rows of ids on the CPU; DataError unless every id is in [0, vocab_size)."""
    rows = ids.to("cpu") if isinstance(ids, Ragged) else Ragged.from_lists(ids)
    values = widen(rows.values)
    wrong = ((values < 0) | (values >= vocab_size)).nonzero().view(-1)
    if len(wrong):
        at = int(wrong[0])
        row = int(torch.searchsorted(rows.offsets, at, right=True)) - 1
        raise DataError(
            f"id {int(values[at])} at row {row}, position {at - int(rows.offsets[row])} is outside the vocabulary, "
            f"0 to {vocab_size - 1}"
        )
    return rows


def encoded(tokenizer: Tokenizer, lines: Sequence[str], device: torch.device | str) -> Ragged:
    """Return the ids of every line on the CPU, made on a device where that is another and they are many."""
    if torch.device(device).type == "cpu" or sum(map(len, lines)) < _MUCH:
        return tokenizer.encode(lines)
    with naming_surrogates(lines):
        return tokenizer.encode_bytes(Ragged.from_text(lines).to(device)).to("cpu")


def encode_as_lines(tokenizer: Tokenizer, text: Ragged) -> Ragged:
    """Return the ids of rows of bytes by way of strings, for what cannot be done on bytes."""
    content = text.values.cpu().numpy().tobytes()
    lines = [content[first:end].decode(errors="replace") for first, end in pairwise(text.offsets.tolist())]
    return tokenizer.encode(lines).to(text.device)


def token_of(i: int, symbols: Sequence[str]) -> str:
    """Return the special or the symbol of an id."""
    return SPECIALS[i] if 0 <= i < FIRST else symbols[i - FIRST]


def byte_surface(byte: int) -> str:
    """Return the ASCII character of a byte; U+FFFD for a byte of a longer character."""
    return chr(byte) if byte < 0x80 else "\ufffd"


def lines_to_stream(tokenizer: Tokenizer, text: str) -> Tensor:
    """Return the ids of running text with an eos in the place of every newline."""
    lines = text.split("\n")
    ids = tokenizer.encode(lines)
    # Row k of the lines is followed by one eos, except the last one.
    at = torch.arange(ids.values.numel()) + torch.repeat_interleave(torch.arange(ids.rows), ids.lengths)
    stream = torch.full((ids.values.numel() + ids.rows - 1,), tokenizer.eos, dtype=torch.int32)
    stream[at] = ids.values
    return stream


def stream_to_lines(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return the text of a stream of ids, every eos as a newline."""
    rows: list[list[int]] = [[]]
    for i in ids:
        if i == tokenizer.eos:
            rows.append([])
        else:
            rows[-1].append(i)
    return "\n".join(tokenizer.decode(rows))


def lowered(lines: Iterable[str], lowercase: bool) -> Iterable[str]:
    """Yield the lines, in lower case where asked."""
    return (line.lower() for line in lines) if lowercase else lines


def frequent(counts: Counter[str], config: "TokenizerConfig", noun: str, *, rare: int) -> list[str]:
    """Return the units that get ids, by falling count, then by code points: independent of the order of lines.

    With an automatic `min_count`, units seen once get none if there are more than `rare` units and those seen once
    make at most 5 % of the text: then they are what `unk` is learnt from.
    """
    least = config.min_count
    if not least:
        once = sum(count == 1 for count in counts.values())
        least = 2 if len(counts) > rare and once <= 0.05 * counts.total() else 1
    extra = list(dict.fromkeys(config.symbols))
    extra_set = set(extra)
    kept = sorted(
        (unit for unit, n in counts.items() if n >= least and unit not in extra_set), key=lambda u: (-counts[u], u)
    )
    symbols = extra + kept
    if config.vocab_size > FIRST + len(symbols):
        raise DataError(
            f"tokenizer.vocab_size = {config.vocab_size}, but the text has only {len(symbols)} {noun} seen "
            f"{least} times or more, and {FIRST} ids are special; use 0 (automatic) or at most {FIRST + len(symbols)}"
        )
    if config.vocab_size and config.vocab_size <= FIRST + len(extra):
        raise DataError(
            f"tokenizer.vocab_size = {config.vocab_size} leaves no room for {noun} beside {FIRST} special ids "
            f"and {len(extra)} tokenizer.symbols; use 0 (automatic) or more"
        )
    limit = config.vocab_size - FIRST if config.vocab_size else MOST_UNITS
    return symbols[:limit]


MOST_UNITS = 32_000
"""Words or characters that get an id when the size is automatic."""


def save_files(folder: Path, options: dict[str, Any], fingerprint: str, symbols: Sequence[str] | None = None) -> None:
    """Write tokenizer.json, and vocab.txt where there are symbols, into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    if symbols is not None:
        # One JSON string per line, so that a token may hold a newline and the file can still be read by eye.
        write_text(folder / "vocab.txt", "".join(json.dumps(symbol, ensure_ascii=False) + "\n" for symbol in symbols))
    write_json(folder / "tokenizer.json", {"format": FORMAT, **options, "fingerprint": fingerprint})


def load_symbols(folder: Path) -> list[str]:
    """Return the symbols in vocab.txt; DataError if it is altered."""
    path = folder / "vocab.txt"
    try:
        content = path.read_bytes().decode().removesuffix("\n")
        symbols = [json.loads(line) for line in content.split("\n")] if content else []
        wrong = next((symbol for symbol in symbols if not isinstance(symbol, str)), "")
        if wrong != "":
            raise ValueError(f"{wrong!r} is no string")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not one JSON string per line ({error}); the file is altered") from None
    return symbols


def fingerprint_of(options: dict[str, Any], *parts: str) -> str:
    """Return the SHA-256 of all that changes ids: the options, and the symbols or the hash of a model."""
    described = json.dumps([FORMAT, options, parts], sort_keys=True)
    return sha256(described.encode()).hexdigest()
