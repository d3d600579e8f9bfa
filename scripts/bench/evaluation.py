"""BLEU, Self-BLEU, chrF and the Frechet distance against the usual packages, at the sizes papers use.

nltk scores as many hypotheses as it finishes in half a minute; the rest is extrapolated, and the case says from how
many. Orders 2-5 with method1, strings in, all scores out. Text: the captions of $SEQGEN_DATA where it is set, else
sentences that a 5-gram model of corpora/captions.txt writes. Run: scripts/bench.py bleu self-bleu fast-bleu chrf
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import cpu_seconds, ratios, row

from seqgen.metrics import (
    BleuSettings,
    KneserNey,
    bleu_orders,
    bleu_stats,
    chrf,
    self_bleu_orders,
    self_bleu_stats,
    sentence_scores,
)
from seqgen.metrics.distance import frechet_distance, frechet_of_moments, moments

ORDERS = (2, 3, 4, 5)
WEIGHTS = [(1 / n,) * n for n in ORDERS]
ROUNDS = 5


def captions(count: int) -> tuple[list[str], list[str]]:
    """`count` lines to score and `count` references."""
    folder = os.environ.get("SEQGEN_DATA")
    if folder and (path := Path(folder) / "text" / "image-coco").is_dir():
        train, test = ((path / name).read_text(encoding="utf-8").splitlines() for name in ("train.txt", "test.txt"))
        if count <= min(len(train), len(test)):
            return train[:count], test[:count]
    lines = sentences(2 * count)
    return lines[:count], lines[count:]


def sentences(count: int) -> list[str]:
    """Lines written by a 5-gram model of the package's own captions."""
    corpus = Path(__file__).resolve().parents[2] / "corpora" / "captions.txt"
    model = KneserNey([line.split() for line in corpus.read_text(encoding="utf-8").splitlines()])
    return [" ".join(map(str, text)) for text in model.sample(count, seed=0)]


# ------------------------------------------------------------------------------
# nltk


def nltk_scores(
    hypotheses: list[str], references_of: Callable[[int], list[list[str]]], seconds: float
) -> Iterator[list[list[float]]]:
    """BLEU-2..5 of the next hypotheses, as many as fit into `seconds`, again and again."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction().method1
    done = 0
    while True:
        begin, scores = time.process_time(), []
        while done < len(hypotheses) and (not scores or time.process_time() - begin < seconds):
            scores.append(sentence_bleu(references_of(done), hypotheses[done].split(), WEIGHTS, smoothing))
            done += 1
        yield scores


def against_nltk(
    bench: str,
    hypotheses: list[str],
    references_of: Callable[[int], list[list[str]]],
    ours: Callable[[], object],
    scores: np.ndarray,
    floor: float,
    quick: bool,
) -> dict[str, object]:
    """One row: nltk on what it manages, ours on all of it, in turn; the gate is equality on what nltk scored."""
    chunks = nltk_scores(hypotheses, references_of, (3.0 if quick else 30.0) / ROUNDS)
    ours()
    theirs: list[list[float]] = []
    values = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        chunk = next(chunks)
        usual = (time.process_time() - begin) / max(1, len(chunk)) * len(hypotheses)
        if not chunk:
            break
        theirs += chunk
        values.append(usual / cpu_seconds(ours))
    known = np.array(theirs)
    error = float((np.abs(scores[: len(known)] - known) / np.where(known > 0, known, 1)).max())
    gate = "ok" if error <= 1e-12 else f"differs from nltk by {error:.1e}"
    case = f"{len(hypotheses)} lines x {len(hypotheses)}, nltk extrapolated from {len(known)} hypotheses"
    return row(bench, case, values, floor, gate)


def stack(stats: Any) -> np.ndarray:
    return np.stack([sentence_scores(stats, n) for n in ORDERS], axis=1)


def bleu_row(count: int, floor: float, quick: bool) -> dict[str, object]:
    hypotheses, references = captions(count)
    tokens = [line.split() for line in references]
    scores = stack(bleu_stats([line.split() for line in hypotheses], tokens))
    return against_nltk(
        "bleu", hypotheses, lambda _: tokens, lambda: bleu_orders(hypotheses, references), scores, floor, quick
    )


def self_bleu_row(count: int, floor: float, quick: bool) -> dict[str, object]:
    lines, _ = captions(count)
    tokens = [line.split() for line in lines]
    scores = stack(self_bleu_stats(tokens))

    def others(i: int) -> list[list[str]]:
        return tokens[:i] + tokens[i + 1 :]

    return against_nltk("self-bleu", lines, others, lambda: self_bleu_orders(lines), scores, floor, quick)


def bleu_rows(quick: bool) -> Iterator[dict[str, object]]:
    yield bleu_row(1_000, 1_000.0, quick)
    yield bleu_row(10_000, 10_000.0, quick)


def self_bleu_rows(quick: bool) -> Iterator[dict[str, object]]:
    yield self_bleu_row(1_000, 1_000.0, quick)
    yield self_bleu_row(10_000, 10_000.0, quick)
    yield growth(50_000 if quick else 200_000)


def growth(most: int) -> dict[str, object]:
    """Time per line at a quarter and at all of `most` lines, and the memory of a process that does nothing else."""
    lines = sentences(most)
    few = lines[: most // 4]
    rounds = [
        (cpu_seconds(lambda: self_bleu_orders(few)), cpu_seconds(lambda: self_bleu_orders(lines))) for _ in range(3)
    ]
    measured = subprocess.run(
        [sys.executable, __file__, str(most)], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    megabytes = float(measured.stdout)
    linear = [4 * small / large for small, large in rounds]
    slow = statistics.median(linear) < 0.5
    gate = "grows faster than linear" if slow else "ok" if megabytes <= 1024 else f"{megabytes:.0f} MB of memory"
    found = row("self-bleu", f"{most} lines, growth from a quarter of them (1 is linear)", linear, None, gate)
    seconds = statistics.median(large for _, large in rounds)
    tokens = sum(line.count(" ") + 1 for line in lines)
    return found | {"cpu_s": round(seconds, 2), "tokens": tokens, "peak_mb": round(megabytes)}


# ------------------------------------------------------------------------------
# fast-bleu


def fast_bleu_rows(quick: bool) -> Iterator[dict[str, object]]:
    count = 1_000 if quick else 10_000
    hypotheses, references = captions(count)
    hyp, ref = [line.split() for line in hypotheses], [line.split() for line in references]
    try:
        from fast_bleu import BLEU, SelfBLEU
    except ImportError:
        absent = {"bench": "fast-bleu", "ratio": 0.0, "floor": None, "gate": "fast-bleu is not installed"}
        yield absent | {"case": "BLEU"}
        yield absent | {"case": "Self-BLEU"}
        return
    weights = dict(zip(ORDERS, WEIGHTS, strict=True))

    def bleu_usual() -> dict[int, list[float]]:
        scores: dict[int, list[float]] = BLEU([line.split() for line in references], weights).get_score(
            [line.split() for line in hypotheses]
        )
        return scores

    def self_usual() -> dict[int, list[float]]:
        scores: dict[int, list[float]] = SelfBLEU([line.split() for line in hypotheses], weights).get_score()
        return scores

    def others(i: int) -> list[list[str]]:
        return hyp[:i] + hyp[i + 1 :]

    def checked(
        name: str,
        usual: Callable[[], dict[int, list[float]]],
        ours: Callable[[], object],
        scores: np.ndarray,
        references_of: Callable[[int], list[list[str]]],
        floor: float,
    ) -> dict[str, object]:
        known = np.array(next(nltk_scores(hypotheses, references_of, 2.0)))
        error = float((np.abs(scores[: len(known)] - known) / np.where(known > 0, known, 1)).max())
        gate = "ok" if error <= 1e-12 else f"differs from nltk by {error:.1e}"
        found = row("fast-bleu", f"{name}, {count} lines", ratios(usual, ours, rounds=ROUNDS), floor, gate)
        theirs = np.array([usual()[n] for n in ORDERS]).T
        return found | {"fast_bleu_lines_off_by_1e-6": int((np.abs(theirs - scores) > 1e-6).any(axis=1).sum())}

    scores = stack(bleu_stats(hyp, ref))
    yield checked("BLEU", bleu_usual, lambda: bleu_orders(hypotheses, references), scores, lambda _: ref, 15.0)
    scores = stack(self_bleu_stats(hyp))
    yield checked("Self-BLEU", self_usual, lambda: self_bleu_orders(hypotheses), scores, others, 55.0)


# ------------------------------------------------------------------------------
# Frechet distance


def frechet_rows(quick: bool) -> Iterator[dict[str, object]]:
    yield frechet_row(512, 10.0)
    yield frechet_row(512, None, from_rows=True)
    if not quick:
        yield frechet_row(768, None)


def frechet_row(width: int, floor: float | None, *, from_rows: bool = False) -> dict[str, object]:
    """From means and covariances, as image benchmarks keep them; or from the rows, covariances included."""
    from scipy import linalg

    def usual_of(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> complex:
        gap = mean_a - mean_b
        return complex(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(linalg.sqrtm(cov_a @ cov_b)))

    random = np.random.default_rng(width)
    mixing = random.normal(size=(2, width, width)) / np.sqrt(width)
    a = random.normal(size=(4000, width)) @ mixing[0]
    b = random.normal(size=(3500, width)) @ mixing[1] + 0.1
    known = (*moments(a), *moments(b))
    collapsed = np.repeat(a[:1], 4000, axis=0)

    if from_rows:
        case = f"from 4000 x 3500 rows, D={width}"

        def usual() -> complex:
            return usual_of(a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False))

        def ours() -> float:
            return frechet_distance(a, b)
    else:
        case = f"from moments, D={width}"

        def usual() -> complex:
            return usual_of(*known)

        def ours() -> float:
            return frechet_of_moments(*known)

    error = abs(ours() / usual().real - 1)
    gate = "ok" if error <= 1e-9 else f"differs from sqrtm by {error:.1e}"
    for first, second in ((collapsed, b), (b, collapsed), (a, a.copy())):
        distance = frechet_distance(first, second)
        if not (isinstance(distance, float) and distance >= 0):
            gate = f"{distance} for collapsed or equal rows"
    return row("frechet", f"{case}, scipy sqrtm", ratios(usual, ours, rounds=ROUNDS), floor, gate)


# ------------------------------------------------------------------------------
# chrF


def chrf_rows(quick: bool) -> Iterator[dict[str, object]]:
    import sacrebleu

    hypotheses, references = captions(1_000 if quick else 5_000)
    own = [[line] for line in references]
    for word_order, name in ((0, "chrF"), (2, "chrF++")):
        usual = partial(sacrebleu.CHRF(word_order=word_order).corpus_score, hypotheses, [references])
        ours = partial(chrf, hypotheses, own, word_order=word_order)
        error = abs(100 * float(ours()) - usual().score)
        gate = "ok" if error <= 1e-10 else f"differs from sacreBLEU by {error:.1e}"
        yield row("chrf", f"{name}, {len(own)} lines, sacreBLEU", ratios(usual, ours, rounds=ROUNDS), 3.0, gate)


def corpus_bleu_rows(quick: bool) -> Iterator[dict[str, object]]:
    """A reference for each line, as translations have it: tokenised, counted and pooled."""
    import sacrebleu

    hypotheses, references = captions(1_000 if quick else 5_000)
    own = [[line] for line in references]
    settings = BleuSettings((4,), "13a", level="sacrebleu")
    ours = partial(bleu_orders, hypotheses, None, settings, references_per_hypothesis=own)
    cut = sacrebleu.BLEU(force=True)

    def usual() -> Any:
        # it remembers every line it has cut: from the second round on there would be nothing to do
        type(cut.tokenizer).__call__.cache_clear()
        type(cut.tokenizer._post_tokenizer).__call__.cache_clear()
        return cut.corpus_score(hypotheses, [references])

    error = abs(100 * float(ours()[4]) - usual().score)
    gate = "ok" if error <= 1e-9 else f"differs from sacreBLEU by {error:.1e}"
    yield row("corpus-bleu", f"{len(own)} lines, sacreBLEU", ratios(usual, ours, rounds=ROUNDS), 3.0, gate)


BENCHES = {
    "bleu": bleu_rows,
    "corpus-bleu": corpus_bleu_rows,
    "self-bleu": self_bleu_rows,
    "fast-bleu": fast_bleu_rows,
    "frechet": frechet_rows,
    "chrf": chrf_rows,
}


if __name__ == "__main__":  # in a process of its own: the memory of Self-BLEU on so many lines
    self_bleu_orders(sentences(int(sys.argv[1])))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2))
