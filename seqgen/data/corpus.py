"""A corpus: packed ids of every row with their special ids, ready to be gathered into batches; in memory or on disk.

On disk it is a folder that opens at once, whatever its size, because its arrays are mapped and not read:

    meta.json                 format, sizes, settings, and the SHA-256 of every file below
    tokenizer/                the tokenizer that made the ids
    train.ids.bin             ids, uint16 or uint32, little-endian, one row after the other
    train.ids-at.bin          int64 (R+1,): where rows begin
    train.text.bin, text-at   the text of the rows in UTF-8, likewise
    train.loss.bin            int64 (R,): where the loss of a row with a condition begins; else no such file
    valid.*                   the held-out split
"""

import hashlib
import mmap
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from io import BufferedRandom
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from seqgen._version import __version__
from seqgen.core.errors import DataError
from seqgen.core.files import read_json, sha256_file
from seqgen.data.ragged import Ragged, utf8

_FORMAT = "seqgen corpus 2"
_SPLITS = ("train", "valid")
_BLOCK = 1 << 22  # ids looked at together


@dataclass(frozen=True)
class Corpus:
    """Token ids of one split (training or held out), as the batches gather them.

    A sentence is a row `[start, x1..xn, eos]`, a conditional one `[start, s1..sm, sep, x1..xn, eos]`; running text is
    one row `[start, x1..xN]`.
    """

    ids: Ragged
    """All rows, special ids included."""
    loss_from: Tensor | None
    """(R,) int64, the first input position of a row whose target counts; None: all of them."""
    fingerprint: str
    """Fingerprint of the tokenizer that made the ids."""

    def to(self, device: torch.device | str) -> "Corpus":
        """Return the same corpus on another device."""
        loss_from = None if self.loss_from is None else self.loss_from.to(device)
        return Corpus(self.ids.to(device), loss_from, self.fingerprint)


class StoredLines(Sequence[str]):
    """Lines of text in a mapped file; each is read when it is asked for. A slice is a list."""

    def __init__(self, text: np.ndarray, offsets: np.ndarray, name: str) -> None:
        self._text, self._offsets, self._name = text, offsets, name

    def check(self, folder: Path) -> None:
        """Raise DataError where an offset leads out of the text."""
        at = self._offsets
        falls = any(bool((np.diff(at[k : k + _BLOCK + 1]) < 0).any()) for k in range(0, len(at), _BLOCK))
        if not len(at) or at[0] != 0 or at[-1] != len(self._text) or falls:
            raise DataError(f"{folder}: offsets of text do not run from 0 to its {len(self._text)} bytes; altered")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __repr__(self) -> str:
        return f"StoredLines({len(self)} lines)"

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(f"line {at} of {len(self)}")
        at %= len(self)
        try:
            return self._text[self._offsets[at] : self._offsets[at + 1]].tobytes().decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._name}, line {at + 1}: not UTF-8 ({error}); the corpus is altered, build it again"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, repr=False)
class CorpusFolder:
    """A corpus on disk, opened: its arrays are mapped, so what is not used is not read."""

    path: Path
    train: Corpus
    valid: Corpus
    train_lines: StoredLines
    """Texts of the training rows; running text is cut at its newlines."""
    valid_lines: StoredLines
    """Texts of the held-out rows, likewise."""
    valid_sources: StoredLines | None
    """Conditions of the held-out rows."""
    meta: dict[str, Any]
    """What meta.json holds."""
    stamp: dict[str, list[int]]
    """Size and time of change (ns) of every file: what says that they are the files whose hashes were right."""

    def __repr__(self) -> str:
        return f"CorpusFolder({self.path}: {len(self.train_lines)} lines to train on, {len(self.valid_lines)} held out)"

    def _repr_html_(self) -> str:
        first = "".join(f"<li>{escape(line)}</li>" for line in self.train_lines[:10])
        return f"<p>{escape(repr(self))}</p><ol>{first}</ol>"


def is_corpus(path: str | Path) -> bool:
    """Return whether a path is a folder that holds a corpus."""
    return (Path(path) / "meta.json").is_file()


def open_corpus(folder: str | Path, *, verify: bool | Mapping[str, list[int]] = True) -> CorpusFolder:
    """Return the corpus in a folder, its arrays mapped on the CPU.

    The sizes of all files are checked, and with `verify` their SHA-256, which reads them once; with the `stamp` of the
    folder as it was verified before, they are read only where it differs. Raises DataError where the folder is none, is
    not whole, or was altered.
    """
    folder = Path(folder)
    if not is_corpus(folder):
        raise DataError(f"{folder}: no meta.json; expected a folder that `seqgen corpus build FILES --out DIR` wrote")
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise DataError(f"{folder / 'meta.json'}: expected format {_FORMAT!r}; written by another version, or altered")
    try:
        places = {name: folder / name for name in ("meta.json", *meta["files"])}
        # taken before anything is read: what changes meanwhile has another stamp the next time
        stamp = {name: [p.stat().st_size, p.stat().st_mtime_ns] for name, p in places.items() if p.is_file()}
        verify = stamp != verify if isinstance(verify, Mapping) else verify
        for name, stored in meta["files"].items():
            _check_file(folder / name, stored, verify)
        train, valid = (_opened(folder, split, meta) for split in _SPLITS)
        lines = {split: _lines(folder, split, "text", meta) for split in _SPLITS}
        sources = _lines(folder, "valid", "source", meta) if "valid.source.bin" in meta["files"] else None
        if verify:
            _check_values(folder, meta, train, valid, [*lines.values(), *([] if sources is None else [sources])])
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"{folder / 'meta.json'}: names a file that cannot be read ({error.strerror}); altered"
        ) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{folder / 'meta.json'}: {error} is missing or wrong; the file is altered") from None
    return CorpusFolder(folder, train, valid, lines["train"], lines["valid"], sources, meta, stamp)


def _check_values(folder: Path, meta: dict[str, Any], train: Corpus, valid: Corpus, texts: list[StoredLines]) -> None:
    """Raise DataError where ids are not in the vocabulary, or an offset leads out of its file: hashes prove neither."""
    vocabulary = int(meta["vocab_size"])
    for split, corpus in zip(_SPLITS, (train, valid), strict=True):
        values = corpus.ids.values.numpy().view("<u2" if meta["dtype"] == "uint16" else "<u4")
        for first in range(0, len(values), _BLOCK):
            if (largest := int(values[first : first + _BLOCK].max())) >= vocabulary:
                raise DataError(f"{folder / f'{split}.ids.bin'}: id {largest} of a vocabulary of {vocabulary}; altered")
        begins = corpus.loss_from
        if begins is not None and bool(((begins < 0) | (begins >= corpus.ids.lengths)).any()):
            raise DataError(f"{folder / f'{split}.loss.bin'}: a loss begins outside of its row; altered")
    for lines in texts:
        lines.check(folder)


def _check_file(path: Path, stored: dict[str, Any], verify: bool) -> None:
    if not path.is_file():
        raise DataError(f"{path}: missing; the corpus is not whole, build it again")
    size = path.stat().st_size
    if size != stored["bytes"]:
        raise DataError(
            f"{path}: truncated or altered shard: {size} bytes, expected {stored['bytes']}; build the corpus again"
        )
    if verify and sha256_file(path) != stored["sha256"]:
        raise DataError(
            f"{path}: truncated or altered shard: its SHA-256 is not the stored one; build the corpus again"
        )


def _opened(folder: Path, split: str, meta: dict[str, Any]) -> Corpus:
    dtype = {"uint16": "<i2", "uint32": "<i4"}[meta["dtype"]]
    if meta["dtype"] == "uint16" and meta["vocab_size"] > 1 << 16:
        raise DataError(f"{folder}: ids of a vocabulary of {meta['vocab_size']} do not fit uint16; build it again")
    values, offsets = _mapped(folder / f"{split}.ids.bin", dtype), _mapped(folder / f"{split}.ids-at.bin", "<i8")
    loss = f"{split}.loss.bin"
    loss_from = _tensor(_mapped(folder / loss, "<i8")) if loss in meta["files"] else None
    try:
        ids = Ragged(_tensor(values), _tensor(offsets))
    except DataError as error:
        raise DataError(f"{folder}, {split}: {error}; the corpus is altered, build it again") from None
    if loss_from is not None and len(loss_from) != ids.rows:
        raise DataError(f"{folder / loss}: {len(loss_from)} rows, expected {ids.rows}; build the corpus again")
    return Corpus(ids, loss_from, str(meta["fingerprint"]))


def _lines(folder: Path, split: str, name: str, meta: dict[str, Any]) -> StoredLines:
    text, offsets = (folder / f"{split}.{name}{at}.bin" for at in ("", "-at"))
    return StoredLines(_mapped(text, "|u1"), _mapped(offsets, "<i8"), str(text))


def _mapped(path: Path, dtype: str) -> np.ndarray:
    """Return a file as an array that is read as it is used.

    Mapped shared and for reading only: of a private mapping that may be written a system wants to be sure that it could
    hold it in memory.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return np.empty(0, dtype)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype)


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # That torch does not guard a read-only array against writing; nothing writes into a corpus.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


# ------------------------------------------------------------------------------------------------------------- write


@dataclass(frozen=True)
class Packed:
    """Rows as bytes of the files: NumPy arrays, which go from process to process as they are."""

    ids: np.ndarray
    """Ids of all rows, in the type that the vocabulary needs."""
    lengths: np.ndarray | None
    """Of every row of ids; None: a part of running text."""
    loss_from: np.ndarray | None
    text: tuple[np.ndarray, np.ndarray]
    """Bytes of the texts in UTF-8, and the length of each."""
    source: tuple[np.ndarray, np.ndarray] | None
    """Those of the conditions."""


def packed(corpus: Corpus, lines: Sequence[str], sources: Sequence[str] | None = None, *, vocab_size: int) -> Packed:
    """Return rows and their texts as they are written."""
    ids = corpus.ids.values.numpy().astype(_dtype(vocab_size))
    loss_from = None if corpus.loss_from is None else corpus.loss_from.numpy().astype("<i8")
    source = None if sources is None else _bytes(sources)
    return Packed(ids, corpus.ids.lengths.numpy(), loss_from, _bytes(lines), source)


def packed_stream(ids: Tensor, lines: Sequence[str], *, vocab_size: int) -> Packed:
    """Return a part of running text as it is written."""
    return Packed(ids.numpy().astype(_dtype(vocab_size)), None, None, _bytes(lines), None)


def _bytes(lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    values, offsets = utf8(lines)
    return values, np.diff(offsets)


def _dtype(vocab_size: int) -> str:
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


class SplitWriter:
    """Writes one split of a corpus folder bit by bit; use it in a `with` block, and keep `files` for meta.json.

    With `position`, which another writer's `position` gave, it goes on where that one was; what was written after is
    cut off.
    """

    def __init__(self, folder: Path, split: str, *, position: dict[str, Any] | None = None) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        """Bytes and SHA-256 of every file, once the block has ended."""
        position = position or {"rows": 0, "tokens": 0, "lines": 0, "ends": {}, "bytes": {}}
        self.rows, self.tokens, self.lines = (int(position[name]) for name in ("rows", "tokens", "lines"))
        self._folder, self._split = folder, split
        self._streams: dict[str, _Hashed] = {}
        self._ends: dict[str, int] = dict(position["ends"])
        self._sizes: dict[str, int] = position["bytes"]
        self._exit = ExitStack()

    def __enter__(self) -> "SplitWriter":
        for name in self._sizes:
            self._stream(name.split(".")[1])
        # a split may be without rows for a while, but never without these files
        self._append_offsets("ids", np.empty(0, np.int64))
        self._append_offsets("text", np.empty(0, np.int64))
        self._stream("ids")
        self._stream("text")
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()
        self.files = {name: stream.described() for name, stream in self._streams.items()}

    def add(self, part: Packed) -> None:
        """Append rows, or a part of running text, and their texts."""
        self._stream("ids").write(part.ids)
        if part.lengths is not None:
            self._append_offsets("ids", part.lengths)
            self.rows += len(part.lengths)
        if part.loss_from is not None:
            self._stream("loss").write(part.loss_from)
        for name, texts in (("text", part.text), ("source", part.source)):
            if texts is not None:
                self._stream(name).write(texts[0])
                self._append_offsets(name, texts[1])
        self.tokens += len(part.ids)
        self.lines += len(part.text[1])

    def end_stream(self) -> None:
        """Say that the running text is whole."""
        self._append_offsets("ids", np.array([self.tokens]))
        self.rows = 1

    def position(self) -> dict[str, Any]:
        """Return what has been written so far, as plain JSON, all of it on disk when this returns."""
        sizes = {name: stream.synced() for name, stream in self._streams.items()}
        counts = {"rows": self.rows, "tokens": self.tokens, "lines": self.lines}
        return {**counts, "ends": dict(self._ends), "bytes": sizes}

    def _append_offsets(self, name: str, lengths: np.ndarray) -> None:
        stream = self._stream(f"{name}-at")
        if name not in self._ends:
            self._ends[name] = 0
            stream.write(np.zeros(1, "<i8"))
        ends = self._ends[name] + np.cumsum(lengths)
        stream.write(ends.astype("<i8"))
        self._ends[name] = int(ends[-1]) if len(ends) else self._ends[name]

    def _stream(self, name: str) -> "_Hashed":
        file = f"{self._split}.{name}.bin"
        if file not in self._streams:
            opened = self._exit.enter_context((self._folder / file).open("a+b"))
            self._streams[file] = _Hashed(opened, self._sizes.get(file, 0))
        return self._streams[file]


class _Hashed:
    """A file and the SHA-256 of what was written to it; of one that was there, the first bytes are kept."""

    def __init__(self, file: BufferedRandom, size: int) -> None:
        file.truncate(size)
        file.seek(0)
        self._file, self._digest, self._bytes = file, hashlib.file_digest(file, "sha256"), size

    def write(self, array: np.ndarray) -> None:
        content = array.tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._bytes += len(content)

    def synced(self) -> int:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._bytes

    def described(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}


def described(
    splits: dict[str, SplitWriter], *, vocab_size: int, fingerprint: str, more: dict[str, Any]
) -> dict[str, Any]:
    """Return what meta.json holds of written splits; `more` comes from whoever built the corpus."""
    return {
        "format": _FORMAT,
        "version": __version__,
        "dtype": "uint16" if vocab_size <= 1 << 16 else "uint32",
        "byte_order": "little",
        "vocab_size": vocab_size,
        "fingerprint": fingerprint,
        **{name: {"rows": w.rows, "tokens": w.tokens, "lines": w.lines} for name, w in splits.items()},
        **more,
        "files": {name: stored for writer in splits.values() for name, stored in writer.files.items()},
    }
