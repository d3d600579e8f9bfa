#!/usr/bin/env python3
"""Text VAEs against a language model of the same size: is the latent used, and at what price (He et al. 2019's table).

SNLI sentences: `valid.txt` to train, the vocabulary all its words, `<unk>` among them. COCO captions have none: words
seen once there are `<unk>`, or no model would ever see it. `test.txt` is split once: every tenth line is scored, those
five behind are for selection. They choose checkpoint, dropout, steps and the weight of the n-gram model; a part of the
text to train on would not do, because its words are in the vocabulary. All models have the same sizes and decay.
Likelihood by importance sampling with 200 latents; the language model's is exact. "Mixed": every token's probability is
(1 - w) times the model's plus w times a Kneser-Ney 5-gram model's of the same training lines; a VAE's decoder is mixed
so given the latent.
Runs that are there already are not trained again, and figures that are there are not made again.
Run: scripts/reproduce/text_vae.py OUT --data DIR [--sets snli coco] [--only NAME ...] [--with SECTION.OPTION=VALUE ...]
"""

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch

from seqgen.data.text import read_lines
from seqgen.data.tokenizers import TokenizerConfig, train_tokenizer
from seqgen.engine.generate import TextGenerator
from seqgen.engine.latent import LatentSpace
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.mix import mix
from seqgen.engine.run import config

SETS = {
    "snli": ("snli/valid.txt", "snli/test.txt", 1),
    "coco": ("image-coco/train.txt", "image-coco/test.txt", 2),
}
"""Text to train on, text to score, and how often a word must occur to be none of `<unk>`."""
BATCH = 32
SIZES = ("model.embedding=128", "model.hidden=256")
COMMON = (
    *("seed=1", "train.device=cpu", "train.threads=1", "train.samples=0", f"train.batch={BATCH}"),
    *("train.clip=1.0", "train.lr=4e-3", "train.schedule=linear", "train.lr_end=0"),
    *("data.mode=sentence", "data.long=cut", "model.input_dropout=0.2", "model.output_dropout=0.4"),
)
VAE = ("model.latent=32", "model.kl_target=0")
VARIANTS: dict[str, tuple[str, ...]] = {
    "language model": ("model.weight_drop=0.2",),
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
SAMPLES, SCORED = 200, 1000
WEIGHTS = [k / 20 for k in range(15)]
"""Shares of the n-gram model that are tried in a VAE's decoder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument(
        "--with", nargs="+", default=[], dest="changes", help="other settings, each section.option=value"
    )
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    for name in given.sets:
        training, scoring, least = SETS[name]
        own, words, ngram = given.data / training, given.out / name / "words", given.out / name / "kneser-ney"
        scored, others = split(read_lines(given.data / scoring))
        selection = given.out / name / "selection.txt"
        if not (words / "tokenizer").is_dir():
            (words / "tokenizer").mkdir(parents=True)
            known = TokenizerConfig(kind="word", min_count=least)
            train_tokenizer(known, read_lines(own), seed=1).save(words / "tokenizer")
            selection.write_text("".join(f"{line}\n" for line in others))
        if not (ngram / "report.html").is_file():
            train(
                config("kneser-ney", own, valid=selection, overrides=["data.mode=sentence"]), ngram, tokenizer_run=words
            )
        rows = []
        for variant in VARIANTS:
            path = given.out / name / variant.replace(" ", "-")
            if variant in given.only and not (path / "figures.json").is_file():
                overrides = [*COMMON, *SIZES, *VARIANTS[variant], *given.changes]
                measure(path, overrides, given.epochs, own, load(ngram, device="cpu"), scored)
            if (path / "figures.json").is_file():
                rows.append((variant, json.loads((path / "figures.json").read_text())))
        table(name, rows)
        alone = load(ngram, device="cpu").score(scored)
        print(f"\nKneser-Ney 5-gram: {alone.nats / SCORED:.2f} nats per line", flush=True)


def measure(path: Path, overrides: list[str], epochs: int, own: Path, ngram: TextGenerator, scored: list[str]) -> None:
    """Train a variant, unless it is there, and write its figures beside it."""
    words, selection = path.with_name("words"), path.with_name("selection.txt")
    per_epoch = len(read_lines(own)) // BATCH
    steps = [f"train.steps={epochs * per_epoch}", f"train.eval_every={per_epoch}", "train.save_every=0"]
    model = "text-vae" if any(option.startswith("model.latent") for option in overrides) else "lm"
    anneal = [f"model.anneal_steps={epochs * per_epoch // 2}"] if model == "text-vae" else []
    began = time.process_time()
    if not (path / "report.html").is_file():
        train(config(model, own, valid=selection, overrides=[*steps, *anneal, *overrides]), path, tokenizer_run=words)
    seconds = (time.process_time() - began) / epochs
    generator = load(path, device="cpu")
    validations = [json.loads(line) for line in (path / "scores.jsonl").read_text().splitlines()]
    figures = {
        "selection_per_token": min(each["nll_per_token"] for each in validations),
        **(in_latents if model == "text-vae" else exact)(generator, ngram, read_lines(selection), scored),
        "seconds_per_epoch": seconds,
    }
    (path / "figures.json").write_text(json.dumps(figures))
    print(path.name, {name: round(value, 3) for name, value in figures.items()}, flush=True)


def exact(generator: TextGenerator, ngram: TextGenerator, selection: list[str], lines: list[str]) -> dict[str, float]:
    """The figures of a language model, alone and mixed."""
    scored = generator.score(lines)
    assert generator.folder is not None
    assert ngram.folder is not None
    mixed = generator.folder.with_name(f"{generator.folder.name}-mixed")
    if not (mixed / "config.toml").is_file():
        mix([generator.folder, ngram.folder], selection, mixed, device="cpu")
    both = load(mixed, device="cpu")
    return {
        "nll_per_line": scored.nats / len(lines),
        "nll_per_token": scored.nats / scored.total_tokens,
        "nll_mixed": both.score(lines).nats / len(lines),
        "weight": 1 - both.settings.model.weights[0],
    }


def in_latents(
    generator: TextGenerator, ngram: TextGenerator, selection: list[str], lines: list[str]
) -> dict[str, float]:
    """The figures of a VAE, its likelihood alone and with the n-gram model in its decoder."""
    tried = mixed(generator, ngram, selection, WEIGHTS, samples=20)
    weight = min(WEIGHTS, key=tried.__getitem__)
    found = mixed(generator, ngram, lines, [0.0, weight], samples=SAMPLES)
    figures = LatentSpace(generator).likelihood(lines, samples=20)
    tokens = figures["nll_per_line"] / figures["nll_per_token"]
    alone = {"nll_per_line": found[0.0], "nll_per_token": found[0.0] / tokens}
    return figures | alone | {"nll_mixed": found[weight], "weight": weight}


def mixed(
    generator: TextGenerator, ngram: TextGenerator, lines: list[str], weights: list[float], *, samples: int
) -> dict[float, float]:
    """Nats per line by importance sampling for each weight of the n-gram model in the decoder.

    p(x) = E[prod over t of (1 - w) p(x_t | before, z) + w p_ngram(x_t | before)], z from the prior: as any mixture
    of decoders, a latent model itself, so the estimate is an upper bound in expectation like that of the VAE alone.
    """
    nats = dict.fromkeys(weights, 0.0)
    with torch.inference_mode():
        for batch in generator.batches(lines):
            counts = torch.zeros(batch.targets.numel(), dtype=torch.float64)
            counts[batch.positions] = ngram.model.log_probs(batch)
            ratios, found = zip(*generator.model.weighed(batch, samples), strict=True)
            ratio, given_latent = torch.cat(ratios), torch.cat(found)
            for weight in weights:
                own = given_latent
                if weight:
                    by_counts = counts.view(batch.targets.shape) + math.log(weight)
                    own = torch.logaddexp(given_latent + math.log1p(-weight), by_counts)
                # of positions that are not counted both are log 1 = 0, and so is their mixture
                nats[weight] += float((math.log(samples) - (ratio + own.sum(2)).logsumexp(0)).sum())
    return {weight: value / len(lines) for weight, value in nats.items()}


def split(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines that are scored and those for selection, which have none of the scored among them."""
    scored, selection = ([lines[(2 * i + half) * len(lines) // (2 * SCORED)] for i in range(SCORED)] for half in (0, 1))
    return scored, [line for line in selection if line not in set(scored)]


def table(name: str, rows: list[tuple[str, dict[str, Any]]]) -> None:
    """What there is so far, as Markdown."""
    columns = {
        "NLL": "nll_per_line", "per token": "nll_per_token", "mixed": "nll_mixed", "weight": "weight",
        "-ELBO": "bound_per_line", "KL": "kl",
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
