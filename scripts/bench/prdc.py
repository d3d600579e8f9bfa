"""Precision, recall, density and coverage against the reference package's way, written again from its description.

The reference takes whole distance matrices by scikit-learn's `pairwise_distances` (real-real, made-made, real-made) and
every radius by a partition of whole rows. 5,000 + 5,000 rows of 64 features, 5 neighbours, one thread.
Run: scripts/bench.py prdc
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import ratios, row
from sklearn.metrics import pairwise_distances

from seqgen.images.metrics import Coverage, coverage

NEIGHBOURS = 5


def usual(real: Any, made: Any) -> Coverage:
    def radii(rows: Any) -> Any:
        distances = pairwise_distances(rows, metric="euclidean", n_jobs=1)
        near = np.argpartition(distances, NEIGHBOURS + 1, axis=-1)[..., : NEIGHBOURS + 1]
        return np.take_along_axis(distances, near, axis=-1).max(axis=-1)

    real_radii, made_radii = radii(real), radii(made)
    distances = pairwise_distances(real, made, metric="euclidean", n_jobs=1)
    return Coverage(
        precision=float((distances < real_radii[:, None]).any(axis=0).mean()),
        recall=float((distances < made_radii[None]).any(axis=1).mean()),
        density=float((distances < real_radii[:, None]).sum(axis=0).mean() / NEIGHBOURS),
        coverage=float((distances.min(axis=1) < real_radii).mean()),
    )


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """How many times faster ours is; the gate wants the same four numbers."""
    random = np.random.default_rng(0)
    count = 1500 if quick else 5000
    real, made = random.standard_normal((count, 64)), 1.05 * random.standard_normal((count, 64))
    ours, theirs = vars(coverage(real, made, k=NEIGHBOURS)), vars(usual(real, made))
    wrong = [name for name in ours if abs(ours[name] - theirs[name]) > 1e-9]
    gate = f"{', '.join(wrong)} differ" if wrong else "ok"
    values = ratios(lambda: usual(real, made), lambda: coverage(real, made, k=NEIGHBOURS), rounds=3 if quick else 7)
    yield row("prdc", f"prdc of {count:,} + {count:,} rows", values, 2.0, gate)


BENCHES = {"prdc": rows}
