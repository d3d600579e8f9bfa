"""From files to a corpus folder, in memory that does not grow with their size.

The text is read several times: to look at it and to decide which rows are held out, to learn a tokenizer from it, to
write its ids, to hash it. What is split, learnt and packed is what `seqgen.data.prepare` makes of the same files in
memory, so that a run on the folder has the bytes of a run on the files. Memory holds a few MiB of text, or its longest
lines where those are longer, and a bit for every row.

Several processes make ids of blocks of text, this one writes them in order; so the bytes do not depend on how many
there are. What is done is put on disk now and then, in a folder `.NAME.building` beside the corpus: a build that was
killed goes on from there.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from seqgen._version import __version__
from seqgen.core import config as config_of
from seqgen.core.errors import ConfigError, DataError
from seqgen.core.files import owned, put_folder, read_json, sweep, write_json
from seqgen.core.workers import in_order
from seqgen.data.corpora.oracle import PREFIX
from seqgen.data.corpus import CorpusFolder, Packed, SplitWriter, described, open_corpus, packed, packed_stream
from seqgen.data.formats import STDIN
from seqgen.data.prepare import (
    DataConfig,
    Mode,
    Tally,
    check_fit,
    check_held_out,
    is_running,
    line_hash,
    pack_rows,
    reading,
    row_text,
    split_limit,
    text_fingerprint,
    train_tokenizers,
)
from seqgen.data.text import Records, files_in, has_fields, record_blocks
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

_LOG = logging.getLogger("seqgen")

_RUNNING: tuple[Mode, ...] = ("stream", "window")

_SPLITS = {"train": "training", "valid": "held-out"}

_EVERY = 128
"""Blocks of text between two times that what is done is put on disk."""


def build_corpus(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    data: DataConfig | None = None,
    tokenizer: TokenizerConfig | None = None,
    tokenizer_folder: str | Path | None = None,
    seed: int = 1,
    workers: int = 1,
) -> CorpusFolder:
    """Write the text of files as a corpus folder, which appears whole or not at all, and open it.

    `data` and `tokenizer` are settings as for training; with `tokenizer_folder` the tokenizer saved there is used. The
    seed draws the part of very large text that pieces are learnt from. `workers` processes make the ids; the folder is
    the same for any number. The same call goes on with a build that was interrupted or killed. Raises DataError for
    text that cannot be used, and RunError where another process is at it.
    """
    out = Path(out)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    beside = out.with_name(f".{out.name}.building")
    if out.exists():
        shutil.rmtree(beside, ignore_errors=True)  # of a build that was killed when all was done
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
    with owned(beside):
        build = _Build(beside, data, config, text, held_out, given, seed, workers)
        try:
            build.begin()
            write = _write_stream if data.mode in _RUNNING else _write_sentences
            made, config, splits, more = write(build)
            source = source_of(made)
            if source is not None:
                data = replace(data, source_tokenizer=source.kind)
            more |= {
                "data": config_of.to_dict(replace(data, files=(), max_length=data.max_length or more["longest"])),
                "tokenizer": config_of.to_dict(resolved(config, made)),
                "text_sha256": {mode: text.fingerprint(replace(data, mode=mode)) for mode in _modes(data)},
            }
            meta = described(splits, vocab_size=_ids(made), fingerprint=made.fingerprint, more=more)
            write_json(build.folder / "meta.json", meta)
            put_folder(build.folder, out)
            build.remove()
        except Exception:
            build.remove()
            raise
        except BaseException:
            _LOG.info("%s: interrupted; the same command goes on from here", out)
            raise
    with contextlib.suppress(OSError):  # not empty: the next has begun
        beside.rmdir()
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

    def looked(self) -> dict[str, Any]:
        """Return what tells this text from another, or from itself after a change, without reading it again."""
        stats = [Path(file).stat() for file in files_in(self.files)]
        return {
            "files": [[stat.st_size, stat.st_mtime_ns] for stat in stats],
            "rows": [self.rows, self.filled, self._low, self.characters],
            "hashes": [self.lowest, self.highest],
        }

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
    """What is written into which folder, and by what; and how far it is, on disk."""

    beside: Path
    data: DataConfig
    config: TokenizerConfig
    text: _Text
    held_out: _Text | None
    given: Tokenizer | None
    seed: int
    workers: int

    @property
    def folder(self) -> Path:
        """Where the corpus is being made."""
        return self.beside / "corpus"

    def begin(self) -> None:
        """Keep what a build of the same text by the same settings has left; remove what any other has."""
        looked = [text.looked() for text in (self.text, self.held_out) if text is not None]
        settings = {
            "version": __version__,
            "data": config_of.to_dict(self.data),
            "tokenizer": config_of.to_dict(self.config),
            "given": "" if self.given is None else self.given.fingerprint,
            "seed": self.seed,
            "text": looked,
        }
        path = self.beside / "settings.json"
        before = read_json(path) if path.is_file() else None
        sizes = {name: size for part in self._done()["written"].values() for name, size in part["bytes"].items()}
        whole = all(
            (self.folder / name).is_file() and (self.folder / name).stat().st_size >= sizes[name] for name in sizes
        )
        if before != settings or not whole:
            self.remove()
            self.folder.mkdir()
            write_json(path, settings)
        sweep(self.folder)

    def remove(self) -> None:
        """Remove all but the lock."""
        for path in (self.folder, self.beside / "tokenizer"):
            shutil.rmtree(path, ignore_errors=True)
        for name in ("settings.json", "progress.json"):
            (self.beside / name).unlink(missing_ok=True)

    def tokenizer(self, make: Callable[[], Tokenizer], fits: Collection[str]) -> Tokenizer:
        """Return the tokenizer: that of the build before, the given one, or one made now; from then on it is on disk.

        `fits` is text that a tokenizer from elsewhere must know.
        """
        place = self.folder / "tokenizer"
        if place.is_dir():
            return load_tokenizer(place)
        tokenizer = self.given or make()
        if self.given is not None or self.config.model:
            check_fit(tokenizer, fits)
        shutil.rmtree(self.beside / "tokenizer", ignore_errors=True)
        tokenizer.save(self.beside / "tokenizer")
        put_folder(self.beside / "tokenizer", place)
        return tokenizer

    def write(
        self, make: Callable[..., Callable[[Any], "_Part"]], tokenizer: Tokenizer, items: Iterator[Any]
    ) -> tuple[dict[str, SplitWriter], dict[str, Tally], int]:
        """Write what processes make of items; return what wrote it, what was counted, and characters held out."""
        done = self._done()
        tallies = {split: Tally(**done["tallies"].get(split, {})) for split in _SPLITS}
        characters, begin = int(done["characters"]), int(done["items"])
        if begin:
            _LOG.info("going on with a build that was interrupted: %d parts of the text are done", begin)
        arguments = (self.folder / "tokenizer", self.data, _ids(tokenizer))
        parts = in_order(make, arguments, islice(items, begin, None), workers=self.workers)
        with contextlib.ExitStack() as stack:
            writers = {
                split: stack.enter_context(SplitWriter(self.folder, split, position=done["written"].get(split)))
                for split in _SPLITS
            }
            for number, part in enumerate(parts, begin + 1):
                writers[part.split].add(part.packed)
                tallies[part.split].add(part.tally, self.data)
                characters += part.characters if part.split == "valid" else 0
                if number % _EVERY == 0:
                    written = {split: writer.position() for split, writer in writers.items()}
                    counted = {split: asdict(tally) for split, tally in tallies.items()}
                    so_far = {"items": number, "characters": characters, "tallies": counted, "written": written}
                    write_json(self.beside / "progress.json", so_far)
            if self.data.mode in _RUNNING:
                for writer in writers.values():
                    writer.end_stream()
        return writers, tallies, characters

    def _done(self) -> dict[str, Any]:
        path = self.beside / "progress.json"
        if not path.is_file():
            return {"items": 0, "characters": 0, "tallies": {}, "written": {}}
        return dict(read_json(path))


@dataclass(frozen=True)
class _Part:
    """A part of a split as it is written."""

    split: str
    packed: Packed
    tally: Tally
    characters: int
    """Of its texts, with a newline after each."""


_Written: TypeAlias = tuple[Tokenizer, TokenizerConfig, dict[str, SplitWriter], dict[str, Any]]


def _filled(records: Records) -> list[int]:
    return [row for row, text in enumerate(records.texts) if text.strip()]


# --------------------------------------------------------------------------------------------------------- sentences


def _write_sentences(build: _Build) -> _Written:
    data, config, text, held_out = build.data, build.config, build.text, build.held_out
    limit = 0 if held_out is not None else split_limit(text.lowest, text.highest, data.valid_share, text.first)

    def train_lines() -> Iterator[str]:
        return (records.texts[row] for records, rows, _ in text.splits(limit) for row in rows)

    def conditions() -> Iterator[str]:
        return ((records.sources or [])[row] for records, rows, _ in text.splits(limit) for row in rows)

    train_rows = text.training_rows(limit)
    lines, sources = _Lines(train_lines, train_rows), _Lines(conditions, train_rows) if data.source else None
    tokenizer = build.tokenizer(lambda: train_tokenizers(data, config, lines, sources, seed=build.seed), lines)

    def parts() -> Iterator[tuple[str, Records]]:
        for records, train_part, valid_part in text.splits(limit):
            yield "train", _rows_of(records, train_part)
            yield "valid", _rows_of(records, valid_part)
        for records, valid_part, _ in () if held_out is None else held_out.splits(0):
            yield "valid", _rows_of(records, valid_part)

    items = ((split, records) for split, records in parts() if records.texts)
    writers, tallies, characters = build.write(_packs_sentences, tokenizer, items)
    for split, name in _SPLITS.items():
        tallies[split].finish(data, name)
    longest = max(tally.longest for tally in tallies.values())
    return tokenizer, config, writers, {"longest": longest, "valid_characters": characters}


def _rows_of(records: Records, rows: list[int]) -> Records:
    sources = None if records.sources is None else [records.sources[row] for row in rows]
    return Records(
        [records.texts[row] for row in rows], sources, [records.numbers[row] for row in rows], records.places
    )


def _packs_sentences(folder: Path, data: DataConfig, vocab_size: int) -> Callable[[tuple[str, Records]], _Part]:
    tokenizer = load_tokenizer(folder)

    def pack(item: tuple[str, Records]) -> _Part:
        split, records = item
        corpus, rows, tally = pack_rows(data, tokenizer, records, range(len(records.texts)), "cpu")
        lines = [records.texts[row] for row in rows]
        sources = None if records.sources is None else [records.sources[row] for row in rows]
        written = packed(corpus, lines, sources, vocab_size=vocab_size)
        return _Part(split, written, tally, sum(map(len, lines)) + len(lines))

    return pack


# ------------------------------------------------------------------------------------------------------ running text


def _write_stream(build: _Build) -> _Written:
    data, config, text, held_out = build.data, build.config, build.text, build.held_out
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
    # A whole text has its newlines as characters, and one has to be there for a text to start with.
    whole = _Lines(lambda: chain(train_parts(), "\n"), text.rows)
    lines = _Lines(train_lines, text.rows)
    learnt = whole if newline_is_character(kind) else lines
    tokenizer = build.tokenizer(lambda: train_tokenizer(config, learnt, seed=build.seed), lines)
    items = (
        (split, part, number == 0)
        for split, parts in (("train", train_parts()), ("valid", valid_parts()))
        for number, part in enumerate(parts)
    )
    writers, _, characters = build.write(_packs_stream, tokenizer, items)
    return tokenizer, config, writers, {"longest": 0, "valid_characters": characters}


def _packs_stream(folder: Path, data: DataConfig, vocab_size: int) -> Callable[[tuple[str, str, bool]], _Part]:
    tokenizer = load_tokenizer(folder)

    def pack(item: tuple[str, str, bool]) -> _Part:
        # Every part but a split's last ends in a newline, so that its ids do not depend on what follows.
        split, part, first = item
        start = torch.tensor([tokenizer.newline] * first, dtype=torch.int32)
        ids = torch.cat([start, tokenizer.encode_stream(part)])
        written = packed_stream(ids, part.removesuffix("\n").split("\n"), vocab_size=vocab_size)
        return _Part(split, written, Tally(), len(part))

    return pack


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
