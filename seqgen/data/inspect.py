"""What a person must know of a text before training on it: size, lengths, what is odd in it, which settings suit it.

Nothing is refused here: lines that are not UTF-8, control characters and the like are counted and shown with their
first line, so that they can be mended. The advice on tokenizer and mode is what the automatic settings will choose.
Run: seqgen corpus inspect FILE
"""

import dataclasses
import importlib.util
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgen.core.errors import DataError
from seqgen.data.formats import NAMES, Format, format_of, looks_like, name_of, text_blocks
from seqgen.data.prepare import DataConfig, choose_mode
from seqgen.data.text import Records, files_in, has_fields, record_blocks
from seqgen.data.tokenizers import TokenizerConfig, choose_kind
from seqgen.metrics.molecules import is_molecule

_QUANTILES = (0.0, 0.5, 0.9, 0.99, 0.995, 1.0)
_KEPT = 0.995  # Share of lines that the recommended length limit keeps whole.


@dataclass(frozen=True)
class Oddity:
    """Something in the text that training would learn or stumble over."""

    name: str
    lines: int
    """Lines that have it."""
    first: int
    """The first of them, from 1."""
    advice: str


@dataclass(frozen=True)
class Row:
    """One line of the table: what, how much, and what follows."""

    name: str
    value: str
    advice: str


@dataclass(frozen=True)
class Inspection:
    """What a text is like; quantiles are length by share of lines: `{0.5: 11}` is a median of 11."""

    lines: int
    blank: int
    """Lines with nothing but white space; they are left out of all lengths."""
    bytes: int
    """Size as UTF-8, with one byte for each end of line."""
    characters: int
    words: int
    """Parts between white space."""
    line_characters: dict[float, int]
    line_words: dict[float, int]
    longest_line: int
    """Number of the line with the most characters, from 1."""
    distinct_characters: int
    distinct_words: int
    words_seen_twice: int
    """Distinct words seen two times or more."""
    coverage: float
    """Share of all words in the text that are seen two times or more."""
    duplicates: int
    """Lines that stood in the text before."""
    duplicate_share: float
    most_frequent: tuple[tuple[str, int], ...]
    """The lines seen most often, at most three, each two times or more."""
    without_spaces: float
    """Share of lines without a space inside."""
    oddities: tuple[Oddity, ...]
    tokenizer: str
    """What tokenizer.kind = auto will choose."""
    vocabulary: int
    """About the size the tokenizer's vocabulary will have, special ids not counted."""
    max_length: int
    """Tokens, start and end included, that keep 99.5 % of the lines whole; an estimate where tokens are word pieces."""
    mode: str
    """What data.mode = auto will choose."""
    format: str = ""
    """What the files are read as; "" of lines from Python."""
    looks_like: str = ""
    """What else a plain file looks like, and how to read it so."""

    def rows(self) -> list[Row]:
        """Return the table: names, values and advice, in the order a person reads them."""
        rows = [
            *([Row("format", self.format, self.looks_like)] if self.format else []),
            Row("lines", f"{self.lines:,}", f"{self.blank:,} of them blank" if self.blank else ""),
            Row("size", f"{self.characters:,} characters, {self.bytes:,} bytes", self._size_advice()),
            Row("words", f"{self.words:,}, {self.distinct_words:,} distinct", self._word_advice()),
            Row("characters", f"{self.distinct_characters:,} distinct", ""),
            Row("line length, characters", _shown(self.line_characters), f"the longest is line {self.longest_line:,}"),
            Row("line length, words", _shown(self.line_words), self._space_advice()),
            Row("repeated lines", f"{self.duplicates:,} ({self.duplicate_share:.1%})", self._duplicate_advice()),
        ]
        rows += [Row(odd.name, f"{odd.lines:,} lines, first {odd.first:,}", odd.advice) for odd in self.oddities]
        return [
            *rows,
            Row("mode", self.mode, f"data.mode={self.mode}: {_MODES[self.mode]}"),
            Row("tokenizer", self.tokenizer, f"tokenizer.kind={self.tokenizer}: {_TOKENIZERS[self.tokenizer]}"),
            Row("vocabulary", f"about {self.vocabulary:,}", "tokenizer.vocab_size=0 chooses this"),
            *(
                [Row("length limit", f"{self.max_length:,} tokens", self._length_advice())]
                if self.mode == "sentence"
                else []
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values for JSON; quantiles are named `p0`, `p50` ... `p100`."""
        plain = dataclasses.asdict(self)
        for key in ("line_characters", "line_words"):
            plain[key] = {f"p{100 * share:g}": length for share, length in plain[key].items()}
        return plain

    def _size_advice(self) -> str:
        return "little text: a model will soon know it by heart" if self.characters < 100_000 else ""

    def _word_advice(self) -> str:
        # where there are no spaces a line is one word, and that means nothing
        counted = f"{self.words_seen_twice:,} seen twice or more, they make {self.coverage:.1%} of the text"
        return counted if self.without_spaces < 0.9 else ""

    def _space_advice(self) -> str:
        return f"{self.without_spaces:.0%} of the lines have no space" if self.without_spaces else ""

    def _duplicate_advice(self) -> str:
        if not self.most_frequent:
            return ""
        line, count = self.most_frequent[0][0].replace("\n", "\\n"), self.most_frequent[0][1]
        suffers = self.mode == "sentence" and self.duplicate_share > 0.1
        often = f"most often ({count:,} times): {line if len(line) <= 60 else line[:59] + '…'}"
        return often + ("; equal lines are held out together" if suffers else "")

    def _length_advice(self) -> str:
        return f"data.max_length={self.max_length} data.long=drop leaves out the longest {1 - _KEPT:.1%} of the lines"


_MODES = {"sentence": "a line is a sample", "stream": "the text runs on over its lines"}
_TOKENIZERS = {
    "word": "the text is tokenised already",
    "char": "there are hardly any spaces",
    "bpe": "running words with punctuation at them",
}


class _NothingInsideError(DataError):
    """There is no line with anything in it."""


def inspect(lines: Iterable[str], *, fields: bool = False) -> Inspection:
    """Return what a text is like; with `fields` the lines are rows of a table, each a sample of its own.

    Lines are without their newline; bytes that could not be decoded are in them as `surrogateescape` leaves them, and
    are counted. Raises DataError if there is no line with anything in it.
    """
    texts: list[str] = []
    odd: dict[str, list[int]] = {name: [] for name in _ADVICE}
    for number, line in enumerate(lines, 1):
        text = _decoded(line, number, odd)
        for name, pattern in _ODD.items():
            if pattern.search(text):
                odd[name].append(number)
        if not unicodedata.is_normalized("NFC", text):
            odd["letters with loose accents"].append(number)
        texts.append(text)
    real = [text for text in texts if text.strip()]
    if not real:
        raise _NothingInsideError(f"{len(texts)} lines and nothing in them; expected UTF-8 text")
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    line_words: list[int] = []
    for text in real:
        characters.update(text)
        parts = text.split()
        words.update(parts)
        line_words.append(len(parts))
    line_characters = [len(text) for text in real]
    counts = Counter(real)
    twice = [count for count in words.values() if count > 1]
    kind = str(choose_kind(TokenizerConfig(), real))
    mode = "sentence" if fields else choose_mode(DataConfig(), Records(texts, None, [], ()))
    return Inspection(
        lines=len(texts),
        blank=len(texts) - len(real),
        bytes=sum(len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts),
        characters=sum(map(len, texts)),
        words=words.total(),
        line_characters=_quantiles(line_characters),
        line_words=_quantiles(line_words),
        longest_line=max(range(len(texts)), key=lambda row: len(texts[row])) + 1,
        distinct_characters=len(characters),
        distinct_words=len(words),
        words_seen_twice=len(twice),
        coverage=sum(twice) / words.total(),
        duplicates=len(real) - len(counts),
        duplicate_share=(len(real) - len(counts)) / len(real),
        most_frequent=tuple((text, count) for text, count in counts.most_common(3) if count > 1),
        without_spaces=sum(" " not in text.strip() for text in real) / len(real),
        oddities=tuple(Oddity(name, len(at), at[0], _ADVICE[name]) for name, at in odd.items() if at),
        tokenizer=kind,
        vocabulary=_vocabulary(kind, characters, words),
        max_length=_limit(kind, line_characters, line_words),
        mode=mode,
    )


def inspect_files(
    files: Sequence[str | Path], *, field: str = "text", format: Format = "auto", encoding: str = "auto"
) -> Inspection:
    """Return what the text of files, folders, `.gz` and `-` (standard input) is like, of rows that in `field`.

    What is no molecule among SMILES is counted where RDKit is installed.
    Raises DataError if a file is missing, cannot be read or holds nothing.
    """
    kinds: Counter[str] = Counter()
    others: dict[str, str] = {}
    wrong: list[int] = []
    chemistry = importlib.util.find_spec("rdkit") is not None

    def lines() -> Iterator[str]:
        for file in files_in(files):
            kind = format_of(file, format)
            kinds[kind] += 1
            if kind != "lines":
                blocks = record_blocks([file], field=field, format=format, encoding=encoding)
                for records in blocks:
                    if kind == "smi" and chemistry:
                        rows = zip(records.numbers, records.texts, strict=True)
                        wrong.extend(number for number, text in rows if not is_molecule(text))
                    yield from records.texts
                continue
            for number, block in text_blocks(file, encoding, lenient=True):
                if number == 1 and format == "auto" and (seen := looks_like(block)):
                    others.setdefault(seen, name_of(file))
                yield from block.removesuffix("\n").split("\n")

    try:
        found = inspect(lines(), fields=has_fields(files, format))
    except _NothingInsideError as error:
        raise DataError(f"{', '.join(map(name_of, files))}: {error}") from None
    named = ", ".join(
        f"{NAMES[kind]}" + (f" ({count} files)" if sum(kinds.values()) > 1 else "") for kind, count in kinds.items()
    )
    advice = "; ".join(
        f"{name} looks like {NAMES[seen]}: data.format={seen} reads its fields" for seen, name in others.items()
    )
    odd = (Oddity("no molecules", len(wrong), wrong[0], _NO_MOLECULE),) if wrong else ()
    return dataclasses.replace(found, format=named, looks_like=advice, oddities=(*found.oddities, *odd))


# Characters that are rarely meant, by what a person calls them.
_ODD = {
    "NUL bytes": re.compile("\0"),
    "control characters": re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "carriage returns inside": re.compile("\r"),
    "byte order marks inside": re.compile("\ufeff"),
    "replacement characters": re.compile("\ufffd"),
    "joiners": re.compile("[\u200c\u200d]"),
    "direction marks": re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]"),
    "zero-width characters": re.compile("[\u200b\u2060-\u2064\u00ad]"),
    "line separators": re.compile("[\u2028\u2029]"),
    "unusual spaces": re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]"),
    "spaces at the start": re.compile(r"\A "),
    "spaces at the end": re.compile(r" \Z"),
    "double spaces": re.compile(r"\S  +\S"),
    "tabs": re.compile("\t"),
}
# What follows from each; nothing that a script, an emoji or code may need is advised away.
_ADVICE = {
    "not UTF-8": "training will refuse them and say which data.encoding may read them",
    "lone surrogates": "half a character, which no file can hold; decode the text again",
    "NUL bytes": "training will refuse them; is this a text file?",
    "control characters": "a model will learn to write them",
    "carriage returns inside": "perhaps old line ends, or what a terminal overwrote",
    "byte order marks inside": "files were joined with their marks",
    "replacement characters": "the text was decoded in a wrong encoding before",
    "joiners": "emoji and scripts such as Persian or Hindi need them: keep them",
    "direction marks": "text from right to left needs them: keep them there",
    "zero-width characters": "words that look the same may differ; Thai and Khmer mark words with them",
    "line separators": "they do not end a line here",
    "unusual spaces": "words that look the same may differ; typography means some of them",
    "spaces at the start": "indentation, as of code or verse, is learnt as it stands",
    "spaces at the end": "a model will learn them",
    "double spaces": "a model of characters or word pieces will learn them",
    "tabs": "for columns with names, a .tsv file with a header line is read by field",
    "letters with loose accents": "a letter may stand in two spellings, which Unicode NFC would make one",
}

_NO_MOLECULE = "a model will learn them; seqgen corpus filter FILE --rule molecules --keep OTHER drops them"


def _decoded(line: str, number: int, odd: dict[str, list[int]]) -> str:
    try:
        line.encode()
    except UnicodeEncodeError:
        escaped = re.search("[\ud800-\udc7f\udd00-\udfff]", line) is None  # what decoding left of other bytes
        odd["not UTF-8" if escaped else "lone surrogates"].append(number)
        # left out, not replaced: a replacement character would be counted as one of the text's own
        return re.sub("[\ud800-\udfff]", "", line)
    return line


def _quantiles(lengths: Sequence[int]) -> dict[float, int]:
    """Return the smallest length that the share of lines does not exceed, for each share."""
    ordered = sorted(lengths)
    return {share: ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in _QUANTILES}


def _vocabulary(kind: str, characters: Counter[str], words: Counter[str]) -> int:
    if kind == "bpe":
        # grows with the square root of the text, as its distinct words roughly do
        return max(512, min(32_000, int(8 * math.sqrt(characters.total())) + 261))
    units, rare = (characters, 1000) if kind == "char" else (words, 0)
    once = sum(count == 1 for count in units.values())
    # those seen once are left to the unknown id where they are many to choose from and little text
    return len(units) - once if len(units) > rare and once <= 0.05 * units.total() else len(units)


def _limit(kind: str, line_characters: Sequence[int], line_words: Sequence[int]) -> int:
    lengths = _quantiles(line_characters if kind == "char" else line_words)
    # a word of running text is about one and a half pieces, its punctuation included
    return math.ceil(lengths[_KEPT] * (1.5 if kind == "bpe" else 1)) + 2


def _shown(lengths: dict[float, int]) -> str:
    return f"{lengths[0.0]:,} to {lengths[1.0]:,}, half up to {lengths[0.5]:,}, 99 % up to {lengths[0.99]:,}"
