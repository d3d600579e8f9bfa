"""Masked diffusion against enumeration: the bound over every set of masks, and texts over every order of unmasking."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import ConfigError
from seqgen.core.options import Sampling
from seqgen.core.rng import text_seeds
from seqgen.models import masked
from seqgen.nn.automaton import GAP

PAD, START, STOP, SEP = 0, 2, 3, 4
WORDS = (5, 6, 7)
VOCAB = 8


def made(**options: Any) -> masked.Model:
    """Two layers with weights large enough for uneven distributions; every length below 5 seen once."""
    plain: dict[str, Any] = {"layers": 2, "heads": 2, "hidden": 8, "dropout": 0.0, "vocab_size": VOCAB, "stop": STOP}
    plain |= {"sep": SEP, "suppress_tokens": (PAD, 1, START, STOP, SEP), "max_length": 5, "context": 5, "draws": 200}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = masked.Model(masked.Config(**(plain | options))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.5 * torch.randn_like(parameter)
    return model


def batch_of(rows: list[list[int]], condition: int = 0) -> SequenceBatch:
    """Rows [start, condition, text, stop] as a batch whose texts count."""
    width = max(map(len, rows)) - 1
    inputs, targets = (torch.full((len(rows), width), PAD) for _ in range(2))
    positions = []
    for n, row in enumerate(rows):
        inputs[n, : len(row) - 1], targets[n, : len(row) - 1] = torch.tensor(row[:-1]), torch.tensor(row[1:])
        positions += [n * width + t for t in range(condition, len(row) - 1)]
    lengths = torch.tensor([len(row) - 1 for row in rows])
    return SequenceBatch(inputs, targets, torch.tensor(positions), lengths, torch.arange(len(rows)))


def conditional(model: masked.Model, row: list[int], hidden: tuple[int, ...]) -> Tensor:
    """Log-probabilities (M, V) of the tokens at hidden places of a whole row, given the others."""
    ids = torch.tensor([row])
    ids[0, list(hidden)] = model.mask
    with torch.no_grad():
        return (model.features(ids, torch.tensor([len(row)]), torch.tensor(hidden)) @ model.head().t()).log_softmax(-1)


def enumerated_bound(model: masked.Model, row: list[int]) -> float:
    """Sahoo et al. 2024, eq. 8 with alpha = 1 - t: integral over t of 1 / t times the expected masked cross-entropy."""
    places = range(1, len(row) - 1)
    count = len(places)
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(40))
    times, weights = (nodes + 1) / 2, weights / 2
    total = 0.0
    for k in range(1, count + 1):
        for hidden in itertools.combinations(places, k):
            log_p = conditional(model, row, hidden)
            cross_entropy = -float(sum(log_p[i, row[place]] for i, place in enumerate(hidden)))
            total += cross_entropy * float((weights * times ** (k - 1) * (1 - times) ** (count - k)).sum())
    return total


def exact_nll(model: masked.Model, row: list[int]) -> float:
    """-log of the probability that unmasking one place after the other, in random order, writes the row."""
    places = range(1, len(row) - 1)
    orders = list(itertools.permutations(places))
    probabilities = []
    for order in orders:
        log_p = 0.0
        for i, place in enumerate(order):
            log_p += float(conditional(model, row, order[i:])[0, row[place]])
        probabilities.append(math.exp(log_p))
    return -math.log(sum(probabilities) / len(orders))


ROWS = [[START, 5, 6, 7, STOP], [START, 7, STOP], [START, 6, 6, 5, 7, STOP]]


def test_log_probs_estimate_the_integral_over_time_and_bound_the_exact_nll() -> None:
    model = made()
    batch = batch_of(ROWS)
    found = torch.zeros(len(ROWS), dtype=torch.float64).index_add_(
        0, batch.positions // batch.inputs.shape[1], -model.log_probs(batch)
    )
    for row, value in zip(ROWS, found.tolist(), strict=True):
        length = -float(model.length_log_probs()[len(row) - 2])
        bound = length + enumerated_bound(model, row)
        assert value == pytest.approx(bound, rel=0.04)  # 200 draws
        assert bound >= length + exact_nll(model, row) - 1e-9
    # one token: the bound is exact, and so is every draw of it
    assert found[1] == pytest.approx(-float(model.length_log_probs()[1]) + exact_nll(model, ROWS[1]), rel=1e-6)


def test_masks_are_every_number_of_tokens_equally_often_weighed_by_its_inverse() -> None:
    maskable = torch.tensor([[True] * 4 + [False]]).expand(4000, -1)
    times = masked.antithetic_times(4000, torch.device("cpu"))
    noise = torch.rand(4000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chosen, weight = masked.masks(maskable, times, noise)
    count = chosen.sum(1)
    assert count.bincount().tolist() == [0, 1000, 1000, 1000, 1000]
    assert torch.equal(weight, 4 / count.double())
    assert not chosen[:, 4].any()
    each = chosen[count == 2, :4].sum(0)
    assert stats.chisquare(each.numpy()).pvalue > 1e-3


def test_times_of_a_batch_are_evenly_spread_and_each_is_uniform() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([masked.antithetic_times(8, torch.device("cpu")) for _ in range(2000)])
    assert ((drawn.sort(1).values * 8).floor() == torch.arange(8)).all()
    assert stats.kstest(drawn[:, 3].numpy(), "uniform").pvalue > 1e-3


def test_a_single_gap_has_the_softmax_of_its_logits() -> None:
    model = made()
    (log_p,) = conditional(model, ROWS[0], (2,))
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-6)
    decoder = model.decoder()
    row = [START, 5, GAP, 7, STOP]
    count = 4000
    filled, log_probs = decoder.fill([row] * count, text_seeds(0, 0, count), Sampling())
    words = torch.tensor([ids[2] for ids in filled])
    assert {ids[1] for ids in filled} == {5}
    expected = log_p.exp()[list(WORDS)] / log_p.exp()[list(WORDS)].sum()
    assert p_value(torch.tensor([int((words == w).sum()) for w in WORDS]), expected) > 1e-3
    assert [values[0] for values in log_probs] == pytest.approx([float(log_p[w]) for w in words.tolist()], abs=1e-5)


def p_value(seen: Tensor, shares: Tensor) -> float:
    """That of a chi-square test of counts against shares, which float32 does not let sum to 1."""
    expected = shares.double().flatten()
    return float(stats.chisquare(seen.numpy(), (expected / expected.sum() * seen.sum()).numpy()).pvalue)


class Known(masked.Model):
    """A joint distribution of three tokens as its exact conditionals, through the model's own features and head."""

    def __init__(self) -> None:
        super().__init__(masked.Config(hidden=8, heads=2, vocab_size=VOCAB, stop=STOP, max_length=5, context=5))
        rng = torch.Generator().manual_seed(5)
        self.joint = torch.rand(len(WORDS), len(WORDS), len(WORDS), generator=rng).square()
        self.joint /= self.joint.sum()
        self.lengths[3] = 10**9

    def head(self) -> Tensor:
        return torch.eye(VOCAB)

    def features(self, ids_bl: Tensor, lengths_b: Tensor, places: Tensor) -> Tensor:
        found = torch.full((len(places), VOCAB), -60.0)
        for n, flat in enumerate(places.tolist()):
            row, at = ids_bl[flat // ids_bl.shape[1]].tolist(), flat % ids_bl.shape[1] - 1
            index = tuple(slice(None) if t == self.mask else t - WORDS[0] for t in row[1:4])
            table = self.joint[tuple(slice(i, i + 1) if isinstance(i, int) else i for i in index)]
            found[n, list(WORDS)] = table.sum([d for d in range(3) if d != at]).log()
        return found


def test_unmasking_one_token_a_pass_writes_the_joint_distribution_and_all_at_once_its_marginals() -> None:
    model, count = Known(), 3000
    seeds = text_seeds(1, 0, count)
    marginals = [model.joint.sum([d for d in range(3) if d != i]) for i in range(3)]
    apart = marginals[0][:, None, None] * marginals[1][:, None] * marginals[2]
    for steps, right, wrong in ((0, model.joint, apart), (1, apart, model.joint)):
        texts = model.decoder().decode([[START]] * count, seeds, Sampling(denoising_steps=steps)).ids
        assert {len(ids) for ids in texts} == {3}
        cells = torch.tensor([[t - WORDS[0] for t in ids] for ids in texts])
        seen = (cells @ torch.tensor([9, 3, 1])).bincount(minlength=27)
        assert p_value(seen, right) > 1e-3
        assert p_value(seen, wrong) < 1e-6


@pytest.mark.parametrize("steps", [0, 2])
def test_text_k_does_not_depend_on_its_batch(steps: int) -> None:
    decoder, seeds, sampling = made(hidden=16).decoder(), text_seeds(0, 0, 21), Sampling(denoising_steps=steps)
    prompts = [[START], [START, 6], [START, 5, 7]] * 7
    together = decoder.decode(prompts, seeds, sampling).ids
    alone = [decoder.decode([prompts[n]], seeds[n : n + 1], sampling).ids[0] for n in range(21)]
    assert together == alone
    rows = [[START, GAP, 6, GAP, STOP], [START, GAP, GAP, STOP]] * 8
    _, values = decoder.fill(rows, text_seeds(1, 0, 16), sampling)
    assert values == [decoder.fill([rows[n]], text_seeds(1, n, 1), sampling)[1][0] for n in range(16)]  # the same bits


def test_lengths_follow_the_training_texts_and_the_limits() -> None:
    model = made()
    model.lengths.copy_(torch.tensor([0, 9, 0, 4, 0]))
    assert model.length_log_probs().exp().tolist() == pytest.approx([0, 10 / 17, 1 / 17, 5 / 17, 1 / 17])
    decoder, count = model.decoder(), 2000
    seeds = text_seeds(0, 0, count)
    drawn = torch.tensor([len(ids) for ids in decoder.decode([[START]] * count, seeds, Sampling()).ids])
    expected = torch.tensor([10, 1, 5, 1]) / 17 * count
    assert p_value(drawn.bincount(minlength=5)[1:], expected) > 1e-3
    limited = decoder.decode([[START, 6]] * 50, seeds[:50], Sampling(min_new_tokens=1, max_new_tokens=3)).ids
    assert {len(ids) for ids in limited} <= {1, 2}
    behind = decoder.decode([[START, 7, SEP, 6]] * 50, seeds[:50], Sampling()).ids  # a condition takes room
    assert {len(ids) for ids in behind} <= {0, 1}
    with pytest.raises(ValueError, match="no length is left for text 0: a prompt of 4 tokens"):
        decoder.decode([[START, 5, 5, 5, 5]], seeds[:1], Sampling(min_new_tokens=1))


def test_conditions_are_read_and_never_masked() -> None:
    model = made(draws=2)
    batch = batch_of([[START, 7, SEP, 5, STOP], [START, 5, SEP, 6, STOP]], condition=2)
    assert model.maskable(batch).tolist() == [[False, False, True, False]] * 2
    assert len(model.log_probs(batch)) == 4


def test_what_needs_a_text_from_left_to_right_is_refused() -> None:
    decoder = made().decoder()
    for options in ({"repetition_penalty": 2.0}, {"no_repeat_ngram_size": 2}, {"details": True}):
        with pytest.raises(ValueError, match="need a model that writes from left to right"):
            decoder.decode([[START]], text_seeds(0, 0, 1), Sampling(**options))
    with pytest.raises(ConfigError, match=r"a text of 5 tokens; this model knows texts of 1 to 4"):
        made().log_probs(batch_of([[START, 5, 5, 5, 5, 5, STOP]]))


def test_accumulated_parts_have_the_gradient_of_the_whole_batch() -> None:
    from seqgen.core.config import Train

    after = []
    for parts in (1, 2):
        model = made()
        torch.manual_seed(4)
        optimizers = masked.optimizers(model, replace(Train(), optimizer="sgd", lr=1.0, accumulate=parts))
        masked.train_step(model, optimizers, batch_of(ROWS + ROWS[:1]), 0)
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(after[0], after[1])
