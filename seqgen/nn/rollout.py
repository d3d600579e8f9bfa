"""Texts drawn from a policy: whole ones, and completions of every prefix (Monte-Carlo rollouts).

The usual way feeds each prefix again for each completion. Here the given texts are read once, one token a step, and at
every step their completions from there join one batch that grows, so T - 1 steps make all N * B * (T - 1) of them.
Nothing records gradients. Shapes: B texts, T tokens (the end of the text counted), N rollouts, R completions.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqgen.core.options import Sampling
from seqgen.nn.decode import AHEAD, Autoregressive, Decoder
from seqgen.nn.sampler import OutputLayer


@dataclass(frozen=True)
class Texts:
    """Token rows with their ends: what a critic reads."""

    ids: Tensor
    """(B, T) int64; a text's own end token is part of it, anything after its length is not."""
    lengths: Tensor
    """(B,) int64, tokens of every text, at least 1."""
    known: Sequence[int] | None = None
    """The lengths, where they are known on the host."""

    @functools.cached_property
    def sizes(self) -> list[int]:
        """The lengths on the host: one wait for a device, once, unless they are known there."""
        return [*(self.lengths.tolist() if self.known is None else self.known)]


def draw(decoder: Decoder, start: int, seeds: Tensor, length: int) -> Texts:
    """Draw whole texts of at most `length` tokens; text k is a function of the weights and seed k alone."""
    ids = torch.zeros(len(seeds), length, dtype=torch.int64, device=seeds.device)
    lengths = torch.zeros(len(seeds), dtype=torch.int64, device=seeds.device)
    for t, step in enumerate(decoder.steps([[start]] * len(seeds), seeds, Sampling(max_new_tokens=length))):
        ids[step.texts, t] = step.ids if step.live is None else step.ids.where(step.live, 0)
        lengths[step.texts] += 1 if step.live is None else step.live
    return Texts(ids, lengths)


@torch.inference_mode()
def rollout_values(
    policy: Autoregressive[Any],
    score: Callable[[Texts], Tensor],
    texts: Texts,
    *,
    rollouts: int,
    start: int,
    stop: int,
    suppress_tokens: Sequence[int] = (),
    low: bool = False,
) -> Tensor:
    """Estimate the expected score of every proper prefix, (B, T) float32 (Yu et al. 2017, equation 4).

    Column t is the mean of `score` over `rollouts` completions of tokens 0 .. t drawn from `policy`, for t + 1 below
    the text's length; elsewhere 0, because the score of a finished text needs no rollout. Completions are as long as T
    at most and draw from torch's default generator. Raises ValueError if rollouts < 1.
    """
    if rollouts < 1:
        raise ValueError(f"rollouts must be at least 1 for values by rollouts, got {rollouts}")
    completions, cells = complete(
        policy, texts, rollouts=rollouts, start=start, stop=stop, suppress_tokens=suppress_tokens, low=low
    )
    rows, length = texts.ids.shape
    values = torch.zeros(rows * length, device=texts.ids.device)
    if len(cells):
        # Those of one prefix side by side: what a critic looks up for it stays in the cache. They are summed in the
        # order in which they were made: index_add_ of a GPU keeps none.
        order = cells.argsort(stable=True)
        parts = (score(Texts(completions.ids[order], completions.lengths[order])) / rollouts).view(-1, rollouts)
        values[cells[order[::rollouts]]] = sum(parts.unbind(1), torch.zeros_like(parts[:, 0]))
    return values.view(rows, length)


@torch.inference_mode()
def complete(
    policy: Autoregressive[Any],
    texts: Texts,
    *,
    rollouts: int,
    start: int,
    stop: int,
    suppress_tokens: Sequence[int] = (),
    low: bool = False,
) -> tuple[Texts, Tensor]:
    """Complete all proper prefixes; return texts and the flat index b * T + t of the last given token of each, (R,).

    `suppress_tokens` are not drawn; `stop` (-1: none) ends a completion. `low` computes the product of the output layer
    in bfloat16: the distribution drawn from is then a little off (KL about 1e-4 nats).
    """
    ids_bt, sizes = texts.ids, texts.sizes
    rows, length = ids_bt.shape
    device = ids_bt.device
    total = rollouts * (sum(sizes) - rows)
    ids = torch.empty(total, length, dtype=torch.int64, device=device)
    lengths = torch.full((total,), length, dtype=torch.int64, device=device)
    cells = torch.empty(total, dtype=torch.int64, device=device)

    output = OutputLayer(policy.head(), suppress_tokens=suppress_tokens, precision="bf16" if low else "fp32")
    # to ask a device which completions have ended is to wait for it; until then they go on, and what they write is lost
    every = 1 if device.type == "cpu" else AHEAD
    numbers = list(range(rows))  # texts that are still being read: the first rows of the batch
    given = torch.arange(rows, device=device)
    going = torch.empty(0, dtype=torch.int64, device=device)  # completions at work: the rows after them
    last = torch.empty(0, dtype=torch.int64, device=device)
    _, state = policy.step(torch.full((rows,), start, device=device), policy.prefill([()] * rows, room=length))
    made = 0
    for t in range(length - 1):
        kept = [row for row, number in enumerate(numbers) if sizes[number] > t + 1]
        if len(kept) < len(numbers):
            rest = range(len(numbers), len(numbers) + len(going))
            chosen = torch.tensor([*kept, *rest], dtype=torch.int64, device=device)
            state, given = policy.select(state, chosen), given[chosen[: len(kept)]]
            numbers = [numbers[row] for row in kept]
        features, state = policy.step(torch.cat([ids_bt[given, t], last]), state)
        count = len(numbers)
        if count:
            # every prefix that ends here sends out its completions, as copies of one state
            new = torch.arange(made, made + rollouts * count, device=device)
            ids[new] = ids_bt[given].repeat(rollouts, 1)
            cells[new] = (given * length + t).repeat(rollouts)
            made += len(new)
            going = torch.cat([going, new])
            copies = torch.arange(count, device=device).repeat(rollouts)
            state = policy.select(state, torch.cat([torch.arange(len(features), device=device), copies]))
            features = torch.cat([features[count:], features[copies]])
        last = output.draw(features, torch.rand(len(features), dtype=torch.float64, device=device))
        ids[going, t + 1] = last
        ended = last == stop
        if every > 1 or ended.any():
            lengths[going] = lengths[going].minimum(torch.where(ended, t + 2, length))
            if (t + 1) % every == 0:
                on = (lengths[going] > t + 2).nonzero()[:, 0]
                going, last = going[on], last[on]
                state = policy.select(state, torch.cat([torch.arange(count, device=device), count + on]))
    return Texts(ids, lengths), cells
