"""Molecules as SMILES: what MOSES measures of a set of them (Polykovskiy et al. 2020), drawings, and rewards.

The extra `chem` brings RDKit, and ChemNet's weights in fcd-torch for the Fréchet ChemNet distance (Preuer et al. 2018);
both are imported here alone, and a function that needs one raises ModuleNotFoundError without it.
Shapes: N molecules of one set, M of another, F = 1024 bits of a Morgan fingerprint of radius 2.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from seqgen.metrics.distance import frechet_of_moments
from seqgen.metrics.diversity import wasserstein_1
from seqgen.metrics.ngrams import Floats
from seqgen.metrics.score import Score, Signature, input_hash, mean_rows

Bits: TypeAlias = npt.NDArray[np.uint8]

_ATOMS = {"C", "N", "S", "O", "F", "Cl", "Br", "H"}
_LARGEST_RING = 7
"""What MOSES's filters let pass beside the patterns: atoms, and atoms of a ring."""

_AT_ONCE = 20_000_000
"""Pairs of molecules that are compared together: 80 MB of them."""


def _rdkit(module: str) -> Any:
    return importlib.import_module(f"rdkit.{module}")


def molecule(text: str) -> Any:
    """Return RDKit's molecule of a SMILES string, or None where it is none; one without atoms is none."""
    with _rdkit("rdBase").BlockLogs():  # what is wrong with a text that a model wrote is nobody's interest
        found = _rdkit("Chem").MolFromSmiles(text)
    return found if found is not None and found.GetNumAtoms() else None


def canonical(found: Any) -> str:
    """Return RDKit's canonical SMILES of a molecule."""
    return str(_rdkit("Chem").MolToSmiles(found))


def randomized(found: Any, count: int, seed: int) -> list[str]:
    """Return `count` SMILES strings of a molecule, each from a random order of its atoms; a small one repeats itself.

    They depend on the molecule and the seed, 0 to 2^31 - 1, alone.
    """
    return list(_rdkit("Chem").MolToRandomSmilesVect(found, count, randomSeed=seed))


def is_molecule(text: str) -> bool:
    """Return whether a text is a SMILES string that RDKit reads: bonds fit, rings close, atoms have their valence."""
    return molecule(text) is not None


# ------------------------------------------------------------------------------
# one molecule


def _log_p(found: Any) -> float:
    return float(_rdkit("Chem.Crippen").MolLogP(found))


def _synthetic_accessibility(found: Any) -> float:
    return float(_rdkit("Contrib.SA_Score.sascorer").calculateScore(found))


def _drug_likeness(found: Any) -> float:
    return float(_rdkit("Chem.QED").qed(found))


def _weight(found: Any) -> float:
    return float(_rdkit("Chem.Descriptors").MolWt(found))


PROPERTIES: Mapping[str, Callable[[Any], float]] = {
    "logp": _log_p,
    "sa": _synthetic_accessibility,
    "qed": _drug_likeness,
    "weight": _weight,
}
"""Properties of a molecule by name: Crippen's logP, synthetic accessibility, drug-likeness, mass in daltons."""


def fingerprint(found: Any) -> Bits:
    """Return a molecule's Morgan fingerprint, radius 2, (F,) of 0 and 1."""
    bits: Bits = _morgan().GetFingerprintAsNumPy(found)
    return bits


@cache
def _morgan() -> Any:
    return _rdkit("Chem.rdFingerprintGenerator").GetMorganGenerator(radius=2, fpSize=1024)


def fragments(found: Any) -> list[str]:
    """Return the SMILES of the parts that a molecule falls into at its BRICS bonds."""
    return canonical(_rdkit("Chem.rdmolops").FragmentOnBRICSBonds(found)).split(".")


def scaffold(found: Any) -> str:
    """Return the SMILES of a molecule's Bemis-Murcko scaffold, "" where it has fewer than two rings."""
    frame = _rdkit("Chem.Scaffolds.MurckoScaffold").GetScaffoldForMol(found)
    return canonical(frame) if frame.GetRingInfo().NumRings() >= 2 else ""


def passes(found: Any, patterns: Any) -> bool:
    """Return whether a molecule passes MOSES's filters: small rings, usual atoms, no charge, and none of `patterns`."""
    if any(len(ring) > _LARGEST_RING for ring in found.GetRingInfo().AtomRings()):
        return False
    if any(atom.GetFormalCharge() or atom.GetSymbol() not in _ATOMS for atom in found.GetAtoms()):
        return False
    return not patterns.HasMatch(_rdkit("Chem").AddHs(found))


def catalogue(smarts: Sequence[str]) -> Any:
    """Return RDKit's catalogue of patterns; ValueError for what is no SMARTS."""
    kit = _rdkit("Chem.FilterCatalog")
    made = kit.FilterCatalog()
    for pattern in smarts:
        if _rdkit("Chem").MolFromSmarts(pattern) is None:
            raise ValueError(f"not a SMARTS pattern: {pattern!r}")
        made.AddEntry(kit.FilterCatalogEntry(pattern, kit.SmartsMatcher(pattern, pattern, 1)))
    return made


def similarity(target: str) -> Callable[[str], float]:
    """Return the function from a text to its Tanimoto similarity to a molecule, 0 where it is none.

    ValueError where the target is no molecule.
    """
    wanted = molecule(target)
    if wanted is None:
        raise ValueError(f"not a SMILES string: {target!r}")
    bits = _morgan().GetFingerprint(wanted)

    def near(text: str) -> float:
        found = molecule(text)
        return (
            0.0
            if found is None
            else float(_rdkit("DataStructs").TanimotoSimilarity(bits, _morgan().GetFingerprint(found)))
        )

    return near


def drawing(text: str, width: int = 220, height: int = 160) -> str:
    """Return a molecule drawn as SVG, "" for what is none."""
    found = molecule(text)
    if found is None:
        return ""
    canvas = _rdkit("Chem.Draw.rdMolDraw2D").MolDraw2DSVG(width, height)
    canvas.DrawMolecule(found)
    canvas.FinishDrawing()
    return str(canvas.GetDrawingText())


# ------------------------------------------------------------------------------
# sets of molecules


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is kept of a set of M molecules to compare others with."""

    count: int
    """M."""
    chemnet: tuple[Floats, Floats]
    """Mean (512,) and covariance (512, 512) of ChemNet's last activations."""
    bits: Bits
    """Fingerprints, packed, (M, F / 8)."""
    fragments: Mapping[str, int]
    """Counts of BRICS fragments."""
    scaffolds: Mapping[str, int]
    """Counts of scaffolds with two rings or more."""
    properties: Mapping[str, Floats]
    """Values (M,) by the names of `PROPERTIES`."""


def statistics(molecules: Sequence[Any], *, device: str) -> Statistics:
    """Return the statistics of two molecules or more; ChemNet computes on `device`. ValueError for fewer."""
    if len(molecules) < 2:
        raise ValueError(f"expected at least 2 molecules, got {len(molecules)}")
    return Statistics(
        len(molecules),
        _chemnet([canonical(one) for one in molecules], device),
        np.packbits(np.stack([fingerprint(one) for one in molecules]), axis=1),
        Counter(part for one in molecules for part in fragments(one)),
        Counter(frame for one in molecules if (frame := scaffold(one))),
        {name: np.array([of(one) for one in molecules]) for name, of in PROPERTIES.items()},
    )


def _chemnet(smiles: Sequence[str], device: str) -> tuple[Floats, Floats]:
    import fcd_torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy and torch, about names that fcd-torch calls them by
        activations = fcd_torch.FCD(device=device, canonize=False).get_predictions(smiles).astype(np.float64)
    return activations.mean(0), np.cov(activations.T)


def nearest(bits: Bits, others: Bits) -> Floats:
    """Return the Tanimoto similarity of each fingerprint (N, F / 8) to the nearest of the others (M, F / 8), (N,)."""
    best = np.zeros(len(bits))
    for rows, similar in _similarities(bits, others):
        best[rows] = similar.max(axis=1)
    return best


def internal_diversity(bits: Bits, power: int = 1) -> float:
    """Return 1 less the mean (or power mean) of the Tanimoto similarity of all pairs, of equal molecules too."""
    total = sum(float((similar.astype(np.float64) ** power).sum()) for _, similar in _similarities(bits, bits))
    return 1.0 - math.pow(total / len(bits) ** 2, 1 / power)


def _similarities(bits: Bits, others: Bits) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Yield Tanimoto similarities, all columns of some rows at a time; two empty fingerprints are alike."""
    from scipy import sparse  # late: most who import this score no fingerprints

    own, theirs = (np.unpackbits(one, axis=1) for one in (bits, others))
    sizes, their_sizes = (one.sum(axis=1, dtype=np.float32) for one in (own, theirs))
    across = np.ascontiguousarray(theirs.T)
    step = max(1, _AT_ONCE // len(others))
    for start in range(0, len(own), step):
        rows = slice(start, start + step)
        # about 45 of 1024 bits are set, so a sparse product is 6 times as fast as a dense one; 8 bits hold the counts
        shared = np.asarray(sparse.csr_matrix(own[rows]) @ across, np.float32)
        either = sizes[rows, None] + their_sizes - shared
        yield rows, np.divide(shared, either, out=np.ones_like(shared), where=either > 0)


def cosine(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """Return the cosine of the angle between two tables of counts, nan where one is empty."""
    norm = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return sum(count * b.get(name, 0) for name, count in a.items()) / norm if norm else math.nan


def score_molecules(
    texts: Sequence[str],
    references: Statistics,
    *,
    scaffold_references: Statistics | None = None,
    train: Sequence[str] | None = None,
    filters: Sequence[str] = (),
    device: str,
) -> dict[str, Score]:
    """Return what MOSES measures of texts that should be molecules, on its definitions.

    All but `valid` is of the valid ones: shares of distinct ones among the first 1,000 and 10,000 of them, `novel`, the
    share of distinct ones that `train` does not hold, and the comparisons with the references and, with `_sf` in their
    names, with those of other scaffolds. `filters` are SMARTS patterns; without any there is no `filters`. Scores that
    need two molecules, or a scaffold, are left out without them. ValueError for no texts.
    """
    if not texts:
        raise ValueError("no texts to score")
    found = [molecule(text) for text in texts]
    valid = [one for one in found if one is not None]
    smiles = [canonical(one) for one in valid]
    about = {"def": "MOSES", "hyp": str(len(texts)), "rdkit": _version()}
    inputs = input_hash(texts)
    scores: dict[str, Score] = {}

    def put(name: str, value: float | Floats, note: str = "", **more: str) -> None:
        rows = mean_rows(value) if isinstance(value, np.ndarray) else None
        number = float(value.mean()) if isinstance(value, np.ndarray) else value
        if math.isnan(number):  # scaffolds of molecules that have none
            return
        scores[name] = Score(number, Signature(name, about | more, inputs), rows=rows, note=note)

    put("valid", np.array([one is not None for one in found], np.float64))
    if len(valid) < 2:
        return scores
    for name, most in (("unique_1k", 1000), ("unique_10k", 10_000)):
        first = smiles[:most]
        put(name, len(set(first)) / len(first), f"of {len(first)} valid ones" if len(first) < most else "")
    if train is not None:
        distinct = set(smiles)
        put("novel", len(distinct - canonical_set(train)) / len(distinct), train=str(len(train)))
    own = statistics(valid, device=device)
    for ending, theirs in (("", references), ("_sf", scaffold_references)):
        if theirs is None:
            continue
        refs = {"nrefs": str(theirs.count)}
        put(f"fcd{ending}", frechet_of_moments(*own.chemnet, *theirs.chemnet), **refs)
        put(f"snn{ending}", nearest(own.bits, theirs.bits), **refs)
        put(f"frag{ending}", cosine(own.fragments, theirs.fragments), **refs)
        put(f"scaf{ending}", cosine(own.scaffolds, theirs.scaffolds), **refs)
    put("int_div", internal_diversity(own.bits))
    put("int_div_2", internal_diversity(own.bits, 2))
    if filters:
        patterns = catalogue(filters)
        put("filters", np.array([passes(one, patterns) for one in valid], np.float64), patterns=str(len(filters)))
    for name, values in own.properties.items():
        put(f"{name}_w1", wasserstein_1(values, references.properties[name]), nrefs=str(references.count))
    return scores


def canonical_set(texts: Sequence[str]) -> set[str]:
    """Return the canonical SMILES of texts; those that are no molecules stand for themselves.

    Where the first thousand are canonical already the others are taken to be: MOSES has 1.6 million.
    """
    head = [_canonical_or_text(text) for text in texts[:1000]]
    if head == list(texts[:1000]):
        return set(texts)
    return {*head, *map(_canonical_or_text, texts[1000:])}


def _canonical_or_text(text: str) -> str:
    found = molecule(text)
    return text if found is None else canonical(found)


def _version() -> str:
    return str(_rdkit("rdBase").rdkitVersion)
