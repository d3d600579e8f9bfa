#!/usr/bin/env python3
"""A reward of one's own moves a language model, at a distance that is chosen: share rewarded against KL per token.

A language model of `oracle:captions`, then policy gradient on the reward alone (no critic), with and without a target
for the KL divergence from the language model. Of 2,000 samples each: the share that is rewarded, the measured
divergence (mean of log p_policy - log p_lm over their tokens, nats), the share grammatical, unique texts, Self-BLEU-4
and held-out nats per token. Controls: the language model at lower temperature, which also makes texts more grammatical,
and its mixture with a Kneser-Ney 5-gram model, weighed on fresh lines of the grammar. A constant reward would leave the
language model as it is: its leave-one-out advantage is zero. Runs and figures that are there are not made again.
Run: scripts/reproduce/seqgan_reward.py OUT [--lm RUN] [--steps 400] [--seed 1] [--targets 0.05 0.1 0 0.02]
"""

import argparse
import json
import logging
from pathlib import Path

import torch

from seqgen import metrics
from seqgen.data.corpora.grammar import Grammar
from seqgen.data.corpora.oracle import oracle
from seqgen.data.rewards import reward
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.mix import mix
from seqgen.engine.run import config

TASK = "oracle:captions"
REWARDS = ("grammatical:captions", "regex:\\b(dog|cat)s?\\b")
SAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lm", type=Path, help="a language model that is there: README's, for the captions")
    parser.add_argument(
        "--targets", type=float, nargs="*", default=[0.02, 0.05, 0.1, 0.0], help="nats a token; 0: none"
    )
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    common = [f"seed={given.seed}", "train.threads=1", "train.device=cpu", "train.samples=0"]
    base, mixed = given.lm or given.out / "lm", given.out / "mixed"
    if not base.exists():
        # validated at the end alone: the held-out lines, which are scored, choose nothing
        train(config("lm", TASK, overrides=[*common, "train.eval_every=0"]), base)
    given.out.mkdir(parents=True, exist_ok=True)
    if not mixed.exists():
        mix([base, "kneser-ney"], Grammar.load("captions").sample(2000, seed=100), mixed, device="cpu")
    print("| reward | KL target | steps | rewarded | KL per token | grammatical | unique | Self-BLEU-4 | held-out |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for spec in REWARDS:
        kind = spec.partition(":")[0]
        row(given.out, spec, "language model", 0, base, base)
        row(given.out, spec, "language model, t = 0.8", 0, base, base, temperature=0.8)
        row(given.out, spec, "mixed with Kneser-Ney", 0, mixed, base)
        for target in given.targets:
            folder = given.out / f"{kind}-{target}"
            options = [
                "model.critic_steps=0", "model.critic_turn=0", "model.alarm=false", "model.policy_lr=1e-4",
                "model.reward.advantage=reinforce_loo", f"model.reward.kind={spec}", "model.reward.weight=1",
                f"model.reward.kl_target={target}",
                f"train.steps={given.steps}", "train.batch=128", "train.eval_every=0", "train.save_every=0",
            ]  # fmt: skip
            if not folder.exists():
                train(config("seqgan", TASK, overrides=[*common, *options]), folder, source_run=base)
            row(given.out, spec, str(target or "none"), given.steps, folder, base)


def row(out: Path, spec: str, name: str, steps: int, folder: Path, base: Path, temperature: float = 1.0) -> None:
    cell = out / f"{spec.partition(':')[0]}-{folder.name}-{temperature}.json"
    if not cell.is_file():
        cell.write_text(json.dumps(figures(spec, load(folder), load(base), temperature)))
    shown = [f"{value:.3f}" if isinstance(value, float) else "" for value in json.loads(cell.read_text()).values()]
    print(f"| `{spec.replace('|', chr(92) + '|')}` | {name} | {steps} | {' | '.join(shown)} |", flush=True)


def figures(
    spec: str, generator: TextGenerator, language_model: TextGenerator, temperature: float
) -> dict[str, float | None]:
    texts = generator.generate(SAMPLES, seed=7, temperature=temperature)
    task = oracle(TASK)
    ours, theirs, held_out = generator.score(texts), language_model.score(texts), generator.score(task.valid)
    return {
        "rewarded": sum(reward(spec)(texts)) / SAMPLES,
        # of a colder sample the distribution is not the model's, and its divergence not this mean
        "kl_per_token": (theirs.nats - ours.nats) / ours.total_tokens if temperature == 1 else None,
        "grammatical": task.scores(texts)["oracle_share"],
        "unique": len(set(texts)) / SAMPLES,
        "self_bleu_4": float(metrics.self_bleu(texts)),
        "held_out_per_token": held_out.nats / held_out.total_tokens,
    }


if __name__ == "__main__":
    main()
