#!/usr/bin/env python3
"""SeqGAN with the reward `logit`: does the policy's own exact likelihood of new lines rise above its language model's?

A language model of the captions by the preset lm-small, or RUN; then, from it, a critic of fresh lines of the grammar
that the model has not seen, and the policy, held to the language model (logit) or to itself in turns (proximal). A
critic that knows the density ratio would end at the grammar itself. The rows: nats a line on other fresh lines (the
language model's less the policy's, and the standard error of the mean difference of lines), the critic's AUROC between
those and samples of the language model, the gain and the effective sample size that weighing such samples by exp(logit)
would have, possible and unique texts.
Run: scripts/reproduce/seqgan_logit.py OUT [--lm RUN] [--lines 1500] [--seeds 1 2 3] [--only logit constant]
"""

import argparse
import itertools
import logging
import math
from pathlib import Path

import torch

from seqgen.data.corpora.grammar import Grammar
from seqgen.data.text import read_lines
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config

COMMON = ["train.threads=1", "train.device=cpu", "train.samples=0", "train.save_every=0", "train.eval_every=0"]
LOGIT = [
    "model.reward.kind=logit", "model.reward.advantage=reinforce_loo", "model.alarm=false", "model.policy_lr=0",
    "model.critic.dropout=0.5", "model.critic.lr=3e-4", "model.critic.negatives=6000", "model.critic_steps=300",
    "model.round_steps=300", "train.schedule=linear", "train.lr_end=0", "train.lr=3e-4", "train.batch=128",
]  # fmt: skip
VARIANTS = {
    "logit": ["model.critic_turn=0", "train.steps=600"],
    "logit, proximal": [
        "model.reward.proximal=true",
        "model.policy_turn=50",
        "model.critic_turn=50",
        "train.steps=900",
    ],
    "constant": ["model.reward.kind=constant", "model.critic_turn=0", "train.steps=320"],
}
SAMPLES = 2000
CAPTIONS = Path(__file__).resolve().parents[2] / "corpora" / "captions.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lines", type=int, default=1500, help="fresh lines that the critic is fitted to")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--lm", type=Path, help="a language model of the captions that is there")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    base = given.lm or given.out / "lm"
    if not base.exists():
        train(config("lm", "captions", preset="lm-small", overrides=COMMON), base)
    grammar, generator = Grammar.load("captions"), load(base)
    known = set(read_lines(CAPTIONS))
    test = fresh(grammar, 4000, 100, set())
    start = torch.tensor(generator.score(test).per_line)
    print("| | seed | nats a line | gain | AUROC | gain by weights | ESS | possible | unique |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    row(grammar, generator.generate(SAMPLES, seed=7), "language model", "", f"{-start.mean():.3f}", *[""] * 4)
    for name, seed in itertools.product(given.only, given.seeds):
        lines = given.out / f"fit-{seed}.txt"
        lines.write_text("".join(f"{line}\n" for line in fresh(grammar, given.lines, 1000 + seed, known)))
        folder = given.out / f"{name.replace(', ', '-')}-{seed}"
        if not folder.exists():
            overrides = [*COMMON, *LOGIT, *VARIANTS[name], f"seed={seed}"]
            train(config("seqgan", str(lines), overrides=overrides), folder, source_run=base)
        trained = load(folder)
        gain = torch.tensor(trained.score(test).per_line) - start
        shown = [
            f"{-start.mean() - gain.mean():.3f}",
            f"{gain.mean():+.3f} ± {gain.std() / math.sqrt(len(gain)):.3f}",
            *(critic(trained, generator, test) if name == "logit" else [""] * 3),
        ]
        row(grammar, trained.generate(SAMPLES, seed=7), name, seed, *shown)


def fresh(grammar: Grammar, count: int, seed: int, known: set[str]) -> list[str]:
    """New lines of the grammar, without those that the language model has learnt from (they were drawn with seed 1)."""
    return [line for line in grammar.sample(count + 400, seed=seed) if line not in known][:count]


def critic(trained: TextGenerator, generator: TextGenerator, test: list[str]) -> list[str]:
    """How well the critic tells unseen lines from samples, and what its logit would give as weights of samples."""
    real = torch.tensor(trained.critic_scores(test).per_line)
    drawn = torch.tensor(trained.critic_scores(generator.generate(4000, seed=9)).per_line)
    log_z, weights = drawn.logsumexp(0) - math.log(len(drawn)), drawn.softmax(0)
    auroc = (real[:, None] > drawn).double().mean()
    return [f"{auroc:.3f}", f"{real.mean() - log_z:+.3f}", f"{1 / weights.square().sum() / len(drawn):.2f}"]


def row(grammar: Grammar, texts: list[str], *cells: object) -> None:
    possible = sum(map(grammar.grammatical, texts)) / len(texts)
    cells = (*cells, f"{possible:.3f}", f"{len(set(texts)) / len(texts):.3f}")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
