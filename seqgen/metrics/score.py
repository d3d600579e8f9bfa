"""A number that says how it was made: `Score` with its `Signature`, its 95 % interval where rows allow one, and JSON.

Rows hold additive statistics of one hypothesis each; a score is a function of their sum. So an interval, a paired
test and the score itself share one definition (the bootstrap of Efron 1979; Koehn 2004 for its use on BLEU).
Shapes: N rows, C statistics a row, B resamples.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from seqgen.metrics.ngrams import Floats, Packed, Sentences

VERSION = "1.0"
"""Version of the definitions in this room: it changes when a number would."""

RESAMPLES = 1000
Statistic: TypeAlias = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Signature:
    """How a score was made.

    Two scores may be compared if all but `inputs`, `seed`, `temperature` and `resample` are equal. A likelihood with
    `resample` is a lower bound, and may stand beside an exact one.
    """

    metric: str
    """Name of the metric, as in `bleu`."""
    fields: Mapping[str, str]
    """What decides the number, in the order it is printed: order, level, smoothing, counts, tokenizer, case."""
    inputs: str = ""
    """Hash of the texts that were scored."""
    seed: int | None = None
    """Seed of the shuffle or of the subset, if rows were drawn."""
    temperature: float | None = None
    """Temperature the samples were drawn at, if stated."""
    resample: int | None = None
    """Candidates n that each sample was chosen among; of a likelihood, that of q_n (`seqgen.models.refined`)."""

    def __str__(self) -> str:
        """Return the parts in one line, `bleu|n:1-4|...|version:1.0|in:3fa4`."""
        return "|".join((self.metric, *self.parts))

    @property
    def parts(self) -> list[str]:
        """Return what stands behind the name, one piece each."""
        parts = [*(f"{name}:{value}" for name, value in self.fields.items()), f"version:{VERSION}"]
        if self.inputs:
            parts.append(f"in:{self.inputs}")
        if self.seed is not None:
            parts.append(f"seed:{self.seed}")
        if self.temperature is not None:
            parts.append(f"temp:{self.temperature:g}")
        if self.resample is not None:
            parts.append(f"resample:{self.resample}")
        return parts

    def check_comparable(self, other: Signature) -> None:
        """Raise ValueError naming the first field in which the two numbers were made differently."""
        if self.metric != other.metric:
            raise ValueError(f"scores differ in metric: {self.metric} and {other.metric}; compare like with like")
        if apart := self.differs(other):
            raise ValueError(f"{self.metric} scores differ in {apart}; compute both with the same settings")

    def differs(self, other: Signature) -> str:
        """Return the first field in which two numbers of one metric were made differently, `hyp: 20 and 10`, or ""."""
        bound = self.resample is not None or other.resample is not None
        for name in [*self.fields, *(name for name in other.fields if name not in self.fields)]:
            if bound and name == "by":
                continue
            ours, theirs = self.fields.get(name, "absent"), other.fields.get(name, "absent")
            if ours != theirs:
                return f"{name}: {ours} and {theirs}"
        return ""


def factored(signatures: Mapping[str, Signature]) -> dict[str, str]:
    """Return the same in fewer words: under "" the parts that all have, under each name what is its own.

    The name of a metric is left out. One signature is all its own.
    """
    parts = {name: signature.parts for name, signature in signatures.items()}
    common = set.intersection(*map(set, parts.values())) if len(parts) > 1 else set()
    first = next(iter(parts.values()), [])
    own = {name: "|".join(part for part in each if part not in common) for name, each in parts.items()}
    return {"": "|".join(part for part in first if part in common), **own}


def ratio_of_sums(sums: Floats) -> Floats:
    """Return column 0 over column 1, (..., 2) -> (...): a mean if the second counts rows, else a share. Nan over 0."""
    numerator, denominator = sums[..., 0], sums[..., 1]
    return np.divide(numerator, denominator, out=np.full_like(numerator, math.nan), where=denominator > 0)


def mean_rows(values: Floats) -> Floats:
    """Return rows (N, 2) of which the ratio of sums is the mean of `values` (N,)."""
    return np.column_stack([values, np.ones_like(values)])


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """A number and how it was made. `float(score)` is the number, `str(score)` is for people, `to_dict` for files.

    Scores compare (`<`, `>`, `-`) only if their signatures allow it; against a plain number they compare as numbers.
    """

    value: float
    signature: Signature
    orders: Mapping[int, float] = field(default_factory=dict)
    """The same score at every n-gram order that was asked for, where the metric has orders."""
    rows: Floats | None = field(default=None, repr=False)
    """Additive statistics per hypothesis, (N, C); None where the metric is no function of independent rows."""
    statistic: Statistic = field(default=ratio_of_sums, repr=False)
    """From sums of rows, (..., C), to the score, (...)."""
    stored_interval: tuple[float, float] | None = field(default=None, repr=False)
    """The interval, where it was computed before or read back from a file."""
    note: str = ""
    """A caution about the number, such as that a toolkit's own bug makes it meaningless."""

    def __repr__(self) -> str:
        return f"Score({self.value:.6g} {self.signature})"

    def named(self, metric: str) -> Score:
        """Return the same score as that of another metric."""
        return replace(self, signature=replace(self.signature, metric=metric))

    def __float__(self) -> float:
        """Return the number alone."""
        return float(self.value)

    def __str__(self) -> str:
        """Return `0.3438 [0.3391, 0.3484] bleu|n:1-4|...`."""
        interval = f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}]" if self.interval else ""
        return f"{self.value:.4f}{interval} {self.signature}"

    def _number(self, other: object) -> float | None:
        if isinstance(other, Score):
            self.signature.check_comparable(other.signature)
            return other.value
        return float(other) if isinstance(other, int | float) else None

    def __lt__(self, other: object) -> bool:
        number = self._number(other)
        return NotImplemented if number is None else self.value < number

    def __gt__(self, other: object) -> bool:
        number = self._number(other)
        return NotImplemented if number is None else self.value > number

    def __sub__(self, other: object) -> float:
        number = self._number(other)
        return NotImplemented if number is None else self.value - number

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % percentile bootstrap interval over hypotheses, seed 0; None where rows allow none.

        Self-BLEU's rows share their references, so its interval states the spread over hypotheses, not over whole
        sample sets.
        """
        return with_intervals([self])[0].stored_interval

    def to_dict(self, *, interval: bool = True) -> dict[str, Any]:
        """Return what JSON can hold: metric, value (null where undefined), orders, interval, signature, note."""
        signature = self.signature
        return {
            "metric": signature.metric,
            "value": self.value if math.isfinite(self.value) else None,
            "orders": {str(n): value for n, value in self.orders.items()},
            "interval": list(self.interval) if interval and self.interval else None,
            "signature": str(signature),
            "fields": dict(signature.fields),
            "inputs": signature.inputs,
            "seed": signature.seed,
            "temperature": signature.temperature,
            "resample": signature.resample,
            "note": self.note,
        }

    def json(self) -> str:
        """Return `to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Score:
        """Return a score as `to_dict` wrote it: it prints and compares as before, but has no rows for further tests."""
        signature = Signature(
            stored["metric"],
            dict(stored["fields"]),
            stored["inputs"],
            stored["seed"],
            stored["temperature"],
            stored.get("resample"),  # files of 0.1.0 have none
        )
        interval = stored["interval"]
        return cls(
            math.nan if stored["value"] is None else float(stored["value"]),
            signature,
            {int(n): float(value) for n, value in stored["orders"].items()},
            stored_interval=(float(interval[0]), float(interval[1])) if interval else None,
            note=stored["note"],
        )


def with_intervals(scores: Sequence[Score]) -> list[Score]:
    """Return the same scores with their intervals computed: scores with equally many rows share their resamples."""
    by_size: dict[int, list[int]] = {}
    for i, score in enumerate(scores):
        if score.stored_interval is None and score.rows is not None and len(score.rows) > 1:
            by_size.setdefault(len(score.rows), []).append(i)
    done = list(scores)
    for members in by_size.values():
        widths = [rows.shape[1] for i in members if (rows := scores[i].rows) is not None]
        sums = resampled_sums(
            np.concatenate([rows for i in members if (rows := scores[i].rows) is not None], axis=1), seed=0
        )
        for i, piece in zip(members, np.split(sums, np.cumsum(widths)[:-1], axis=1), strict=True):
            done[i] = replace(scores[i], stored_interval=quantiles(scores[i].statistic(piece)))
    return done


def quantiles(values: Floats) -> tuple[float, float] | None:
    """Return the 2.5 % and 97.5 % quantiles of resampled scores, of those that are defined; None where none is."""
    defined = values[~np.isnan(values)]  # a share of n-grams is undefined where no long line was drawn
    return (float(np.quantile(defined, 0.025)), float(np.quantile(defined, 0.975))) if defined.size else None


def resampled_sums(rows: Floats, *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Sum `rows` (N, C) over B draws of N rows with replacement, (B, C) float64; same seed and N, same draws."""
    random = np.random.default_rng(seed)
    size = len(rows)
    sums = np.empty((resamples, rows.shape[1]))
    block = max(
        1, min(resamples, 500_000 // size)
    )  # draws at once: enough for one matrix product, small enough for memory
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = random.integers(0, size, (count, size))
        drawn += np.arange(count)[:, None] * size
        times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
        sums[start : start + count] = times.astype(np.float64) @ rows
    return sums


def input_hash(*texts: Sequence[str] | Sentences) -> str:
    """Return a short name of the exact texts, 12 hexadecimal digits each, joined by a slash."""
    return "/".join(_hash_one(text) for text in texts)


def _hash_one(text: Sequence[str] | Sentences) -> str:
    if isinstance(text, Packed):
        data = text.lengths.tobytes() + text.tokens.tobytes()
    elif text and isinstance(text[0], str):
        data = "\n".join(text).encode("utf-8", "surrogatepass")  # type: ignore[arg-type]
    else:
        # \x1f and \x1e are the unit and record separators of ASCII: no tokenizer here leaves them inside a token
        data = "\x1e".join("\x1f".join(map(str, sentence)) for sentence in text).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=6).hexdigest()
