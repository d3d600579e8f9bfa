#!/usr/bin/env python3
"""Molecules of high reward from few calls of it: policy gradient on a language model, beside search without a model.

Three tasks of PMO (Gao et al. 2022) that need nothing but RDKit: celecoxib_rediscovery (Tanimoto similarity of the
counts of circular fragments of radius 2), qed, and median1 (the geometric mean of the similarities to camphor and to
menthol). A call is a valid molecule that was not asked for before. The score is PMO's: the area under the mean of the
ten best over the calls, from 0 to 1.
    data         training molecules in random order
    samples      what the language model writes
    genetic      a genetic algorithm on molecular graphs (mutate, recombine, select), from 100 training molecules
    policy       seqgan without a critic, held near the language model by a KL target
    replay       the same with model.reward.replay
    diverse      the same, and a molecule whose scaffold has come often earns nothing (Blaschke et al. 2020)
Run: scripts/reproduce/optimise_molecules.py OUT --lm RUN [--budget 2000] [--seeds 3] [--tasks qed,median1]
RUN is a language model of MOSES (molecules.py trains one). What was called is kept in OUT and not made again.
"""

import argparse
import json
import logging
import math
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

import numpy as np
from rdkit import Chem, DataStructs, RDLogger
from rdkit.Chem import QED, rdFingerprintGenerator

from seqgen.core.errors import ConfigError
from seqgen.data.corpora.known import find
from seqgen.data.text import read_lines
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.run import config
from seqgen.metrics.molecules import canonical, molecule, scaffold

CELECOXIB = "CC1=CC=C(C=C1)C1=CC(=NN1C1=CC=C(C=C1)S(N)(=O)=O)C(F)(F)F"
CAMPHOR, MENTHOL = "CC1(C)C2CCC1(C)C(=O)C2", "CC(C)C1CCC(C)CC1O"
METHODS = ("data", "samples", "genetic", "policy", "replay", "diverse")
KL_TARGET = 0.2
OFTEN = 25
"""Molecules of one scaffold with a good reward, after which more of them earn nothing (diverse)."""

Value = Callable[[Chem.Mol], float]


def similarity(target: str) -> Value:
    prints = rdFingerprintGenerator.GetMorganGenerator(radius=2)
    wanted = prints.GetSparseCountFingerprint(Chem.MolFromSmiles(target))
    return lambda found: DataStructs.TanimotoSimilarity(wanted, prints.GetSparseCountFingerprint(found))


def median1() -> Value:
    both = similarity(CAMPHOR), similarity(MENTHOL)
    return lambda found: math.sqrt(both[0](found) * both[1](found))


TASKS: dict[str, Callable[[], Value]] = {
    "celecoxib_rediscovery": lambda: similarity(CELECOXIB),
    "qed": lambda: QED.qed,
    "median1": median1,
}


class SpentError(Exception):
    """The budget is at its end."""


class Oracle:
    """A reward that counts its calls: distinct molecules, in the order in which they were asked for."""

    def __init__(self, value: Value, budget: int, *, diverse: bool = False) -> None:
        self.value, self.budget, self.diverse = value, budget, diverse
        self.known: dict[str, float] = {}
        self.scaffolds: Counter[str] = Counter()

    def __call__(self, lines: Sequence[str]) -> list[float]:
        return [self.one(line) for line in lines]

    def one(self, line: str) -> float:
        found = molecule(line)
        if found is None:
            return 0.0
        name = canonical(found)
        if name not in self.known:
            if len(self.known) == self.budget:
                raise SpentError
            self.known[name] = float(self.value(found))
        reward = self.known[name]
        if self.diverse and reward > np.mean([*self.known.values()]):
            frame = scaffold(found)
            self.scaffolds[frame] += 1
            return 0.0 if frame and self.scaffolds[frame] > OFTEN else reward
        return reward


def area(values: Sequence[float], budget: int, *, best: int = 10, every: int = 100) -> float:
    """Return the area under the mean of the best so far, by trapezoids of `every` calls, over the budget (PMO)."""
    total, before, at = 0.0, 0.0, 0
    for end in [*range(every, len(values), every), len(values)]:
        now = float(np.mean(sorted(values[:end])[-best:]))
        total, before, at = total + (end - at) * (before + now) / 2, now, end
    return (total + (budget - at) * before) / budget


# ---------------------------------------------------------------------------------------------- a genetic algorithm


def mutated(parent: Chem.Mol, drawn: random.Random) -> Chem.Mol | None:
    """Return the molecule with one atom or bond changed, added or taken away; None where that is no molecule."""
    new = Chem.RWMol(parent)
    atom = drawn.randrange(new.GetNumAtoms())
    match drawn.choice(("element", "add", "remove", "bond", "ring", "insert")):
        case "element":
            new.GetAtomWithIdx(atom).SetAtomicNum(drawn.choice((6, 7, 8, 9, 16, 17)))
        case "add":
            added = new.AddAtom(Chem.Atom(drawn.choice((6, 6, 7, 8, 9, 16, 17))))
            new.AddBond(atom, added, Chem.BondType.SINGLE)
        case "remove":
            new.RemoveAtom(atom)
        case "bond":
            bond = new.GetBondWithIdx(drawn.randrange(max(1, new.GetNumBonds())))
            bond.SetBondType(drawn.choice((Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)))
        case "ring":
            other = drawn.randrange(new.GetNumAtoms())
            far = len(Chem.GetShortestPath(new, atom, other)) if atom != other else 0
            if far in (5, 6):
                new.AddBond(atom, other, Chem.BondType.SINGLE)
        case "insert":
            bond = new.GetBondWithIdx(drawn.randrange(max(1, new.GetNumBonds())))
            ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            new.RemoveBond(*ends)
            added = new.AddAtom(Chem.Atom(drawn.choice((6, 7, 8))))
            for end in ends:
                new.AddBond(end, added, Chem.BondType.SINGLE)
    return checked(new)


def recombined(first: Chem.Mol, second: Chem.Mol, drawn: random.Random) -> Chem.Mol | None:
    """Cut a single bond outside the rings of each and join a part of one with a part of the other."""
    halves = []
    for parent in (first, second):
        bonds = [b for b in parent.GetBonds() if b.GetBondType() == Chem.BondType.SINGLE and not b.IsInRing()]
        if not bonds:
            return None
        parts = Chem.GetMolFrags(Chem.FragmentOnBonds(parent, [drawn.choice(bonds).GetIdx()]), asMols=True)
        halves.append(drawn.choice(parts))
    joined = Chem.RWMol(Chem.CombineMols(*halves))
    ends = [atom.GetIdx() for atom in joined.GetAtoms() if atom.GetAtomicNum() == 0]
    joined.AddBond(*(joined.GetAtomWithIdx(end).GetNeighbors()[0].GetIdx() for end in ends), Chem.BondType.SINGLE)
    for end in sorted(ends, reverse=True):
        joined.RemoveAtom(end)
    return checked(joined)


def checked(new: Chem.RWMol) -> Chem.Mol | None:
    try:
        Chem.SanitizeMol(new)
    except ValueError:
        return None
    return molecule(Chem.MolToSmiles(new)) if new.GetNumAtoms() <= 50 and "." not in Chem.MolToSmiles(new) else None


def genetic(oracle: Oracle, start: Sequence[str], seed: int, *, size: int = 50) -> None:
    """Call the oracle until its budget is spent: parents by their values, half of the children are mutated."""
    drawn = random.Random(seed)
    pool = {line: oracle.one(line) for line in drawn.sample(start, 100)}
    while True:
        pool = dict(sorted(pool.items(), key=lambda pair: -pair[1])[:size])
        names, weights = [*pool], [value + 1e-6 for value in pool.values()]
        for _ in range(2 * size):
            parents = [Chem.MolFromSmiles(name) for name in drawn.choices(names, weights, k=2)]
            child = recombined(parents[0], parents[1], drawn)
            if child is not None and drawn.random() < 0.5:
                child = mutated(child, drawn)
            elif child is None:
                child = mutated(parents[0], drawn)
            if child is not None:
                pool[canonical(child)] = oracle.one(canonical(child))


# ------------------------------------------------------------------------------------------------------ the methods


def policy(oracle: Oracle, lm: Path, text: Path, seed: int, *, replay: int) -> None:
    """Train by policy gradient on the oracle alone until its budget is spent."""
    options = [
        "model.critic_steps=0", "model.critic_turn=0", "model.alarm=false", "model.policy_lr=5e-4",
        "model.reward.advantage=reinforce_loo", "model.reward.weight=1", f"model.reward.kl_target={KL_TARGET}",
        f"model.reward.replay={replay}", "train.steps=100000", "train.schedule=constant", "train.batch=64",
        "train.eval_every=0", "train.save_every=0", "train.samples=0", "train.device=cpu", f"seed={seed}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        chosen = config("seqgan", text, overrides=options)
        train(chosen, Path(folder) / "run", source_run=lm, reward=oracle)


def searched(method: str, task: str, seed: int, text: Path, every: Sequence[str], given: argparse.Namespace) -> Oracle:
    oracle = Oracle(TASKS[task](), given.budget, diverse=method == "diverse")
    try:
        if method == "data":
            oracle(random.Random(seed).sample(every, 2 * given.budget))
        elif method == "samples":
            generator = load(given.lm, device="cpu")
            for part in range(100):
                oracle(generator.generate(given.budget, seed=1000 * seed + part))
        elif method == "genetic":
            genetic(oracle, every, seed)
        else:
            policy(oracle, given.lm, text, seed, replay=0 if method == "policy" else 24)
    except SpentError:
        pass
    except ConfigError as error:  # what a reward raises is told as a fault of the reward
        if not isinstance(error.__cause__, SpentError):
            raise
    return oracle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lm", type=Path, required=True)
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    RDLogger.DisableLog("rdApp.*")
    every = read_lines(find("moses")["train"], field="SMILES")[:100_000]
    given.out.mkdir(parents=True, exist_ok=True)
    text = given.out / "text.smi"  # a policy reads no text but for its batch size
    text.write_text("".join(f"{line}\n" for line in every[:2000]))
    print("| task | method | AUC of the ten best | best ten | best | scaffolds of the best 100 | calls |")
    print("| --- " * 7 + "|")
    for task in given.tasks.split(","):
        for method in given.methods.split(","):
            rows = []
            for seed in range(1, given.seeds + 1):
                path = given.out / f"{task}-{method}-{seed}.json"
                if not path.exists():
                    path.write_text(json.dumps(searched(method, task, seed, text, every, given).known))
                known: dict[str, float] = json.loads(path.read_text())
                best = sorted(known, key=lambda name: -known[name])[:100]
                top = [known[name] for name in best]
                frames = len({scaffold(molecule(name)) for name in best})
                rows.append(
                    (area([*known.values()], given.budget), float(np.mean(top[:10])), top[0], frames, len(known))
                )
            means, spread = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) if given.seeds > 1 else None
            cells = [f"{mean:.3f}" for mean in means[:3]] + [f"{mean:.0f}" for mean in means[3:]]
            cells[0] += "" if spread is None else f" ± {spread[0]:.3f}"
            print(f"| {task} | {method} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
