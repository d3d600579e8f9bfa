"""Beam search: the likeliest texts of a model, found breadth first with a limited number of candidates.

A text's score is log p / L^a, L its tokens with the stop: a = 0 ranks by probability and so likes short texts, a = 1
ranks by the mean per token. Diverse search (Vijayakumar et al. 2018) splits the candidates into groups that choose one
after the other: a token loses some nats for every candidate of an earlier group that has just chosen it, in the choice
only, not in the score. Shapes: N prompts, W candidates of each (group after group), K considered, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from seqgen.core import config
from seqgen.core.options import Beam, Sampling
from seqgen.nn.automaton import Automaton
from seqgen.nn.decode import Decoder, Rules


@dataclass(frozen=True)
class Hypothesis:
    """A text that the search found."""

    ids: list[int]
    """Tokens without prompt and stop."""
    score: float
    """log_prob / L^a."""
    log_prob: float
    """Log-probability of the tokens, of the stop too where there is one, under the unmodified model, nats."""
    finished: bool
    """Whether the text came to its end before the length limit."""


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    beam: Beam,
    *,
    automaton: Automaton | None = None,
    begin: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """Find up to `width` different texts for every prompt, the best first; those that the length limit cut come last.

    Each group gives its best ones. A finished candidate leaves its place to another; the search of a prompt ends when
    none at work can overtake the worst text to be returned. `automaton` and `begin` as in `Decoder.steps`. Raises
    ValueError as that does, and where groups do not divide the width.
    """
    beam = config.build(Beam, config.to_dict(beam), section="beam")
    if beam.num_beams % beam.num_beam_groups:
        raise ValueError(f"num_beam_groups must divide num_beams = {beam.num_beams}, got {beam.num_beam_groups}")
    limits = Sampling(
        min_new_tokens=beam.min_new_tokens, max_new_tokens=beam.max_new_tokens, suppress_tokens=beam.suppress_tokens
    )
    rules = decoder.rules(limits, automaton)
    decoder.check(prompts, begin, rules)
    found = [[_Found(decoder.stop, beam) for _ in range(beam.num_beam_groups)] for _ in prompts]
    if not prompts:
        return []

    state = decoder.prefill(prompts, room=rules.limit)
    last = torch.tensor([prompt[-1] for prompt in prompts], device=decoder.device)
    at_work = list(range(len(prompts)))  # the prompts not yet settled
    parents = torch.arange(len(prompts), device=decoder.device)[:, None].expand(-1, beam.num_beams)  # rows of `state`
    last = last[parents]
    places = torch.tensor(begin or [0] * len(prompts), device=decoder.device)[parents]
    written: list[list[_Tokens]] = [[None] * beam.num_beams for _ in prompts]
    log_probs = torch.full_like(last, -math.inf, dtype=torch.float64)
    log_probs[:, :: beam.num_beams // beam.num_beam_groups] = (
        0.0  # each group begins with one candidate: the prompt itself
    )
    size = beam.num_beams // beam.num_beam_groups
    for t in range(rules.limit):
        rows = decoder.tiled(torch.arange(last.numel(), device=last.device))
        features, state = decoder.step(last.flatten()[rows], decoder.select(state, parents.flatten()[rows]))
        # whole tiles here too, or the bits would depend on the number of prompts
        next_log_probs = _log_probs(decoder, rules, features, places.flatten()[rows], t)[: last.numel()]
        totals = log_probs[:, :, None] + next_log_probs.view(*last.shape, -1)
        near = _nearest(totals, places, t, beam, rules)
        going = near.going
        log_probs = near.log_probs.where(~near.over, -math.inf).gather(1, going)
        last, places = near.ids.gather(1, going), near.places.gather(1, going)
        first_row = torch.arange(len(last), device=last.device)[:, None] * beam.num_beams
        parents = first_row + near.candidates.gather(1, going)

        seen = near.on_host()  # one wait for a device
        unsettled = []
        for n, p in enumerate(at_work):
            texts = [(written[n][c], i) for c, i in zip(seen.candidates[n], seen.ids[n], strict=True)]
            for k, over in enumerate(seen.over[n]):
                if over:
                    group = found[p][k * beam.num_beam_groups // len(texts)]
                    group.add(_listed(texts[k]), seen.log_probs[n][k], finished=True)
            kept = seen.going[n]
            written[n] = [texts[k] for k in kept]
            values = [-math.inf if seen.over[n][k] else seen.log_probs[n][k] for k in kept]
            if t + 1 == rules.limit:
                for k, value in enumerate(values):
                    if math.isfinite(value):
                        found[p][k // size].add(_listed(written[n][k]), value, finished=False)
            elif any(
                group.may_change(max(values[g * size : (g + 1) * size]), rules.limit)
                for g, group in enumerate(found[p])
            ):
                unsettled.append(n)
        if not unsettled:
            break
        if len(unsettled) < len(at_work):
            log_probs, last, places, parents = (x[unsettled] for x in (log_probs, last, places, parents))
            at_work, written = [at_work[n] for n in unsettled], [written[n] for n in unsettled]
    return [_merged(groups) for groups in found]


_Tokens: TypeAlias = "tuple[_Tokens, int] | None"
"""A text as its last token and the text before that: candidates share their beginnings."""


def _listed(text: _Tokens) -> list[int]:
    """Return the tokens of a text."""
    tokens = []
    while text is not None:
        text, token = text
        tokens.append(token)
    return tokens[::-1]


class _Found:
    """The texts that a group found for one prompt, each once."""

    def __init__(self, stop: int, beam: Beam) -> None:
        self._stop, self._power = stop, beam.length_penalty
        self._size = beam.num_beams // beam.num_beam_groups
        self._texts: dict[tuple[int, ...], Hypothesis] = {}

    def add(self, tokens: list[int], log_prob: float, *, finished: bool) -> None:
        """Add a text with its stop, if it has one."""
        score = log_prob / len(tokens) ** self._power
        ids = tokens[:-1] if tokens[-1] == self._stop else tokens
        self._texts[tuple(tokens)] = Hypothesis(ids, score, log_prob, finished)

    def best(self) -> list[Hypothesis]:
        """Return the best texts first."""
        return sorted(self._texts.values(), key=_rank)[: self._size]

    def may_change(self, log_prob: float, limit: int) -> bool:
        """Return whether a candidate at work with this log-probability could still be among the best."""
        texts = self.best()
        if len(texts) < self._size:
            return log_prob > -math.inf
        # log-probabilities only fall, and a score is nearest to 0 at the longest length
        return bool(log_prob / limit**self._power > texts[-1].score)


def _rank(text: Hypothesis) -> tuple[bool, float]:
    """Rank texts that the limit cut off after those that ended."""
    return not text.finished, -text.score


def _merged(groups: Sequence[_Found]) -> list[Hypothesis]:
    """Merge the texts of all groups, the best first, each once."""
    texts = {(tuple(text.ids), text.finished): text for group in groups for text in group.best()}
    return sorted(texts.values(), key=_rank)


@dataclass(frozen=True)
class _Near:
    """The K best continuations of every prompt, group after group, and which W of them go on."""

    log_probs: Tensor
    """(N, K) float64: of the whole text so far."""
    candidates: Tensor
    """(N, K): which candidate goes on."""
    ids: Tensor
    """(N, K): with which token."""
    places: Tensor
    """(N, K): states of the automaton behind it."""
    over: Tensor
    """(N, K) bool: whether the text is possible and ends there."""
    going: Tensor
    """(N, W): indices among the K."""

    def on_host(self) -> Any:
        """Return all but the places as lists by the same names."""
        names = ("log_probs", "candidates", "ids", "over", "going")
        parts = [getattr(self, name) for name in names]
        whole = torch.cat([part.double() for part in parts], 1).cpu().split_with_sizes([len(p[0]) for p in parts], 1)
        lists = (x.to(part.dtype).tolist() for x, part in zip(whole, parts, strict=True))
        return SimpleNamespace(**dict(zip(names, lists, strict=True)))


def _nearest(totals_nwv: Tensor, places: Tensor, t: int, beam: Beam, rules: Rules) -> _Near:
    """Each group's best continuations: twice as many as its candidates, since the stop ends one of each at most."""
    prompts, _, vocabulary = totals_nwv.shape
    size = beam.num_beams // beam.num_beam_groups
    chosen_by_others = totals_nwv.new_zeros(prompts, 1, vocabulary)
    groups: list[list[Tensor]] = []
    for group in range(beam.num_beam_groups):
        totals = totals_nwv[:, group * size : (group + 1) * size]
        ranked = totals - beam.diversity_penalty * chosen_by_others if group else totals
        index = ranked.flatten(1).topk(min(2 * size, size * vocabulary)).indices
        log_probs = totals.flatten(1).gather(1, index)
        candidates, ids = index // vocabulary + group * size, index % vocabulary
        behind, over = rules.follow(places.gather(1, candidates), ids, t)
        # the first that are possible and do not end, in their order; others fill up, without mass
        order = (over | (log_probs == -math.inf)).int().argsort(dim=1, stable=True)[:, :size]
        possible = (log_probs > -math.inf).gather(1, order) & ~over.gather(1, order)
        chosen_by_others.squeeze(1).scatter_add_(1, ids.gather(1, order), possible.to(totals))
        width = index.shape[1]
        groups.append([log_probs, candidates, ids, behind, over & (log_probs > -math.inf), order + group * width])
    return _Near(*(torch.cat(parts, 1) for parts in zip(*groups, strict=True)))


def _log_probs(decoder: Decoder, rules: Rules, features_rh: Tensor, places_r: Tensor, t: int) -> Tensor:
    """Log-probabilities of the next token under the unmodified model, -inf where it may not come, (R, V)."""
    parts = []
    for rows in decoder.output.parts(len(features_rh)):
        plain = decoder.output.logits(features_rh[rows], decoder.output.plain_bias).log_softmax(-1)
        plain.masked_fill_(rules.bias == -math.inf, -math.inf)
        rules.block(plain, places_r[rows], t)
        parts.append(plain[:, : decoder.output.vocab_size])
    return torch.cat(parts)
