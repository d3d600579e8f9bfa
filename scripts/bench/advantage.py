"""Advantages by variance times time: how much sooner than raw Q_t with 16 rollouts a gradient of the same noise is had.

A task of V 1000, T 20, B 16: a policy and a critic trained for a little on text of a random LSTM. Both stand still
while every kind draws gradients again and again, with the same engine. The ratio is (trace of the gradient's
covariance x CPU seconds of drawing, judging and differentiating) of raw, divided by that of the kind; fitting the value
function is part of the time. Run: scripts/bench.py advantage
"""

import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch
from measure import cpu_seconds, row
from torch import Tensor

from seqgen.core.config import Train
from seqgen.core.rng import generator
from seqgen.core.update import Optimizer
from seqgen.data.corpora.oracle import LstmOracle
from seqgen.models import lm, seqgan
from seqgen.nn.rollout import Texts

VOCAB, LENGTH, ROWS, START = 1001, 20, 16, 1000
CONFIG = seqgan.Config(
    mle_steps=0, critic_steps=0, critic_turn=0, policy_lr=1e-9, alarm=False, start=START,
    policy=lm.Config(
        embedding=32, hidden=32, tied=False, input_dropout=0.0, hidden_dropout=0.0, output_dropout=0.0,
        vocab_size=VOCAB, suppress_tokens=(START,), max_length=LENGTH,
    ),
    critic=seqgan.Critic(widths=(2, 3, 4, 5), maps=(200, 200, 200, 200), lr=1e-3, l2=0.01, negatives=2000),
    reward=seqgan.Reward(advantage="raw", rollouts=16),
)  # fmt: skip
KINDS = {
    "delta": (replace(CONFIG, reward=seqgan.Reward(advantage="delta", rollouts=4)), 40.0),
    "critic": (replace(CONFIG, reward=seqgan.Reward(advantage="critic")), 100.0),
    "reinforce_loo": (replace(CONFIG, reward=seqgan.Reward(advantage="reinforce_loo")), None),
    "critic, gae 0.9 (biased)": (replace(CONFIG, reward=seqgan.Reward(advantage="critic", gae=0.9)), None),
}


class Gradients(Optimizer):
    """An optimizer that keeps gradients in the place of moving weights."""

    kept: list[Tensor]

    def apply(self, parameters: object, gradients: object, step: int, weight: float) -> None:
        """Keep the whole gradient."""
        self.kept.append(torch.cat([g.reshape(-1) for g in gradients]))  # type: ignore[attr-defined]


def trained() -> seqgan.Model:
    """A policy after 300 steps of likelihood, and a critic after 150 steps against it."""
    texts = LstmOracle.seeded(1, vocab_size=VOCAB - 1).sample(4000, LENGTH, generator("advantage"))
    torch.manual_seed(1)
    model = seqgan.Model(replace(CONFIG, mle_steps=300, critic_steps=150, round_steps=150))
    optimizers = seqgan.optimizers(model, Train(lr=0.01, schedule="constant", optimizer="adam"))
    for step in range(450):
        rows = torch.randint(len(texts), (64,))
        batch = seqgan.as_batch(Texts(texts[rows], torch.full((64,), LENGTH)), START)
        model.train()
        seqgan.train_step(model, optimizers, batch, step)
    return model


def advantage(quick: bool) -> Iterator[dict[str, object]]:
    source = trained()
    batch = seqgan.as_batch(Texts(torch.zeros(ROWS, LENGTH, dtype=torch.int64), torch.full((ROWS,), LENGTH)), START)
    raw = noise_times_seconds(source, CONFIG, 24 if quick else 60, batch)
    for case, (config, floor) in KINDS.items():
        replicates = (40 if config.reward.advantage == "delta" else 100) if quick else 200
        ours = noise_times_seconds(source, config, replicates, batch)
        means = [g.mean(0) for g in (raw[1], ours[1])]
        ratio = raw[0] / ours[0]
        gate = unbiased(raw[1], ours[1], *means) if config.reward.gae == 1 else "ok"
        yield row("advantage", case, [ratio], floor, gate)


def noise_times_seconds(
    source: seqgan.Model, config: seqgan.Config, replicates: int, batch: seqgan.SequenceBatch
) -> tuple[float, Tensor]:
    """Trace of the covariance of the gradient times seconds per gradient, and the gradients (replicates, weights)."""
    model = seqgan.Model(config)
    model.load_state_dict(source.state_dict(), strict=False)  # the value function's sums are new
    optimizer = Gradients(model.policy.named_parameters(), Train(clip=0))
    optimizer.kept, seconds = [], []
    warm_up = 60 if config.reward.advantage == "critic" else 1  # the value function has been fitted in a run, too
    for number in range(warm_up + replicates):
        torch.manual_seed(number)
        model.train()
        seconds.append(cpu_seconds(lambda: seqgan.train_step(model, {"policy": optimizer}, batch, 1)))
    gradients = torch.stack(optimizer.kept[warm_up:]).double()
    return float(gradients.var(0).sum()) * statistics.median(seconds[warm_up:]), gradients


def unbiased(a: Tensor, b: Tensor, mean_a: Tensor, mean_b: Tensor) -> str:
    """ "ok" if both mean gradients agree within their noise: squared distance against its expectation."""
    expected = float(a.var(0).sum()) / len(a) + float(b.var(0).sum()) / len(b)
    found = float((mean_a - mean_b).square().sum())
    return "ok" if found < 2 * expected else f"mean gradients differ: {found:.2e}, expected {expected:.2e}"


BENCHES = {"advantage": advantage}
