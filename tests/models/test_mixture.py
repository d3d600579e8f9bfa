"""A mixture is sum of weight times p, token by token, in scoring and in sampling."""

from collections import Counter

import numpy as np
import pytest
import torch

from seqgen.core import config as settings_of
from seqgen.core import rng
from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import ConfigError
from seqgen.core.options import Sampling
from seqgen.data.ragged import Ragged
from seqgen.models import gpt, kneser_ney, lm, mixture

START, STOP, SIZE = 0, 1, 6


@pytest.fixture(scope="module")
def model() -> mixture.Model:
    facts = {"vocab_size": SIZE, "stop": STOP, "suppress_tokens": (START,), "max_length": 4}
    small = lm.Config(embedding=4, hidden=4, **facts)
    cached = gpt.Config(layers=1, hidden=8, heads=2, context=8, **facts)
    counted = kneser_ney.Config(order=3, start=START, **facts)
    parts = tuple(map(settings_of.to_dict, (small, counted, cached)))
    names, weights = ("lm", "kneser-ney", "gpt"), (0.5, 0.3, 0.2)
    rng.enter_step(3, 0)
    made = mixture.Model(mixture.Config(models=names, settings=parts, weights=weights, **facts)).eval()
    for weight in [*made.parts[0].parameters(), *made.parts[2].parameters()]:
        weight.data.normal_()
    rows = Ragged.from_lists([[START, 2, 3, 4, STOP], [START, 2, 2, STOP], [START, 4, 3, STOP]])
    made.parts[1].fit(rows.values, rows.lengths)
    return made


def next_tokens(model: torch.nn.Module, before: list[int]) -> np.ndarray:
    """P of every token after `before`, by scoring."""
    inputs = torch.tensor([[START, *before]]).expand(SIZE, -1)
    targets = torch.tensor([[*before, token] for token in range(SIZE)])
    positions = torch.arange(SIZE) * inputs.shape[1] + len(before)
    batch = SequenceBatch(inputs, targets, positions, torch.full((SIZE,), inputs.shape[1]), torch.arange(SIZE))
    return np.asarray(model.log_probs(batch).exp().tolist())


@pytest.mark.parametrize("before", [[], [2], [2, 3], [4, 4, 5]])
def test_the_next_token_has_the_weighted_mean_of_the_probabilities(model: mixture.Model, before: list[int]) -> None:
    wanted = sum(w * next_tokens(part, before) for w, part in zip((0.5, 0.3, 0.2), model.parts, strict=True))
    assert wanted.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(next_tokens(model, before), wanted, rtol=1e-9)
    decoder = model.decoder()
    state = decoder.prefill([[START, *before]], room=1)
    features, _ = decoder.step(torch.tensor([[START, *before][-1]]), state)
    drawn = decoder.output.logits(features, decoder.output.plain_bias)[0, :SIZE].exp()
    np.testing.assert_allclose(drawn.tolist(), wanted, rtol=1e-5)


def test_texts_are_drawn_from_the_mixed_distribution(model: mixture.Model) -> None:
    size = 10_000
    drawn = model.decoder().decode([[START, 2]] * size, rng.text_seeds(1, 0, size), Sampling(max_new_tokens=2))
    seen = Counter(map(tuple, drawn.ids))
    # the start is never written: its share goes to the others
    first = next_tokens(model, [2]) * (np.arange(SIZE) != START)
    for token in range(2, SIZE):
        then = next_tokens(model, [2, token]) * (np.arange(SIZE) != START)
        for last in range(2, SIZE):
            chance = first[token] / first.sum() * then[last] / then.sum()
            assert abs(seen[token, last] / size - chance) < 4.5 * (chance / size) ** 0.5


def test_options_act_on_the_mixed_distribution(model: mixture.Model) -> None:
    seeds = rng.text_seeds(1, 0, 50)
    greedy = model.decoder().decode([[START, 2]], seeds[:1], Sampling(max_new_tokens=1, greedy=True, min_new_tokens=1))
    mixed = next_tokens(model, [2])
    order = [token for token in np.argsort(-mixed).tolist() if token not in (START, STOP)]
    assert greedy.ids == [[order[0]]]
    options = Sampling(max_new_tokens=1, min_new_tokens=1, top_k=2, suppress_tokens=(order[0],), details=True)
    some = model.decoder().decode([[START, 2]] * 50, seeds, options)
    assert {token for row in some.ids for token in row} == set(order[1:3])
    assert some.details is not None
    wanted = [np.log(mixed[row[0]]) for row in some.ids]
    np.testing.assert_allclose([one.log_prob[0] for one in some.details], wanted, rtol=1e-4)


def test_text_k_does_not_depend_on_the_batch(model: mixture.Model) -> None:
    seeds, options = rng.text_seeds(1, 0, 40), Sampling(max_new_tokens=4)
    many = model.decoder().decode([[START]] * 40, seeds, options)
    assert model.decoder().decode([[START]] * 3, seeds[9:12], options).ids == many.ids[9:12]


def test_what_cannot_be_mixed_is_named(model: mixture.Model) -> None:
    config = model.config
    with pytest.raises(ConfigError, match=r"model\.models: 'os' cannot be mixed; these can: lm, "):
        mixture.Model(mixture.Config(models=("os",), settings=({},), weights=(1.0,)))
    with pytest.raises(ConfigError, match=r"add up to 1, and model\.settings one table for each, got \[0.5, 0.4\]"):
        mixture.Model(mixture.Config(models=config.models, settings=config.settings, weights=(0.5, 0.4)))
    with pytest.raises(ConfigError, match="a mixture is not trained; it is made by: seqgen mix"):
        mixture.train_step(model, {}, None, 0)  # type: ignore[arg-type]
