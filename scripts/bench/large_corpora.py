"""Text to ids on disk, larger than memory: `corpus build` by 1 and 2 processes, in memory, `tokenizers`, `datasets`.

Lines of 12 words drawn by Zipf's law from 50,000, 8,000 pieces learnt by BPE. Each case is a process of its own, which
does the same with a small text first: what remains is without imports. Seconds are of the CPU: `seconds` of the process
that writes, `busiest` of the busiest process, which bounds the rate where each has a core. `peak_mb` is memory of the
process's own, mapped files not counted, at its highest. The ratio of a row is MB a second by the busiest process, its
gate that all folders of a size are the same. Sizes in MB: LARGE_CORPORA=16,64. Ways, as named in CASES:
LARGE_CORPORA_CASES="1 process,tokenizers". `datasets` is left out where it is not installed.
Run: scripts/bench.py large-corpora [--quick]
"""

import importlib
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, PIECES, LEARNT = 50_000, 8_000, 20_000_000


def large_corpora(quick: bool) -> Iterator[dict[str, object]]:
    sizes = (1, 2) if quick else tuple(map(int, os.environ.get("LARGE_CORPORA", "16,64").split(",")))
    cases = os.environ.get("LARGE_CORPORA_CASES", ",".join(CASES)).split(",")
    if not importlib.util.find_spec("datasets"):
        cases = [case for case in cases if case != "datasets"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        warm = text(folder / "warm.txt", 0.2)
        for size in sizes:
            lines = text(folder / f"{size}.txt", size)
            made = {}
            for case in cases:
                out = folder / f"{size}-{case}"
                point = [sys.executable, __file__, case, str(warm), str(lines), str(out)]
                ended = subprocess.run(point, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
                if ended.returncode:
                    raise RuntimeError(ended.stderr[-800:])
                found = json.loads(ended.stdout)
                if (out / "meta.json").exists():
                    made[case] = json.loads((out / "meta.json").read_text())
                same = "ok" if all(meta == next(iter(made.values())) for meta in made.values()) else "folders differ"
                rate = size / found["busiest"]
                yield {
                    "bench": "large-corpora", "case": f"{size} MB, {case}", "ratio": round(rate, 2), "floor": None,
                    "gate": same, **found,
                }  # fmt: skip


def text(path: Path, megabytes: float) -> Path:
    """Write lines of syllables, the same for the same size."""
    draws, share = np.random.default_rng(1), np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    syllables = [consonant + vowel for consonant in "bdfghklmnprstvz" for vowel in "aeiou"]
    words = ["".join(syllables[i // 75**k % 75] for k in range(3) if not k or i >= 75**k) for i in range(VOCABULARY)]
    with path.open("w") as file:
        while file.tell() < megabytes * 1e6:
            drawn = np.searchsorted(share / share[-1], draws.random(12_000)).tolist()
            file.write(
                "".join(" ".join(map(words.__getitem__, drawn[i : i + 12])) + "\n" for i in range(0, 12_000, 12))
            )
    return path


# ---- in the process of one point


def build(source: str, out: str, workers: int) -> None:
    from seqgen.data.packing import build_corpus
    from seqgen.data.prepare import DataConfig
    from seqgen.data.tokenizers import TokenizerConfig

    words = TokenizerConfig(kind="bpe", vocab_size=PIECES)
    build_corpus([source], out, data=DataConfig(mode="sentence"), tokenizer=words, workers=workers)


def in_memory(source: str, out: str) -> None:
    from seqgen.data.prepare import DataConfig, prepare
    from seqgen.data.tokenizers import TokenizerConfig

    data = DataConfig(files=(source,), mode="sentence")
    prepare(data, TokenizerConfig(kind="bpe", vocab_size=PIECES), batch=8, seed=1, device="cpu")


def by_tokenizers(source: str, out: str) -> None:
    """Learn BPE from as many characters, then encode 10,000 lines at a time into one file of uint16."""
    tokenizer, rest = learnt(source), lines_of(source)
    with Path(out).open("wb") as file:
        while block := list(islice(rest, 10_000)):
            file.write(b"".join(np.array(one.ids, np.uint16).tobytes() for one in tokenizer.encode_batch(block)))


def by_datasets(source: str, out: str) -> None:
    """Do the same by `map` of a data set of lines, whose cache is what training would read."""
    datasets: Any = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    tokenizer = learnt(source)
    lines = datasets.load_dataset("text", data_files=source, split="train", cache_dir=out)

    def ids(rows: dict[str, list[str]]) -> dict[str, list[np.ndarray]]:
        return {"ids": [np.array(one.ids, np.uint16) for one in tokenizer.encode_batch(rows["text"])]}

    lines.map(ids, batched=True, batch_size=10_000, remove_columns="text")


def lines_of(source: str) -> Iterator[str]:
    with Path(source).open(encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file)


def learnt(source: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    every = max(1, Path(source).stat().st_size // LEARNT)
    trainer = trainers.BpeTrainer(vocab_size=PIECES, show_progress=False)
    tokenizer.train_from_iterator(islice(lines_of(source), 0, None, every), trainer)
    return tokenizer


CASES: dict[str, Callable[[str, str], None]] = {
    "1 process": lambda source, out: build(source, out, 1),
    "2 processes": lambda source, out: build(source, out, 2),
    "in memory": in_memory,
    "tokenizers": by_tokenizers,
    "datasets": by_datasets,
}


def point(case: str, warm: str, source: str, out: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    peak = 0

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, int(re.search(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text())[1]))  # type: ignore[index]
            time.sleep(0.02)

    CASES[case](warm, out + "-warm")
    base, before = time.process_time(), children()
    threading.Thread(target=watch, daemon=True).start()
    begin = time.perf_counter()
    CASES[case](source, out)
    wall, own = time.perf_counter() - begin, time.process_time() - base
    workers = int(case[0]) if case[0].isdigit() and case[0] != "1" else 0
    # a process that makes ids spends some two seconds on imports, as the small text has shown
    others = max(0.0, children() - 2 * before) / workers if workers else 0.0
    found = {"seconds": own, "busiest": max(own, others), "wall": wall, "peak_mb": peak / 1000}
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


BENCHES = {"large-corpora": large_corpora}

if __name__ == "__main__":
    point(*sys.argv[1:])
