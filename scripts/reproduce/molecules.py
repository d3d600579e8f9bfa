#!/usr/bin/env python3
"""Models of molecules on MOSES's metrics, beside its training molecules at the same sample size.

Each model is trained on the first MOLECULES of MOSES's training set and writes COUNT samples. The row of the training
set is what a perfect model would get with so many samples: the Frechet distance of a small sample is too large.
Run: scripts/reproduce/molecules.py OUT [--molecules 200000] [--count 10000] [--steps 5000] [--seeds 1]
With --seconds S models that are trained by gradient (lm, gpt, text-vae) take S CPU seconds each, in the place of
--steps: as many steps as fit at the speed of the first ones. hmm and kneser-ney are fitted to 20,000 of the molecules.
A run that is there is not trained again. SEQGEN_DATA holds MOSES (seqgen corpus get moses --file WHEEL); all of it on
a GPU: --molecules 0 --count 30000 --steps 100000 model.hidden=768 model.layers=3 train.batch=64
"""

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

import numpy as np

from seqgen.data.corpora.known import find
from seqgen.data.text import read_lines
from seqgen.engine.evaluate import drawn
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.molecules import evaluate_molecules
from seqgen.engine.run import config

NAMES = (
    "valid",
    "unique_1k",
    "unique_10k",
    "novel",
    "fcd",
    "fcd_sf",
    "snn",
    "frag",
    "scaf",
    "scaf_sf",
    "int_div",
    "filters",
)
ATOMS = ["tokenizer.kind=word", r"tokenizer.pattern='\[[^\]]+\]|Br|Cl|%\d\d|.'", "tokenizer.min_count=1"]
MODELS: dict[str, tuple[str, list[str]]] = {
    "lm": ("smiles", []),
    "gpt": ("gpt-small", [*ATOMS, "model.dropout=0", "data.mode=sentence"]),
    "text-vae": ("text-vae", [*ATOMS, "model.kl_target=8", "model.word_dropout=0", "model.bidirectional=false"]),
    "hmm": ("hmm", [*ATOMS, "train.steps=30"]),
    "kneser-ney": ("kneser-ney", ATOMS),
}
FITTED = ("hmm", "kneser-ney")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="settings of lm, such as model.hidden=768")
    parser.add_argument("--molecules", type=int, default=200_000, help="training molecules, 0: all")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5000, help="steps of lm, gpt and text-vae")
    parser.add_argument("--seconds", type=float, default=0, help="CPU seconds of each in the place of steps")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", default="lm,kneser-ney", help=", ".join(MODELS))
    parser.add_argument("--device", default="auto")
    given = parser.parse_intermixed_args()
    names = given.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"unknown model {unknown[0]}; known: {', '.join(MODELS)}")
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    every = read_lines(find("moses")["train"], field="SMILES")
    lines = every[: given.molecules or None]
    given.out.mkdir(parents=True, exist_ok=True)
    text, part = given.out / "train.smi", given.out / "part.smi"
    text.write_text("".join(f"{line}\n" for line in lines))
    part.write_text("".join(f"{line}\n" for line in lines[:20_000]))
    print(
        f"{len(lines):,} training molecules, {given.count:,} samples\n\n| |",
        " | ".join(NAMES),
        "| CPU seconds | steps |",
    )
    print("| --- " * (len(NAMES) + 3) + "|")
    show("training set", [scores_of(given.out / "training.json", drawn(every, given.count), None, given)])
    for name in names:
        found = []
        for seed in range(1, given.seeds + 1):
            out = given.out / f"{name}-{seed}"
            if not (out / "cost.json").exists():
                preset, settings = MODELS[name]
                overrides = [*settings, "train.samples=0", f"seed={seed}", *(given.settings if name == "lm" else [])]
                if name not in FITTED:
                    steps = fitting(name, text, overrides, given.seconds) if given.seconds else given.steps
                    overrides += [f"train.steps={steps}", f"train.eval_every={max(1, steps // 4)}"]
                begin = time.process_time()
                train(config(name, part if name in FITTED else text, preset=preset, overrides=overrides), out)
                cost = {"cpu": time.process_time() - begin, "steps": 0 if name in FITTED else steps}
                (out / "cost.json").write_text(json.dumps(cost))
            path = out / "molecules.json"
            if not path.exists():
                samples = load(out, device=given.device).generate(given.count, seed=seed)
                (out / "samples.smi").write_text("".join(f"{line}\n" for line in samples))
                scores_of(path, samples, lines, given)
            found.append(json.loads(path.read_text()) | json.loads((out / "cost.json").read_text()))
        show(name, found)


def fitting(name: str, text: Path, overrides: list[str], seconds: float) -> int:
    """Return how many steps of a model take so many CPU seconds, from two short runs."""
    few, many = 20, 60
    took = []
    for steps in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.process_time()
            short = [*overrides, f"train.steps={steps}", f"train.eval_every={steps}"]
            train(config(name, text, preset=MODELS[name][0], overrides=short), Path(folder) / "run")
            took.append(time.process_time() - begin)
    return max(many, int(few + (seconds - took[0]) / (took[1] - took[0]) * (many - few)))


def scores_of(
    path: Path, samples: Sequence[str], known: Sequence[str] | None, given: argparse.Namespace
) -> dict[str, float]:
    """Return the scores of samples, kept in a file."""
    if not path.exists():
        table = evaluate_molecules(samples, None, train=known, baselines=False, device=given.device)
        path.write_text(json.dumps({name: float(score) for name, score in table.columns[0].scores.items()}))
    return dict(json.loads(path.read_text()))


def show(name: str, found: list[dict[str, float]]) -> None:
    cells = []
    for metric in NAMES:
        values = [one[metric] for one in found if metric in one]
        cells.append(
            f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "") if values else ""
        )
    cost = [f"{np.mean([one.get(key, 0) for one in found]):.0f}" for key in ("cpu", "steps")]
    print(f"| {name} |", " | ".join([*cells, *cost]), "|", flush=True)


if __name__ == "__main__":
    main()
