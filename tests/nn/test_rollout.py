"""Rollouts: exact tables with toy scores, rewards that reach their own position, any length."""

import math

import pytest
import torch
from torch import Tensor

from seqgen.core.rng import text_seeds
from seqgen.models import lm
from seqgen.nn.rollout import Texts, complete, draw, rollout_values

START, STOP, MARK = 0, 1, 2


def policy(vocab_size: int = 6, *, stop: int = -1, cell: str = "lstm") -> lm.Model:
    torch.manual_seed(7)
    model = lm.Model(
        lm.Config(
            cell="gru" if cell == "gru" else "lstm",
            layers=2,
            embedding=5,
            hidden=6,
            vocab_size=vocab_size,
            stop=stop,
            suppress_tokens=(START,),
            max_length=8,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model.eval()


def uniform_policy(vocab_size: int) -> lm.Model:
    """Every token but START with the same probability, always."""
    model = policy(vocab_size)
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.output_bias.zero_()
    return model


def count_marks(texts: Texts) -> Tensor:
    inside = torch.arange(texts.ids.shape[1]) < texts.lengths[:, None]
    return ((texts.ids == MARK) & inside).sum(1).float()


def test_a_score_that_counts_one_token_gives_the_exact_table() -> None:
    """Q_t = marks so far + (T - 1 - t) / 5: exact where the mark cannot be drawn, within noise where it can."""
    texts = Texts(torch.tensor([[2, 3, 2, 4, 5], [3, 3, 3, 2, 2]]), torch.tensor([5, 5]))
    so_far = (texts.ids == MARK).cumsum(1).float()
    none = rollout_values(
        uniform_policy(6).stepper(), count_marks, texts, rollouts=2, start=START, stop=-1, suppress_tokens=(START, MARK)
    )
    assert none[:, :-1].tolist() == so_far[:, :-1].tolist()
    torch.manual_seed(1)
    rollouts = 4000
    some = rollout_values(
        uniform_policy(6).stepper(),
        count_marks,
        texts,
        rollouts=rollouts,
        start=START,
        stop=-1,
        suppress_tokens=(START,),
    )
    left = torch.arange(4, 0, -1).float()
    error = (some[:, :-1] - so_far[:, :-1] - left / 5).abs()
    deviation = (left * 0.2 * 0.8 / rollouts).sqrt()
    assert bool((error < 4 * deviation).all())


def test_the_reward_of_position_t_reaches_position_t() -> None:
    """A score that reads one position: prefixes that hold it know it, shorter ones expect its mean."""
    texts = draw(policy().decoder(), START, text_seeds(3, 0, 30), 6)
    place = 3

    def at_place(given: Texts) -> Tensor:
        return given.ids[:, place].float()

    torch.manual_seed(2)
    values = rollout_values(
        policy().stepper(), at_place, texts, rollouts=3, start=START, stop=-1, suppress_tokens=(START,)
    )
    for t in range(place, 5):
        assert torch.equal(values[:, t], texts.ids[:, place].float())
    assert not torch.equal(values[:, 0], texts.ids[:, place].float())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_completions_have_the_probabilities_of_the_policy(cell: str) -> None:
    """The token after each prefix, against the softmax that a whole scan of the prefix gives (chi-square)."""
    model = policy(cell=cell)
    texts = Texts(torch.tensor([[2, 4, 3, 5], [5, 5, 2, 2]]), torch.tensor([4, 4]))
    torch.manual_seed(3)
    rollouts = 5000
    made, cells = complete(model.stepper(), texts, rollouts=rollouts, start=START, stop=-1, suppress_tokens=(START,))
    for row in range(2):
        for t in range(3):
            inputs = torch.cat([torch.tensor([START]), texts.ids[row, : t + 1]])[None]
            with torch.no_grad():
                hidden, _ = model.scan(inputs)
                weight, bias = model.head()
                logits = model.features(hidden[0, -1:]) @ weight.t() + bias
            logits[0, START] = -math.inf
            expected = logits.softmax(-1)[0] * rollouts
            chosen = made.ids[cells == row * 4 + t]
            assert len(chosen) == rollouts
            counts = chosen[:, t + 1].bincount(minlength=6).float()
            cells_in_use = expected > 5
            statistic = ((counts - expected)[cells_in_use] ** 2 / expected[cells_in_use]).sum()
            freedom = int(cells_in_use.sum()) - 1
            assert abs(float(statistic) - freedom) / math.sqrt(2 * freedom) < 4.5


def test_finished_texts_are_left_alone_and_unfinished_ones_stop_at_the_end() -> None:
    model = policy(stop=STOP)
    texts = draw(model.decoder(), START, text_seeds(1, 0, 40), 8)
    torch.manual_seed(4)
    made, cells = complete(model.stepper(), texts, rollouts=2, start=START, stop=STOP, suppress_tokens=(START,))
    assert len(cells) == 2 * int((texts.lengths - 1).sum())
    inside = torch.arange(8) < made.lengths[:, None]
    stops = (made.ids == STOP) & inside
    assert torch.equal(stops.any(1), made.lengths < 8) or bool((made.ids[made.lengths == 8, 7] == STOP).any())
    assert bool((stops.nonzero()[:, 1] == made.lengths[stops.any(1)] - 1).all()), "a stop is the last token"
    values = rollout_values(
        model.stepper(), count_marks, texts, rollouts=1, start=START, stop=STOP, suppress_tokens=(START,)
    )
    assert not values[torch.arange(8) >= texts.lengths[:, None] - 1].any()


def test_one_token_texts_need_no_rollout() -> None:
    texts = Texts(torch.tensor([[STOP, 0, 0], [STOP, 0, 0]]), torch.tensor([1, 1]))
    assert not rollout_values(policy(stop=STOP).stepper(), count_marks, texts, rollouts=2, start=START, stop=STOP).any()


def test_drawn_texts_do_not_depend_on_their_company() -> None:
    model = policy(stop=STOP)
    seeds = text_seeds(2, 0, 33)
    together = draw(model.decoder(), START, seeds, 8)
    alone = draw(model.decoder(), START, seeds[20:21], 8)
    assert torch.equal(alone.ids[0], together.ids[20])
    assert int(alone.lengths[0]) == int(together.lengths[20])


def test_at_least_one_rollout() -> None:
    texts = Texts(torch.tensor([[2, 3]]), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"^rollouts must be at least 1 for values by rollouts, got 0$"):
        rollout_values(policy().stepper(), count_marks, texts, rollouts=0, start=START, stop=-1)
