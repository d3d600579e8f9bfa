#!/usr/bin/env python3
"""Language models of few molecules: does it help to write each in several random orders of its atoms?

For each size the first so many molecules of MOSES's training set, as they are and rewritten COPIES times
(seqgen corpus augment --domain molecules), the same model for the same CPU time: the same number of steps on batches
of the same size. The checkpoint with the best held-out likelihood writes COUNT samples; held out is a tenth of the
molecules, in the same spelling. Valid, distinct among the valid ones, and new molecules are shares; `fcd` is not
given, as it depends on how many are valid.
Run: scripts/reproduce/low_data_molecules.py OUT [--sizes 1000,5000,25000] [--copies 0,10] [--steps 1000] [--seeds 1]
docs/molecules.md has published figures beside its own. SEQGEN_DATA holds MOSES.
"""

import argparse
import json
import logging
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

import numpy as np

from seqgen.data.corpora.known import find
from seqgen.data.text import read_lines
from seqgen.engine.augment import rewritten
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config
from seqgen.metrics.molecules import canonical, molecule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("settings", nargs="*", help="settings of lm, such as model.output_dropout=.3")
    parser.add_argument("--sizes", default="1000,5000,25000")
    parser.add_argument("--copies", default="0,10", help="rewritten strings of a molecule, 0: its own alone")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    given = parser.parse_intermixed_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    every = read_lines(find("moses")["train"], field="SMILES")
    given.out.mkdir(parents=True, exist_ok=True)
    print("| molecules | copies | valid | distinct | new | valid, distinct and new | CPU s |")
    print("| --- " * 7 + "|")
    for size in map(int, given.sizes.split(",")):
        for copies in map(int, given.copies.split(",")):
            found = [measured(every[:size], copies, seed, given) for seed in range(1, given.seeds + 1)]
            cells = [f"{size:,}", str(copies)]
            for name in ("valid", "distinct", "new", "good"):
                values = [one[name] for one in found]
                cells.append(f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""))
            cells.append(f"{np.mean([one['cpu'] for one in found]):.0f}")
            print("|", " | ".join(cells), "|", flush=True)


def measured(lines: list[str], copies: int, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Train one model and return the shares of its samples, kept in its folder."""
    out = given.out / f"{len(lines)}-{copies}-{seed}"
    path = out / "shares.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    held_out = len(lines) // 10
    texts = {}
    for name, part in (("valid", lines[:held_out]), ("train", lines[held_out:])):
        texts[name] = given.out / f"{len(lines)}-{copies}-{name}.smi"
        # held out once in any spelling, else validation would cost as much as training
        spelt = rewritten(part, copies if name == "train" else 1, seed, str) if copies else part
        texts[name].write_text("".join(f"{text}\n" for text in spelt))
    begin = time.process_time()
    own = [f"train.steps={given.steps}", f"train.eval_every={given.steps // 10}", "train.samples=0", f"seed={seed}"]
    own += [f"data.valid=['{texts['valid']}']", *given.settings]
    train(config("lm", texts["train"], preset="smiles", overrides=own), out)
    cpu = time.process_time() - begin
    generator = load(out, device="cpu")
    samples = generator.generate(given.count, seed=seed)
    valid = [canonical(one) for text in samples if (one := molecule(text)) is not None]
    known = {canonical(one) for line in lines if (one := molecule(line)) is not None}
    distinct = set(valid)
    shares = {
        "valid": len(valid) / len(samples),
        "distinct": len(distinct) / max(1, len(valid)),
        "new": len(distinct - known) / max(1, len(distinct)),
        "good": len(distinct - known) / len(samples),
        "cpu": cpu,
    }
    path.write_text(json.dumps(shares))
    return shares


if __name__ == "__main__":
    main()
