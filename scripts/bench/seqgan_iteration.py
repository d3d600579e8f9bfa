"""One turn of the paper's schedule: 1 policy step with 16 rollouts, 5 x (10,000 drawn texts, 3 passes of the critic).

The cost is counts times measured unit costs, each unit of both sides in turn. The first case is float32 throughout, the
second has the critic's training and the rollouts in bfloat16. Run: scripts/bench.py seqgan-iteration
"""

from collections.abc import Iterator

import torch
from critic_train import LENGTH, ROWS, equal, step
from measure import cpu_seconds, has_bf16_units, row
from rollouts import ROLLOUTS, agreement
from seqgan_usual import PAPER, START, VOCAB, critics, policies, usual_values
from torch import Tensor

from seqgen.core.rng import text_seeds
from seqgen.nn.rollout import Texts, draw, rollout_values

DRAWN, CRITIC_STEPS = 5 * 10_000, 5 * 3 * (20_000 // ROWS)


def iteration(quick: bool) -> Iterator[dict[str, object]]:
    usual_policy, policy = policies(32, LENGTH)
    usual_critic, critic = critics(*PAPER)
    texts = draw(policy.decoder(), START, text_seeds(1, 0, ROWS), LENGTH)
    ids, lengths = torch.randint(VOCAB, (ROWS, LENGTH)), torch.full((ROWS,), LENGTH)
    labels = (torch.arange(ROWS) % 2).float()
    gate = equal(usual_critic, critic, ids, lengths, labels)
    made: dict[str, Tensor] = {}
    empty = torch.empty(ROWS, 0, dtype=torch.int64)
    some = 2000 if quick else 10_000  # texts of one call: more would not be cheaper

    def values(low: bool) -> None:
        frozen = critic.frozen(low=low)

        def score(given: Texts) -> Tensor:
            return torch.sigmoid(frozen(given.ids, given.lengths))

        made["ours"] = rollout_values(policy.stepper(), score, texts, rollouts=ROLLOUTS, start=START, stop=-1, low=low)

    def usual_rollout() -> None:
        made["usual"] = usual_values(usual_policy, usual_critic, texts.ids, 1)

    for case, low, floor in (("paper schedule", False, 2.2), ("bf16", True, 3.0)):
        if low and not has_bf16_units():
            yield row("seqgan-iteration", case, [0.0], floor, "no bf16 units")
            continue
        usual_step = step(lambda: usual_critic(ids), list(usual_critic.parameters()), labels, low=False)
        our_step = step(lambda: critic(ids, lengths), list(critic.parameters()), labels, low=low)
        ratios = []
        for number in range(4 if quick else 6):
            seeds = text_seeds(2, number * some, some)
            usual_s = (
                cpu_seconds(usual_rollout) * ROLLOUTS
                + sum(cpu_seconds(usual_step) for _ in range(5)) / 5 * CRITIC_STEPS
                + sum(cpu_seconds(lambda: usual_policy.complete(empty, LENGTH)) for _ in range(5)) / 5 * DRAWN / ROWS
            )
            our_s = (
                cpu_seconds(lambda low=low: values(low))
                + sum(cpu_seconds(our_step) for _ in range(5)) / 5 * CRITIC_STEPS
                + cpu_seconds(lambda seeds=seeds: draw(policy.decoder(), START, seeds, LENGTH)) * DRAWN / some
            )
            if number:
                ratios.append(usual_s / our_s)
        both = {gate, agreement(made["ours"][:, :-1], made["usual"])} - {"ok"}
        yield row("seqgan-iteration", case, ratios, floor, "; ".join(sorted(both)) or "ok")


BENCHES = {"seqgan-iteration": iteration}
