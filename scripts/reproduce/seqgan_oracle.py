#!/usr/bin/env python3
"""The oracle experiment of SeqGAN, cut down, with the controls that make its curves mean something.

One language model and one critic are trained on `oracle:lstm`; from there, for the same number of policy steps, go
likelihood alone, the paper's advantage, `delta`, and the paper's advantage with a constant reward. Each line gives the
NLL of samples under the oracle beside the model's own NLL of held-out oracle text, because either alone can be bought.
The last lines are the language model at other temperatures.
Run: scripts/reproduce/seqgan_oracle.py OUT [--seeds 1 2 3] [--mle 2500] [--critic 300] [--turns 60]
"""

import argparse
import json
import logging
from pathlib import Path

import torch

from seqgen.data.oracle import oracle
from seqgen.engine.generate import load
from seqgen.engine.loop import train
from seqgen.engine.run import config

TURN = 6  # steps: one of the policy, five of the critic
VARIANTS = {
    "likelihood alone": ["model.mle_steps=1000000"],
    "raw": ["model.advantage=raw", "model.rollouts=16"],
    "delta": ["model.advantage=delta", "model.rollouts=4"],
    "constant reward": ["model.advantage=raw", "model.rollouts=16", "model.reward=constant"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--mle", type=int, default=2500)
    parser.add_argument("--critic", type=int, default=300)
    parser.add_argument("--turns", type=int, default=60)
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    for seed in given.seeds:
        common = [
            f"seed={seed}", f"model.critic_turn={TURN - 1}", "model.round_steps=100", "model.negatives=3200",
            "model.rollout_lag=0.0", "model.rollout_precision=bf16", "train.samples=500", "train.save_every=0",
            "train.threads=1", "train.device=cpu",
        ]  # fmt: skip
        base = given.out / f"base-{seed}"
        steps = given.mle + given.critic
        at_start = [f"model.mle_steps={given.mle}", f"model.critic_steps={given.critic}", f"train.steps={steps}"]
        train(config("seqgan", preset="seqgan-paper-short", overrides=[*common, *at_start, "train.eval_every=0"]), base)
        report(f"seed {seed}", "start", base)
        for name, options in VARIANTS.items():
            run = given.out / f"{name.replace(' ', '-')}-{seed}"
            turns = ["model.mle_steps=0", "model.critic_steps=0", f"train.steps={given.turns * TURN}"]
            evaluations = [f"train.eval_every={max(1, given.turns // 4) * TURN}"]
            chosen = config("seqgan", preset="seqgan-paper-short", overrides=[*common, *turns, *evaluations, *options])
            train(chosen, run, source_run=base)
            report(f"seed {seed}", name, run)
        writer, task = load(base), oracle("oracle:lstm")
        for temperature in (0.5, 0.7, 0.9, 1.0, 1.2):
            scores = task.scores(writer.generate(500, temperature=temperature))
            print(f"seed {seed}  start at temperature {temperature}: nll_oracle {scores['nll_oracle']:.3f}", flush=True)


def report(seed: str, name: str, run: Path) -> None:
    for line in (run / "scores.jsonl").read_text().splitlines():
        score = json.loads(line)
        print(
            f"{seed}  {name:17} step {score['step']:5}  nll_oracle {score['nll_oracle']:.3f}  "
            f"held-out nll {score['nll_per_token']:.3f}  unique {score['unique']:.3f}  "
            f"Self-BLEU-2 {score['self_bleu_2']:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
