"""Quality against diversity over temperatures: no single point of a model says which of two models is better.

A model sampled colder scores higher BLEU and higher Self-BLEU; a fair comparison is the whole curve (Caccia et al.
2020), beside the point of real text. Quality is BLEU-4 against references, diversity 1 - Self-BLEU-4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seqgen import metrics
from seqgen.core.errors import DataError
from seqgen.engine import plots
from seqgen.engine.evaluate import (
    BY_LINE,
    conditions,
    in_lines,
    leaks,
    real_text,
    refuse_unknown,
    samples,
    scoring,
    with_resample,
)
from seqgen.engine.generate import TextGenerator

TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
"""Temperatures of a curve by default."""


@dataclass(frozen=True)
class Point:
    """A point of quality and diversity."""

    name: str
    temperature: float | None
    """None for real text."""
    scores: dict[str, metrics.Score]
    """bleu_2..5, self_bleu_2..5, unique and so on, each with its signature."""
    resample: int = 1
    """Candidates that each text was chosen among."""

    @property
    def quality(self) -> float:
        """Return BLEU-4 against the references."""
        return float(self.scores["bleu_4"])

    @property
    def diversity(self) -> float:
        """Return 1 - Self-BLEU-4."""
        return 1.0 - float(self.scores["self_bleu_4"])


@dataclass(frozen=True)
class Curve:
    """A run's points by rising temperature, that of a refined run's own texts last, and real text of the same size."""

    run: str
    points: list[Point]
    real: Point | None

    def front(self) -> list[Point]:
        """Return the points that no other point of the curve beats in both."""
        indices = metrics.pareto_front([(p.quality, p.diversity) for p in self.points])
        return [self.points[i] for i in indices]

    def area(self) -> float:
        """Return the area that the points dominate, from (0, 0); larger is better, comparable at equal sizes."""
        return metrics.dominated_area([(p.quality, p.diversity) for p in self.points], (0.0, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        points = [*self.points, *([self.real] if self.real else [])]
        return {
            "run": self.run,
            "area": self.area(),
            "front": [p.temperature for p in self.front()],
            "points": [
                {
                    "name": p.name,
                    "temperature": p.temperature,
                    "quality": p.quality,
                    "diversity": p.diversity,
                    "scores": {name: s.to_dict(interval=False) for name, s in p.scores.items()},
                }
                for p in points
            ],
        }


def curve(
    generator: TextGenerator,
    references: Sequence[str],
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    train: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    tokenizer: str = "auto",
    count: int = 1000,
    seed: int = 0,
    resample: int | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> Curve:
    """Sample a run at every temperature, `count` texts each from the same seed, and score each against references.

    With `sources` every text answers one; of running text lines are compared, as in `evaluate.samples`. `tokenizer` is
    that of `evaluate`.
    Of a refined run the temperatures are those of its base, and texts chosen among `resample` are a point of their own.
    Real text is that of `evaluate.real_text`. Raises ValueError for temperatures that are not positive or repeat,
    DataError for fewer than two references or training text alone.
    """
    refuse_unknown("default", tokenizer)
    references = in_lines(references) if generator.running else references
    if len(references) < 2:
        raise DataError(f"a curve needs at least 2 references, got {len(references)}")
    if any(t <= 0 for t in temperatures) or len(set(temperatures)) != len(temperatures):
        raise ValueError(f"temperatures must be positive and all different, got {', '.join(map(str, temperatures))}")
    if train is None and generator.has_text:
        train = generator.own_text().train_lines
    train = in_lines(train) if train and generator.running else train
    stated = leaks(references, train, "references", sources) | (BY_LINE if generator.running else {})
    scored = scoring(references, train, stated, tokenizer=tokenizer, seed=seed)

    def point(name: str, temperature: float | None, scores: dict[str, metrics.Score], resample: int = 1) -> Point:
        made = Point(name, temperature, scores, resample)
        if on_point is not None:
            on_point(made)
        return made

    chosen, candidates = conditions(sources, count, seed), generator.candidates(resample)
    how: dict[str, Any] = {"seed": seed, "sources": chosen}
    points = [
        point(f"t = {t:g}", t, scored(samples(generator, count, temperature=t, resample=1, **how), t))
        for t in sorted(temperatures)
    ]
    if candidates > 1:
        lines = samples(generator, count, temperature=1.0, resample=candidates, **how)
        points.append(point(f"resample {candidates}", 1.0, with_resample(scored(lines, 1.0), candidates), candidates))
    real = None
    if train and len(train) >= 2:
        real = point("real text", None, real_text(scored, train, references, count, seed)[2])
    return Curve(str(generator.folder or ""), points, real)


def draw(curves: Sequence[Curve]) -> bytes:
    """Draw the curves as a PNG: quality to the right, diversity upwards, Pareto front filled, real text as a star."""
    figure, axes = plots.plane()
    for one in curves:
        drawn = [p for p in one.points if p.resample == 1]
        (line,) = axes.plot(
            [p.quality for p in drawn], [p.diversity for p in drawn], marker="o", mfc="white", label=one.run
        )
        for p in one.points:
            if p in one.front() or p.resample > 1:
                axes.plot(p.quality, p.diversity, "o" if p.resample == 1 else "D", color=line.get_color())
        for p in one.points:
            place = (p.quality, p.diversity)
            axes.annotate(p.name.removeprefix("t = "), place, (5, 4), textcoords="offset points", fontsize=8)
    stars = [one.real for one in curves if one.real is not None]
    for real in {star.name: star for star in stars}.values():
        axes.plot(real.quality, real.diversity, "*", color="#222", markersize=14, label=real.name)
    axes.legend(frameon=False)
    return plots.png(figure)
