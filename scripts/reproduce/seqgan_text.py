#!/usr/bin/env python3
"""SeqGAN against its own start, on text: quality and diversity together, beside the temperatures of the start.

A language model; from it, by the preset `seqgan`, adversarial training with several advantages and with a constant
reward, the alarm off so that nothing is hidden. 2,000 samples each against the held-out lines, beside real text of the
same size: BLEU-4 and Self-BLEU-4 by the protocols `default` and `texygen`, held-out nats per token, copied lines. Of an
oracle also the share it could have written, KL(oracle || model) and KL(model || oracle) from exact probabilities, nats
per line: the second of the model given that the line is possible, because any other line makes it infinite.
Run: scripts/reproduce/seqgan_text.py OUT --data oracle:captions
     scripts/reproduce/seqgan_text.py OUT --data TRAIN.txt --valid TEST.txt
"""

import argparse
import logging
import math
from pathlib import Path

import torch
from seqgan_oracle import tempered

from seqgen import metrics
from seqgen.data.corpora.oracle import PREFIX, Oracle, oracle
from seqgen.data.text import read_lines
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config

TEMPERATURES = (0.5, 0.7, 0.8, 0.9, 1.0, 1.2)
VARIANTS = {
    "SeqGAN, leave-one-out": ["model.reward.advantage=reinforce_loo"],
    "SeqGAN, delta N=4": ["model.reward.advantage=delta"],
    # every token weighs the same, so one rollout is as good as many
    "constant reward, raw": ["model.reward.advantage=raw", "model.reward.kind=constant", "model.reward.rollouts=1"],
}
SAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--valid", default="")
    parser.add_argument("--steps", type=int, default=900, help="critic alone 300, then turns of 1 and 5")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    task = oracle(given.data) if given.data.startswith(PREFIX) else None
    held_out = task.valid if task is not None else read_lines(given.valid)
    text = task.train if task is not None else read_lines(given.data)
    common = [f"seed={given.seed}", "train.threads=1", "train.device=cpu", "train.samples=0", "data.long=drop"]
    common += [] if task is not None else ["data.max_length=30"]
    base = given.out / "lm"
    if not base.exists():
        train(config("lm", given.data, valid=given.valid or None, overrides=common), base)
    shown = ["texts", "held-out", "BLEU-4", "Self-BLEU-4", "texygen BLEU-4", "texygen Self-BLEU-4", "copied", "unique"]
    shown += ["possible", "KL(oracle, model)", "KL(model, oracle)"] if task is not None else []
    print(f"| {' | '.join(shown)} |\n|{' --- |' * len(shown)}", flush=True)
    row("real text", text[:SAMPLES], held_out, None, None, task)
    generator = load(base)
    for temperature in TEMPERATURES:
        with tempered(generator.model, temperature):
            texts = generator.generate(SAMPLES, seed=7)
            row(f"language model, t = {temperature}", texts, held_out, text, generator, task)
    for name, options in VARIANTS.items():
        folder = given.out / name.replace(" ", "-").replace(",", "")
        options = [*options, "model.mle_steps=0", f"train.steps={given.steps}", "model.alarm=false"]
        options += ["train.eval_every=0", "train.save_every=0"]
        if not folder.exists():
            chosen = config("seqgan", given.data, valid=given.valid or None, overrides=[*common, *options])
            train(chosen, folder, source_run=base)
        generator = load(folder)
        row(name, generator.generate(SAMPLES, seed=7), held_out, text, generator, task)


def row(
    name: str,
    texts: list[str],
    held_out: list[str],
    text: list[str] | None,
    generator: TextGenerator | None,
    task: Oracle | None,
) -> None:
    ours = metrics.evaluate_text(texts, held_out, train=text).scores
    theirs = metrics.evaluate_text(texts, held_out, protocol="texygen").scores
    nats = None if generator is None else generator.score(held_out)
    cells = [
        math.nan if nats is None else nats.nats / nats.total_tokens,
        *(float(table[metric]) for table in (ours, theirs) for metric in ("bleu_4", "self_bleu_4")),
        math.nan if text is None else float(ours["copied"]),
        float(ours["unique"]),
    ]
    if task is not None:
        by_oracle = task.nats(texts)
        possible = [k for k, value in enumerate(by_oracle) if value < math.inf]
        cells += [len(possible) / len(texts)]
        if generator is not None and nats is not None:
            own = generator.score(texts).per_line
            cells += [(nats.nats - task.valid_nats) / len(held_out)]
            share = len(possible) / len(texts)
            # log p(line | possible) = log p(line) - log p(possible)
            cells += [
                sum(own[k] + by_oracle[k] for k in possible) / len(possible) - math.log(share) if share else math.nan
            ]
    print(f"| {name} | {' | '.join('' if math.isnan(cell) else f'{cell:.3f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
