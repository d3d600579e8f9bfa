#!/usr/bin/env python3
"""Word tables against SentencePiece: ids of every line, for every configuration of its trainer that changes them.

Trains a model of each configuration on text of many languages found on this machine (message catalogues of installed
programs, Python's own documentation, this project's corpora, the sets in SEQGEN_DATA) and compares the ids of three
kinds of lines with `SentencePieceProcessor.encode`: real ones, generated nasty ones (spaces, markers, control bytes,
emoji, 300-character words, rows of 200 KB ...), and random bytes that are no UTF-8. Each is encoded by the array
operations of the CPU and again by those of a GPU (run on the CPU where there is none); then ids are decoded. Of
the real lines of several words those are counted that a table left to SentencePiece whole, for it is worth little if
it leaves many.
Exit code 1 if a line differs.
Run: scripts/reproduce/tokenizer_exactness.py [--lines 4000] [--vocab 8000] [--only bpe] [--device cpu]
"""

import argparse
import io
import os
import random
import re
import struct
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from seqgen.data.corpora.known import shipped
from seqgen.data.ragged import Ragged
from seqgen.data.tokenizers import wordtable
from seqgen.data.tokenizers.spmodel import PieceLearner, read_model, why_rows
from seqgen.data.tokenizers.wordtable import WordTable, operations

KEEP = {"remove_extra_whitespaces": False}
NO_PREFIX = {"add_dummy_prefix": False}
SUFFIX = {"treat_whitespace_as_suffix": True}
BYTES = {"byte_fallback": True}
PLAIN = {"normalization_rule_name": "identity"}
ONLY_SPACES = {"allow_whitespace_only_pieces": True}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default (nmt_nfkc)": {},
    "byte_fallback": BYTES,
    "identity": PLAIN,
    "nmt_nfkc_cf": {"normalization_rule_name": "nmt_nfkc_cf"},
    "nfkc": {"normalization_rule_name": "nfkc"},
    "nfkc_cf": {"normalization_rule_name": "nfkc_cf"},
    "remove_extra_whitespaces=false": KEEP,
    "the same, byte_fallback": KEEP | BYTES,
    "the same, identity": KEEP | PLAIN,
    "spaces kept, identity, no dummy prefix, whitespace-only pieces, byte_fallback": (
        KEEP | PLAIN | NO_PREFIX | ONLY_SPACES | BYTES
    ),
    "spaces kept, identity, whitespace-only pieces, byte_fallback (as trained here)": (
        KEEP | PLAIN | ONLY_SPACES | BYTES
    ),
    "spaces kept, nmt_nfkc, whitespace-only pieces": KEEP | ONLY_SPACES,
    "whitespace-only pieces": ONLY_SPACES,
    "add_dummy_prefix=false": NO_PREFIX,
    "add_dummy_prefix=false, spaces kept": NO_PREFIX | KEEP,
    "treat_whitespace_as_suffix": SUFFIX,
    "user symbols without spaces": {"user_defined_symbols": ["<user>", "tion", "--", "ing", "的", "\u0301"]},
    "user symbols that overlap words, identity": {"user_defined_symbols": ["a", "aa", "..", "://", "100"], **PLAIN},
    "split_digits, no scripts, no numbers apart": {
        "split_digits": True, "split_by_unicode_script": False, "split_by_number": False,
    },
    "character_coverage=1": {"character_coverage": 1.0},
    "user symbol with a space": {"user_defined_symbols": ["of the", "<a b>"]},
    "user symbol with a marker": {"user_defined_symbols": ["\u2581the\u2581end"]},
    "split_by_whitespace=false": {"split_by_whitespace": False},
    "a rule that reads a space": {"rules": "61 20 62\t63\n"},
    "suffix, spaces kept": SUFFIX | KEEP,
    "suffix, no dummy prefix": SUFFIX | NO_PREFIX,
}  # fmt: skip
KINDS = ("bpe", "unigram")
OTHER_KINDS = ("char", "word")


# -------------------------------------------------------------------------------------------------------------- text


def languages() -> dict[str, list[str]]:
    """Lines of every language that message catalogues on this machine are translated to."""
    found: dict[str, dict[str, None]] = {}
    roots = {Path(path) for path in ("/usr/share", "/usr/local/share", sysconfig.get_path("purelib"), sys.prefix)}
    for root in sorted(roots):
        for path in sorted([*root.glob("**/LC_MESSAGES/*.mo"), *root.glob("**/LC_MESSAGES/*.po")]):
            lines = found.setdefault(path.parent.parent.name, {})
            if len(lines) > 20000:
                continue
            content = path.read_bytes()
            texts = messages(content) if path.suffix == ".mo" else re.findall(rb'^msgstr "(.+)"$', content, re.M)
            for text in texts:
                for line in text.decode(errors="ignore").split("\n"):
                    if line.strip() and "\0" not in line:
                        lines[line] = None
    return {language: list(lines) for language, lines in found.items() if len(lines) >= 20}


def messages(catalogue: bytes) -> Iterator[bytes]:
    """The translations in a compiled message catalogue (GNU gettext's .mo)."""
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(catalogue[:4])
    if order is None or len(catalogue) < 20:
        return
    count, _, table = struct.unpack_from(order + "3I", catalogue, 8)
    for size, at in struct.iter_unpack(order + "2I", catalogue[table : table + 8 * count]):
        if not catalogue[at : at + size].startswith(b"Project-Id-Version"):
            yield from catalogue[at : at + size].split(b"\0")


def prose() -> list[str]:
    """Lines of Python's documentation, of this project's corpora, and of the public sets at hand."""
    lines = [line.strip() for text in topics.values() for line in text.split("\n") if line.strip()]
    for path in shipped().values():
        lines += path.read_text(encoding="utf-8").split("\n")[:2000]
    if place := os.environ.get("SEQGEN_DATA"):
        for path in sorted(Path(place).glob("text/**/*.txt")):
            lines += path.read_text(encoding="utf-8").split("\n")[:4000]
    return lines


ODD = [
    " ", "  ", "     ", "\t", "\r", "\f", "\v", "\0", "\x01", "\x1b", "\x7f", "\x85", "\u00a0", "\u3000", "\u200b",
    "\u200c", "\u200d", "\ufeff", "\u2028", "\u2029", "\u2003", "\u202f", "\u205f", "\u1680", "\u00ad", "\u2581",
    "\u2581\u2581", "\u00a8", "\u00b4", "\ufb01", "\ufb00", "\uff76\uff9e", "\uff8a\uff9f", "\u0301", "\u0308\u0323",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f600", "\U0001f3fd", "\ufffd",
    "\uffff", "\U0010ffff", "<unk>", "<s>", "</s>", "<0x41>", "<user>", "<a b>", "of the", "\u2581the\u2581end", "--",
    "---", "-----", "....", "hmmm", "aaa", "aaaa", "100", "1/2", "\u00bd", "\u2460", "\uff21\uff22", "\u3042\u3044",
    "\u65e5\u672c\u8a9e", "\u7684", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22", "\ud55c\uad6d\uc5b4", "\u1112\u1161",
    "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627", "\u0e33", "\u0f0b", "a b c", "tion", "://",
]  # fmt: skip
"""Parts of nasty lines."""


def nasty(count: int, words: list[str], seed: int) -> list[bytes]:
    """Lines that a careless encoder gets wrong, some of them very long."""
    draws = random.Random(seed)
    lines = [b"", b" ", b"    ", b"\xe2\x96\x81", b" \xe2\x96\x81 ", b"a", b" a", b"a ", b"  a  b  "]
    for _ in range(count - len(lines)):
        parts: list[str] = []
        for _ in range(draws.randrange(1, 14)):
            choice = draws.random()
            if choice < 0.45:
                parts.append(draws.choice(words))
            elif choice < 0.9:
                parts.append(draws.choice(ODD))
            elif choice < 0.95:
                parts.append(chr(draws.choice([draws.randrange(1, 0x250), draws.randrange(0xE000, 0x110000)])))
            else:
                parts.append(draws.choice(["a", "é", "字", "-", "ก"]) * draws.choice([20, 70, 300, 600]))
            parts.append(draws.choice(["", "", " ", " ", " ", "  "]))
        lines.append("".join(parts).encode())
    return lines


def long_rows(words: list[str], seed: int) -> list[bytes]:
    """Rows of 200 KB: one character, or words."""
    draws = random.Random(seed)
    lines = [character.encode() * (200_000 // len(character.encode())) for character in ("a", "\u5b57", " ", "\u2581")]
    return lines + [" ".join(draws.choices(words, k=30_000)).encode()[:200_000] for _ in range(3)]


def broken(count: int, seed: int) -> list[bytes]:
    """Rows of bytes that are hardly ever UTF-8."""
    draws = random.Random(seed)
    alphabet = (
        b" " * 40 + b"abcthe.-" * 6 + bytes([0, 0x80, 0xC0, 0xC3, 0xE2, 0x96, 0x81, 0xED, 0xA0, 0xF0, 0x9F, 0xFF])
    )
    return [bytes(draws.choices(alphabet, k=draws.randrange(0, 60))) + draws.randbytes(3) for _ in range(count)]


# ------------------------------------------------------------------------------------------------------------- models


def trained(kind: str, options: dict[str, Any], lines: list[str], vocab: int) -> bytes:
    """A model of the lines, as large as they support."""
    generator = io.BytesIO()
    options = dict(options)
    with tempfile.TemporaryDirectory() as folder:
        if rules := options.pop("rules", ""):
            options["normalization_rule_tsv"] = str(Path(folder, "rules.tsv"))
            Path(folder, "rules.tsv").write_text(rules)
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=generator, model_type=kind, vocab_size=vocab,
            hard_vocab_limit=False, minloglevel=3, num_threads=1, **({"character_coverage": 0.995} | options),
        )  # fmt: skip
    return generator.getvalue()


class Counting(PieceLearner):
    """The learner, and how many rows its table left to it whole."""

    whole = 0

    def rows(self, rows: Sequence[str | bytes]) -> list[list[int]]:
        """As the learner gives them."""
        self.whole += len(rows)
        return super().rows(rows)


def packed(rows: list[bytes]) -> Ragged:
    """Rows of bytes in one tensor."""
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return Ragged(torch.frombuffer(bytearray(b"".join(rows) or b" "), dtype=torch.uint8)[: offsets[-1]], offsets)


def compared(model: bytes, rows: list[bytes], device: torch.device) -> Counter[str]:
    """How many rows were compared, differ from SentencePiece's ids or texts, and were left to it whole."""
    processor = SentencePieceProcessor(model_proto=model)
    expected: list[list[int]] = processor.encode(rows, num_threads=1)
    learner = Counting(model)
    differences, text = 0, packed(rows)
    cpu = WordTable(learner)
    for encoded in (
        cpu.encode(text),  # every word is new
        cpu.encode(text),  # every word is known
        WordTable(PieceLearner(model)).encode(text.to(device), ops=operations(device, tensors=True)).to("cpu"),
    ):
        differences += sum(a != b for a, b in zip(encoded.tolist(), expected, strict=True))
    surfaces = learner.surfaces(left_out=())
    texts = surfaces.texts(Ragged.from_lists(expected))
    wrong = sum(a != processor.decode(ids) for a, ids in zip(texts, expected, strict=True))
    return Counter(compared=3 * len(rows), differences=differences, texts=wrong, whole=learner.whole)


# --------------------------------------------------------------------------------------------------------------- main


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, default=4000, help="lines of each kind, for each configuration")
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--only", default="", help="configurations whose name or type holds this")
    parser.add_argument("--device", default="cpu", help="where the tensor operations run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # A block of text whose words are as long as lines is otherwise left to SentencePiece, and nothing would be tested.
    wordtable._NO_WORDS = 1 << 60
    draws = random.Random(0)
    catalogues, english = languages(), [line for line in prose() if line.strip()]
    share = max(20, 4 * options.lines // max(1, len(catalogues)))
    foreign = [line for lines in catalogues.values() for line in draws.sample(lines, min(share, len(lines)))]
    learnt = draws.sample(english, min(6000, len(english))) + draws.sample(foreign, min(6000, len(foreign)))
    words = sorted({word for line in draws.sample(learnt, 2000) for word in line.split()})
    print(
        f"{len(catalogues)} languages, {sum(map(len, catalogues.values()))} lines of them, {len(english)} of prose",
        file=sys.stderr,
    )
    real = draws.sample(english, min(options.lines, len(english))) + draws.sample(
        foreign, min(options.lines, len(foreign))
    )
    spaced = [line for line in real if len(line.split()) > 1]
    groups = [[line.encode() for line in spaced], [line.encode() for line in set(real) - set(spaced)]]
    groups += [nasty(options.lines, words, 1), long_rows(words, 2), broken(options.lines // 2, 3)]
    print("| configuration | type | mode | rows compared | ids differ | texts differ | lines done whole |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    cases = [(name, kind, given) for name, given in CONFIGURATIONS.items() for kind in KINDS]
    cases += [("default (nmt_nfkc)", kind, {}) for kind in OTHER_KINDS]
    totals: Counter[str] = Counter()
    for name, kind, given in cases:
        if options.only not in f"{name} {kind}":
            continue
        begin = time.process_time()
        model = trained(kind, given, learnt, options.vocab)
        reason = why_rows(read_model(model))
        if reason:
            print(f"| {name} | {kind} | rows: {reason} | | | | |", flush=True)
            totals["rows"] += 1
            continue
        found = [compared(model, rows, torch.device(options.device)) for rows in groups]
        row = sum(found, Counter())
        whole = found[0]["whole"] / (2 * len(groups[0]))
        print(
            f"| {name} | {kind} | table | {row['compared']:,} | {row['differences']} | {row['texts']} | {whole:.2%} |",
            flush=True,
        )
        totals += row + Counter(table=1)
        print(f"  {time.process_time() - begin:.0f} s", file=sys.stderr)
    print(
        f"\n{totals['table']} models by table: {totals['compared']:,} rows compared, {totals['differences']} differ in "
        f"ids and {totals['texts']} in text; {totals['rows']} models row by row.",
    )
    return int(bool(totals["differences"] + totals["texts"]))


if __name__ == "__main__":
    sys.exit(main())
