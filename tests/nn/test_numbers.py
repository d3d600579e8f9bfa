"""Numbers at their edges: many draws, ties, large vocabularies, long lines, one token, rewards that are all alike."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from seqgen.core.config import Train
from seqgen.core.errors import NonFiniteError
from seqgen.core.update import Optimizer, update
from seqgen.engine import loop
from seqgen.engine.loading import load
from seqgen.engine.run import config
from seqgen.models.seqgan import advantages
from seqgen.nn import sampler
from seqgen.nn.losses import linear_log_probs


def kept_by_definition(p: np.ndarray, kind: str) -> np.ndarray:
    """Which tokens a filter keeps, token by token from its definition."""
    if kind == "top_k":
        return np.argsort(-p, kind="stable")[:7]
    if kind == "min_p":
        return np.flatnonzero(p >= 0.1 * p.max())
    surprise = -np.log(p)
    order = np.argsort(-p if kind == "top_p" else np.abs(surprise - (p * surprise).sum()), kind="stable")
    return order[: 1 + int((np.cumsum(p[order]) < 0.8).sum())]


@pytest.mark.parametrize("kind", ["none", "top_k", "top_p", "min_p", "typical"])
def test_three_hundred_thousand_draws_follow_the_filtered_distribution(kind: str) -> None:
    logits = torch.randn(1, 120, generator=torch.Generator().manual_seed(3)) * 1.5
    filters: dict[str, Any] = {
        "none": lambda x: x,
        "top_k": lambda x: sampler.keep_top_k(x, 7),
        "top_p": lambda x: sampler.keep_top_p(x, 0.8),
        "min_p": lambda x: sampler.keep_min_p(x, 0.1),
        "typical": lambda x: sampler.keep_typical(x, 0.8),
    }
    p = filters[kind](logits).softmax(-1)
    draws, counts = np.random.default_rng(5), np.zeros(120)
    for _ in range(15):
        uniforms = torch.from_numpy(draws.random(20_000))
        counts += sampler.pick(p.expand(20_000, -1), uniforms).bincount(minlength=120).numpy()
    whole = logits[0].double().softmax(0).numpy()
    kept = np.arange(120) if kind == "none" else kept_by_definition(whole, kind)
    assert counts[np.setdiff1d(np.arange(120), kept)].sum() == 0
    expected = whole[kept] / whole[kept].sum() * counts.sum()
    assert expected.min() > 5
    assert stats.chisquare(counts[kept], expected).pvalue > 1e-4


@pytest.mark.parametrize("columns", [10, 400])
def test_top_p_keeps_no_more_than_it_needs_among_ties(columns: int) -> None:
    kept = sampler.keep_top_p(torch.zeros(3, columns), 0.35).isfinite()
    # 3.5 tenths; in 400 the sums of a four-hundredth round
    assert kept.sum(1).tolist() in ([[4] * 3] if columns == 10 else [[140] * 3, [141] * 3])
    assert sampler.keep_top_p(torch.zeros(1, columns), 1.0).isfinite().all()


def test_a_vocabulary_of_two_hundred_thousand_has_the_values_of_float64() -> None:
    draws = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(3, 4, generator=draws), torch.randn(200_000, 4, generator=draws)
    targets = torch.tensor([0, 199_999, 77_777])
    exact = (hidden.double() @ weight.double().t()).log_softmax(-1)
    found = linear_log_probs(hidden, weight, None, targets)
    torch.testing.assert_close(found, exact[[0, 1, 2], targets], rtol=1e-5, atol=0)
    p = (hidden @ weight.t()).softmax(-1)
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    ends = p.double().cumsum(-1)
    expected = [int((row <= u * row[-1]).sum()) for row, u in zip(ends, uniforms, strict=True)]
    assert sampler.pick(p, uniforms).tolist() == expected


@pytest.mark.parametrize("kind", ["raw", "delta", "reinforce_loo", "critic"])
def test_rewards_that_are_all_alike_teach_nothing(kind: Any) -> None:
    rewards, lengths = torch.full((6,), 0.7), torch.tensor([1, 2, 3, 4, 4, 4])
    found = advantages(kind, rewards, lengths, torch.full((6, 4), 0.7))
    expected = torch.where(torch.arange(4) < lengths[:, None], 0.7 if kind == "raw" else 0.0, 0.0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_part_of_a_batch_without_a_counted_token_changes_nothing_and_a_whole_one_is_an_error() -> None:
    def network() -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(3, 2)

    train = Train(steps=20, lr=0.05, schedule="constant")
    x, (alone, beside, empty) = torch.ones(4, 3), (network(), network(), network())
    update(Optimizer(alone.named_parameters(), train), ((alone(x) ** 2).sum(), 4), 0)
    parts = [((beside(x[:0]) ** 2).sum(), 0), ((beside(x) ** 2).sum(), 4)]
    update(Optimizer(beside.named_parameters(), train), parts, 0)
    assert torch.equal(alone.weight, beside.weight)
    before = empty.weight.detach().clone()
    with pytest.raises(NonFiniteError, match=r"^step 0: the loss is not finite"):
        update(Optimizer(empty.named_parameters(), train), ((empty(x[:0]) ** 2).sum(), 0), 0)
    assert torch.equal(empty.weight, before)


SMALL = ("model.hidden=16", "model.embedding=16", "train.samples=0", "train.eval_every=0", "train.batch=4")


@pytest.mark.parametrize("model", ["lm", "gpt", "hmm", "kneser-ney"])
def test_a_vocabulary_of_one_letter_is_trained_generated_and_scored(model: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join("a" * (1 + i % 7) + "\n" for i in range(70)))
    of_model = {"gpt": ("model.hidden=16", "model.layers=1"), "hmm": ("model.states=2",), "kneser-ney": ()}
    small = of_model[model] + SMALL[2:] if model in of_model else SMALL
    words = [*small, "train.steps=3", "tokenizer.kind=char", "data.mode=sentence", "data.valid_share=0.4"]
    loop.train(config(model, tmp_path / "text.txt", overrides=words), tmp_path / "run", progress=False)
    generator = load(tmp_path / "run")
    texts = generator.generate(20, seed=1)
    assert {letter for text in texts for letter in text} <= {"a"}
    assert all(map(math.isfinite, generator.score(["a", "aaa"]).per_line))


def test_a_line_of_a_hundred_thousand_tokens_is_scored_as_the_sum_of_its_tokens(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join("ab" * (1 + i % 7) + "\n" for i in range(70)))
    words = [*SMALL, "train.steps=3", "tokenizer.kind=char", "data.mode=sentence", "data.valid_share=0.4"]
    loop.train(config("lm", tmp_path / "text.txt", overrides=words), tmp_path / "run", progress=False)
    generator = load(tmp_path / "run")
    found = generator.score(["ab" * 50_000, "ab"])
    assert len(found.tokens[0]) == 100_001
    assert found.per_line[0] == pytest.approx(math.fsum(found.log_probs[0]), rel=1e-9)
    assert found.per_line[1] == pytest.approx(generator.score(["ab"]).per_line[0], rel=1e-5)
    # a state that is fed one period again and again settles
    late = torch.tensor(found.log_probs[0][50_000:50_010])
    torch.testing.assert_close(late, torch.tensor(found.log_probs[0][90_000:90_010]), atol=1e-5, rtol=0)
