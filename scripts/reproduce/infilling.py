#!/usr/bin/env python3
"""How well do models fill gaps? masked, lm and gpt on the same gaps of held-out captions, beside the captions' grammar.

Three runs are trained on captions, about 170 CPU seconds each (OUT/masked, OUT/lm, OUT/gpt; those that exist are taken
as they are). Of held-out lines, gaps of one to three words are cut at places that a seed draws. A cell is a model and a
way of filling: exact is the share of gaps filled just as they were, nll the nats of the true words.
- masked: the likeliest words, place by place from the left; nll along the same order. Of one gap it is the conditional.
- lm, gpt, left side: the likeliest word given the text before (`seqgen fill --greedy`); nll of the words in their line.
- lm, gpt, best of 8: `seqgen fill --best-of 8`; an nll is not known.
- lm, gpt, both sides: one gap alone: every word of the vocabulary is tried in it, p(word | rest) by Bayes' rule.
- grammar: the same from the exact probabilities of lines; no model can do better on average.
Prints one JSON a cell and keeps it in OUT/cells; a cell that exists is read back. The last ones are likelihoods of
1,000 test lines: exact, or for masked a bound.
Run: scripts/reproduce/infilling.py OUT [--models masked lm gpt] [--lines 200] [--tried 100]
"""

import argparse
import json
import logging
import math
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import seqgen
from seqgen.core import rng
from seqgen.engine.filling import MASK
from seqgen.models.masked import Unmasker

RUNS: dict[str, list[str]] = {
    "masked": [],
    "lm": [],
    "gpt": ["model.layers=2", "model.hidden=128", "model.dropout=0", "train.steps=3600", "train.eval_every=1200"],
}
WIDTHS = (1, 2, 3)


@dataclass(frozen=True)
class Gap:
    """Words that were cut out of a line."""

    words: list[str]
    begin: int
    width: int

    @property
    def given(self) -> str:
        """The line with its gap, as `seqgen fill` takes it."""
        end = self.begin + self.width
        return " ".join([*self.words[: self.begin], *[MASK] * self.width, *self.words[end:]])

    @property
    def cut(self) -> list[str]:
        """The words that were there."""
        return self.words[self.begin : self.begin + self.width]

    def filled(self, words: list[str]) -> str:
        """The line with other words in their place."""
        return " ".join([*self.words[: self.begin], *words, *self.words[self.begin + self.width :]])


def gaps(lines: list[str], width: int, seed: int = 1) -> list[Gap]:
    """A gap in each line, never over its last word, which is nearly always the full stop."""
    found = []
    for line in lines:
        words = line.split()
        place = rng.hash64("gap", seed, width, line) % (len(words) - width)
        found.append(Gap(words, place, width))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", choices=[*RUNS], default=[*RUNS])
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--tried", type=int, default=100, help="lines whose gap is tried with every word")
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    (given.out / "cells").mkdir(parents=True, exist_ok=True)

    def cell(name: str, figures: Callable[[], dict[str, Any]]) -> None:
        path = given.out / "cells" / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps({"cell": name, **figures()}) + "\n", encoding="utf-8")
        print(path.read_text(encoding="utf-8"), end="", flush=True)

    for name in given.models:
        words = RUNS[name]
        if not (given.out / name / "config.toml").exists():
            used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            settings = seqgen.config(name, "captions", overrides=[*words, "train.threads=1", "train.samples=0"])
            seqgen.train(settings, given.out / name)
            used = resource.getrusage(resource.RUSAGE_SELF).ru_utime - used
            cell(f"train {name}", lambda used=used: {"cpu_s": round(used)})
    generators = {name: seqgen.load(given.out / name, device="cpu") for name in given.models}

    readers = [name for name in ("lm", "gpt") if name in generators]
    test = seqgen.read_lines("captions")
    known = [line for line in test if not any(g.tokenizer.unknown(line) for g in generators.values())]
    for width in WIDTHS:
        some = gaps(known[: given.lines], width)
        if "masked" in generators:
            cell(f"masked, {width}", lambda some=some: of_masked(generators["masked"], some))
        for name in readers:
            cell(f"{name} left side, {width}", lambda some=some, name=name: left_side(generators[name], some))
            cell(f"{name} best of 8, {width}", lambda some=some, name=name: best_of(generators[name], some))
    tried = gaps(known[: given.tried], 1)
    if "masked" in generators:
        cell("masked, 1 of those tried", lambda: of_masked(generators["masked"], tried))
    vocabulary = next(iter(generators.values())).tokenizer.surfaces()
    words = [word.strip() for word in vocabulary if word.strip() and word.strip() != "<unk>"]
    for name in readers:
        generator = generators[name]
        cell(f"{name} left side, 1 of those tried", lambda generator=generator: left_side(generator, tried))
        cell(
            f"{name} both sides, 1 of those tried",
            lambda generator=generator: every_word(lambda lines: generator.score(lines).per_line, tried, words),
        )
    grammar = seqgen.Grammar.load("captions")
    cell(
        "grammar, 1 of those tried",
        lambda: every_word(lambda lines: list(map(grammar.log_probability, lines)), tried, words),
    )
    for name, generator in generators.items():
        cell(f"{name}, nats a line", lambda generator=generator: likelihood(generator, test))
    exact = [-grammar.log_probability(line) for line in test]
    cell("grammar, nats a line", lambda: {"nll_per_line": sum(exact) / len(exact), "lines": len(exact)})


def summary(right: list[bool], nats: list[float] | None) -> dict[str, Any]:
    """Shares and means with their standard errors."""
    count = len(right)
    share = sum(right) / count
    found: dict[str, Any] = {
        "gaps": count,
        "exact": round(share, 4),
        "exact_se": round(math.sqrt(share * (1 - share) / count), 4),
    }
    if nats is not None:
        values = torch.tensor(nats, dtype=torch.float64)
        found |= {"nll": round(float(values.mean()), 4), "nll_se": round(float(values.std() / math.sqrt(count)), 4)}
    return found


def of_masked(generator: seqgen.TextGenerator, some: list[Gap]) -> dict[str, Any]:
    """Fill place by place from the left, the truth for the nll, the likeliest word for the match."""
    decoder = generator.model.decoder()
    assert isinstance(decoder, Unmasker)
    right, nats = [], []
    for gap in some:
        ids = generator.tokenizer.encode([" ".join(gap.words)]).row(0).tolist()
        whole = [generator.tokenizer.bos, *ids, generator.tokenizer.eos]
        places = range(1 + gap.begin, 1 + gap.begin + gap.width)
        drawn, total = list(whole), 0.0
        for place in places:
            total -= float(
                log_probs(generator, hidden(generator, whole, range(place, places[-1] + 1)), place)[whole[place]]
            )
            likely = log_probs(generator, hidden(generator, drawn, range(place, places[-1] + 1)), place)
            likely[list(decoder.suppress_tokens)] = -math.inf
            drawn[place] = int(likely.argmax())
        right.append(drawn == whole)
        nats.append(total)
    return summary(right, nats)


def hidden(generator: seqgen.TextGenerator, row: list[int], places: range) -> list[int]:
    model: Any = generator.model
    return [model.mask if place in places else token for place, token in enumerate(row)]


@torch.no_grad()
def log_probs(generator: seqgen.TextGenerator, row: list[int], place: int) -> torch.Tensor:
    model: Any = generator.model
    features = model.features(torch.tensor([row]), torch.tensor([len(row)]), torch.tensor([place]))
    logits: torch.Tensor = features[0] @ model.head().t()
    return logits.double().log_softmax(-1)


def left_side(generator: seqgen.TextGenerator, some: list[Gap]) -> dict[str, Any]:
    found = generator.fill([gap.given for gap in some], greedy=True)
    rows = generator.score([" ".join(gap.words) for gap in some]).log_probs
    nats = [-sum(row[gap.begin : gap.begin + gap.width]) for gap, row in zip(some, rows, strict=True)]
    return summary([one.words == gap.cut for one, gap in zip(found, some, strict=True)], nats)


def best_of(generator: seqgen.TextGenerator, some: list[Gap]) -> dict[str, Any]:
    found = generator.fill([gap.given for gap in some], best_of=8, seed=1)
    return summary([one.words == gap.cut for one, gap in zip(found, some, strict=True)], None)


def every_word(scored: Callable[[list[str]], list[float]], some: list[Gap], words: list[str]) -> dict[str, Any]:
    """Try every word in a gap: its probability there is that of the line over those of all lines."""
    right, nats = [], []
    for gap in some:
        log_p = torch.tensor(scored([gap.filled([word]) for word in words]), dtype=torch.float64)
        shares = log_p.log_softmax(0)
        right.append(words[int(shares.argmax())] == gap.cut[0])
        nats.append(-float(shares[words.index(gap.cut[0])]))
    return summary(right, nats)


def likelihood(generator: seqgen.TextGenerator, lines: list[str]) -> dict[str, Any]:
    scores = generator.score(lines)
    values = -torch.tensor(scores.per_line, dtype=torch.float64)
    kind = "bound_per_line" if scores.bound else "nll_per_line"
    figures = {kind: float(values.mean()), "se": float(values.std() / math.sqrt(len(lines))), "lines": len(lines)}
    return figures | {"tokens": scores.total_tokens, "by": scores.bound or "exact"}


if __name__ == "__main__":
    main()
