"""From files to what a text model trains on: rows read, split, tokenised, packed and batched.

Sentence mode: a line is a sample, `[bos, x1..xn, eos]`. Stream and window mode: the text runs on over its newlines,
which are characters (byte, char) or eos (word, bpe, unigram); it is read column by column with carried state, or in
windows from random places. Conditions: a row is `[bos, field, sep, field, sep, text, eos]`, the loss is on the text.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from seqgen.core import config as config_of
from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import ConfigError, DataError
from seqgen.data.batches import (
    Batches,
    MovedBatches,
    SentenceBatches,
    StreamBatches,
    WindowBatches,
    sentence_evaluation,
    stream_evaluation,
    window_evaluation,
)
from seqgen.data.corpora.known import expanded
from seqgen.data.corpora.oracle import PREFIX, Oracle, oracle
from seqgen.data.corpus import Corpus, is_corpus, open_corpus
from seqgen.data.formats import STDIN, Format
from seqgen.data.ragged import Ragged, joined
from seqgen.data.rewards import Reward, reward
from seqgen.data.text import Records, has_fields, read_records, records_of
from seqgen.data.tokenizers import (
    SourceKind,
    Tokenizer,
    TokenizerConfig,
    check_paired,
    choose_kind,
    load_tokenizer,
    newline_is_character,
    paired,
    resolved,
    source_of,
    train_tokenizer,
    uses,
)
from seqgen.data.tokenizers.common import encoded

Mode: TypeAlias = Literal["sentence", "fixed", "stream", "window"]

_LOG = logging.getLogger("seqgen")

_AUTOMATIC_LENGTH = 1024
"""Tokens a row may have where `data.max_length` is 0: more is rarely a sentence, and costs memory for each batch."""

_AUTOMATIC_WINDOW = 64

_UNLEARNT = 0.005
"""Share of held-out tokens outside the vocabulary that is worth a word where training text has none."""


@dataclass(frozen=True)
class DataConfig:
    """Which text is learnt and how it is cut into samples: the section `data`."""

    files: tuple[str, ...] = ()
    """Training text: .txt, .jsonl, .json, .csv, .tsv, .fasta, .smi, .gz, folders, names of sets, or - (stdin)."""
    valid: tuple[str, ...] = ()
    """Held-out text; none: a part of the training text is held out."""
    mode: Literal["auto", "sentence", "fixed", "stream", "window"] = "auto"
    """A sample is a line (sentence; fixed: all have the same number of tokens, and no end token is learnt), or the text
    runs on (stream: state carried; window: random places)."""
    format: Format = "auto"
    """What the files are: lines, jsonl, json, csv, tsv, fasta or smi; auto: as their suffix says, else lines."""
    encoding: str = "auto"
    """Encoding of the files, such as cp1252; auto: as their byte order mark says, else UTF-8."""
    field: str = "text"
    """Field of rows with named fields that is the text."""
    source: str = ""
    """Fields of the condition, comma-separated; the model reads them before the text, without loss."""
    target: str = ""
    """Field of the text, where `source` is given."""
    source_tokenizer: SourceKind = "shared"
    """Conditions are read by the tokenizer of the text (shared), or by one of their own of this kind, learnt from them
    with the other options of the section `tokenizer`; for models with an encoder."""
    max_length: Annotated[int, Field(ge=0)] = 0
    """Longest row in tokens, condition and end included (sentence mode); 0: as long as the text needs, up to 1024."""
    long: Literal["error", "cut", "drop"] = "error"
    """What happens to longer rows: an error that names them, their end is cut off, or they are left out."""
    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share held out where `valid` is empty: by a hash of the line, or the end of running text."""
    window: Annotated[int, Field(ge=0)] = 0
    """Tokens per row and step (stream, window); 0: 64."""
    jitter: bool = False
    """Random window lengths around `window` (stream)."""
    bucket: Annotated[int, Field(ge=1)] = 50
    """Batches whose rows are sorted by length together (sentence)."""


@dataclass(frozen=True, repr=False)
class TextData:
    """All that training and evaluation need to know of a text."""

    tokenizer: Tokenizer
    mode: Mode
    train: Corpus
    valid: Corpus
    train_lines: Sequence[str]
    """Texts of the training rows; running text is cut at its newlines."""
    valid_lines: Sequence[str]
    """Texts of the held-out rows, likewise."""
    valid_sources: Sequence[str] | None
    """Conditions of the held-out rows, several fields joined by tabs."""
    fingerprint: str
    """SHA-256 of the text and of how it was read."""
    resolved: tuple[DataConfig, TokenizerConfig]
    """The settings with what was chosen in the place of auto and 0."""
    facts: dict[str, Any]
    """vocab_size, source_vocab_size (0: shared), pad, sep, start, stop (-1: none), suppress_tokens, max_length (tokens
    of a row)."""
    batches: Batches
    batch: int
    """Rows of a batch over all processes."""
    device: torch.device | str
    """Where batches go; the arrays of a corpus folder stay on the CPU, mapped."""
    valid_characters: int
    """Characters of the held-out text, newlines included: what nats per character are divided by."""
    stamp: dict[str, list[int]] = field(default_factory=dict)
    """Of a corpus folder, its `stamp`: by it, it need not be read once more to see that it was not altered."""
    oracle: Oracle | None = None
    """Who wrote the text, where the truth about it is known."""
    code: Reward | None = None
    """The reward that was passed to this training as a function or named as a Python file."""

    def __repr__(self) -> str:
        counts = f"{len(self.train_lines)} lines to train on, {len(self.valid_lines)} held out"
        return f"TextData({self.mode}: {counts}, {self.tokenizer.vocab_size} tokens ({self.tokenizer.kind}))"

    def reward(self, spec: str) -> Callable[[Sequence[Sequence[int]]], list[float]]:
        """Return the reward that `data.rewards` knows by this name, of id rows in the place of lines."""
        judge = reward(spec, self.code)
        return lambda rows: judge(self.tokenizer.decode(rows))

    def validation(self) -> Iterator[SequenceBatch]:
        """Return the held-out text, every target counted once."""
        data, pad = self.resolved[0], self.tokenizer.pad
        if self.mode in ("sentence", "fixed"):
            batches = sentence_evaluation(self.valid, self.batch, pad=pad)
        else:
            evaluation = stream_evaluation if self.mode == "stream" else window_evaluation
            batches = evaluation(self.valid, self.batch, data.window, pad=pad)
        return (batch.to(self.device) for batch in batches)


def prepare(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    *,
    batch: int,
    seed: int,
    device: torch.device | str,
    tokenizer_folder: Path | None = None,
    extra_input: Iterable[str] | None = None,
    check: Callable[[str], None] = lambda fingerprint: None,
    fitting: Collection[str] = (),
    lines_only: bool = False,
    verify: bool | Mapping[str, list[int]] = True,
) -> TextData:
    """Read, split, tokenise and pack the text of `data.files` and of the lines in `extra_input`.

    With `tokenizer_folder` the tokenizer saved there is used instead of training one on the training split. A corpus
    folder in the place of files has all this behind it, and is mapped. `check` gets the fingerprint of the text
    before anything is made of it, and may raise. `fitting` names what is made smaller where the text cannot fill it:
    train.batch, data.window. With `lines_only` the mode `auto` is never running text. `verify` is that of
    `open_corpus`, for a corpus folder. Raises DataError for text that
    cannot be used, ConfigError for settings that contradict each other.
    """
    data = replace(data, files=tuple(map(str, expanded(data.files, "train"))))
    asked = _Preparation(data, tokenizer, batch, seed, device, tokenizer_folder, check, fitting, verify)
    made = _prepared(asked, extra_input, lines_only)
    _report_unlearnt(made)
    # Faults name files as they were given; what is kept finds them from any working folder.
    kept = replace(made.resolved[0], files=_absolute(data.files), valid=_absolute(data.valid))
    return replace(made, resolved=(kept, made.resolved[1]))


@dataclass(frozen=True)
class _Preparation:
    """What `prepare` was asked for: its arguments, `data` with what is settled on the way."""

    data: DataConfig
    config: TokenizerConfig
    batch: int
    seed: int
    device: torch.device | str
    tokenizer_folder: Path | None
    check: Callable[[str], None]
    fitting: Collection[str]
    verify: bool | Mapping[str, list[int]]

    def text_data(self, text: "_Packed") -> TextData:
        """Return what training needs: the one place where batches are made, fitted and given their device."""
        data, mode, tokenizer = self.data, text.mode, text.tokenizer
        window = (data.window or _AUTOMATIC_WINDOW) if mode in _RUNNING else 0
        batch, window = _fitted(text.train, mode, self.batch, window, self.fitting)
        batches: Batches
        if mode == "stream":
            batches = StreamBatches(text.train, batch, window, seed=self.seed, jitter=data.jitter)
        elif mode == "window":
            batches = WindowBatches(text.train, batch, window, seed=self.seed)
        else:
            batches = SentenceBatches(text.train, batch, pad=tokenizer.pad, seed=self.seed, bucket=data.bucket)
        there = text.train.ids.values.device.type == torch.device(self.device).type
        if mode in _RUNNING:
            data = replace(data, mode=mode, window=window)
        else:
            data = replace(data, mode=mode, max_length=data.max_length or text.longest)
        if (source := source_of(tokenizer)) is not None:
            data = replace(data, source_tokenizer=source.kind)
        return TextData(
            tokenizer=tokenizer,
            mode=mode,
            train=text.train,
            valid=text.valid,
            train_lines=text.train_lines,
            valid_lines=text.valid_lines,
            valid_sources=text.valid_sources,
            fingerprint=text.fingerprint,
            resolved=(data, resolved(self.config, tokenizer)),
            facts=facts(tokenizer, mode, window or text.longest),
            batches=batches if there else MovedBatches(batches, self.device),
            batch=batch,
            device=self.device,
            valid_characters=text.valid_characters,
        )


@dataclass(frozen=True)
class _Packed:
    """A text as ids and as lines, training and held-out, before it is cut into batches."""

    mode: Mode
    tokenizer: Tokenizer
    train: Corpus
    valid: Corpus
    train_lines: Sequence[str]
    valid_lines: Sequence[str]
    valid_sources: Sequence[str] | None
    fingerprint: str
    valid_characters: int
    longest: int = 0
    """Input positions of the longest row; 0: running text."""


def _prepared(asked: _Preparation, extra_input: Iterable[str] | None, lines_only: bool) -> TextData:
    data = asked.data
    if any(is_corpus(file) for file in data.files):
        if len(data.files) > 1 or extra_input is not None:
            raise DataError(f"{data.files[0]}: a corpus folder stands alone; build one of all text together")
        return _prepare_folder(asked)
    task = oracle(data.files[0]) if len(data.files) == 1 and data.files[0].startswith(PREFIX) else None
    if task is not None:
        data = replace(data, mode="fixed" if task.fixed else "sentence")
    records = _read(data, extra_input) if task is None else records_of(task.train, name=task.name)
    mode = _chosen_mode(data, records, lines_only)
    _report_unused(data, mode)
    data = replace(data, mode=mode)
    asked = replace(asked, data=data)
    fingerprint = text_fingerprint(data, len(records.texts), records.texts, records.sources or ())
    asked.check(fingerprint)
    held_out = _read_files(data, data.valid) if data.valid else None
    if held_out is not None:
        check_held_out([held_out], [records], data.valid)
    if task is not None:
        held_out = records_of(task.valid, name=task.name)
        return replace(_prepare_sentences(asked, records, held_out, fingerprint, task.tokenizer), oracle=task)
    prepare_records = _prepare_stream if mode in _RUNNING else _prepare_sentences
    return prepare_records(asked, records, held_out, fingerprint)


def _absolute(files: Sequence[str]) -> tuple[str, ...]:
    """Return the files as they are found from any working folder."""
    return tuple(file if file == STDIN or file.startswith(PREFIX) else str(Path(file).absolute()) for file in files)


_UNSETTLED = ("files", "mode", "window", "jitter", "bucket")
"""Settings of the section `data` that are chosen when a corpus folder is trained on, not when it is built."""


def _prepare_folder(asked: _Preparation) -> TextData:
    """Return what `prepare` makes of the text that a corpus folder was built from, without reading it again."""
    data = asked.data
    corpus = open_corpus(data.files[0], verify=asked.verify)
    stored = {name: config_of.build(cls, corpus.meta[name], section=name) for name, cls in _SETTLED.items()}
    built, built_config = stored["data"], stored["tokenizer"]
    mode: Mode = built.mode if data.mode == "auto" else data.mode
    asked.check(corpus.meta["text_sha256"].get(mode, ""))
    faults = _other_settings("data", data, replace(built, valid=()), _UNSETTLED)
    faults += _other_settings("tokenizer", asked.config, built_config, ())
    if data.mode not in ("auto", built.mode) and not {data.mode, built.mode} <= set(_RUNNING):
        faults.append(f"data.mode = {data.mode!r}")
    if faults:
        raise ConfigError(f"{corpus.path} was built otherwise than with {', '.join(faults)}; build another corpus")
    tokenizer_folder = asked.tokenizer_folder or corpus.path / "tokenizer"
    tokenizer = load_tokenizer(tokenizer_folder)
    if tokenizer.fingerprint != corpus.train.fingerprint:
        raise DataError(
            f"{corpus.path} was built with the tokenizer {corpus.train.fingerprint[:12]}..., but "
            f"{tokenizer_folder} is {tokenizer.fingerprint[:12]}...; "
            "build a corpus with that one: seqgen corpus build --tokenizer"
        )
    _report_unused(replace(data, max_length=0, long="error", valid_share=DataConfig.valid_share), mode)
    data = replace(
        built, files=data.files, valid=(), mode=mode, window=data.window, jitter=data.jitter, bucket=data.bucket
    )
    packed = _Packed(
        mode=mode,
        tokenizer=tokenizer,
        train=corpus.train,
        valid=corpus.valid,
        train_lines=corpus.train_lines,
        valid_lines=corpus.valid_lines,
        valid_sources=corpus.valid_sources,
        fingerprint=corpus.meta["text_sha256"][mode],
        valid_characters=int(corpus.meta["valid_characters"]),
        longest=int(corpus.meta["longest"]),
    )
    return replace(replace(asked, data=data, config=built_config).text_data(packed), stamp=corpus.stamp)


_SETTLED: dict[str, Any] = {"data": DataConfig, "tokenizer": TokenizerConfig}
_RUNNING = ("stream", "window")


def _other_settings(section: str, given: Any, settled: Any, free: Sequence[str]) -> list[str]:
    """Return the options that were given, are not free, and differ from what is settled."""
    values = {f.name: getattr(given, f.name) for f in fields(given) if f.name not in free}
    default = type(given)()
    return [
        f"{section}.{name} = {value!r}"
        for name, value in values.items()
        if value not in (getattr(default, name), getattr(settled, name))
    ]


def encode_sources(tokenizer: Tokenizer, sources: Sequence[str]) -> Ragged:
    """Return the ids of conditions as a model reads them after its start id: every field followed by `sep`.

    Several fields stand in one string, separated by tabs; each string must have as many as the first.
    """
    fields = [source.split("\t") for source in sources]
    count = len(fields[0]) if fields else 0
    for number, values in enumerate(fields, 1):
        if len(values) != count:
            raise DataError(f"condition {number} has {len(values)} fields (separated by tabs), the first has {count}")
    columns = [_source_ids(tokenizer, [values[i] for values in fields]) for i in range(count)]
    return joined([part for column in columns for part in (column, tokenizer.sep)], len(fields))


def _source_ids(tokenizer: Tokenizer, lines: Sequence[str]) -> Ragged:
    """Return the ids of a field; those of a tokenizer of its own come after the text's."""
    source = source_of(tokenizer)
    if source is None:
        return tokenizer.encode(lines)
    own = source.encode(lines)
    return Ragged(own.values + tokenizer.vocab_size, own.offsets)


def train_tokenizers(
    data: DataConfig, config: TokenizerConfig, texts: Collection[str], sources: Collection[str] | None, *, seed: int
) -> Tokenizer:
    """Return a tokenizer learnt from texts and conditions together, or one from each (`data.source_tokenizer`)."""
    if sources is None or data.source_tokenizer == "shared":
        both = texts if sources is None else Both(texts, sources)
        return train_tokenizer(config, both, seed=seed)
    own = replace(config, kind=data.source_tokenizer, model="", words="split", pattern="")
    target = train_tokenizer(config, texts, seed=seed)
    return paired(target, train_tokenizer(own, sources, seed=seed))


class Both(Collection[str]):
    """The lines of two collections, one after the other."""

    def __init__(self, first: Collection[str], second: Collection[str]) -> None:
        self._parts = (first, second)

    def __iter__(self) -> Iterator[str]:
        return chain(*self._parts)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __contains__(self, line: object) -> bool:
        return any(line in part for part in self._parts)


def choose_mode(data: DataConfig, records: Records) -> Mode:
    """Return the mode, auto replaced: running text is cut into lines for other reasons than its sentences.

    That is: one line alone, blank lines between paragraphs (5 % of the lines and more), or more than a tenth of the
    lines over 1,000 characters. Rows of .jsonl and .tsv are samples.
    """
    if data.source and data.mode not in ("auto", "sentence"):
        raise ConfigError(f"data.source needs data.mode = sentence, got {data.mode}: a condition belongs to one row")
    if data.mode != "auto":
        return data.mode
    if data.source or has_fields(data.files, data.format):
        return "sentence"
    lines = "\n".join(records.texts).strip().split("\n")
    blank = sum(not line.strip() for line in lines)
    long = sum(len(line) > 1000 for line in lines)
    return "stream" if is_running(len(lines), blank, long) else "sentence"


def _chosen_mode(data: DataConfig, records: Records, lines_only: bool) -> Mode:
    """Return the mode, auto replaced; log it where running text was found that no option asked for."""
    mode = choose_mode(data, records)
    if data.mode != "auto" or mode not in _RUNNING:
        return mode
    if lines_only:
        _LOG.info("this looks like running text, but the model takes lines: every line is a text of its own")
        return "sentence"
    _LOG.info(
        "running text: learnt as one stream, its line breaks included; data.mode=sentence makes every line a text of "
        "its own"
    )
    return mode


def _fitted(train: Corpus, mode: Mode, batch: int, window: int, fitting: Collection[str]) -> tuple[int, int]:
    """Return batch and window, those among `fitting` made smaller, and logged, where the text cannot fill them."""
    rows, tokens = train.ids.rows, train.ids.values.numel()
    running = mode in _RUNNING
    smaller, narrower = batch, window
    if "train.batch" in fitting:
        smaller = max(1, min(batch, tokens // (window + 1) if running else rows))
    if "data.window" in fitting and running:
        narrower = max(1, min(window, tokens // smaller - 1))
    has = f"{tokens:,} tokens" if running else f"{rows:,} rows"
    for name, value, made in (("train.batch", batch, smaller), ("data.window", window, narrower)):
        if made < value:
            _LOG.info("the training text has %s only: %s is made %d, not %d", has, name, made, value)
    return smaller, narrower


def is_running(lines: int, blank: int, long: int) -> bool:
    """Return whether so many lines, blank lines and lines of over 1,000 characters look like running text."""
    return lines == 1 or (blank >= 2 and blank >= 0.05 * lines) or long > 0.1 * lines


def _report_unused(data: DataConfig, mode: Mode) -> None:
    """Warn of settings that take no effect in this mode."""
    only = {
        "max_length": "sentence fixed",
        "long": "sentence fixed",
        "bucket": "sentence fixed",
        "window": "stream window",
        "jitter": "stream",
        "valid_share": "" if data.valid else mode,
    }
    if data.source_tokenizer != "shared" and not data.source:
        _LOG.warning("data.source_tokenizer takes no effect without data.source")
    for name, modes in only.items():
        if getattr(data, name) != getattr(DataConfig, name) and mode not in modes.split():
            because = "with data.valid" if name == "valid_share" else f"with data.mode = {mode}"
            _LOG.warning("data.%s takes no effect %s", name, because)


def check_held_out(held_out: Iterable[Records], train: Iterable[Records], names: Sequence[str]) -> None:
    """Warn of held-out rows that also stand in the training text; raise DataError where all do."""
    from seqgen.metrics.novelty import leaked  # late: generation needs none of the metrics

    known, count = leaked(_rows(held_out), _rows(train))
    if known and known == count:
        raise DataError(
            f"{', '.join(names)}: all {count} held-out rows also stand in the training text; "
            "give text that is not trained on, or leave data.valid out"
        )
    if known:
        _LOG.warning("%s: %d of %d held-out rows also stand in the training text", ", ".join(names), known, count)


def _rows(blocks: Iterable[Records]) -> Iterator[str]:
    """Yield the text of every row, with its condition where it has one."""
    for records in blocks:
        yield from (row_text(records, row) if text.strip() else "" for row, text in enumerate(records.texts))


def _report_unlearnt(made: TextData) -> None:
    """Warn where held-out text holds `<unk>` and training text does not: what no model has seen costs it anything."""
    if not uses(made.tokenizer.kind, "min_count") or any(is_corpus(file) for file in made.resolved[0].files):
        return
    held_out, training = (split.ids.values == made.tokenizer.unk for split in (made.valid, made.train))
    share = float(held_out.float().mean())
    if share > _UNLEARNT and not bool(training.any()):
        _LOG.warning(
            "%.1f %% of the held-out tokens are outside the vocabulary and none of the training text: <unk> is never "
            "learnt, so its part of the loss means little; try tokenizer.min_count=2",
            100 * share,
        )


def _read(data: DataConfig, extra_input: Iterable[str] | None) -> Records:
    if extra_input is None:
        if not data.files:
            raise DataError("no training text; give --data FILE, a folder, or - for standard input")
        return _read_files(data, data.files)
    extra = records_of(extra_input)
    _check_not_blank(extra)
    if not data.files:
        return extra
    records = _read_files(data, data.files)
    if records.sources is not None:
        raise ConfigError("data.source needs rows with fields; lines from Python have none")
    first = len(records.texts)
    return Records(
        records.texts + extra.texts,
        None,
        [*records.numbers, *extra.numbers],
        (*records.places, (first, "input, line")),
    )


def _read_files(data: DataConfig, files: Sequence[str]) -> Records:
    records = read_records(files, **reading(data))
    _check_not_blank(records)
    return records


def reading(data: DataConfig) -> dict[str, Any]:
    """Return the options of `read_records` that the settings hold."""
    return {name: getattr(data, name) for name in ("field", "source", "target", "format", "encoding")}


def _check_not_blank(records: Records) -> None:
    if not any(text.strip() for text in records.texts):
        raise DataError(f"{records.where(0)}: only blank lines; expected text")


# --------------------------------------------------------------------------------------------------------- sentences


def _prepare_sentences(
    asked: _Preparation, records: Records, held_out: Records | None, fingerprint: str, own: Tokenizer | None = None
) -> TextData:
    """Return rows of text as sentences; `own` is the tokenizer of text that brings one, where none is saved."""
    data, config = asked.data, asked.config
    if held_out is None:
        held_out, train_rows, valid_rows = records, *split_by_hash(records, _filled(records), data.valid_share)
    else:
        train_rows, valid_rows = _filled(records), _filled(held_out)
    texts = [records.texts[row] for row in train_rows]
    sources = None if records.sources is None else [records.sources[row] for row in train_rows]
    tokenizer = own if asked.tokenizer_folder is None else load_tokenizer(asked.tokenizer_folder)
    if tokenizer is None:
        tokenizer = train_tokenizers(data, config, texts, sources, seed=asked.seed)
    elif asked.tokenizer_folder is not None:
        check_paired(tokenizer, data.source != "" and data.source_tokenizer != "shared", asked.tokenizer_folder)
    if asked.tokenizer_folder is not None or config.model:
        check_fit(tokenizer, texts)
        if (source := source_of(tokenizer)) is not None:
            check_fit(source, sources or ())
    del texts
    train, train_rows, longest = _pack(data, tokenizer, records, train_rows, "training", asked.device)
    valid, valid_rows, longest_valid = _pack(data, tokenizer, held_out, valid_rows, "held-out", asked.device)
    valid_lines = [held_out.texts[row] for row in valid_rows]
    packed = _Packed(
        mode="fixed" if data.mode == "fixed" else "sentence",
        tokenizer=tokenizer,
        train=train.to(asked.device),
        valid=valid.to(asked.device),
        train_lines=[records.texts[row] for row in train_rows],
        valid_lines=valid_lines,
        valid_sources=None if held_out.sources is None else [held_out.sources[row] for row in valid_rows],
        fingerprint=fingerprint,
        valid_characters=sum(len(line) + 1 for line in valid_lines),
        longest=max(longest, longest_valid),
    )
    return asked.text_data(packed)


def _filled(records: Records) -> list[int]:
    """Return the rows that are not blank."""
    return [row for row, text in enumerate(records.texts) if text.strip()]


def split_by_hash(records: Records, rows: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """Split rows into training and held-out ones by a hash of the text: equal texts stay together, in any order.

    With conditions equal pairs do: answers may be few. White space at the ends is not looked at. Where no hash falls
    below `share`, the text with the lowest is held out.
    """
    hashes = {row: line_hash(row_text(records, row)) for row in rows}
    limit = split_limit(min(hashes.values()), max(hashes.values()), share, records.where(rows[0]))
    held_out = [row for row in rows if hashes[row] < limit]
    text, count = Counter(row_text(records, row).strip() for row in held_out).most_common(1)[0]
    if count > 1 and count > share * len(rows) and len(held_out) > 2 * share * len(rows):
        first = next(row for row in held_out if row_text(records, row).strip() == text)
        _LOG.warning(
            "%s: %d equal rows were held out together, as equal texts are never in both splits: %d rows to train on, "
            "%d held out; give held-out text of your own with data.valid=FILE, or each text once",
            *(records.where(first), count, len(rows) - len(held_out), len(held_out)),
        )
    return [row for row in rows if hashes[row] >= limit], held_out


def row_text(records: Records, row: int) -> str:
    """Return what is compared of rows: the text, behind its condition where it has one."""
    return records.texts[row] if records.sources is None else f"{records.sources[row]}\t{records.texts[row]}"


def split_limit(lowest: int, highest: int, share: float, where: str) -> int:
    """Return the hash below which a text is held out, from the lowest and the highest; `where` is for errors."""
    if lowest == highest:
        raise DataError(
            f"{where}: the only line, or equal to all others, so none can be held out; "
            "give more lines, data.valid, or data.mode=stream for running text"
        )
    limit = max(lowest + 1, int(share * 2**64))
    return min(limit, highest)


def line_hash(text: str) -> int:
    """Return 64 bits of a text, without the white space at its ends, that decide on its split."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=8).digest(), "little")


@dataclass
class Tally:
    """What was counted of the rows of a split, part by part."""

    rows: int = 0
    kept: int = 0
    long: int = 0
    first_long: str = ""
    """How long the first row is that is too long, and where it stands."""
    fixed: int = 0
    """Input positions of the first row."""
    fixed_at: str = ""
    longest: int = 0
    """Those of the longest."""

    def add(self, part: "Tally", data: DataConfig) -> None:
        """Count the part that follows; DataError where its rows are of another length and all must be alike."""
        if data.mode == "fixed" and self.fixed and part.fixed not in (0, self.fixed):
            raise DataError(_other_length(part.fixed_at, part.fixed, self.fixed))
        self.rows, self.kept, self.long = self.rows + part.rows, self.kept + part.kept, self.long + part.long
        self.first_long = self.first_long or part.first_long
        self.fixed, self.fixed_at = self.fixed or part.fixed, self.fixed_at or part.fixed_at
        self.longest = max(self.longest, part.longest)

    def finish(self, data: DataConfig, split: str) -> None:
        """Warn of rows that were too long, or raise DataError for them."""
        if not self.long:
            return
        limit = data.max_length or _AUTOMATIC_LENGTH
        what = f"{self.long} of {self.rows} {split} rows are longer than {limit} tokens"
        if data.long == "error":
            raise DataError(
                f"{what}, {self.first_long}; set data.max_length higher, data.long=cut or data.long=drop, "
                "or data.mode=stream for running text"
            )
        done = "are cut" if data.long == "cut" else "are left out"
        _LOG.warning("%s and %s; %s", what, done, self.first_long)
        if not self.kept:
            raise DataError(f"{what}, and none are left; set data.max_length higher")


def _other_length(where: str, length: int, expected: int) -> str:
    return (
        f"{where}: {length} tokens, expected {expected}; "
        "data.mode = fixed needs rows of the same length, data.mode = sentence takes any"
    )


def pack_rows(
    data: DataConfig, tokenizer: Tokenizer, records: Records, rows: Sequence[int], device: torch.device | str
) -> tuple[Corpus, Sequence[int], Tally]:
    """Return a corpus of some rows, on the CPU, which of them are in it, and what was counted.

    Their ids are made on the device, where that is worth it.
    """
    limit = data.max_length or _AUTOMATIC_LENGTH
    ids = encoded(tokenizer, [records.texts[row] for row in rows], device)
    parts: list[Ragged | int] = [tokenizer.bos, ids]
    if data.mode != "fixed":
        parts.append(tokenizer.eos)
    loss_from: Tensor | None = None
    if records.sources is not None:
        conditions = encode_sources(tokenizer, [records.sources[row] for row in rows])
        parts.insert(1, conditions)
        loss_from = conditions.lengths
    packed = joined(parts, len(rows))
    del ids, parts  # as large as what was made of them
    lengths = packed.lengths - 1
    too_long = (lengths > limit).nonzero().view(-1)
    tally = Tally(rows=len(lengths), long=len(too_long), fixed=data.max_length)
    if len(too_long):
        first = int(too_long[0])
        tally.first_long = f"the first ({int(lengths[first])} tokens) is {records.where(rows[first])}"
        keep = lengths <= limit
        if data.long != "drop":
            # A condition that fills the row leaves no text to learn.
            keep = torch.ones_like(keep) if loss_from is None else loss_from < limit
            packed = packed.cut(limit + 1)
        if not bool(keep.all()):
            kept = keep.nonzero().view(-1)
            packed = packed.take(kept)
            loss_from = None if loss_from is None else loss_from[kept]
            rows = [rows[row] for row in kept.tolist()]
    tally.kept = len(rows)
    lengths = packed.lengths - 1
    if len(lengths) and (data.long != "error" or not tally.long):
        tally.fixed, tally.fixed_at = tally.fixed or int(lengths[0]), records.where(rows[0])
        tally.longest = int(lengths.max())
        other = (lengths != tally.fixed).nonzero().view(-1)
        if data.mode == "fixed" and len(other):
            row = int(other[0])
            raise DataError(_other_length(records.where(rows[row]), int(lengths[row]), tally.fixed))
    return Corpus(packed, loss_from, tokenizer.fingerprint), rows, tally


def _pack(
    data: DataConfig,
    tokenizer: Tokenizer,
    records: Records,
    rows: list[int],
    split: str,
    device: torch.device | str,
) -> tuple[Corpus, list[int], int]:
    """Return the corpus of the rows, the rows that are in it, and the input positions of the longest."""
    corpus, kept, tally = pack_rows(data, tokenizer, records, rows, device)
    tally.finish(data, split)
    return corpus, list(kept), tally.longest


# ------------------------------------------------------------------------------------------------------ running text


def _prepare_stream(asked: _Preparation, records: Records, held_out: Records | None, fingerprint: str) -> TextData:
    """Return rows of text as one running text."""
    data, config = asked.data, asked.config
    text = _running(records)
    tokenizer = None if asked.tokenizer_folder is None else load_tokenizer(asked.tokenizer_folder)
    if tokenizer is None:
        config = replace(config, kind=choose_kind(config, records.texts))
    kind = config.kind if tokenizer is None else tokenizer.kind
    if held_out is not None:
        valid_text = _running(held_out)
    else:
        cut = _cut_place(text, data.valid_share, anywhere=newline_is_character(kind))
        text, valid_text = text[:cut], text[cut:]
        if not text.strip() or not valid_text.strip():
            raise DataError(
                f"{records.where(0)}: running text of {len(text) + len(valid_text)} characters is too short "
                f"to hold out {data.valid_share:.0%} of it; give more text or data.valid"
            )
    if tokenizer is None:
        # A whole text has its newlines as characters, and one has to be there for a text to start with.
        parts = [text, "\n"] if newline_is_character(kind) else text.split("\n")
        tokenizer = train_tokenizer(config, parts, seed=asked.seed)
    if asked.tokenizer_folder is not None or config.model:
        check_fit(tokenizer, text.split("\n"))
    packed = _Packed(
        mode="stream" if data.mode == "stream" else "window",
        tokenizer=tokenizer,
        train=_stream_corpus(tokenizer, text).to(asked.device),
        valid=_stream_corpus(tokenizer, valid_text).to(asked.device),
        train_lines=text.removesuffix("\n").split("\n"),
        valid_lines=valid_text.removesuffix("\n").split("\n"),
        valid_sources=None,
        fingerprint=fingerprint,
        valid_characters=len(valid_text),
    )
    return replace(asked, config=config).text_data(packed)


def _running(records: Records) -> str:
    """Return the rows as one text, each ended by a newline."""
    return "\n".join([*records.texts, ""])


def _cut_place(text: str, share: float, *, anywhere: bool) -> int:
    """Return where the held-out tail begins: at its character, or after the newline or space that follows."""
    cut = int(len(text) * (1 - share))
    if anywhere:
        return cut
    newline = text.find("\n", cut, len(text) - 1)
    return (newline if newline >= 0 else max(cut - 1, text.find(" ", cut))) + 1


def _stream_corpus(tokenizer: Tokenizer, text: str) -> Corpus:
    """Return the text after the line break that it starts with."""
    ids = torch.cat([torch.tensor([tokenizer.newline], dtype=torch.int32), tokenizer.encode_stream(text)])
    return Corpus(Ragged(ids, torch.tensor([0, ids.numel()])), None, tokenizer.fingerprint)


# ------------------------------------------------------------------------------------------------------- both modes


def facts(tokenizer: Tokenizer, mode: Mode, max_length: int) -> dict[str, Any]:
    """Return what a model has to know of the ids."""
    start: int
    stop: int
    written: set[int]
    if mode == "sentence":
        start, stop, written = tokenizer.bos, tokenizer.eos, {tokenizer.eos}
    elif mode == "fixed":
        start, stop, written = tokenizer.bos, -1, set()
    else:
        start, stop, written = tokenizer.newline, -1, {tokenizer.newline}
    return {
        "vocab_size": tokenizer.vocab_size,
        "source_vocab_size": 0 if (source := source_of(tokenizer)) is None else source.vocab_size,
        "pad": tokenizer.pad,
        "sep": tokenizer.sep,
        "start": start,
        "stop": stop,
        "suppress_tokens": tuple(i for i, text in enumerate(tokenizer.surfaces()) if not text and i not in written),
        "max_length": max_length,
    }


def check_fit(tokenizer: Tokenizer, lines: Collection[str]) -> None:
    """Refuse text that a given tokenizer hardly knows; looks at some 1,000 lines spread over it."""
    sample = list(islice(lines, 0, None, max(1, len(lines) // 1000)))
    ids = tokenizer.encode(sample).values
    unknown = int((ids == tokenizer.unk).sum())
    if unknown > 0.5 * len(ids):
        parts = dict.fromkeys(part for line in sample[:100] for part in tokenizer.unknown(line))
        raise DataError(
            f"the given tokenizer does not know {unknown / len(ids):.0%} of the text, for example "
            f"{', '.join(map(repr, list(parts)[:3]))}; use text like the one it was made for, or train a new tokenizer"
        )


def text_fingerprint(data: DataConfig, rows: int, texts: Iterable[str], sources: Iterable[str]) -> str:
    """Return the SHA-256 of content and way of reading, not of the place: a moved file is the same text."""
    digest = hashlib.sha256(repr((data.mode, data.source, data.target, rows)).encode())
    for text in chain(texts, sources):
        line = text.encode()
        digest.update(len(line).to_bytes(8, "little"))
        digest.update(line)
    return digest.hexdigest()
