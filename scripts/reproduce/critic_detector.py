#!/usr/bin/env python3
"""Does the critic of a SeqGAN notice words that do not belong? AUROC beside the language model's log-probability.

1,000 captions of TEST.txt, each again with one fault: two neighbouring words swapped, or one replaced by a word drawn
as often as in the training text. Per sentence: whole against faulty. Per token: the faulty words against all others of
the faulty sentences. 0.5 is chance. One critic has seen text and samples of its language model, as SeqGAN has it; for
the others a share of the samples is real text with such faults (`model.critic.corrupted_negatives`). The mixture of the
language model with a Kneser-Ney 5-gram model is weighed on the tenth of TRAIN.txt that is held out.
Run: scripts/reproduce/critic_detector.py OUT --data TRAIN.txt --test TEST.txt [--critic 3000] [--faults 0 0.75]
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from seqgen.data.text import read_lines
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.mix import mix
from seqgen.engine.run import config

SENTENCES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--critic", type=int, default=3000)
    parser.add_argument("--faults", type=float, nargs="*", default=[0.0, 0.75])
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    common = ["train.threads=1", "train.device=cpu", "train.samples=0", "data.long=drop", "data.max_length=30"]
    # the learning rate ends at 0, so the last weights are taken
    common += ["tokenizer.kind=word", "train.eval_every=0"]
    base, mixed = given.out / "lm", given.out / "mixed"
    if not base.exists():
        train(config("lm", given.data, overrides=common), base)
    if not mixed.exists():
        mix([base, "kneser-ney"], load(base).own_text().valid_lines, mixed, device="cpu")
    judges = {"language model": load(base), "mixed with Kneser-Ney": load(mixed)}
    for share in given.faults:
        folder = given.out / f"critic-{share}"
        options = [
            f"model.critic_steps={given.critic}", f"train.steps={given.critic}",
            f"model.critic.corrupted_negatives={share}", "model.critic.lr=3e-4", "model.critic.dropout=0.5",
            "model.critic.negatives=6000", "model.round_steps=300",
        ]  # fmt: skip
        if not folder.exists():
            train(config("seqgan", given.data, overrides=[*common, *options]), folder, source_run=base)
        judges[f"critic, model.critic.corrupted_negatives = {share}"] = load(folder)
    generator = judges["language model"]

    known = {
        word for line in read_lines(given.data) for word in line.split() if generator.tokenizer.unknown(word) == []
    }
    lines = [line.split() for line in dict.fromkeys(read_lines(given.test))]
    lines = [words for words in lines if 5 <= len(words) <= 25 and known.issuperset(words)][:SENTENCES]
    words = np.array([word for line in read_lines(given.data) for word in line.split() if word in known])
    draws = np.random.default_rng(0)
    print("| fault | judge | per sentence | per token |\n| --- | --- | --- | --- |")
    for fault in ("swapped", "replaced"):
        corrupted_rows, places = [], []
        for line in lines:
            harmed, at = list(line), int(draws.integers(len(line) - 1))
            while fault == "swapped" and harmed[at] == harmed[at + 1]:
                at = int(draws.integers(len(line) - 1))
            if fault == "swapped":
                harmed[at], harmed[at + 1] = harmed[at + 1], harmed[at]
            while harmed[at] == line[at]:
                harmed[at] = str(draws.choice(words))
            corrupted_rows.append(" ".join(harmed))
            places.append({at, at + 1} if fault == "swapped" else {at})
        both = [" ".join(line) for line in lines] + corrupted_rows
        for judge, one in judges.items():
            if not judge.startswith("critic"):
                per_token = one.score(both).log_probs
                per_line = [sum(row) / len(row) for row in per_token]
            else:
                judged = one.critic_scores(both)
                per_line, per_token = judged.per_line, judged.per_token
            whole = roc_auc_score([0] * len(lines) + [1] * len(lines), [-value for value in per_line])
            flags, values = [], []
            for row, at in zip(per_token[len(lines) :], places, strict=True):
                flags += [k in at for k in range(len(row) - 1)]  # the end of the sentence is nobody's fault
                values += [-value for value in row[:-1]]
            print(f"| {fault} | {judge} | {whole:.3f} | {roc_auc_score(flags, values):.3f} |", flush=True)


if __name__ == "__main__":
    main()
