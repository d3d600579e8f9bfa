#!/usr/bin/env python3
"""Text VAEs against a language model of the same size: is the latent used, and at what price (He et al. 2019's table).

SNLI sentences: `valid.txt` to train (a twentieth of it held out to choose the checkpoint), `test.txt` to score, the
vocabulary all words of `valid.txt`, which has `<unk>` among them. COCO captions have none: words seen once there are
`<unk>`, or no model would ever see it. All models have the same sizes, dropout and optimizer.
Likelihood by importance sampling with 500 latents on 1,000 test sentences; the language model's is exact.
Runs that are there already are not trained again, and figures that are there are not made again.
Run: scripts/reproduce/text_vae.py OUT --data DIR [--sets snli coco] [--only NAME ...]
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch

from seqgen.data.text import read_lines
from seqgen.data.tokenizers import TokenizerConfig, load_tokenizer, train_tokenizer
from seqgen.engine.generate import TextGenerator
from seqgen.engine.latent import LatentSpace
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config
from seqgen.metrics import KneserNey

SETS = {
    "snli": ("snli/valid.txt", "snli/test.txt", 1),
    "coco": ("image-coco/train.txt", "image-coco/test.txt", 2),
}
"""Text to train on, text to score, and how often a word must occur to be none of `<unk>`."""
BATCH = 32
EPOCHS = 24
SIZES = ("model.embedding=128", "model.hidden=256")
COMMON = (
    *("seed=1", "train.device=cpu", "train.threads=1", "train.samples=0", f"train.batch={BATCH}"),
    *("train.lr=3e-3", "train.clip=1.0", "data.valid_share=0.05", "data.mode=sentence", "data.long=cut"),
    *("model.input_dropout=0.3", "model.output_dropout=0.4"),
)
VAE = ("model.latent=32", "model.kl_target=0")
VARIANTS: dict[str, tuple[str, ...]] = {
    "language model": (),
    "plain": VAE,
    "cyclical": (*VAE, "model.anneal=cyclical"),
    "free bits": (*VAE, "model.anneal=linear", "model.free_bits=0.2"),
    "aggressive": (*VAE, "model.anneal=linear", "model.anneal_from=0.1", "model.aggressive=true"),
    "BN-VAE": (*VAE, "model.bn_gamma=0.6"),
    "controller": (*VAE, "model.kl_target=5"),
    "controller to 8": (*VAE, "model.kl_target=8"),
    "controller to 12": (*VAE, "model.kl_target=12", "model.bidirectional=true", "model.word_dropout=0.1"),
    "adversarial": (*VAE, "model.match=adversarial"),
}
SAMPLES, SCORED = 500, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    for name in given.sets:
        training, scoring, least = SETS[name]
        own, test, words = given.data / training, given.data / scoring, given.out / name / "words"
        if not (words / "tokenizer").is_dir():
            (words / "tokenizer").mkdir(parents=True)
            known = TokenizerConfig(kind="word", min_count=least)
            train_tokenizer(known, read_lines(own), seed=1).save(words / "tokenizer")
        rows = []
        for variant in VARIANTS:
            path = given.out / name / variant.replace(" ", "-")
            if variant in given.only and not (path / "figures.json").is_file():
                measure(path, variant, own, words, test)
            if (path / "figures.json").is_file():
                rows.append((variant, json.loads((path / "figures.json").read_text())))
        table(name, rows)
        print(f"\nKneser-Ney 5-gram: {floor(own, words, chosen(read_lines(test))):.2f} nats per line", flush=True)


def measure(path: Path, variant: str, own: Path, words: Path, test: Path) -> None:
    """Train a variant, unless it is there, and write its figures beside it."""
    per_epoch = len(read_lines(own)) * 19 // 20 // BATCH
    steps = [f"train.steps={EPOCHS * per_epoch}", f"train.eval_every={per_epoch}", "train.save_every=0"]
    anneal = [f"model.anneal_steps={EPOCHS * per_epoch // 2}"] if variant != "language model" else []
    model = "text-vae" if anneal else "lm"
    began = time.process_time()
    if not (path / "report.html").is_file():
        overrides = [*COMMON, *SIZES, *steps, *anneal, *VARIANTS[variant]]
        train(config(model, own, overrides=overrides), path, tokenizer_run=words)
    seconds = (time.process_time() - began) / EPOCHS
    figures = {**scored(load(path, device="cpu"), read_lines(test)), "seconds_per_epoch": seconds}
    (path / "figures.json").write_text(json.dumps(figures))
    print(path.name, {name: round(value, 3) for name, value in figures.items()}, flush=True)


def scored(generator: TextGenerator, lines: list[str]) -> dict[str, float]:
    """The figures of a run on the lines chosen of the test text."""
    lines = chosen(lines)
    if generator.settings.name == "text-vae":
        return LatentSpace(generator).likelihood(lines, samples=SAMPLES)
    exact = generator.score(lines)
    return {"nll_per_line": exact.nats / len(lines), "nll_per_token": exact.nats / exact.total_tokens}


def chosen(lines: list[str]) -> list[str]:
    """Every tenth line or so."""
    return [lines[i * len(lines) // SCORED] for i in range(SCORED)]


def floor(own: Path, words: Path, lines: list[str]) -> float:
    """What a Kneser-Ney 5-gram model of the same words gives each line, nats."""
    tokenizer = load_tokenizer(words / "tokenizer")
    training, scored = (tokenizer.encode(each).tolist() for each in (read_lines(own), lines))
    return -float(KneserNey(training).log_probability(scored).sum()) / len(lines)


def table(name: str, rows: list[tuple[str, dict[str, Any]]]) -> None:
    """What there is so far, as Markdown."""
    columns = {
        "NLL": "nll_per_line", "per token": "nll_per_token", "-ELBO": "bound_per_line", "KL": "kl",
        "MI": "mutual_information", "AU": "active_units", "reconstruction": "reconstruction",
        "without latent code": "reconstruction_without_latent", "BLEU-4": "reconstruction_bleu_4",
        "accuracy": "token_accuracy", "s / epoch": "seconds_per_epoch",
    }  # fmt: skip
    print(f"\n| {name} | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    for variant, figures in rows:
        cells = [f"{figures[key]:.3g}" if key in figures and figures[key] < 1 else
                 f"{figures[key]:.2f}" if key in figures else "" for key in columns.values()]  # fmt: skip
        print(f"| {variant} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
