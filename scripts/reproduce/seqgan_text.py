#!/usr/bin/env python3
"""SeqGAN against its own start, on text: quality and diversity together, beside the temperatures of the start.

A language model, and its mixture with a Kneser-Ney 5-gram model; from the language model, by the preset `seqgan`,
adversarial training with several advantages and with a constant reward, the alarm off so that nothing is hidden. 2,000
samples each against the lines of TEST.txt, or the held-out lines of the oracle, beside real text of the same size:
BLEU-4 and Self-BLEU-4 by the protocols `default` and `texygen`, held-out nats per token, copied lines. An oracle adds
the share it could have written, KL(oracle || model) and KL(model || oracle) from exact probabilities, nats per line:
the second of the model given that the line is possible, because any other line makes it infinite. What is scored
chooses nothing: the mixture is weighed on the tenth of TRAIN.txt that is held out, or on fresh lines of the grammar.
Runs and figures that are there are not made again.
Run: scripts/reproduce/seqgan_text.py OUT --data oracle:captions [--lm RUN]
     scripts/reproduce/seqgan_text.py OUT --data TRAIN.txt --test TEST.txt
"""

import argparse
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from seqgan_oracle import tempered

from seqgen import metrics
from seqgen.data.corpora.grammar import Grammar
from seqgen.data.corpora.oracle import PREFIX, Oracle, oracle
from seqgen.data.text import read_lines
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.mix import mix
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
    parser.add_argument("--test", default="")
    parser.add_argument("--steps", type=int, default=900, help="critic alone 300, then turns of 1 and 5")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lm", type=Path, help="a language model that is there: README's, for the captions")
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    task = oracle(given.data) if given.data.startswith(PREFIX) else None
    held_out = task.valid if task is not None else read_lines(given.test)
    common = [f"seed={given.seed}", "train.threads=1", "train.device=cpu", "train.samples=0", "data.long=drop"]
    common += [] if task is not None else ["data.max_length=30"]
    # the learning rate ends at 0, so the last weights are taken: lines that are scored choose no checkpoint either
    common += ["train.eval_every=0", "train.save_every=0"]
    base, mixed = given.lm or given.out / "lm", given.out / "mixed"
    if not base.exists():
        train(config("lm", given.data, overrides=common), base)
    data = load(base).own_text()
    text, selection = data.train_lines, data.valid_lines
    if task is not None:
        selection = Grammar.load(given.data.removeprefix(PREFIX)).sample(2000, seed=100)
    given.out.mkdir(parents=True, exist_ok=True)
    if not mixed.exists():
        mix([base, "kneser-ney"], selection, mixed, device="cpu")
    shown = ["texts", "held-out", "BLEU-4", "Self-BLEU-4", "texygen BLEU-4", "texygen Self-BLEU-4", "copied", "unique"]
    shown += ["possible", "KL(oracle, model)", "KL(model, oracle)"] if task is not None else []
    print(f"| {' | '.join(shown)} |\n|{' --- |' * len(shown)}", flush=True)
    row(given.out, "real text", text[:SAMPLES], held_out, None, None, task)
    generator = load(base)
    for temperature in TEMPERATURES:
        with tempered(generator.model, temperature):
            row(given.out, f"language model, t = {temperature}", None, held_out, text, generator, task)
    row(given.out, "mixed with Kneser-Ney", None, held_out, text, load(mixed), task)
    for name, options in VARIANTS.items():
        folder = given.out / name.replace(" ", "-").replace(",", "")
        options = [*options, "model.mle_steps=0", f"train.steps={given.steps}", "model.alarm=false"]
        if not folder.exists():
            train(config("seqgan", given.data, overrides=[*common, *options]), folder, source_run=base)
        row(given.out, name, None, held_out, text, load(folder), task)


def row(
    out: Path,
    name: str,
    texts: Sequence[str] | None,
    held_out: list[str],
    text: Sequence[str] | None,
    generator: TextGenerator | None,
    task: Oracle | None,
) -> None:
    """Print a row; its texts, where none are given, are samples."""
    cell = out / f"{name.replace(' ', '-')}.json"
    if not cell.is_file():
        drawn = list(texts or generator.generate(SAMPLES, seed=7))  # type: ignore[union-attr]
        cell.with_suffix(".txt").write_text("".join(f"{line}\n" for line in drawn))
        cell.write_text(json.dumps(figures(drawn, held_out, text, generator, task)))
    cells = json.loads(cell.read_text())
    print(f"| {name} | {' | '.join('' if value is None else f'{value:.3f}' for value in cells)} |", flush=True)


def figures(
    texts: list[str],
    held_out: list[str],
    text: Sequence[str] | None,
    generator: TextGenerator | None,
    task: Oracle | None,
) -> list[float | None]:
    ours = metrics.evaluate_text(texts, held_out, train=text).scores
    theirs = metrics.evaluate_text(texts, held_out, protocol="texygen").scores
    nats = None if generator is None else generator.score(held_out)
    cells: list[float | None] = [
        None if nats is None else nats.nats / nats.total_tokens,
        *(float(table[metric]) for table in (ours, theirs) for metric in ("bleu_4", "self_bleu_4")),
        None if text is None else float(ours["copied"]),
        float(ours["unique"]),
    ]
    if task is not None:
        by_oracle = task.nats(texts)
        possible = [k for k, value in enumerate(by_oracle) if value < math.inf]
        share = len(possible) / len(texts)
        cells += [share]
        if generator is not None and nats is not None:
            own = generator.score(texts).per_line
            cells += [(nats.nats - task.valid_nats) / len(held_out)]
            # log p(line | possible) = log p(line) - log p(possible)
            both = sum(own[k] + by_oracle[k] for k in possible)
            cells += [both / len(possible) - math.log(share) if share else None]
    return cells


if __name__ == "__main__":
    main()
