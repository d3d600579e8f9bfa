#!/usr/bin/env python3
"""COCO captions under every model of text at equal CPU seconds: one table by `seqgen compare`.

Run: SEQGEN_DATA=... scripts/reproduce/model_set.py FOLDER [--seconds 100]
Steps of a model are as many as fit into the seconds at the speed of its first ones, so that the learning rate ends
with them; start and validation count. seqgan goes on from a language model of half of the seconds. hmm and kneser-ney
are fitted in what they need, and `mixed` is lm and kneser-ney, weighed on the lines held out in training. Words seen
once are <unk> for all; full stops are cut off in references as in samples. A run that is there is not trained again.
Standard output: the CPU seconds of each, then the table.
"""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded

COMMON = ["--data", "image-coco", "tokenizer.kind=word", "tokenizer.min_count=2", "train.samples=0", "train.threads=1"]
MODELS: dict[str, list[str]] = {
    "lm": ["lm", "--preset", "lm-small"],
    "gpt": ["gpt", "--preset", "gpt-small"],
    "masked": ["masked", "--preset", "masked-small"],
    "text-vae": ["text-vae", "model.kl_target=5", "model.word_dropout=0", "model.bidirectional=false"],
    "hmm": ["hmm", "model.states=256"],
    "kneser-ney": ["kneser-ney"],
}
FITTED = ("hmm", "kneser-ney")


def seqgen(*words: str, quiet: bool = True) -> float:
    """Run one command and return its CPU seconds."""
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    say = subprocess.DEVNULL if quiet else None
    subprocess.run([sys.executable, "-m", "seqgen", *words], check=True, stderr=say, stdout=sys.stdout)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime


def fitting(words: list[str], folder: Path, name: str, seconds: float) -> list[str]:
    """Return the settings under which a training takes so many CPU seconds."""
    few, many = 30, 90  # of seqgan some are steps of the policy

    def short(steps: int) -> float:
        last = [f"train.steps={steps}", f"train.eval_every={steps}", "train.save_every=0"]
        return seqgen("train", *words, "--out", str(folder / f"{name}-{steps}"), *last)

    at_few, at_many = short(few), short(many)
    each = (at_many - at_few) / (many - few)
    steps = max(many, int((seconds - at_few) / each))
    return [f"train.steps={steps}", f"train.eval_every={steps // 4}", "train.save_every=0"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=100)
    options = parser.parse_args()
    folder, seconds = options.folder, options.seconds
    folder.mkdir(parents=True, exist_ok=True)

    def train(name: str, words: list[str], limit: float) -> None:
        if (folder / name / "report.html").exists():
            return
        steps = [] if name in FITTED else fitting(words, folder, name, limit)
        spent = seqgen("train", *words, "--out", str(folder / name), *steps)
        print(f"{name}: {spent:.0f} CPU s {' '.join(steps)}", flush=True)

    for name, words in MODELS.items():
        train(name, [*words, *COMMON], seconds)
    train("lm-half", [*MODELS["lm"], *COMMON], seconds / 2)
    start = ["--from", str(folder / "lm-half"), "model.mle_steps=0", "model.critic_steps=20"]
    train("seqgan", ["seqgan", *COMMON[:2], *start, *COMMON[4:]], seconds / 2)
    held_out = folder / "held-out.txt"
    if not (folder / "mixed" / "config.toml").exists():
        from seqgen.engine.loading import load  # late: the other commands load torch themselves

        held_out.write_text("".join(f"{line}\n" for line in load(folder / "lm").own_text().valid_lines))
        parts = [str(folder / name) for name in ("lm", "kneser-ney")]
        seqgen("mix", *parts, "--held-out", str(held_out), "--out", str(folder / "mixed"))
    runs = [str(folder / name) for name in [*MODELS, "seqgan", "mixed"]]
    seqgen("compare", *runs, "--references", "image-coco", "--count", "1000", "--tokenizer", "nltk", quiet=False)


if __name__ == "__main__":
    main()
