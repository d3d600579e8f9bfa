"""A run that writes molecules as SMILES, measured as MOSES does (Polykovskiy et al. 2020); needs the extra `chem`."""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from seqgen.core.errors import DataError, MissingExtraError
from seqgen.data.corpora import known, moses
from seqgen.engine import run as runs
from seqgen.engine.evaluate import Column, Table, drawn, leaks, samples
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.metrics import molecules
from seqgen.metrics.molecules import Statistics, score_molecules
from seqgen.metrics.score import Score

PROTOCOL = "molecules"
"""What tables of molecules are called by."""


def evaluate_molecules(
    subject: TextGenerator | str | os.PathLike[str] | Sequence[str],
    references: Sequence[str] | None,
    *,
    train: Sequence[str] | None = None,
    count: int = 10_000,
    seed: int = 0,
    temperature: float = 1.0,
    resample: int | None = None,
    baselines: bool = True,
    device: str,
) -> Table:
    """Score a run's samples, or given lines, as molecules beside reference molecules: the whole table.

    `references` None are MOSES's test set and its test set of other scaffolds, whose statistics come with it. With
    `baselines` and training molecules (those of the run's own settings unless given) the column `real text` is as many
    of them as if they were samples. `filters` needs MOSES to be at hand.
    MissingExtraError without the extra, DataError for references of which fewer than two are molecules.
    """
    check_extra("--domain molecules")
    place = str(runs.choose_device(device))
    generator = load(subject, device=device) if isinstance(subject, str | os.PathLike) else subject
    if isinstance(generator, TextGenerator):
        if train is None and generator.has_text:
            train = generator.own_text().train_lines
        lines = samples(generator, count, seed=seed, temperature=temperature, resample=resample)
        about = f"{count} samples, seed {seed}, temperature {temperature:g}"
    else:
        lines = list(generator)
        about = f"{len(lines)} given lines"
    compared, scaffolds = _references(references, place)
    leaks(references or (), train, "references")
    patterns = moses.filters() if known.read_catalogue()["moses"].at_hand() else []
    how: dict[str, Any] = {"scaffold_references": scaffolds, "filters": patterns, "device": place}

    def scored(texts: Sequence[str], known: Sequence[str] | None) -> dict[str, Score]:
        return score_molecules(texts, compared, train=known, **how)

    columns = [Column("samples", about, scored(lines, train), {}, lines)]
    if baselines and train:
        real = drawn(train, len(lines), seed)
        columns.append(
            Column("real text", f"{len(real)} training lines, drawn with seed {seed}", scored(real, None), {}, real)
        )
    return Table(PROTOCOL, columns)


def drawings(texts: Sequence[str]) -> list[str]:
    """Return each text that is a molecule drawn as SVG, "" for others; all of them "" without the extra."""
    try:
        return [molecules.drawing(text) for text in texts]
    except ModuleNotFoundError:
        return [""] * len(texts)


def _references(references: Sequence[str] | None, device: str) -> tuple[Statistics, Statistics | None]:
    if references is None:
        stored = moses.statistics("test")
        if stored is None:
            raise DataError(f"moses is not at hand; run: {known.read_catalogue()['moses'].how}")
        return stored, moses.statistics("scaffolds")
    found = [one for text in references if (one := molecules.molecule(text)) is not None]
    if len(found) < 2:
        raise DataError(f"{len(found)} of {len(references)} references are molecules; expected at least 2")
    return molecules.statistics(found, device=device), None


def check_extra(what: str) -> None:
    """Raise MissingExtraError, which says what needs it, unless RDKit and ChemNet are installed."""
    if any(importlib.util.find_spec(name) is None for name in ("rdkit", "fcd_torch")):
        raise MissingExtraError(f"{what} needs rdkit and fcd-torch; run: pip install 'neural-seqgen[chem]'")
