"""Scores that need a model, and the tables that stand it beside real text and an n-gram model.

Text-only metrics live in `seqgen.metrics`; here they meet runs: held-out likelihood during training, samples of a run
against references, the same figures for real text at the same size and for a Kneser-Ney 5-gram model of the same text.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from seqgen import metrics
from seqgen.core import dist
from seqgen.core.config import Train
from seqgen.engine.generate import Text, Writer


def validate(chapter: Any, model: Any, data: Any, device: torch.device) -> dict[str, float]:
    """Held-out scores: sums over all batches, divided once; processes share the batches and agree on the result.

    `nll_per_token` in nats, `perplexity` its exponential, `nll_per_character` where the data knows its characters.
    """
    sums: dict[str, torch.Tensor] = {}
    for i, batch in enumerate(data.validation()):
        if i % dist.world() != dist.rank():
            continue
        for name, (total, count) in chapter.validate(model, batch).items():
            pair = torch.stack([torch.as_tensor(total).double().cpu(), torch.as_tensor(count).double().cpu()])
            sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + pair
    names = sorted(sums)
    table = torch.stack([sums[name] for name in names]).to(device)
    totals = dict(zip(names, dist.sum_(table).tolist(), strict=True))
    scores = {("nll_per_token" if name == "nll" else name): a / b for name, (a, b) in totals.items() if b}
    scores["perplexity"] = math.exp(min(scores["nll_per_token"], 700.0))
    if data.valid_characters:
        scores["nll_per_character"] = totals["nll"][0] / data.valid_characters
    return scores


def sample_and_score(writer: Writer, data: Any, train: Train) -> tuple[list[str], dict[str, float]]:
    """Texts from fixed seeds and what they are worth as text.

    Every number is over `train.samples` lines, or as many held-out lines as there are. A run on running text has no
    lines to score: the few texts that are shown are all that is written.
    """
    if data.mode != "sentence":
        return writer.generate(train.show) if train.show else [], {}
    count = min(train.samples, len(data.valid_lines))
    sources = data.valid_sources[:count] if data.valid_sources is not None else None
    texts = writer.generate(1 if sources else count, sources=sources)
    return texts, cheap_scores(texts, data.valid_lines, data.train_lines)


def cheap_scores(lines: Sequence[str], references: Sequence[str], train: Sequence[str]) -> dict[str, float]:
    """What is computed at every validation, fast enough to be done at full size."""
    names = {
        "bleu_4": lambda: metrics.bleu(lines, references),
        "self_bleu_4": lambda: metrics.self_bleu(lines),
        "copied": lambda: len(set(train).intersection(lines)) / len(set(lines)),
    }
    return {name: float(compute()) for name, compute in names.items() if lines} if len(lines) > 1 else {}


__all__ = ["Text", "cheap_scores", "sample_and_score", "validate"]
