"""From files to a corpus folder, in memory that does not grow with their size.

The text is read several times: to look at it and to decide which rows are held out, to learn a tokenizer from it, to
write its ids, to hash it. What is split, learnt and packed is what `seqgen.data.prepare` makes of the same files in
memory, so that a run on the folder has the bytes of a run on the files. Memory holds a MiB of text, or its longest line
where that is longer, and a bit for every row.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from seqgen.core import config as config_of
from seqgen.core.errors import ConfigError, DataError
from seqgen.core.files import new_folder, write_json
from seqgen.data.corpora.oracle import PREFIX
from seqgen.data.corpus import CorpusFolder, SplitWriter, described, open_corpus
from seqgen.data.formats import STDIN
from seqgen.data.prepare import (
    DataConfig,
    Mode,
    RowPacker,
    check_fit,
    check_held_out,
    is_running,
    line_hash,
    reading,
    row_text,
    split_limit,
    text_fingerprint,
    train_tokenizers,
)
from seqgen.data.text import Records, has_fields, record_blocks
from seqgen.data.tokenizers import (
    Tokenizer,
    TokenizerConfig,
    check_paired,
    choose_kind,
    load_tokenizer,
    newline_is_character,
    resolved,
    source_of,
    train_tokenizer,
)

_RUNNING: tuple[Mode, ...] = ("stream", "window")


def build_corpus(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    data: DataConfig | None = None,
    tokenizer: TokenizerConfig | None = None,
    tokenizer_folder: str | Path | None = None,
    seed: int = 1,
) -> CorpusFolder:
    """Write the text of files as a corpus folder, which appears whole or not at all, and open it.

    `data` and `tokenizer` are settings as for training; with `tokenizer_folder` the tokenizer saved there is used. The
    seed draws the part of very large text that pieces are learnt from. Raises DataError for text that cannot be used.
    """
    out = Path(out)
    if out.exists():
        raise DataError(f"{out} exists; use another --out, or remove it")
    data = replace(data or DataConfig(), files=tuple(map(str, files)))
    config = tokenizer or TokenizerConfig()
    if any(file == STDIN or file.startswith(PREFIX) for file in (*data.files, *data.valid)):
        raise DataError("a corpus is built from files that can be read several times; write the text to a file first")
    text = _Text(data, data.files)
    held_out = _Text(data, data.valid) if data.valid else None
    if held_out is not None:
        check_held_out(held_out.blocks(), text.blocks(), data.valid)
    data = replace(data, mode=_mode(data, text))
    given = None if tokenizer_folder is None else load_tokenizer(tokenizer_folder)
    if given is not None:
        check_paired(given, data.source != "" and data.source_tokenizer != "shared", Path(str(tokenizer_folder)))
    with new_folder(out) as folder:
        write = _write_stream if data.mode in _RUNNING else _write_sentences
        made, config, splits, more = write(_Build(folder, data, config, text, held_out, given, seed))
        made.save(folder / "tokenizer")
        source = source_of(made)
        if source is not None:
            data = replace(data, source_tokenizer=source.kind)
        more |= {
            "data": config_of.to_dict(replace(data, files=(), max_length=data.max_length or more["longest"])),
            "tokenizer": config_of.to_dict(resolved(config, made)),
            "text_sha256": {mode: text.fingerprint(replace(data, mode=mode)) for mode in _modes(data)},
        }
        meta = described(splits, vocab_size=_ids(made), fingerprint=made.fingerprint, more=more)
        write_json(folder / "meta.json", meta)
    return open_corpus(out, verify=False)


def _ids(tokenizer: Tokenizer) -> int:
    """Return how many ids rows may hold."""
    source = source_of(tokenizer)
    return tokenizer.vocab_size + (0 if source is None else source.vocab_size)


def _modes(data: DataConfig) -> tuple[Any, ...]:
    """Return the modes a corpus can be trained in."""
    return _RUNNING if data.mode in _RUNNING else (data.mode,)


# ----------------------------------------------------------------------------------------------------- looking at it


class _Text:
    """The rows of files, read again whenever they are gone through, and what one look at all of them found."""

    def __init__(self, data: DataConfig, files: Sequence[str]) -> None:
        self.data, self.files = data, files
        self.rows = self.filled = self.characters = 0
        """Rows, rows that are not blank, and characters with a newline after each row."""
        self.place = self.first = ""
        """Where the first row stands, and the first that is not blank."""
        self.lowest, self.highest = 1 << 64, -1
        """Least and greatest hash of rows that are not blank, where a hash decides which are held out."""
        self._lines = self._blank = self._blank_at_end = self._long = 0
        self._last_long = self._last_long_stripped = False
        # The hash below which rows are held out is this one for all but a few lines of text, so that one look at the
        # hashes decides: a bit for every row, block by block.
        self._likely = int(data.valid_share * 2**64)
        self._below: list[np.ndarray] = []
        self._low = 0
        hashes, looks = data.mode not in _RUNNING and not data.valid, data.mode == "auto"
        for records in self.blocks():
            self.place = self.place or records.where(0)
            self.rows += len(records.texts)
            self.characters += sum(map(len, records.texts)) + len(records.texts)
            filled = _filled(records)
            self.filled += len(filled)
            if filled and not self.first:
                self.first = records.where(filled[0])
            if hashes:
                numbers = [line_hash(row_text(records, row)) for row in filled]
                self.lowest = min([self.lowest, *numbers])
                self.highest = max([self.highest, *numbers])
                below = np.zeros(len(records.texts), bool)
                below[filled] = [number < self._likely for number in numbers]
                self._below.append(np.packbits(below))
                self._low += int(below.sum())
            if looks:
                for text in records.texts:
                    self._look(text)
        if not self.rows:
            raise DataError(f"{', '.join(files)}: empty; expected text, one or more lines")
        if not self.filled:
            raise DataError(f"{self.place}: only blank lines; expected text")

    def blocks(self) -> Iterator[Records]:
        """Yield all rows, about a MiB at a time."""
        return record_blocks(self.files, **reading(self.data), warn=not self.rows)

    def splits(self, limit: int) -> Iterator[tuple[Records, list[int], list[int]]]:
        """Yield every block with its rows for training and those held out, which have a hash below `limit`."""
        marks = iter(self._below)
        for records in self.blocks():
            filled = _filled(records)
            low: set[int] = set()
            if limit == self._likely:
                bits = next(marks, np.empty(0, np.uint8))
                if len(bits) != -(-len(records.texts) // 8):
                    raise DataError(f"{', '.join(self.files)}: changed while it was read; build the corpus again")
                low = set(np.flatnonzero(np.unpackbits(bits)).tolist())
            elif limit:
                low = {row for row in filled if line_hash(row_text(records, row)) < limit}
            yield records, [row for row in filled if row not in low], [row for row in filled if row in low]

    def training_rows(self, limit: int) -> int:
        """Return how many rows `splits` yields for training."""
        if limit in (0, self._likely):
            return self.filled - (self._low if limit else 0)
        return sum(len(rows) for _, rows, _ in self.splits(limit))

    def texts(self) -> Iterator[str]:
        """Yield the text of every row."""
        return (text for records in self.blocks() for text in records.texts)

    def running(self) -> Iterator[tuple[int, str]]:
        """Yield the rows as one text, each ended by a newline: its parts, and the character each begins at."""
        at = 0
        for records in self.blocks():
            part = "\n".join([*records.texts, ""])
            yield at, part
            at += len(part)

    def fingerprint(self, data: DataConfig) -> str:
        """Return the fingerprint of the text, read by these settings."""
        sources = (source for records in self.blocks() for source in records.sources or ()) if data.source else ()
        return text_fingerprint(data, self.rows, self.texts(), sources)

    def _look(self, line: str) -> None:
        """Count a line for `runs`; white space before the first and after the last line that is not blank is none."""
        blank = not line.strip()
        if blank:
            self._blank_at_end += 1
            return
        if self._lines:
            self._lines += self._blank_at_end
            self._blank += self._blank_at_end
            self._long += self._last_long
        else:
            line = line.lstrip()
        self._blank_at_end = 0
        self._lines += 1
        self._last_long, self._last_long_stripped = len(line) > 1000, len(line.rstrip()) > 1000

    @property
    def runs(self) -> bool:
        """Whether the lines look like running text."""
        return is_running(self._lines, self._blank, self._long + self._last_long_stripped)


def _mode(data: DataConfig, text: _Text) -> Mode:
    if data.source and data.mode not in ("auto", "sentence"):
        raise ConfigError(f"data.source needs data.mode = sentence, got {data.mode}: a condition belongs to one row")
    if data.mode != "auto":
        return data.mode
    if data.source or has_fields(data.files, data.format):
        return "sentence"
    return "stream" if text.runs else "sentence"


class _Lines(Collection[str]):
    """Lines that are made anew whenever they are gone through."""

    def __init__(self, make: Callable[[], Iterable[str]], count: int) -> None:
        self._make, self._count = make, count

    def __iter__(self) -> Iterator[str]:
        return iter(self._make())

    def __len__(self) -> int:
        return self._count

    def __contains__(self, line: object) -> bool:
        return any(line == other for other in self)


@dataclass(frozen=True)
class _Build:
    """What is written into which folder, and by what."""

    folder: Path
    data: DataConfig
    config: TokenizerConfig
    text: _Text
    held_out: _Text | None
    given: Tokenizer | None
    seed: int


_Written: TypeAlias = tuple[Tokenizer, TokenizerConfig, dict[str, SplitWriter], dict[str, Any]]


def _filled(records: Records) -> list[int]:
    return [row for row, text in enumerate(records.texts) if text.strip()]


# --------------------------------------------------------------------------------------------------------- sentences


def _write_sentences(build: _Build) -> _Written:
    folder, data, config, text, held_out = build.folder, build.data, build.config, build.text, build.held_out
    limit = 0 if held_out is not None else split_limit(text.lowest, text.highest, data.valid_share, text.first)

    def train_lines() -> Iterator[str]:
        return (records.texts[row] for records, rows, _ in text.splits(limit) for row in rows)

    def conditions() -> Iterator[str]:
        return ((records.sources or [])[row] for records, rows, _ in text.splits(limit) for row in rows)

    train_rows = text.training_rows(limit)
    lines, sources = _Lines(train_lines, train_rows), _Lines(conditions, train_rows) if data.source else None
    tokenizer = build.given or train_tokenizers(data, config, lines, sources, seed=build.seed)
    if build.given is not None or config.model:
        check_fit(tokenizer, _Lines(train_lines, train_rows))
    packers = {"train": RowPacker(data, tokenizer, "training"), "valid": RowPacker(data, tokenizer, "held-out")}
    size = _ids(tokenizer)
    characters = 0
    with SplitWriter(folder, "train", vocab_size=size) as train, SplitWriter(folder, "valid", vocab_size=size) as valid:
        writers = {"train": train, "valid": valid}

        def write(split: str, records: Records, rows: list[int]) -> int:
            if not rows:
                return 0
            corpus, rows = packers[split].pack(records, rows)
            lines = [records.texts[row] for row in rows]
            sources = None if records.sources is None else [records.sources[row] for row in rows]
            if rows:
                writers[split].add(corpus, lines, sources)
            return sum(map(len, lines)) + len(lines)

        for records, train_part, valid_part in text.splits(limit):
            write("train", records, train_part)
            characters += write("valid", records, valid_part)
        if held_out is not None:
            for records, valid_part, _ in held_out.splits(0):
                characters += write("valid", records, valid_part)
    for packer in packers.values():
        packer.finish()
    longest = max(packer.longest for packer in packers.values())
    return tokenizer, config, writers, {"longest": longest, "valid_characters": characters}


# ------------------------------------------------------------------------------------------------------ running text


def _write_stream(build: _Build) -> _Written:
    folder, data, config, text, held_out = build.folder, build.data, build.config, build.text, build.held_out
    given = build.given
    if given is None:
        config = replace(config, kind=choose_kind(config, _Lines(text.texts, text.rows)))
    kind = config.kind if given is None else given.kind
    cut = text.characters if held_out is not None else _cut_place(text, data.valid_share, newline_is_character(kind))

    def train_parts() -> Iterator[str]:
        return (part[: cut - at] for at, part in text.running() if at < cut)

    def valid_parts() -> Iterator[str]:
        if held_out is not None:
            return (part for _, part in held_out.running())
        return (part[max(0, cut - at) :] for at, part in text.running() if at + len(part) > cut)

    def train_lines() -> Iterator[str]:
        return (line for part in train_parts() for line in part.split("\n"))

    if not (_any_filled(train_parts()) and _any_filled(valid_parts())):
        raise DataError(
            f"{text.place}: running text of {text.characters} characters is too short "
            f"to hold out {data.valid_share:.0%} of it; give more text or data.valid"
        )
    if given is None:
        # A whole text has its newlines as characters, and one has to be there for a text to start with.
        whole = _Lines(lambda: chain(train_parts(), "\n"), text.rows)
        tokenizer = train_tokenizer(
            config, whole if newline_is_character(kind) else _Lines(train_lines, text.rows), seed=build.seed
        )
    else:
        tokenizer = given
    if given is not None or config.model:
        check_fit(tokenizer, _Lines(train_lines, text.rows))
    size, start = tokenizer.vocab_size, torch.tensor([tokenizer.newline], dtype=torch.int32)
    characters = 0
    with SplitWriter(folder, "train", vocab_size=size) as train, SplitWriter(folder, "valid", vocab_size=size) as valid:
        for writer, parts in ((train, train_parts()), (valid, valid_parts())):
            writer.add_stream(start)
            for part in parts:
                # Every part but a split's last ends in a newline, so that its ids do not depend on what follows.
                writer.add_stream(tokenizer.encode_stream(part))
                writer.add_lines(part.removesuffix("\n").split("\n"))
                characters += len(part) if writer is valid else 0
            writer.end_stream()
    more = {"longest": 0, "valid_characters": characters}
    return tokenizer, config, {"train": train, "valid": valid}, more


def _any_filled(parts: Iterable[str]) -> bool:
    return any(part.strip() for part in parts)


def _cut_place(text: _Text, share: float, anywhere: bool) -> int:
    """Return where the held-out tail begins: at its character, or after the newline or space that follows."""
    cut = int(text.characters * (1 - share))
    if anywhere:
        return cut
    space = -1
    for at, part in text.running():
        if at + len(part) <= cut:
            continue
        newline = part.find("\n", max(0, cut - at))
        if newline >= 0 and at + newline < text.characters - 1:
            return at + newline + 1
        found = part.find(" ", max(0, cut - at))
        space = at + found if space < 0 and found >= 0 else space
    return max(cut - 1, space) + 1
