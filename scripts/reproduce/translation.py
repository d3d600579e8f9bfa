#!/usr/bin/env python3
"""Multi30k, English to German: a recurrent encoder and decoder with attention, trained on one CPU core, then scored.

The length penalty is chosen on 200 pairs of the valid part; the test part (test_2016_flickr) is looked at once. BLEU
twice: sacreBLEU's (13a, mixed case) on the text as it is, and what published figures of this set use, multi-bleu.perl
over lower-cased text with its punctuation normalised and its words cut by Moses' tokenizer. The latter needs
sacremoses (pip install sacremoses). A run that is there already goes on, or is not trained again.
Run: scripts/reproduce/translation.py OUT [SETTING ...], SEQGEN_DATA naming the folder of the public sets
"""

import argparse
import time
from pathlib import Path

import torch
from sacremoses import MosesPunctNormalizer, MosesTokenizer

from seqgen import metrics
from seqgen.data.corpora.known import expanded
from seqgen.data.text import read_records
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config

SETTINGS = ("tokenizer.vocab_size=6000", "train.precision=bf16", "train.threads=1", "train.samples=0")
PENALTIES = (0.0, 0.6, 1.0, 1.4)
TUNED = 200
BEAMS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="SETTING")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    train(config("seq2seq", "multi30k", valid="multi30k", overrides=[*SETTINGS, *given.settings]), given.out)
    writer, seconds = load(given.out, device="cpu"), time.process_time() - began
    sources, references = pairs("valid")
    found = {penalty: tokenised(answers(writer, sources[:TUNED], penalty), references[:TUNED]) for penalty in PENALTIES}
    print("valid part, tokenised BLEU by length penalty:", {p: round(float(s), 4) for p, s in found.items()})
    penalty = max(found, key=lambda one: float(found[one]))
    sources, references = pairs("test")
    began = time.process_time()
    lines = answers(writer, sources, penalty)
    searched = time.process_time() - began
    (given.out / "test.de").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(
        f"{seconds:.0f} CPU seconds of training in this call, {searched:.0f} of searching, length penalty {penalty:g}"
    )
    scores = writer.score(references, sources)
    print(f"nats per token {scores.nats / scores.total_tokens:.3f}, per line {scores.nats / len(references):.2f}")
    for name, score in metrics.score_aligned(lines, [[line] for line in references]).items():
        if name != "tokenized_bleu_4":  # of text that is not tokenised
            show(name, score)
    show("lower case, Moses", tokenised(lines, references))
    for n in range(0, 1000, 100):
        print(f"\n{sources[n]}\n  {lines[n]}\n  {references[n]}")


def show(name: str, score: metrics.Score) -> None:
    """A score with its interval and how it was made."""
    low, high = score.interval or (float("nan"), float("nan"))
    print(f"{name}: {100 * float(score):.2f} ({100 * low:.2f} to {100 * high:.2f}) {score.signature}")


def pairs(use: str) -> tuple[list[str], list[str]]:
    """Sources and targets of a part of the set."""
    records = read_records(expanded(["multi30k"], use), source="en", target="de")  # type: ignore[arg-type]
    assert records.sources is not None
    return records.sources, records.texts


def answers(writer: TextGenerator, sources: list[str], penalty: float) -> list[str]:
    """The likeliest translation of each source that the beams find."""
    parts = [sources[i : i + 100] for i in range(0, len(sources), 100)]
    found = [writer.search(1, sources=part, num_beams=BEAMS, length_penalty=penalty) for part in parts]
    return [text.text for part in found for text in part]


def tokenised(lines: list[str], references: list[str]) -> metrics.Score:
    """BLEU of multi-bleu.perl over lower-cased, normalised and tokenised text."""
    cut, normal = MosesTokenizer("de"), MosesPunctNormalizer("de")
    mine, theirs = (
        [cut.tokenize(normal.normalize(line.lower()), escape=False, return_str=True) for line in side]
        for side in (lines, references)
    )
    return metrics.score_aligned(mine, [[line] for line in theirs])["tokenized_bleu_4"]


if __name__ == "__main__":
    main()
