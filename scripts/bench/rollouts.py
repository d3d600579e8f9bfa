"""Rewards of every prefix by rollouts (V 5000, B 64, N 16) against prefixes fed again, `multinomial` and `Conv2d`.

The cases "paper", "small" and "T40" are float32; beside them `rollout_precision = bf16`, with the same floor. A round
of the usual way makes a few of the 16 rollouts, which are equal in cost, and is multiplied up; ours makes all, tables
included. Run: scripts/bench.py rollouts
"""

from collections.abc import Iterator

import torch
from measure import cpu_seconds, has_bf16_units, row
from seqgan_usual import PAPER, SMALL, START, critics, policies, usual_values
from torch import Tensor

from seqgen.core.rng import text_seeds
from seqgen.nn.rollout import Texts, draw, rollout_values

ROWS, ROLLOUTS = 64, 16


def rollouts(quick: bool) -> Iterator[dict[str, object]]:
    also = has_bf16_units() and not quick
    for case, length, hidden, (widths, maps), floor in (
        ("paper", 20, 32, PAPER, 8.5),
        ("small", 20, 32, SMALL, 10.0),
        ("T40", 40, 128, SMALL, 7.0),
    ):
        usual_policy, policy = policies(hidden, length)
        usual_critic, critic = critics(widths, maps)
        texts = draw(policy.decoder(), START, text_seeds(1, 0, ROWS), length)
        torch.manual_seed(1)
        made: dict[str, Tensor] = {}

        def ours(low: bool, policy=policy, critic=critic, texts=texts, made=made) -> None:
            frozen = critic.frozen(low=low)

            def score(given: Texts) -> Tensor:
                return torch.sigmoid(frozen(given.ids, given.lengths))

            made[f"{low}"] = rollout_values(
                policy.stepper(), score, texts, rollouts=ROLLOUTS, start=START, stop=-1, low=low
            )

        def usual(count: int, policy=usual_policy, critic=usual_critic, texts=texts, made=made) -> None:
            made["usual"] = usual_values(policy, critic, texts.ids, count)

        count = 1 if quick or length > 20 else 4
        ratios: dict[bool, list[float]] = {False: [], True: []} if also else {False: []}
        for number in range((2 if length > 20 else 4) if quick else 6):
            usual_s = cpu_seconds(lambda count=count, usual=usual: usual(count)) * ROLLOUTS / count
            for precision, values in ratios.items():
                values.append(usual_s / cpu_seconds(lambda precision=precision, ours=ours: ours(precision)))
            if number == 0 and not (quick and length > 20):  # the first round warms up, where there is time for it
                ratios = {precision: [] for precision in ratios}
        for precision, values in ratios.items():
            gate = agreement(made[f"{precision}"][:, :-1], made["usual"])
            yield row("rollouts", f"{case}, bf16" if precision else case, values, floor, gate)


def agreement(ours: Tensor, usual: Tensor) -> str:
    """ "ok" if both ways give the same values within three standard errors of their mean difference."""
    difference = (ours - usual).double().flatten()
    z = float(difference.mean() / (difference.std() / len(difference) ** 0.5))
    return "ok" if abs(z) < 3 else f"mean difference of values at z = {z:.1f}"


BENCHES = {"rollouts": rollouts}
