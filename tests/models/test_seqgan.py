"""SeqGAN: phases are arithmetic, gradients are those of enumeration, a killed run ends with the same bytes."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resume import interrupted, uninterrupted
from small_run import small_text
from torch import Tensor

from seqgen.core.config import Train
from seqgen.core.errors import ConfigError, RunError
from seqgen.core.update import Optimizer
from seqgen.engine import checkpoint, loading, loop
from seqgen.engine.run import config
from seqgen.models import lm, seqgan
from seqgen.nn.rollout import Texts, complete, draw, rollout_values

START, STOP, A, B = 0, 1, 2, 3
LONGEST = 3


# ------------------------------------------------------------------------------------------------------------- phases


def test_phases_and_rounds_follow_the_schedule() -> None:
    schedule = seqgan.Config(mle_steps=2, critic_steps=3, round_steps=2, policy_turn=1, critic_turn=4)
    told = [seqgan.phase(schedule, step) for step in range(15)]
    assert told == [
        *[("mle", 0)] * 2,
        *[("critic", 0)] * 2,
        ("critic", 1),
        ("policy", 0),
        *[("critic", 2)] * 2,
        *[("critic", 3)] * 2,
        ("policy", 0),
        *[("critic", 4)] * 2,
        *[("critic", 5)] * 2,
    ]


def test_the_paper_schedule_counts_as_the_paper_does() -> None:
    chosen = config(preset="seqgan-paper")
    kinds = [seqgan.phase(chosen.model, step)[0] for step in range(chosen.train.steps)]
    assert kinds.count("policy") == 200
    assert kinds.count("mle") == 120 * (10_000 // 64)
    assert kinds.count("critic") == (50 + 200 * 5) * 3 * (20_000 // 64)


# ------------------------------------------------------------------------------------- gradients against enumeration


def tiny_policy(seed: int = 3) -> lm.Model:
    torch.manual_seed(seed)
    policy = lm.Model(
        lm.Config(
            embedding=5, hidden=4, tied=False, vocab_size=4, stop=STOP, suppress_tokens=(START,), max_length=LONGEST
        )
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return policy.eval()


def all_texts() -> list[list[int]]:
    """Every text of the tiny vocabulary: up to three tokens, ended by STOP or by the limit."""
    whole: list[list[int]] = []
    for length in range(1, LONGEST + 1):
        for body in itertools.product((A, B), repeat=length - 1):
            whole += [[*body, end] for end in ((STOP, A, B) if length == LONGEST else (STOP,))]
    return whole


def padded(rows: list[list[int]]) -> Texts:
    ids = torch.zeros(len(rows), LONGEST, dtype=torch.int64)
    for row, text in enumerate(rows):
        ids[row, : len(text)] = torch.tensor(text)
    return Texts(ids, torch.tensor([len(text) for text in rows]))


def token_log_probs(policy: lm.Model, texts: Texts) -> Tensor:
    """(rows, T) with gradient, by plain log_softmax over the tokens that may be drawn; 0 after a text's end."""
    inputs = torch.cat([torch.full((len(texts.ids), 1), START), texts.ids[:, :-1]], 1)
    hidden, _ = policy.scan(inputs)
    weight, bias = policy.head()
    logits = (hidden @ weight.t() + bias).double()
    logits = logits.index_fill(2, torch.tensor([START]), -math.inf)
    chosen = logits.log_softmax(-1).gather(2, texts.ids.clamp(min=STOP).unsqueeze(2)).squeeze(2)
    return torch.where(torch.arange(LONGEST) < texts.lengths[:, None], chosen, 0.0)


def flat_gradient(value: Tensor, policy: lm.Model) -> Tensor:
    grads = torch.autograd.grad(value, list(policy.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.reshape(-1).double() for g in grads])


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    """All texts with rewards, probabilities, exact values of every prefix and the exact policy gradient."""
    policy = tiny_policy()
    rows = all_texts()
    texts = padded(rows)
    rewards = torch.rand(len(rows), generator=torch.Generator().manual_seed(1)).double()
    log_probs = token_log_probs(policy, texts)
    probabilities = log_probs.sum(1).exp()
    assert float(probabilities.detach().sum()) == pytest.approx(1.0, abs=1e-6)
    values: dict[tuple[int, ...], float] = {}
    for length in range(LONGEST + 1):
        for prefix in {tuple(row[:length]) for row in rows if len(row) >= length}:
            inside = torch.tensor([tuple(row[:length]) == prefix for row in rows])
            mass = probabilities.detach() * inside
            values[prefix] = float((mass * rewards).sum() / mass.sum())
    exact = flat_gradient((probabilities * rewards).sum(), policy)
    return {"policy": policy, "rows": rows, "rewards": rewards, "values": values, "exact": exact}


def expected_gradient(world: dict[str, Any], advantage: Callable[[Texts, Tensor, list[list[int]]], Tensor]) -> Tensor:
    """The mean over all pairs of texts, as a batch of two, of sum_t A_t grad log p(x_t), by their probabilities."""
    policy, rows, rewards = world["policy"], world["rows"], world["rewards"]
    log_probs = token_log_probs(policy, padded(rows))
    probabilities = log_probs.sum(1).exp().detach()
    total = torch.zeros((), dtype=torch.float64)
    for i, j in itertools.product(range(len(rows)), repeat=2):
        pair = [rows[i], rows[j]]
        weights = advantage(padded(pair), rewards[[i, j]], pair)
        weights = torch.nn.functional.pad(weights, (0, LONGEST - weights.shape[1]))
        total = total + probabilities[i] * probabilities[j] * (weights * log_probs[[i, j]]).sum() / 2
    return flat_gradient(total, policy)


def exact_values(world: dict[str, Any], pair: list[list[int]], *, before: bool) -> Tensor:
    """Values of the prefixes that end with token t, or of those before it."""
    table = torch.zeros(2, LONGEST, dtype=torch.float64)
    for row, text in enumerate(pair):
        for t in range(len(text)):
            table[row, t] = world["values"][tuple(text[: t + (not before)])]
    return table


@pytest.mark.parametrize("kind", ["raw", "delta"])
def test_rollout_advantages_are_unbiased(kind: Literal["raw", "delta"], world: dict[str, Any]) -> None:
    """They are linear in values by rollouts, whose mean is the exact value, so exact values give their expectation."""
    got = expected_gradient(
        world,
        lambda texts, rewards, pair: seqgan.advantages(
            kind, rewards, texts.lengths, exact_values(world, pair, before=False)
        ),
    )
    torch.testing.assert_close(got, world["exact"], rtol=1e-5, atol=1e-7)


def test_reinforce_loo_is_unbiased(world: dict[str, Any]) -> None:
    got = expected_gradient(
        world, lambda texts, rewards, pair: seqgan.advantages("reinforce_loo", rewards, texts.lengths, None)
    )
    torch.testing.assert_close(got, world["exact"], rtol=1e-5, atol=1e-7)


def test_critic_advantage_is_unbiased_for_any_value_function_of_the_prefix(world: dict[str, Any]) -> None:
    def wrong_values(texts: Texts, rewards: Tensor, pair: list[list[int]]) -> Tensor:
        value = torch.tensor(
            [[math.sin(7.0 * sum(text[:t]) + t) for t in range(LONGEST)] for text in pair], dtype=torch.float64
        )
        return seqgan.advantages("critic", rewards, texts.lengths, value)

    torch.testing.assert_close(expected_gradient(world, wrong_values), world["exact"], rtol=1e-5, atol=1e-7)


def test_gae_below_one_is_biased_for_a_wrong_value_function(world: dict[str, Any]) -> None:
    """The control: the comparison above notices a bias."""

    def wrong_values(texts: Texts, rewards: Tensor, pair: list[list[int]]) -> Tensor:
        value = torch.tensor(
            [[math.sin(7.0 * sum(text[:t]) + t) for t in range(LONGEST)] for text in pair], dtype=torch.float64
        )
        return seqgan.advantages("critic", rewards, texts.lengths, value, gae=0.5)

    assert not torch.allclose(expected_gradient(world, wrong_values), world["exact"], rtol=1e-2)


def test_gae_is_its_sum() -> None:
    rewards, lengths = torch.tensor([2.0, -1.0]), torch.tensor([4, 2])
    values = torch.randn(2, 5, generator=torch.Generator().manual_seed(2))
    got = seqgan.advantages("critic", rewards, lengths, values, gae=0.7)
    for row, length in enumerate(lengths.tolist()):
        after = [*values[row, 1:length].tolist(), float(rewards[row])]
        deltas = [after[t] - float(values[row, t]) for t in range(length)]
        for t in range(5):
            expected = sum(0.7**k * deltas[t + k] for k in range(length - t)) if t < length else 0.0
            assert float(got[row, t]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["delta", "reinforce_loo"])
def test_a_constant_reward_gives_no_gradient(kind: Literal["delta", "reinforce_loo"]) -> None:
    rewards, lengths = torch.ones(3), torch.tensor([1, 4, 2])
    values = torch.where(torch.arange(4) < lengths[:, None] - 1, 1.0, 0.0)
    assert not seqgan.advantages(kind, rewards, lengths, values).any()


def test_a_constant_reward_with_raw_weighs_every_token_alike() -> None:
    rewards, lengths = torch.ones(2), torch.tensor([1, 3])
    values = torch.where(torch.arange(3) < lengths[:, None] - 1, 1.0, 0.0)
    assert seqgan.advantages("raw", rewards, lengths, values).tolist() == [[1, 0, 0], [1, 1, 1]]


def test_policy_step_follows_the_exact_gradient_on_average(world: dict[str, Any]) -> None:
    """One step on many drawn texts: its direction is that of enumeration, within sampling noise."""
    model = tiny_model(
        mle_steps=0,
        critic_steps=0,
        policy_lr=1.0,
        policy={"tied": False, "input_dropout": 0.3, "output_dropout": 0.3},
        reward={"kind": "own", "weight": 1.0, "advantage": "reinforce_loo"},
    )
    model.policy.load_state_dict(world["policy"].state_dict())
    table = {tuple(row): float(reward) for row, reward in zip(world["rows"], world["rewards"], strict=True)}

    def score(texts: Texts) -> Tensor:
        rows = zip(texts.ids.tolist(), texts.lengths.tolist(), strict=True)
        return torch.tensor([table[tuple(row[:length])] for row, length in rows])

    model.own_reward = score
    optimizers = seqgan.optimizers(model, Train(optimizer="sgd", lr=1.0, clip=0, schedule="constant"))
    before = torch.cat([p.detach().reshape(-1).clone() for p in model.policy.parameters()])
    model.train()
    torch.manual_seed(5)
    rows = 20_000
    batch = seqgan.as_batch(Texts(torch.full((rows, 1), A), torch.ones(rows, dtype=torch.int64)), START)
    scalars = seqgan.train_step(model, optimizers, batch, 0)
    moved = torch.cat([p.detach().reshape(-1) for p in model.policy.parameters()]) - before
    expected = world["exact"].float() / float(scalars["length"])
    cosine = torch.nn.functional.cosine_similarity(moved, expected, dim=0)
    assert float(cosine) > 0.99
    assert float(moved.norm() / expected.norm()) == pytest.approx(1.0, abs=0.1)


def log_ratio(policy: lm.Model, world: dict[str, Any]) -> Tensor:
    """log p2 - log p0 of every text for another language model p2 of the same vocabulary."""
    other = tiny_policy(seed=8)
    with torch.no_grad():
        return (token_log_probs(other, padded(world["rows"])) - token_log_probs(policy, padded(world["rows"]))).sum(1)


class Exact(torch.nn.Module):
    """A critic that knows the logit of every text."""

    def __init__(self, rows: list[list[int]], logits: Tensor) -> None:
        super().__init__()
        self.known = {tuple(row): float(logit) for row, logit in zip(rows, logits, strict=True)}

    def frozen(self, **_: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda ids, lengths: torch.tensor(
            [self.known[tuple(row[:n])] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
        )


def logit_model(**options: Any) -> seqgan.Model:
    reward = {"kind": "logit", "advantage": "reinforce_loo"} | options.pop("reward", {})
    policy = {"tied": False} | options.pop("policy", {})
    return tiny_model(**{"mle_steps": 0, "critic_steps": 0} | options, policy=policy, reward=reward)


def test_the_gradient_of_the_divergence_of_whole_texts_is_unbiased(world: dict[str, Any]) -> None:
    """Against enumeration, over all pairs of texts as batches of two."""
    policy, rows, start = world["policy"], world["rows"], tiny_policy(seed=9)
    texts, head = padded(rows), seqgan._drawing_head
    logs, logs_0 = token_log_probs(policy, texts).sum(1), token_log_probs(start, texts).sum(1).detach()
    exact = flat_gradient((logs.exp() * (logs - logs_0)).sum(), policy)
    probabilities, total = logs.exp().detach(), torch.zeros((), dtype=torch.float64)
    for i, j in itertools.product(range(len(rows)), repeat=2):
        pair = padded([rows[i], rows[j]])
        batch = seqgan.as_batch(pair, START)
        logits, reference = (torch.nn.functional.linear(seqgan._features(m, batch), *head(m)) for m in (policy, start))
        inside = seqgan._inside(pair)
        later, pull = seqgan.kl_gradient(logits, reference, inside)
        chosen = token_log_probs(policy, pair)[inside]
        total = total + probabilities[i] * probabilities[j] * ((later * chosen).sum() + pull) / 2
    torch.testing.assert_close(flat_gradient(total, policy), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("proximal", [False, True])
def test_the_fixed_point_of_the_logit_reward_is_the_other_distribution(proximal: bool, world: dict[str, Any]) -> None:
    """max E[log p2 - log p0] - KL(policy || p0) has its optimum at p2; the proximal form gets there in turns."""
    policy, rows, count, steps = world["policy"], world["rows"], 400, 90
    model = logit_model(policy_lr=0.0, reward={"proximal": proximal}, policy_turn=10, critic_turn=0)
    model.policy.load_state_dict(policy.state_dict())
    model.critic = Exact(rows, log_ratio(policy, world))
    wanted = token_log_probs(tiny_policy(seed=8), padded(rows)).sum(1).exp().detach()
    train = Train(optimizer="adam", lr=0.1, schedule="linear", steps=steps, clip=0)
    optimizers = {"policy": Optimizer(model.policy.named_parameters(), train)}
    batch = seqgan.as_batch(Texts(torch.full((count, 1), A), torch.ones(count, dtype=torch.int64)), START)

    def distance() -> float:
        """Total variation."""
        now = token_log_probs(model.policy, padded(rows)).sum(1).exp().detach()
        return float((now - wanted).abs().sum() / 2)

    model.train()
    assert distance() > 0.3
    for step in range(steps):
        if proximal and step % 10 == 0:
            model.critic = Exact(rows, log_ratio(model.policy, world))
        torch.manual_seed(step)
        seqgan.train_step(model, optimizers, batch, step)
    assert distance() < 0.03


def test_a_weight_of_the_divergence_leads_to_the_tilted_language_model(world: dict[str, Any]) -> None:
    """max E[r] - w KL(policy || p0) has its optimum at p0 exp(r / w) / Z, for any reward r."""
    policy, rows, count, steps = world["policy"], world["rows"], 400, 90
    reward = {"kind": "length:1-9", "weight": 1.0, "kl_weight": 2.0}
    model = logit_model(policy_lr=0.0, reward=reward, policy_turn=10, critic_turn=0)
    model.policy.load_state_dict(policy.state_dict())
    values = torch.tensor([3.0 * (row[0] == A) for row in rows])
    exact = Exact(rows, values)
    model.own_reward = lambda texts: exact.frozen()(texts.ids, texts.lengths)
    start = token_log_probs(policy, padded(rows)).sum(1).detach()
    wanted = (start + values / 2).softmax(0)
    optimizers = {
        "policy": Optimizer(
            model.policy.named_parameters(), Train(optimizer="adam", lr=0.1, schedule="linear", steps=steps, clip=0)
        )
    }
    batch = seqgan.as_batch(Texts(torch.full((count, 1), A), torch.ones(count, dtype=torch.int64)), START)
    model.train()
    assert float((start.exp() - wanted).abs().sum() / 2) > 0.2
    for step in range(steps):
        torch.manual_seed(step)
        seqgan.train_step(model, optimizers, batch, step)
    now = token_log_probs(model.policy, padded(rows)).sum(1).exp().detach()
    assert float((now - wanted).abs().sum() / 2) < 0.03


@pytest.mark.parametrize(
    "reward",
    [
        {"kind": "logit", "advantage": "reinforce_loo"},
        {"kind": "logit", "advantage": "delta"},
        {"kind": "logit", "proximal": True},
        {"kind": "constant", "advantage": "reinforce_loo"},
        {"kind": "constant", "advantage": "delta"},
        {"kind": "constant", "advantage": "reinforce_loo", "kl_weight": 3.0},
    ],
)
def test_a_constant_reward_leaves_the_policy_at_its_start_in_every_bit(
    reward: dict[str, Any], world: dict[str, Any]
) -> None:
    model = logit_model(policy_lr=0.1, reward=reward)
    model.policy.load_state_dict(world["policy"].state_dict())
    model.critic = Exact(world["rows"], torch.ones(len(world["rows"])))
    optimizers = {"policy": Optimizer(model.policy.named_parameters(), Train(lr=0.1))}
    model.train()
    for step in (0, 6, 12):
        torch.manual_seed(step)
        seqgan.train_step(model, optimizers, seqgan.as_batch(padded(world["rows"]), START), step)
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, world["policy"].state_dict()[name]), name


def test_rollout_values_agree_with_enumeration(world: dict[str, Any]) -> None:
    policy, rows = world["policy"], world["rows"]
    table = {tuple(row): float(reward) for row, reward in zip(rows, world["rewards"], strict=True)}

    def score(texts: Texts) -> Tensor:
        each = zip(texts.ids.tolist(), texts.lengths.tolist(), strict=True)
        return torch.tensor([table[tuple(row[:length])] for row, length in each])

    torch.manual_seed(4)
    rollouts = 4000
    texts = padded(rows)
    got = rollout_values(
        policy.stepper(), score, texts, rollouts=rollouts, start=START, stop=STOP, suppress_tokens=(START,)
    )
    for row, text in enumerate(rows):
        for t in range(len(text) - 1):
            # rewards lie in [0, 1], so their deviation is 0.5 at most
            assert float(got[row, t]) == pytest.approx(
                world["values"][tuple(text[: t + 1])], abs=4 * 0.5 / rollouts**0.5
            )
        assert not got[row, len(text) - 1 :].any()


# ---------------------------------------------------------------------------------------------------- value function


@pytest.mark.parametrize("advantage", ["raw", "delta", "reinforce_loo", "critic"])
def test_texts_may_all_be_shorter_than_the_limit(advantage: str) -> None:
    model = tiny_model(
        mle_steps=0,
        critic_steps=0,
        policy_lr=0.0,
        policy={"max_length": 40},
        reward={"kind": "constant", "advantage": advantage, "rollouts": 1},
    )
    with torch.no_grad():
        model.policy.output_bias[STOP] = 4.0
    model.train()
    torch.manual_seed(0)
    batch = seqgan.as_batch(padded(all_texts()), START)
    scalars = seqgan.train_step(model, seqgan.optimizers(model, Train()), batch, 0)
    assert float(scalars["length"]) < 2


def test_fitted_values_are_ridge_regression() -> None:
    """Against least squares with one more row per feature that asks its weight to be 0."""
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(40, 5, 6, generator=generator)
    rewards = torch.rand(200, generator=generator)
    sums = torch.zeros(6, 7)
    assert not seqgan.fitted_values(sums, features).any()
    rows = features.flatten(0, 1)
    seqgan.add_to_sums(sums, rows, rewards)
    size = rows.square().sum(0).mean()
    strength = torch.cat([torch.full((4,), 0.3), torch.full((2,), 1e-4)]) * size
    stacked = torch.cat([rows, strength.sqrt().diag()])
    weights = torch.linalg.lstsq(stacked, torch.cat([rewards, torch.zeros(6)])[:, None]).solution
    torch.testing.assert_close(seqgan.fitted_values(sums, features), (features @ weights).squeeze(2))


def test_the_value_function_forgets() -> None:
    sums = torch.zeros(2, 3)
    seqgan.add_to_sums(sums, torch.tensor([[1.0, 2.0]]), torch.tensor([3.0]))
    seqgan.add_to_sums(sums, torch.zeros(1, 2), torch.zeros(1))
    torch.testing.assert_close(sums, 0.97 * torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]))


# --------------------------------------------------------------------------------------------------------- whole runs


SMALL = (
    *("model.policy.hidden=12", "model.policy.embedding=12", "model.mle_steps=6", "model.critic_steps=4"),
    *("model.round_steps=3", "model.critic_turn=3", "model.critic.negatives=20", "model.critic.embedding=8"),
    *("model.critic.widths=[1,2]", "model.critic.maps=[6,6]", "model.reward.rollouts=2", "train.steps=22"),
    *("train.batch=8", "train.samples=12", "train.log_every=1", "train.save_every=4", "train.eval_every=7"),
    "train.lr=0.01",
)
KINDS: dict[str, tuple[str, ...]] = {
    "delta": ("model.reward.rollout_lag=0.8",),
    "critic": (
        "model.reward.advantage=critic",
        "model.reward.gae=0.9",
        "model.critic.kind=gru",
        "model.critic.hidden=8",
    ),
    "wasserstein": (
        "model.reward.advantage=reinforce_loo",
        "model.critic.loss=wasserstein-gp",
        "model.reward.kl_target=0.01",
    ),
    "own": (
        "model.reward.kind=regex:cat",
        "model.critic.loss=wasserstein-clip",
        "model.reward.mle_weight=0.5",
        "model.reward.replay=5",
        "model.policy.tied=false",
    ),
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return small_text(tmp_path / "text.txt")


@pytest.mark.parametrize("kind", list(KINDS))
def test_killed_in_every_phase_ends_with_the_same_bytes(kind: str, text: Path, tmp_path: Path) -> None:
    settings = config("seqgan", text, overrides=[*SMALL, *KINDS[kind]])
    broken = interrupted(settings, tmp_path / "broken", 3, 9, 11, 14, 19)
    assert broken == uninterrupted(settings, tmp_path / "whole")


def test_a_step_changes_one_network_alone(text: Path, tmp_path: Path) -> None:
    settings = config("seqgan", text, overrides=[*SMALL, "train.save_every=1", "train.keep=30", "train.eval_every=0"])
    loop.train(settings, tmp_path / "run")
    tensors = [checkpoint.read_tensors(tmp_path / "run", step, "model.safetensors") for step in range(1, 23)]
    for step, (before, after) in enumerate(itertools.pairwise(tensors), 1):
        changed = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
        now, _ = seqgan.phase(settings.model, step)
        assert changed - {"anchor", "healthy", "began", "at_start", "last_turn"} == {
            "critic" if now == "critic" else "policy"
        }, step


def test_from_a_language_model_skips_the_first_phase(text: Path, tmp_path: Path) -> None:
    small = [
        "model.hidden=12",
        "model.embedding=10",
        "model.layers=2",
        "train.steps=4",
        "train.batch=8",
        "train.samples=0",
    ]
    loop.train(config("lm", text, overrides=small), tmp_path / "lm")
    settings = config("seqgan", text, overrides=[*SMALL, "train.steps=6"])
    for _ in range(2):  # the second time the run is there already, and the same command is accepted
        loop.train(settings, tmp_path / "gan", source_run=tmp_path / "lm")
    generator = loading.load(tmp_path / "gan")
    assert generator.settings.model.mle_steps == 0
    policy = generator.settings.model.policy
    assert (policy.hidden, policy.embedding, policy.layers) == (12, 10, 2)
    source = loading.load(tmp_path / "lm").model.state_dict()
    assert all(torch.equal(value, source[name]) for name, value in generator.model.anchor.state_dict().items())
    assert len(generator.generate(3)) == 3


# ------------------------------------------------------------------------------------------------------- guard rails


def tiny_model(**options: Any) -> seqgan.Model:
    """A SeqGAN of four tokens; an option that is a mapping changes fields of that section."""
    torch.manual_seed(1)
    base = seqgan.Config(
        policy=lm.Config(
            embedding=5, hidden=4, vocab_size=4, stop=STOP, suppress_tokens=(START,), max_length=LONGEST,
        ),
        critic=seqgan.Critic(widths=(1, 2), maps=(3, 3), embedding=4),
        start=START,
    )  # fmt: skip
    sections = {name: replace(getattr(base, name), **v) for name, v in options.items() if isinstance(v, dict)}
    return seqgan.Model(replace(base, **{**options, **sections}))


def test_collapse_goes_back_to_the_last_healthy_policy() -> None:
    model = tiny_model()
    assert seqgan.observe(model, {"nll_per_token": 9.0}) == {}, "the phase mle is not judged"
    model.began.fill_(True)
    scores = {"nll_per_token": 2.0, "unique": 0.9, "self_bleu_4": 0.4}
    assert seqgan.observe(model, scores) == {"best": True}
    healthy = {name: value.clone() for name, value in model.policy.state_dict().items()}
    with torch.no_grad():
        model.policy.output_bias += 1
    told = seqgan.observe(model, {"nll_per_token": 2.1, "unique": 0.45, "self_bleu_4": 0.6})
    assert told["best"] is False
    assert told["event"] == (
        "collapse: share of unique texts lost 0.50 (limit 0.3), rise of Self-BLEU-4 0.20 (limit 0.3); "
        "back to the last healthy policy, which now learns half as fast"
    )
    assert all(torch.equal(value, healthy[name]) for name, value in model.policy.state_dict().items())
    assert int(model.rewinds) == 1


def test_a_warning_keeps_the_policy() -> None:
    model = tiny_model()
    model.began.fill_(True)
    seqgan.observe(model, {"nll_per_token": 2.0})
    with torch.no_grad():
        model.policy.output_bias += 1
    changed = model.policy.output_bias.clone()
    assert seqgan.observe(model, {"nll_per_token": 2.5}) == {
        "best": True,
        "event": "near collapse: rise of held-out nats per token 0.50 (limit 1.0)",
    }
    assert torch.equal(model.policy.output_bias, changed)
    assert torch.equal(model.healthy.output_bias, changed)


def test_a_rewind_in_a_run_is_recorded_and_resume_stays_exact(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = seqgan.observe

    def worse_at_the_second(model: seqgan.Model, scores: dict[str, Any]) -> dict[str, Any]:
        sick = bool(model.began) and not bool(model.at_start[0].isnan()) and int(model.rewinds) == 0
        return observe(model, {**scores, "unique": 0.0 if sick else scores["unique"]})

    monkeypatch.setattr(seqgan, "observe", worse_at_the_second)
    # validations fall into the middle of a round of drawn texts
    settings = config("seqgan", text, overrides=[*SMALL, "train.eval_every=4", "train.save_every=5"])
    whole = uninterrupted(settings, tmp_path / "whole")
    assert interrupted(settings, tmp_path / "broken", 13, 17) == whole
    events = checkpoint.read_state(tmp_path / "whole", 22)["events"]
    assert [event["step"] for event in events if event["event"].startswith("collapse")] == [12]


# ------------------------------------------------------------------------------------------------------- odds and ends


def test_negatives_are_a_function_of_policy_seed_and_round() -> None:
    model = tiny_model(critic={"negatives": 30}, seed=5)
    first = model.negatives(2)
    other = model.negatives(3)
    assert not torch.equal(first.ids, other.ids)
    model.forget_negatives()
    assert torch.equal(model.negatives(2).ids, first.ids)


def test_kl_weight_moves_towards_the_target() -> None:
    model = tiny_model(
        mle_steps=0,
        critic_steps=0,
        critic_turn=0,
        policy_lr=0.05,
        reward={"kind": "constant", "kl_target": 0.05},
    )
    model.train()
    optimizers = seqgan.optimizers(model, Train(lr=0.05, schedule="constant"))
    batch = seqgan.as_batch(padded(all_texts()), START)
    before = float(model.kl_weight)
    torch.manual_seed(0)
    seqgan.train_step(model, optimizers, batch, 0)  # the policy is the language model: KL 0, below the target
    assert float(model.kl_weight) < before
    with torch.no_grad():
        model.policy.output_bias[A] += 4
    before = float(model.kl_weight)
    scalars = seqgan.train_step(model, optimizers, batch, 1)
    assert float(scalars["kl"]) > 0.05
    assert float(model.kl_weight) > before


def test_critic_scores_of_a_token_is_what_the_text_loses_with_it() -> None:
    model = tiny_model().eval()
    texts = padded([[A, B, STOP], [B, STOP]])
    batch = seqgan.as_batch(texts, START)
    whole, tokens = model.critic_scores(batch)
    torch.testing.assert_close(whole, model.critic(texts.ids, texts.lengths), rtol=1e-5, atol=1e-6)
    assert tokens.shape == (5,)
    # a token that the critic does not look at takes nothing away
    with torch.no_grad():
        model.critic.embedding.weight[B] = 0
    _, tokens = model.critic_scores(batch)
    assert float(tokens[1]) == pytest.approx(0, abs=1e-6)
    assert float(tokens[3]) == pytest.approx(0, abs=1e-6)


def test_a_run_judges_lines_as_its_model_does(text: Path, tmp_path: Path) -> None:
    loop.train(config("seqgan", text, overrides=[*SMALL, "train.steps=12", "train.eval_every=0"]), tmp_path / "run")
    generator = loading.load(tmp_path / "run")
    lines = ["the cat sees the dog", "the dog", "the cat sees the man here now"]
    judged = generator.critic_scores(lines)
    for row, line in enumerate(lines):
        (batch,) = generator.batches([line])
        whole, tokens = generator.model.critic_scores(batch)
        assert judged.per_line[row] == pytest.approx(float(whole), abs=1e-5)
        assert judged.per_token[row] == pytest.approx(tokens.tolist(), abs=1e-5)
        assert judged.tokens[row] == [*line.split(), "</s>"]
    loop.train(config("lm", text, overrides=["train.steps=1", "train.batch=4", "train.samples=0"]), tmp_path / "lm")
    with pytest.raises(RunError, match=r"^a run of lm has no critic; make one with seqgen refine or train seqgan$"):
        loading.load(tmp_path / "lm").critic_scores(lines)


@given(st.lists(st.lists(st.integers(5, 99), min_size=1, max_size=6), min_size=1, max_size=9), st.integers(0, 999))
def test_a_fault_is_one_swap_or_one_replaced_token_before_the_end(rows: list[list[int]], seed: int) -> None:
    ended = [[*row, STOP] for row in rows]
    ids = torch.zeros(len(rows), 8, dtype=torch.int64)
    for number, row in enumerate(ended):
        ids[number, : len(row)] = torch.tensor(row)
    torch.manual_seed(seed)
    spoilt = seqgan.corrupted(Texts(ids, torch.tensor([len(row) for row in ended])), ends=True)
    there = {token for row in rows for token in row}
    for number, (old, new) in enumerate(zip(ids.tolist(), spoilt.ids.tolist(), strict=True)):
        assert new[len(rows[number]) :] == old[len(rows[number]) :]
        changed = [k for k in range(8) if old[k] != new[k]]
        if number % 2:
            assert len(changed) <= 1
            assert there.issuperset(new[: len(rows[number])])
        elif changed:
            a, b = changed
            assert (b, old[a], old[b]) == (a + 1, new[b], new[a])


def test_with_faults_a_critic_finds_the_faults_and_without_it_does_not_see_them() -> None:
    """Texts are 5 6 7 or 6 7 5 and so on, in the order of a ring; the policy writes just these too."""
    ring = [[5, 6, 7, 8], [6, 7, 8, 5], [7, 8, 5, 6], [8, 5, 6, 7]] * 8
    batch = seqgan.as_batch(Texts(torch.tensor(ring), torch.full((32,), 4)), START)
    swapped = seqgan.as_batch(Texts(torch.tensor([[6, 5, 7, 8], [7, 6, 8, 5]]), torch.full((2,), 4)), START)
    found = {}
    for faults in (0.0, 1.0):
        torch.manual_seed(0)
        model = tiny_model(
            critic_steps=1000,
            policy={"vocab_size": 9, "max_length": 4, "stop": -1},
            critic={"corrupted_negatives": faults, "lr": 0.01},
        )
        model._negatives = (0, Texts(torch.tensor(ring), torch.full((32,), 4)))
        optimizers = seqgan.optimizers(model, Train(optimizer="adam"))
        model.train()
        for step in range(200):
            seqgan._critic_step(model, optimizers["critic"], batch, step, 0)
        model.eval()
        found[faults] = float(model.critic_scores(batch)[0].mean() - model.critic_scores(swapped)[0].mean())
    assert found[1.0] > 2 > abs(found[0.0])


def test_lagged_policy_keeps_its_share() -> None:
    model = tiny_model(
        mle_steps=0, critic_steps=0, critic_turn=0, policy_lr=0.1, reward={"rollout_lag": 0.75, "rollouts": 1}
    )
    model.train()
    optimizers = seqgan.optimizers(model, Train(lr=0.1, schedule="constant"))
    start = model.policy.output_bias.detach().clone()
    torch.manual_seed(0)
    seqgan.train_step(model, optimizers, seqgan.as_batch(padded(all_texts()), START), 0)
    assert model.lagged is not None
    assert not torch.equal(model.policy.output_bias, start)
    torch.testing.assert_close(model.lagged.output_bias, 0.75 * start + 0.25 * model.policy.output_bias.detach())


def test_the_best_texts_are_kept_and_learnt_again_by_how_much_better_they_are(world: dict[str, Any]) -> None:
    """Against brute force over the tiny vocabulary: which texts stay, and the change that learning them makes."""
    kept = 3
    table = {tuple(row): float(reward) for row, reward in zip(world["rows"], world["rewards"], strict=True)}

    def stepped(replay: int, known: list[tuple[int, ...]]) -> seqgan.Model:
        model = tiny_model(
            mle_steps=0,
            critic_steps=0,
            policy_lr=0.1,
            policy={"tied": False},
            reward={"kind": "own", "weight": 1.0, "advantage": "reinforce_loo", "replay": replay},
        )
        model.policy.load_state_dict(world["policy"].state_dict())
        model.own_reward = lambda texts: torch.tensor(
            [table[tuple(row[:n])] for row, n in zip(texts.ids.tolist(), texts.sizes, strict=True)]
        )
        for row, text in enumerate(known):
            model.get_buffer("best_ids")[row, : len(text)] = torch.tensor(text)
            model.get_buffer("best_sizes")[row] = len(text)
            model.get_buffer("best_rewards")[row] = table[text]
        torch.manual_seed(5)
        optimizers = seqgan.optimizers(model.train(), Train(optimizer="sgd", lr=0.1, clip=0, schedule="constant"))
        seqgan.train_step(model, optimizers, seqgan.as_batch(padded(all_texts()), START), 0)
        return model

    torch.manual_seed(5)
    seeds = torch.randint(1 << 62, (len(all_texts()),))
    drawn = draw(world["policy"].decoder(), START, seeds, LONGEST)
    texts = [tuple(row[:n]) for row, n in zip(drawn.ids.tolist(), drawn.sizes, strict=True)]
    known = sorted(table, key=lambda text: table[text])[-2:]
    plain, replayed = stepped(0, []), stepped(kept, known)
    best = sorted({*known, *texts}, key=lambda text: -table[text])[:kept]
    ids, sizes = (replayed.get_buffer(name).tolist() for name in ("best_ids", "best_sizes"))
    found = [tuple(row[:n]) for row, n in zip(ids, sizes, strict=True)]
    assert found == best
    mean = sum(table[text] for text in texts) / len(texts)
    weights = torch.tensor([max(0.0, table[text] - mean) for text in known])
    wanted = flat_gradient(
        (weights[:, None] * token_log_probs(world["policy"], padded([list(text) for text in known]))).sum(),
        world["policy"],
    )
    moved = [torch.cat([p.detach().reshape(-1) for p in model.policy.parameters()]) for model in (plain, replayed)]
    torch.testing.assert_close(
        (moved[1] - moved[0]).double(), 0.1 * wanted / sum(map(len, texts)), rtol=1e-2, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"reward": {"rollouts": 0}},
            "model.reward.rollouts must be at least 1 with model.reward.advantage = delta, got 0; "
            "or use reinforce_loo or critic, which need none",
        ),
        (
            {"critic": {"widths": (1, 7), "maps": (2, 2)}},
            "model.critic.widths has 7, but the longest text has 3 tokens; use widths up to 3",
        ),
        (
            {"critic": {"widths": (1, 2), "maps": (2,)}},
            "model.critic.maps must have one number for each of model.critic.widths, got 1 and 2",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_model(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mle_steps": 5},
            "needs model.mle_steps = 0, got 5; start --from a language model that has not seen this text",
        ),
        (
            {"critic": {"loss": "wasserstein-gp"}},
            "needs model.critic.loss = bce, got wasserstein-gp; only its logit is",
        ),
        (
            {"reward": {"kl_target": 0.1}},
            "needs model.reward.kl_target = 0.0, got 0.1; the weight of its divergence is 1",
        ),
        ({"reward": {"kl_weight": 1.0}}, "needs model.reward.kl_weight = 0.0, got 1.0; it is 1 already"),
        ({"reward": {"kind": "critic", "kl_weight": 1.0, "kl_target": 0.1}}, "hold to the same divergence"),
        ({"reward": {"kind": "constant", "proximal": True}}, "model.reward.proximal is for model.reward.kind = logit"),
    ],
)
def test_what_would_move_the_fixed_point_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        logit_model(**options)


def test_a_batch_is_not_cut_into_parts() -> None:
    with pytest.raises(ConfigError, match=r"a seqgan cuts no batch into parts, got train\.accumulate = 2; use 1"):
        seqgan.optimizers(tiny_model(), Train(accumulate=2))


def test_conditions_are_refused() -> None:
    batch = seqgan.as_batch(padded(all_texts()), START)
    model = tiny_model(mle_steps=0)
    optimizers = seqgan.optimizers(model, Train())
    with pytest.raises(ConfigError, match=r"^seqgan writes without conditions; leave data\.source empty$"):
        seqgan.train_step(model, optimizers, replace(batch, positions=batch.positions[1:]), 0)


def test_drawn_texts_end_with_the_stop_or_the_limit() -> None:
    policy = tiny_policy()
    texts = draw(policy.decoder(), START, torch.arange(200), LONGEST)
    assert not (texts.ids == START)[torch.arange(LONGEST) < texts.lengths[:, None]].any()
    for row, length in zip(texts.ids.tolist(), texts.lengths.tolist(), strict=True):
        assert STOP not in row[: length - 1]
        assert row[length - 1] == STOP or length == LONGEST


def test_completions_keep_their_prefix_and_are_counted() -> None:
    policy = tiny_policy()
    texts = padded(all_texts())
    torch.manual_seed(0)
    made, cells = complete(policy.stepper(), texts, rollouts=3, start=START, stop=STOP, suppress_tokens=(START,))
    assert len(cells) == 3 * int((texts.lengths - 1).sum())
    counts = torch.bincount(cells, minlength=texts.ids.numel()).view_as(texts.ids)
    proper = torch.arange(LONGEST) < texts.lengths[:, None] - 1
    assert torch.equal(counts, torch.where(proper, 3, 0))
    for ids, length, cell in zip(made.ids.tolist(), made.lengths.tolist(), cells.tolist(), strict=True):
        row, t = divmod(cell, LONGEST)
        assert ids[: t + 1] == texts.ids[row, : t + 1].tolist()
        assert length > t + 1
        assert STOP not in ids[: length - 1]
