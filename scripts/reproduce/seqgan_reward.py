#!/usr/bin/env python3
"""A reward of one's own moves a language model, at a distance that is chosen: share rewarded against KL per token.

A language model of `oracle:captions`, then policy gradient on the reward alone (no critic), with and without a target
for the KL divergence from the language model. Of 2,000 samples each: the share that is rewarded, the measured
divergence (mean of log p_policy - log p_lm over their tokens, nats), the share grammatical, unique texts, Self-BLEU-4
and held-out nats per token. The control draws from the language model colder, which also makes texts more grammatical.
Run: scripts/reproduce/seqgan_reward.py OUT [--steps 400] [--seed 1]
"""

import argparse
import logging
from pathlib import Path

import torch

from seqgen import metrics
from seqgen.data.corpora.oracle import oracle
from seqgen.data.rewards import reward
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config

TASK = "oracle:captions"
REWARDS = ("grammatical:captions", "regex:\\b(dog|cat)s?\\b")
TARGETS = (0.0, 0.02, 0.05, 0.1)
SAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    common = [f"seed={given.seed}", "train.threads=1", "train.device=cpu", "train.samples=0"]
    base = given.out / "lm"
    if not base.exists():
        train(config("lm", TASK, overrides=[*common, "train.average_from=-1"]), base)
    language_model = load(base)
    print("| reward | KL target | steps | rewarded | KL per token | grammatical | unique | Self-BLEU-4 | held-out |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for spec in REWARDS:
        for temperature in (1.0, 0.8):
            row(spec, f"language model, t = {temperature}", 0, language_model, language_model, temperature)
        for target in TARGETS:
            folder = given.out / f"{spec.partition(':')[0]}-{target}"
            options = [
                "model.critic_steps=0", "model.critic_turn=0", "model.alarm=false", "model.policy_lr=1e-4",
                "model.reward.advantage=reinforce_loo", f"model.reward.kind={spec}", "model.reward.weight=1",
                f"model.reward.kl_target={target}",
                f"train.steps={given.steps}", "train.batch=128", "train.eval_every=0", "train.save_every=0",
            ]  # fmt: skip
            if not folder.exists():
                train(config("seqgan", TASK, overrides=[*common, *options]), folder, source_run=base)
            row(spec, str(target or "none"), given.steps, load(folder), language_model, 1.0)


def row(
    spec: str, name: str, steps: int, generator: TextGenerator, language_model: TextGenerator, temperature: float
) -> None:
    texts = generator.generate(SAMPLES, seed=7, temperature=temperature)
    rewarded = sum(reward(spec)(texts)) / SAMPLES
    task = oracle(TASK)
    ours, theirs = generator.score(texts), language_model.score(texts)
    # of a colder sample the distribution is not the model's, and its divergence not this mean
    kl = f"{(theirs.nats - ours.nats) / ours.total_tokens:.3f}" if temperature == 1 else ""
    cells = [
        rewarded, kl, task.scores(texts)["oracle_share"], len(set(texts)) / SAMPLES,
        float(metrics.self_bleu(texts)), generator.score(task.valid).nats / generator.score(task.valid).total_tokens,
    ]  # fmt: skip
    shown = [cell if isinstance(cell, str) else f"{cell:.3f}" for cell in cells]
    print(f"| `{spec.replace('|', chr(92) + '|')}` | {name} | {steps} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
