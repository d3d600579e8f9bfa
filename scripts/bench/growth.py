"""How cost grows: every command that takes lines, at up to 1,000,000 of them, V up to 200,000, T up to 2,000.

Each point is a process of its own, which first does the same on the smallest size: what remains is CPU time and peak
memory beyond imports and constants. The ratio of a row is the exponent, fitted over the largest sizes (a factor of
100); the goal is 1.05, and 12 bytes a byte of text, and the gate says what is above it. With --quick sizes are small
and nothing is judged but whether a command works. GROWTH_ONLY=bleu,score runs the cases named.
What is a little above 1.05 is the processor's cache, not more operations a line: beyond 100,000 lines the integers of
novelty, Kneser-Ney and BLEU no longer fit it. From there to 500,000 an n-gram takes 1.5 times as long to sort and 2.3
times to look up, a line of BLEU's bootstrap 1.5 times (its counts are hit at random): AMD EPYC, 1 MB of cache a core.
Run: scripts/bench.py growth [--quick]
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EXPONENT, BYTES_A_BYTE = 1.05, 12
STATUS = Path("/proc/self/status")
LINES, VOCABULARY, LENGTH = 10_000, 5_000, 11  # what is held while another of them grows
SIZES = {"lines": (1_000, 10_000, 100_000, 1_000_000), "V": (1_000, 20_000, 200_000), "T": (20, 200, 2_000)}
QUICK = {"lines": (1_000, 4_000), "V": (1_000, 4_000), "T": (20, 80)}


@dataclass(frozen=True)
class Place:
    """Where texts and runs of this bench lie, made when asked for."""

    folder: Path

    def text(self, seed: int = 1, *, lines: int = LINES, V: int = VOCABULARY, T: int = LENGTH) -> str:  # noqa: N803
        """A file of lines of about T words, drawn by Zipf's law from V: some five bytes a word."""
        path = self.folder / f"text-{seed}-{lines}-{V}-{T}.txt"
        if not path.exists():
            random = np.random.default_rng(seed)
            share = np.cumsum(1 / np.arange(1, V + 1))
            with path.open("w", encoding="utf-8") as file:
                for begin in range(0, lines, 10_000):
                    lengths = random.integers(max(1, T // 2), T + T // 2 + 1, min(10_000, lines - begin))
                    words = np.searchsorted(share / share[-1], random.random(int(lengths.sum()))).tolist()
                    for end, length in zip(np.cumsum(lengths).tolist(), lengths.tolist(), strict=True):
                        file.write(" ".join(map(_WORD, words[end - length : end])) + "\n")
        return str(path)

    def run(self, *, V: int = VOCABULARY) -> str:  # noqa: N803
        """A language model of V words, trained for one step."""
        out = self.folder / f"run-{V}"
        if not out.exists():
            (words := self.folder / f"words-{V}.txt").write_text("".join(f"{_WORD(i)}\n" for i in range(V)))
            _finished([sys.executable, "-m", "seqgen", *_training(str(words), "word", str(out))])
        return str(out)

    def new(self) -> str:
        """A name that nothing has yet."""
        return tempfile.mktemp(dir=self.folder)


def _WORD(i: int) -> str:  # noqa: N802
    return f"w{i:03x}"


def _training(text: str, kind: str, out: str) -> list[str]:
    options = [f"tokenizer.kind={kind}", "tokenizer.min_count=1", "model.hidden=16", "model.embedding=16"]
    options += ["train.steps=1", "train.samples=0", "train.eval_every=0", "data.long=cut", "data.max_length=40"]
    return ["train", "lm", "--data", text, "--out", out, *options]


Command = Callable[[Place, int], list[str]]
CASES: dict[str, tuple[str, int, Command]] = {
    **{
        f"train {kind}": ("lines", 1_000_000, lambda at, n, kind=kind: _training(at.text(lines=n), kind, at.new()))
        for kind in ("byte", "char", "word", "bpe", "unigram")
    },
    "corpus build": ("lines", 1_000_000, lambda at, n: ["corpus", "build", at.text(lines=n), "--out", at.new()]),
    "corpus inspect": ("lines", 1_000_000, lambda at, n: ["corpus", "inspect", at.text(lines=n)]),
    "score": ("lines", 100_000, lambda at, n: ["score", at.run(), at.text(lines=n)]),
    "generate": ("lines", 100_000, lambda at, n: ["generate", at.run(), "--count", str(n), "--max-new-tokens", "12"]),
    "bleu": ("lines", 1_000_000, lambda at, n: ["bleu", at.text(lines=n), at.text(2, lines=n)]),
    "bleu paired": ("lines", 1_000_000, lambda at, n: ["bleu", at.text(lines=n), at.text(2, lines=n), "--aligned"]),
    "self-bleu": ("lines", 1_000_000, lambda at, n: ["self-bleu", at.text(lines=n)]),
    "novelty": ("lines", 1_000_000, lambda at, n: ["@novelty", at.text(lines=n), at.text(2, lines=n)]),
    "kneser-ney": ("lines", 1_000_000, lambda at, n: ["@kneser_ney", at.text(lines=n), at.text(2, lines=1_000)]),
    "evaluate": (
        "lines",
        100_000,
        lambda at, n: [
            "evaluate", at.text(lines=n), "--references", at.text(2, lines=n), "--train", at.text(3, lines=n),
        ],
    ),
    "compare": (
        "lines",
        100_000,
        lambda at, n: [
            "compare", at.text(lines=n), at.text(4, lines=n), "--references", at.text(2, lines=n), "--count", str(n),
        ],
    ),
    "train word by V": ("V", 200_000, lambda at, n: _training(at.text(lines=100_000, V=n), "word", at.new())),
    "generate by V": ("V", 200_000, lambda at, n: ["generate", at.run(V=n), "--count", "64", "--max-new-tokens", "20"]),
    "bleu by V": ("V", 200_000, lambda at, n: ["bleu", at.text(lines=100_000, V=n), at.text(2, lines=100_000, V=n)]),
    "generate by T": ("T", 2_000, lambda at, n: ["generate", at.run(), "--count", "8", "--max-new-tokens", str(n)]),
    "score by T": ("T", 2_000, lambda at, n: ["score", at.run(), at.text(lines=1_000, T=n)]),
    "bleu by T": ("T", 2_000, lambda at, n: ["bleu", at.text(lines=1_000, T=n), at.text(2, lines=1_000, T=n)]),
    "novelty by T": ("T", 2_000, lambda at, n: ["@novelty", at.text(lines=1_000, T=n), at.text(2, lines=1_000, T=n)]),
}  # fmt: skip


def growth(quick: bool) -> Iterator[dict[str, object]]:
    only = [name for name in os.environ.get("GROWTH_ONLY", "").split(",") if name]
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        for case, (axis, top, command) in CASES.items():
            if only and case not in only:
                continue
            sizes = [size for size in (QUICK if quick else SIZES)[axis] if size <= top]
            warm = command(place, sizes[0])
            points = []
            for size in sizes:
                made = command(place, size)
                points.append(json.loads(_finished([sys.executable, __file__, json.dumps([warm, made])])))
                warm = command(place, sizes[0])  # a name that is not taken
            text = sum(Path(word).stat().st_size for word in set(made) if Path(word).is_file())
            yield _row(case, axis, sizes, points, text, quick)


def _row(
    case: str, axis: str, sizes: list[int], points: list[dict[str, float]], text: int, quick: bool
) -> dict[str, object]:
    seconds, peaks = [p["seconds"] for p in points], [p["peak"] for p in points]
    fitted = [
        (math.log(n), math.log(max(s, 1e-4))) for n, s in zip(sizes, seconds, strict=True) if n * 100 >= sizes[-1]
    ]
    exponent = float(np.polyfit(*map(list, zip(*fitted, strict=True)), 1)[0])
    per_byte = peaks[-1] / text if text and axis == "lines" else math.nan
    faults = [f"grows with exponent {exponent:.2f}, more than {EXPONENT}"] if exponent > EXPONENT else []
    faults += (
        [f"takes {per_byte:.1f} bytes a byte of text, more than {BYTES_A_BYTE}"] if per_byte > BYTES_A_BYTE else []
    )
    return {
        "bench": "growth", "case": case, "ratio": round(exponent, 3), "floor": None,
        "gate": "ok" if quick or not faults else "; ".join(faults), axis: sizes,
        "seconds": [round(s, 2) for s in seconds], "peak_mb": [round(p / 1e6) for p in peaks],
        "bytes_a_byte": None if math.isnan(per_byte) else round(per_byte, 1),
    }  # fmt: skip


def _finished(command: list[str]) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command[2:])[:200]} ended with {ended.returncode}: {ended.stderr[-500:]}")
    return ended.stdout


# ---- in the process of one point


def novelty(own: str, train: str) -> None:
    from seqgen.metrics.novelty import match_training

    match_training(*_packed(own, train))


def kneser_ney(train: str, held_out: str) -> None:
    from seqgen.metrics.ngram_lm import KneserNey

    known, new = _packed(train, held_out)
    KneserNey(known).perplexity(new)


def _packed(*paths: str) -> list[Any]:
    """The lines of files as ids, as `evaluate` hands them on."""
    from seqgen.data.text import read_lines
    from seqgen.metrics.tokens import pack_texts

    return pack_texts({path: read_lines(path) for path in paths})[0]


def _peak() -> int:
    """The most memory this process has held, in bytes; 0 where the system does not say."""
    return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) * 1024 if STATUS.exists() else 0


def _point(warm: list[str], command: list[str]) -> None:
    from seqgen.__main__ import main

    said = os.fdopen(os.dup(1), "w")
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
    functions = {"@novelty": novelty, "@kneser_ney": kneser_ney}
    for words in (warm, command):
        base, begin = _peak(), time.process_time()
        if words[0] in functions:
            functions[words[0]](*words[1:])
        elif main(words):
            raise SystemExit(1)
        spent, peak = time.process_time() - begin, _peak() - base
    print(json.dumps({"seconds": spent, "peak": peak}), file=said)


BENCHES = {"growth": growth}

if __name__ == "__main__":
    _point(*json.loads(sys.argv[1]))
