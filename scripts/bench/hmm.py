"""Expectation maximisation of a hidden Markov model against hmmlearn: iterations from the same tables.

hmmlearn runs its quicker implementation, by scaling; its default, in logarithms, takes about ten times as long.
Run: scripts/bench.py hmm-em, after pip install hmmlearn
"""

import copy
import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from measure import ratios, row

from seqgen.data.ragged import Ragged
from seqgen.models import hmm

START, STOP, WORDS, ITERATIONS = 2, 3, 2_000, 2


def text(lines: int) -> list[list[int]]:
    random = np.random.default_rng(1)
    return [(4 + WORDS * random.random(length) ** 3).astype(int).tolist() for length in random.integers(5, 20, lines)]


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """How many times faster iterations are; the gate wants the same likelihood and tables after them."""
    try:
        from hmmlearn.hmm import CategoricalHMM
    except ImportError:
        yield row("hmm-em", "iterations", [0.0], None, "hmmlearn is not installed")
        return
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # says that the text is short for so many parameters
    lines = text(500 if quick else 5_000)
    tokens = np.array([token for line in lines for token in (*line, STOP)])[:, None]
    lengths = [len(line) + 1 for line in lines]
    for states, floor in ((16, 2.5), (64, 5.0)):
        torch.manual_seed(1)
        config = hmm.Config(states=states, smoothing=0, vocab_size=4 + WORDS, start=START, stop=STOP, pad=0, sep=1)
        begin = hmm.Model(config)
        begin.rows = Ragged.from_lists([[START, *line, STOP] for line in lines])

        def theirs(begin: hmm.Model = begin, states: int = states) -> Any:
            model = CategoricalHMM(states, n_iter=ITERATIONS, tol=-math.inf, init_params="", implementation="scaling")
            model.n_features = 4 + WORDS
            model.startprob_, model.transmat_ = begin.initial.numpy(), begin.transition.numpy()
            model.emissionprob_ = begin.emission.t().numpy()
            return model.fit(tokens, lengths)

        def ours(begin: hmm.Model = begin) -> hmm.Model:
            model = copy.copy(begin)
            model._buffers = dict(begin._buffers)
            for _ in range(ITERATIONS):
                model.improve()
            return model

        wanted, found = theirs(), ours()
        likelihood = -float(found.improve()[0])
        gap = abs(likelihood / wanted.score(tokens, lengths) - 1)
        apart = np.abs(ours().transition.numpy() - wanted.transmat_).max()
        gate = "ok" if gap < 1e-10 and apart < 1e-10 else f"likelihoods differ by {gap:.1g}, tables by {apart:.1g}"
        values = ratios(theirs, ours, rounds=1 if quick else 3)
        yield row("hmm-em", f"{states} states, {len(tokens):,} tokens", values, floor, gate)


BENCHES = {"hmm-em": rows}
