"""SeqGAN: a recurrent policy trained by policy gradient against a critic of whole texts (Yu et al. 2017).

Phases by step (Algorithm 1): `mle`, the policy learns from text; `critic`, a critic learns to tell text from what the
policy writes; then turns of `policy` and `critic`. One step is one update of one network. Tokens are discrete, so the
reward cannot be differentiated: grad J = E[sum over t of A_t grad log p(x_t | x_<t)], where A_t says how much better
than expected the text became by its token t. The advantages are under `advantages`.
Shapes: B rows, T tokens (the end of the text counted), V vocabulary, H hidden, P counted positions, F features.
Run: seqgen train seqgan --data captions.txt --out runs/captions
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError
from seqgen.core.options import Sampling
from seqgen.core.rng import hash64, text_seeds
from seqgen.core.update import Optimizer, update
from seqgen.models import lm
from seqgen.nn.decode import Decoder, Samples
from seqgen.nn.losses import linear_cross_entropy, linear_log_probs
from seqgen.nn.rollout import Texts, draw, rollout_values
from seqgen.nn.sampler import Precision
from seqgen.nn.textcnn import CnnCritic, Frozen, GruCritic

DATA = "text"

TURN = ("policy_loss", "policy_grad_norm", "reward", "reward_sd", "entropy", "kl", "length")

_RIDGE = 0.3  # of the value function, as a share of the mean square of its features: texts are few, features many
_KEEP = 0.97  # of the value function's sums per policy step: the critic whose features they hold moves on

Phase = Literal["mle", "critic", "policy"]
Advantage = Literal["delta", "raw", "reinforce_loo", "critic"]
Score = Callable[[Texts], Tensor]
"""Texts to one number each, (B,)."""


# ---------------------------------------------------------------------------------------------------------- schedule


def phase(config: "Config", step: int) -> tuple[Phase, int]:
    """Return what a step trains, and for the critic the number of its round of drawn texts."""
    step -= config.mle_steps
    if step < 0:
        return "mle", 0
    if step < config.critic_steps:
        return "critic", step // config.round_steps
    turn, place = divmod(step - config.critic_steps, config.policy_turn + config.critic_turn)
    if place < config.policy_turn:
        return "policy", 0
    rounds_before = -(-config.critic_steps // config.round_steps) + turn * -(-config.critic_turn // config.round_steps)
    return "critic", rounds_before + (place - config.policy_turn) // config.round_steps


def train_step(
    model: "Model", optimizers: dict[str, Optimizer], batch: SequenceBatch, step: int
) -> dict[str, float | Tensor]:
    """Make one update of one network, by the phase of the step."""
    config = model.config
    now, round_number = phase(config, step)
    if step == config.mle_steps:
        model.copy_policy(model.policy, model.anchor, model.healthy, model.lagged)
        model.began.fill_(True)
    match now:
        case "mle":
            loss, nll, _ = model.policy.loss(batch)
            return {**update(optimizers["policy"], (loss, batch.count), step), "nll": nll / batch.count}
        case "critic":
            return _critic_step(model, optimizers["critic"], batch, step, round_number)
        case "policy":
            model.forget_negatives()
            if (step - config.mle_steps - config.critic_steps) % (config.policy_turn + config.critic_turn) == 0:
                model.copy_policy(model.policy, model.last)
            return _policy_step(model, optimizers["policy"], batch, step)


# ---------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Critic:
    """The section `model.critic`."""

    kind: Literal["cnn", "gru"] = "cnn"
    """Kind of critic."""
    embedding: Annotated[int, Field(ge=1)] = 64
    """Features of a token in the critic."""
    widths: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Words under each kind of filter (cnn)."""
    maps: tuple[int, ...] = (100, 200, 200, 200, 200)
    """Filters of each width (cnn)."""
    hidden: Annotated[int, Field(ge=1)] = 128
    """Features of the state (gru)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Dropout before the critic's output."""
    l2: Annotated[float, Field(ge=0)] = 0.2
    """Times half the squared norm of the critic's output layer, added to its loss."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of the critic."""
    loss: Literal["bce", "wasserstein-gp", "wasserstein-clip"] = "bce"
    """bce: the reward is the probability of being real. wasserstein: the reward is the critic's bare score, which is
    kept smooth by a gradient penalty on mixed embeddings, or by clipping weights, for which the paper takes
    train.optimizer=rmsprop."""
    gradient_penalty: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the gradient penalty (wasserstein-gp)."""
    clip: Annotated[float, Field(gt=0)] = 0.01
    """Largest size of the critic's weights (wasserstein-clip)."""
    negatives: Annotated[int, Field(ge=1)] = 1000
    """Texts drawn for a round; each step takes some at random. They are drawn again on resume, never stored."""
    corrupted_negatives: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a critic's negatives that are real texts with one fault: two neighbours swapped, or a token of another
    text in the place of one. From them the critic learns to find what does not belong (`seqgen score --by critic`)."""


@dataclass(frozen=True)
class Reward:
    """The section `model.reward`: what the policy maximises, and how a token's share of it is estimated."""

    kind: str = "critic"
    """critic; logit: the critic's log-odds less the KL divergence from the language model, whose optimum is the text's
    own distribution; constant (the control every experiment needs); or a reward of your own, mixed with the critic:
    file.py:function (list of texts to numbers), grammatical:GRAMMAR, length:MIN-MAX, regex:PATTERN, python (whether it
    parses), chem:qed, similarity:SMILES, label:NAME:FILE."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of a reward of your own; the rest is the critic's."""
    proximal: bool = False
    """logit: the divergence is from the policy at the start of its turn, which the critic's negatives are drawn from
    too, in place of the language model."""
    kl_weight: Annotated[float, Field(ge=0)] = 0.0
    """Times the KL divergence of whole texts from the language model, subtracted from a reward r: the optimum is
    proportional to p_0 exp(r / weight); logit has 1 always; 0: none."""
    kl_target: Annotated[float, Field(ge=0)] = 0.0
    """KL divergence from the language model to hold, nats per token, by an adaptive penalty; 0: none."""
    mle_weight: Annotated[float, Field(ge=0)] = 0.0
    """Times the likelihood loss per token of real text, added to the policy's loss: keeps it near the text."""
    replay: Annotated[int, Field(ge=0)] = 0
    """Distinct texts with the highest rewards so far that are learnt again in every policy step, each times its reward
    less the mean of those just drawn: few calls of a dear reward bring more, texts become more alike; 0: none."""
    advantage: Advantage = "delta"
    """delta: Q_t - Q_(t-1), raw: Q_t (the paper), both by rollouts; reinforce_loo: reward less that of the other rows;
    critic: reward less a value fitted to what the critic sees of a prefix."""
    gae: Annotated[float, Field(ge=0, le=1)] = 1.0
    """lambda of generalised advantage estimation (critic; Schulman et al. 2016); below 1 is less noisy and biased."""
    rollouts: Annotated[int, Field(ge=0)] = 4
    """Completions of every prefix (delta, raw); the paper has 16."""
    rollout_lag: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Rollouts by a slower policy: this share of it is kept at every policy step (the paper's code: 0.8); 0: none."""
    rollout_precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: rollouts are drawn and scored with the two largest products in bfloat16: faster where the CPU has bf16
    units; moves a reward by less than 0.01, which is less than the noise of rollouts."""


_POLICY = lm.Config(input_dropout=0.2, hidden_dropout=0.2, output_dropout=0.2)


@dataclass(frozen=True)
class Config:
    """The section `model` of a SeqGAN: the schedule, and a section for each of its parts."""

    mle_steps: Annotated[int, Field(ge=0)] = 2000
    """Steps of the first phase, maximum likelihood; 0 with `--from` a language model."""
    critic_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of the critic before the policy's first turn."""
    policy_turn: Annotated[int, Field(ge=1)] = 1
    """Steps of the policy in each turn."""
    critic_turn: Annotated[int, Field(ge=0)] = 5
    """Steps of the critic in each turn."""
    round_steps: Annotated[int, Field(ge=1)] = 50
    """Steps of the critic on one set of drawn texts, counted anew in every turn."""
    policy_lr: Annotated[float, Field(ge=0)] = 1e-4
    """Learning rate of the policy after the phase mle; 0: `train.lr`."""
    normal_init: Annotated[float, Field(ge=0)] = 0.0
    """Every weight of the policy starts from N(0, this squared), as in the paper (0.1); 0: as the language model."""
    alarm: bool = True
    """Watch for collapse at every validation, and go back to the last healthy policy."""
    policy: lm.Config = _POLICY
    """The policy is a language model; its dropout acts in the phase mle only, texts are drawn without."""
    critic: Critic = Critic()
    """The critic."""
    reward: Reward = Reward()
    """The reward."""
    seed: int = 0
    """The run's seed; filled in."""
    start: Annotated[int, Field(ge=0)] = 0
    """The token before every text; filled from the tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.policy.vocab_size


def _check(config: Config) -> None:
    """Check what two settings must hold together; ConfigError names them."""
    faults, critic, reward = [], config.critic, config.reward
    if reward.kind == "logit":
        faults += [
            f"model.reward.kind = logit needs {name} = {needed}, got {value}; {why}"
            for name, needed, value, why in (
                ("model.mle_steps", 0, config.mle_steps, "start --from a language model that has not seen this text"),
                ("model.critic.loss", "bce", critic.loss, "only its logit is a ratio of probabilities"),
                ("model.critic.corrupted_negatives", 0.0, critic.corrupted_negatives, "negatives are the model's own"),
                ("model.reward.kl_target", 0.0, reward.kl_target, "the weight of its divergence is 1"),
                ("model.reward.kl_weight", 0.0, reward.kl_weight, "it is 1 already"),
            )
            if value != needed
        ]
    elif reward.proximal:
        faults.append(f"model.reward.proximal is for model.reward.kind = logit, got {reward.kind}")
    if reward.kl_weight and reward.kl_target:
        faults.append("model.reward.kl_weight and model.reward.kl_target hold to the same divergence: set one of them")
    if reward.advantage in ("delta", "raw") and reward.rollouts < 1:
        faults.append(
            f"model.reward.rollouts must be at least 1 with model.reward.advantage = {reward.advantage}, got "
            f"{reward.rollouts}; or use reinforce_loo or critic, which need none"
        )
    if critic.kind == "cnn":
        if len(critic.maps) != len(critic.widths) or not critic.widths:
            faults.append(
                f"model.critic.maps must have one number for each of model.critic.widths, got "
                f"{len(critic.maps)} and {len(critic.widths)}"
            )
        bad = [n for n in (*critic.widths, *critic.maps) if n < 1]
        if bad:
            faults.append(f"model.critic.widths and model.critic.maps must be at least 1, got {bad[0]}")
        widest, longest = max(critic.widths, default=0), config.policy.max_length
        if widest > longest > 0:
            faults.append(
                f"model.critic.widths has {widest}, but the longest text has {longest} tokens; "
                f"use widths up to {longest}"
            )
    if faults:
        raise ConfigError("; ".join(faults))


def inherit(config: Config, name: str, other: Any) -> tuple[Config, str]:
    """Return what a run that starts from another becomes, and the part of it that takes the other's weights ("": all).

    From a language model: the policy has its sizes and its weights, and the phase mle is over.
    """
    if name == "seqgan":
        return config, ""
    if name != "lm":
        raise ConfigError(f"--from a run of {name}: a seqgan starts from a run of lm or seqgan")
    sizes = {size: getattr(other, size) for size in ("cell", "layers", "embedding", "hidden", "last_hidden", "tied")}
    return replace(config, mle_steps=0, policy=replace(config.policy, **sizes)), "policy"


def attach(model: "Model", data: Any) -> None:
    """Give a model what only training needs of the data: a reward of text, imported or built now, never on loading."""
    if model.config.reward.kind not in ("critic", "logit", "constant"):
        rewards = data.reward(model.config.reward.kind)
        device = model.policy.output_bias.device

        def score(texts: Texts) -> Tensor:
            rows = [row[:n] for row, n in zip(texts.ids.tolist(), texts.sizes, strict=True)]
            return torch.tensor(rewards(rows), dtype=torch.float32, device=device)

        model.own_reward = score


def optimizers(model: "Model", train: Train) -> dict[str, Optimizer]:
    """Build one optimizer for the policy, one for the critic, which keeps its learning rate.

    ConfigError for train.accumulate above 1: what is drawn or judged in a step is drawn or judged at once.
    """
    if train.accumulate > 1:
        raise ConfigError(f"a seqgan cuts no batch into parts, got train.accumulate = {train.accumulate}; use 1")
    critic = replace(train, schedule="constant", warmup=0, weight_decay=0.0, average_from=-1)
    return {
        "policy": Optimizer(model.policy.named_parameters(), train),
        "critic": Optimizer(model.critic.named_parameters(), critic, lr=model.config.critic.lr),
    }


# ------------------------------------------------------------------------------------------------------------- model


class Model(nn.Module):
    """A policy, its critic, and copies of the policy as it was.

    `anchor` is the language model at the end of the phase mle, `healthy` the policy at the last validation without
    alarm, `lagged` the slower policy of rollouts, `last` the policy at the start of its turn (proximal).
    """

    rank_local = ("kl_weight", "value_sums", "last_turn", "best_ids", "best_sizes", "best_rewards")
    on_host = ("kl_weight", "began", "at_start", "rewinds", "last_turn", "best_ids", "best_sizes", "best_rewards")
    kl_weight: Tensor
    """Weight of the KL penalty, adapted at every policy step."""
    value_sums: Tensor | None
    """Normal equations of the value function, (F + 2, F + 3): forgotten slowly."""
    began: Tensor
    """Whether the phase mle is over."""
    at_start: Tensor
    """Held-out nats per token, share of unique texts and Self-BLEU-4 of the language model, NaN until known."""
    rewinds: Tensor
    """How often the alarm went off; each halves the policy's learning rate."""
    last_turn: Tensor
    """The scalars `TURN` of the policy's last step, NaN before it: lines of the log between its steps repeat them."""
    best_ids: Tensor | None
    """The texts that are replayed, (N, T), best first, 0 after their ends."""
    best_sizes: Tensor | None
    """Their tokens, (N,); 0: no text yet."""
    best_rewards: Tensor | None
    """Their rewards, (N,)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.policy = lm.Model(config.policy)
        if config.normal_init:
            for parameter in self.policy.parameters():
                nn.init.normal_(parameter, std=config.normal_init)
        critic, vocab = config.critic, config.vocab_size
        width, dropout = critic.embedding, critic.dropout
        self.critic: CnnCritic | GruCritic = (
            CnnCritic(vocab, embedding=width, widths=critic.widths, maps=critic.maps, dropout=dropout)
            if critic.kind == "cnn"
            else GruCritic(vocab, embedding=width, hidden=critic.hidden, dropout=dropout)
        )
        self.anchor, self.healthy = self._copied_policy(), self._copied_policy()
        self.lagged = self._copied_policy() if config.reward.rollout_lag else None
        self.last = self._copied_policy() if config.reward.proximal else None
        self.register_buffer("kl_weight", torch.tensor(0.1))
        features = self.critic.output.in_features
        sums = torch.zeros(features + 2, features + 3) if config.reward.advantage == "critic" else None
        self.register_buffer("value_sums", sums)
        self.register_buffer("began", torch.tensor(False))
        self.register_buffer("at_start", torch.full((3,), math.nan))
        self.register_buffer("rewinds", torch.tensor(0))
        self.register_buffer("last_turn", torch.full((len(TURN),), math.nan))
        kept, width = config.reward.replay, config.policy.max_length
        self.register_buffer("best_ids", torch.zeros(kept, width, dtype=torch.int64) if kept else None)
        self.register_buffer("best_sizes", torch.zeros(kept, dtype=torch.int64) if kept else None)
        self.register_buffer("best_rewards", torch.zeros(kept) if kept else None)
        self.own_reward: Score | None = None
        self._negatives: tuple[int, Texts | None] = (-1, None)

    def _copied_policy(self) -> lm.Model:
        return copy.deepcopy(self.policy).requires_grad_(False)

    # What is said of any text model: that of the policy

    def decoder(self, *, fast: bool = False, precision: Precision = "fp32") -> Decoder:
        """Prepare the policy for sampling."""
        return self.policy.decoder(fast=fast, precision=precision)

    def sample(
        self, prompts: list[list[int]], seeds: Tensor, sampling: Sampling, *, fast: bool = False, **options: Any
    ) -> Samples:
        """Continue prompts; text k depends on prompt, seed and options alone."""
        return self.policy.sample(prompts, seeds, sampling, fast=fast, **options)

    def log_probs(self, batch: SequenceBatch) -> Tensor:
        """Return the policy's log-probability of every counted target in nats, (P,) float64."""
        return self.policy.log_probs(batch)

    # The critic's opinion of given text

    @torch.no_grad()
    def critic_scores(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Return the critic's logit of every text, (B,), and what each counted token takes away from it, (P,) float32.

        A token's value is the text's logit less that without the token (its vector replaced by zeros): far below 0
        means that the text would look more real if this token were something else. Text above 0 looks real.
        """
        texts = _written(batch)
        rows, length = texts.ids.shape
        x = self.critic.embedded(texts.ids, texts.lengths)
        whole = self.critic.score_embedded(x, texts.lengths)
        without = torch.empty(rows, length, device=x.device)
        for t in range(length):
            blank = x.clone()
            blank[:, t] = 0
            without[:, t] = self.critic.score_embedded(blank, texts.lengths)
        return whole, (whole[:, None] - without).flatten()[batch.positions]

    # Training

    def reward(self, critic: Frozen) -> Score:
        """Return the reward of whole texts, (B,) float32, under a frozen critic and the reward of the settings."""
        config, own = self.config.reward, self.own_reward

        def score(texts: Texts) -> Tensor:
            if config.kind == "constant":
                return torch.ones(len(texts.ids), device=texts.ids.device)
            if config.kind not in ("critic", "logit") and own is None:
                raise ConfigError(f"model.reward.kind = {config.kind} needs the training loop's text")
            if own is not None and config.weight == 1:
                return own(texts)
            logits = critic(texts.ids, texts.lengths)
            odds = config.kind == "logit" or self.config.critic.loss != "bce"
            values = logits if odds else torch.sigmoid(logits)
            return values if own is None else torch.lerp(values, own(texts).to(values), config.weight)

        return score

    def negatives(self, round_number: int) -> Texts:
        """Return the drawn texts of a round of the critic: a function of the weights, the seed and the round.

        The policy writes them, or the language model where the policy is held to that (logit). They are kept in memory,
        not in checkpoints: who writes them stands still while the critic learns.
        """
        config = self.config
        if self._negatives[0] != round_number or self._negatives[1] is None:
            seeds = text_seeds(hash64("negatives", config.seed, round_number), 0, config.critic.negatives)
            device = self.policy.output_bias.device
            frozen = config.reward.kind == "logit" and not config.reward.proximal
            texts = draw(
                (self.anchor if frozen else self.policy).decoder(),
                config.start,
                seeds.to(device),
                config.policy.max_length,
            )
            self._negatives = (round_number, texts)
            return texts
        return self._negatives[1]

    def forget_negatives(self) -> None:
        """Drop the drawn texts, because the policy has changed."""
        self._negatives = (-1, None)

    def copy_policy(self, source: lm.Model, *targets: lm.Model | None) -> None:
        """Give each target the weights of the source."""
        with torch.no_grad():
            for target in targets:
                if target is not None:
                    for new, old in zip(target.parameters(), source.parameters(), strict=True):
                        new.copy_(old)


# ------------------------------------------------------------------------------------------------------------ critic


def _critic_step(
    model: Model, optimizer: Optimizer, batch: SequenceBatch, step: int, round_number: int
) -> dict[str, float | Tensor]:
    """Train the critic on half a batch of text against half a batch of drawn texts."""
    config = model.config.critic
    real = _real_half(batch, step)
    with _plain(batch.inputs.device):
        drawn = model.negatives(round_number)
    # drawn on the CPU, by the generators of this step and process
    fake = _chosen(drawn, torch.randint(len(drawn.ids), (len(real.ids),)))
    corrupted_rows = round(config.corrupted_negatives * len(fake.ids))
    if corrupted_rows:
        others = _real_half(batch, step + 1)
        spoilt = corrupted(
            _chosen(others, torch.arange(min(corrupted_rows, len(others.ids)))), ends=model.config.policy.stop >= 0
        )
        fake = (
            _stacked(spoilt, _chosen(fake, torch.arange(corrupted_rows, len(fake.ids))))
            if corrupted_rows < len(fake.ids)
            else spoilt
        )
    if config.loss == "bce":
        both = _stacked(real, fake)
        logits = model.critic(both.ids, both.lengths)
        labels = torch.cat([torch.ones(len(real.ids)), torch.zeros(len(fake.ids))]).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        scalars = {"critic_accuracy": ((logits > 0) == (labels > 0)).float().mean()}
    else:
        logits = torch.cat([model.critic(real.ids, real.lengths), model.critic(fake.ids, fake.lengths)])
        distance = logits[: len(real.ids)].mean() - logits[len(real.ids) :].mean()
        loss = -distance
        scalars = {"wasserstein": distance.detach()}
        if config.loss == "wasserstein-gp":
            penalty = _gradient_penalty(model.critic, real, fake)
            loss = loss + config.gradient_penalty * penalty
            scalars["gradient_penalty"] = penalty.detach()
    loss = loss + config.l2 * model.critic.penalty()
    count = len(logits)
    clamp = config.clip if config.loss == "wasserstein-clip" else 0.0
    done = update(optimizer, (loss * count, count), step, clamp=clamp)
    turn = {} if bool(model.last_turn[0].isnan()) else dict(zip(TURN, model.last_turn.tolist(), strict=True))
    return turn | {f"critic_{name}": value for name, value in done.items()} | scalars


def _written(batch: SequenceBatch) -> Texts:
    """The texts of a batch as a critic reads them: what follows the start token, the end of the text included."""
    if batch.count != int(batch.sizes[0].sum()):
        raise ConfigError("seqgan writes without conditions; leave data.source empty")
    return Texts(batch.targets, batch.lengths, batch.sizes[0].tolist())


def _chosen(texts: Texts, rows: Tensor) -> Texts:
    """Take rows by their numbers on the host."""
    there = rows.to(texts.ids.device)
    return Texts(texts.ids[there], texts.lengths[there], [texts.sizes[row] for row in rows.tolist()])


def _real_half(batch: SequenceBatch, step: int) -> Texts:
    """Every second text of the batch: a batch of the critic is half real, half drawn, and `train.batch` rows in all."""
    texts = _written(batch)
    rows = slice(step % 2, None, 2) if len(texts.ids) > 1 else slice(None)
    return Texts(texts.ids[rows], texts.lengths[rows], texts.sizes[rows])


def corrupted(texts: Texts, *, ends: bool) -> Texts:
    """Corrupt each text once, by torch's default generator: every second has two neighbours swapped, the others
    a token replaced by one of these texts. `ends`: the last token of a text is its end, and stays. A text of one token
    is not swapped; where the two tokens are the same nothing changes.
    """
    ids, rows = texts.ids.clone(), torch.arange(len(texts.ids))
    tokens = (torch.tensor(texts.sizes) - int(ends)).clamp(min=1)
    place = (torch.rand(len(rows)) * (tokens - 1).clamp(min=1)).long()
    other = torch.where(tokens > 1, place + 1, place)
    swapped = rows % 2 == 0
    a, b = place[swapped].to(ids.device), other[swapped].to(ids.device)
    at = rows[swapped].to(ids.device)
    ids[at, a], ids[at, b] = texts.ids[at, b], texts.ids[at, a]
    at, place = rows[~swapped].to(ids.device), (torch.rand(len(rows)) * tokens).long()[~swapped].to(ids.device)
    giver = torch.randint(len(rows), (len(at),))
    taken = (torch.rand(len(at)) * tokens[giver]).long()
    ids[at, place] = texts.ids[giver.to(ids.device), taken.to(ids.device)]
    return Texts(ids, texts.lengths, texts.sizes)


def _stacked(first: Texts, second: Texts) -> Texts:
    """Concatenate both, one under the other."""
    length = max(*first.sizes, *second.sizes)
    ids = [F.pad(t.ids[:, :length], (0, length - min(length, t.ids.shape[1]))) for t in (first, second)]
    return Texts(torch.cat(ids), torch.cat([first.lengths, second.lengths]), [*first.sizes, *second.sizes])


def _gradient_penalty(critic: CnnCritic | GruCritic, real: Texts, fake: Texts) -> Tensor:
    """Return the mean squared distance of the gradient's norm from 1 at mixed embeddings (Gulrajani et al. 2017).

    Tokens cannot be mixed, their vectors can: the critic is kept smooth in the space it reads, not in that of texts.
    """
    both = _stacked(real, fake)
    # cuDNN's recurrent layers cannot be differentiated twice, torch's own can
    with torch.autocast(both.ids.device.type, enabled=False), torch.backends.cudnn.flags(enabled=False):
        vectors = critic.embedded(both.ids, both.lengths).detach()
        lengths = torch.maximum(both.lengths[: len(real.ids)], both.lengths[len(real.ids) :])
        share = torch.rand(len(real.ids), 1, 1).to(vectors)
        mixed = torch.lerp(vectors[: len(real.ids)], vectors[len(real.ids) :], share).requires_grad_()
        (slope,) = torch.autograd.grad(critic.score_embedded(mixed, lengths).sum(), mixed, create_graph=True)
        norms: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
        return (norms - 1).square().mean()


# ------------------------------------------------------------------------------------------------------------ policy


def _policy_step(model: Model, optimizer: Optimizer, batch: SequenceBatch, step: int) -> dict[str, float | Tensor]:
    """Draw texts, reward them, and make them more or less probable, token by token."""
    config = model.config
    device = batch.inputs.device
    with _plain(device):
        seeds = torch.randint(1 << 62, (len(batch.inputs),)).to(device)
        texts = draw(model.decoder(), config.start, seeds, config.policy.max_length)
        rewards, weights = _judged(model, texts)
    # weights are as wide as the longest text at least, but may be less wide than the limit
    drawn = as_batch(texts, config.start)
    weights_p = weights[:, : drawn.inputs.shape[1]].flatten()[drawn.positions]
    targets = drawn.targets.flatten()[drawn.positions]
    features, head = _features(model.policy, drawn), _drawing_head(model.policy)
    held_to = model.anchor if model.last is None else model.last
    anchored, anchored_head = _features(held_to, drawn).detach(), _drawing_head(held_to)
    pull: Tensor | float = 0.0
    kl_weight = 1.0 if config.reward.kind == "logit" else config.reward.kl_weight
    if kl_weight:
        later_p, pull = kl_gradient(F.linear(features, *head), F.linear(anchored, *anchored_head), _inside(texts))
        weights_p -= kl_weight * later_p
    loss = linear_cross_entropy(features, *head, targets, row_weights=weights_p) + kl_weight * pull
    log_probs = linear_log_probs(features, *head, targets)
    with torch.no_grad():
        kl = (log_probs - linear_log_probs(anchored, *anchored_head, targets)).mean()
    if config.reward.kl_target:
        reference = F.linear(anchored, *anchored_head)
        loss = loss + float(model.kl_weight) * _divergence(F.linear(features, *head), reference)
    if config.reward.mle_weight:
        loss = loss + config.reward.mle_weight * model.policy.loss(batch)[0] * (drawn.count / batch.count)
    if config.reward.replay:
        loss = loss + _replayed(model, texts, rewards)
    slower = (config.policy_lr / optimizer.train.lr if config.policy_lr else 1.0) * 0.5 ** int(model.rewinds)
    # the mean over texts has no bias; that over tokens, whose number is random too, is the usual one
    count = len(drawn.inputs) if kl_weight else drawn.count
    noted = {
        "reward": rewards.mean(),
        "reward_sd": rewards.std(correction=0),
        "entropy": -log_probs.mean(),
        "kl": kl,
        "length": texts.lengths.float().mean(),
    }
    done = update(optimizer, (loss, count), step, weight=slower, noted=noted)
    if config.reward.kl_target:
        # proportional control (Ziegler et al. 2019, section 2.2), the error measured before this update
        error = done["kl"] / config.reward.kl_target - 1
        model.kl_weight *= 1 + 0.1 * max(-0.2, min(0.2, error))
    if model.lagged is not None:
        with torch.no_grad():
            for slow, new in zip(model.lagged.parameters(), model.policy.parameters(), strict=True):
                slow.lerp_(new, 1 - config.reward.rollout_lag)
    scalars = {name if name in noted else f"policy_{name}": value for name, value in done.items()}
    model.last_turn.copy_(torch.tensor([scalars[name] for name in TURN]))
    return {**scalars}


def _replayed(model: Model, texts: Texts, rewards: Tensor) -> Tensor | float:
    """Return the loss of the best texts so far, among which those just drawn then are (Oh et al. 2018, without values).

    The mean of the drawn rewards is the baseline; a text below it teaches nothing.
    """
    assert model.best_ids is not None, "made with the model"
    assert model.best_sizes is not None
    assert model.best_rewards is not None
    loss: Tensor | float = 0.0
    kept = [size for size in model.best_sizes.tolist() if size]
    if kept:
        device = texts.ids.device
        lengths = torch.tensor(kept, device=device)
        batch = as_batch(Texts(model.best_ids[: len(kept)].to(device), lengths, kept), model.config.start)
        better = (model.best_rewards[: len(kept)].to(device) - rewards.mean()).clamp(min=0)
        loss = linear_cross_entropy(
            _features(model.policy, batch),
            *_drawing_head(model.policy),
            batch.targets.flatten()[batch.positions],
            row_weights=better.repeat_interleave(lengths),
        )
    rows = [row[:size] for row, size in zip(model.best_ids.tolist(), kept, strict=False)]
    rows += [row[:size] for row, size in zip(texts.ids.tolist(), texts.sizes, strict=True)]
    values = [*model.best_rewards[: len(kept)].tolist(), *rewards.tolist()]
    latest = {tuple(row): value for row, value in zip(rows, values, strict=True)}
    best = sorted(latest.items(), key=lambda pair: -pair[1])[: len(model.best_sizes)]
    for row, (ids, value) in enumerate(best):
        model.best_ids[row] = F.pad(torch.tensor(ids), (0, model.best_ids.shape[1] - len(ids)))
        model.best_sizes[row], model.best_rewards[row] = len(ids), value
    return loss


def _judged(model: Model, texts: Texts) -> tuple[Tensor, Tensor]:
    """Return the rewards of whole texts, (B,), and the advantages of their tokens, (B, T), without gradient."""
    config = model.config.reward
    by_rollouts, low = config.advantage in ("delta", "raw"), config.rollout_precision == "bf16"
    critic = model.critic.frozen(low=low and by_rollouts, tables=by_rollouts)
    score = model.reward(critic)
    rewards = score(texts)
    values: Tensor | None = None
    if by_rollouts:
        values = rollout_values(
            (model.policy if model.lagged is None else model.lagged).stepper(),
            score,
            texts,
            rollouts=config.rollouts,
            start=model.config.start,
            stop=model.config.policy.stop,
            suppress_tokens=model.config.policy.suppress_tokens,
            low=low,
        )
    elif config.advantage == "critic":
        assert model.value_sums is not None, "made with the model"
        features = _value_features(critic.prefix_features(texts.ids, texts.lengths))
        # fitted to earlier texts only, so that the advantage stays unbiased; then these are added
        values = fitted_values(model.value_sums, features)
        at = _places(texts)
        add_to_sums(model.value_sums, features.flatten(0, 1)[at], rewards[at // texts.ids.shape[1]])
    length = max(texts.sizes)
    return rewards, advantages(config.advantage, rewards, texts.lengths, values, gae=config.gae, length=length)


def advantages(
    kind: Advantage,
    rewards_b: Tensor,
    lengths_b: Tensor,
    values_bt: Tensor | None,
    *,
    gae: float = 1.0,
    length: int = 0,
) -> Tensor:
    """Return how much better than expected a text became by each of its tokens, A_t, (B, T); 0 after a text's end.

    raw: Q_t, the mean reward of completions of tokens 0 .. t (`values_bt`), which at the last token is the reward
    itself (Yu et al. 2017). delta: Q_t - Q_(t-1); completions of the shorter prefix do not depend on token t, so they
    are a free baseline; Q_(-1) is the mean reward of the other rows. reinforce_loo: the reward less that mean (Kool et
    al. 2019). critic: the reward less `values_bt`, a prediction from the tokens before t; with gae = lambda < 1
    the sum over l of lambda^l (V_(t+l+1) - V_(t+l)). All but gae < 1 are unbiased. Values are not looked at where a
    text is finished. T is that of `values_bt`, else the `length` of the longest text, 0: not known on the host.
    """
    length = values_bt.shape[1] if values_bt is not None else length or int(lengths_b.max())
    t = torch.arange(length, device=lengths_b.device)
    inside = t < lengths_b[:, None]
    at_end = t == lengths_b[:, None] - 1
    others = (rewards_b.sum() - rewards_b) / max(1, len(rewards_b) - 1)
    if kind == "reinforce_loo" or values_bt is None:
        result = (rewards_b - others)[:, None].expand(-1, length)
    elif kind == "critic":
        after = torch.where(at_end, rewards_b[:, None], F.pad(values_bt[:, 1:], (0, 1)))
        result = torch.where(inside, after - values_bt, 0.0)
        for k in range(length - 2, -1, -1):
            result[:, k] += gae * result[:, k + 1]
    else:
        result = torch.where(at_end, rewards_b[:, None], values_bt)
        if kind == "delta":
            result = result - torch.cat([others[:, None], result[:, :-1]], 1)
    return torch.where(inside, result, 0.0)


def _value_features(seen_btf: Tensor) -> Tensor:
    """What predicts the reward before token t, (B, T, F + 2): what the critic saw of tokens 0 .. t - 1, 1, and t."""
    before = F.pad(seen_btf[:, :-1], (0, 0, 1, 0))
    rows, length, _ = before.shape
    place = torch.linspace(0, 1, length, device=before.device).expand(rows, -1)
    return torch.cat([before, torch.ones_like(place)[..., None], place[..., None]], 2)


def fitted_values(sums: Tensor, features_btf: Tensor) -> Tensor:
    """Apply ridge regression, from the normal equations in `sums` (F, F + 1), to features, (B, T); 0 before any.

    The last two features, a constant and the place, are hardly held back.
    """
    gram, target = sums[:, :-1], sums[:, -1]
    size = gram.diagonal().mean()
    ridge = torch.full_like(target, _RIDGE) * size + 1e-6
    ridge[-2:] = 1e-4 * size + 1e-6
    factor = torch.linalg.cholesky(gram + ridge.diag())
    return features_btf @ torch.cholesky_solve(target[:, None], factor).squeeze(1)


def add_to_sums(sums: Tensor, features_nf: Tensor, rewards_n: Tensor) -> None:
    """Let `sums` forget a little and add these rows."""
    sums *= _KEEP
    sums += features_nf.t() @ torch.cat([features_nf, rewards_n[:, None]], 1)


def kl_gradient(logits_pv: Tensor, reference_pv: Tensor, inside_bt: Tensor) -> tuple[Tensor, Tensor]:
    """Return what adds KL(policy || reference) of whole texts, in nats, to a policy gradient's loss, in full.

    With KL_t the divergence of the next token after t tokens, which is known exactly, the gradient is
    E[sum over t of grad KL_t + (sum over s > t of KL_s) grad log p(x_t | x_<t)]. Returns the second factor, less its
    mean over the other rows, as weights (P,) of the tokens; and a sum whose gradient is the first term. Where the two
    are equal, both are 0 in every bit, so that a constant reward leaves the policy where it is.
    """
    with torch.no_grad():
        log_probs = logits_pv.float().log_softmax(-1)
        ratio = log_probs - reference_pv.float().log_softmax(-1)
        each = (log_probs.exp() * ratio).sum(-1)
        slope = log_probs.exp() * (ratio - each[:, None])
        grid = torch.zeros(inside_bt.shape, device=each.device).masked_scatter(inside_bt, each)
        later = grid.flip(1).cumsum(1).flip(1) - grid
        later -= (later.sum(0) - later) / max(1, len(later) - 1)
    return later[inside_bt], (slope * logits_pv).sum()


def _divergence(logits_pv: Tensor, reference_pv: Tensor) -> Tensor:
    """Sum over positions of KL(policy || language model) of the next token, with gradient, nats."""
    log_probs = logits_pv.float().log_softmax(-1)
    return (log_probs.exp() * (log_probs - reference_pv.float().log_softmax(-1))).sum()


def _inside(texts: Texts) -> Tensor:
    """Return which cells hold a token, (B, T) bool."""
    return torch.arange(texts.ids.shape[1], device=texts.ids.device) < texts.lengths[:, None]


def _places(texts: Texts) -> Tensor:
    """Return the flat indices b * T + t of the cells that hold a token, rising."""
    inside = torch.arange(texts.ids.shape[1]) < torch.tensor(texts.sizes)[:, None]
    return inside.flatten().nonzero().squeeze(1).to(texts.ids.device)


def as_batch(texts: Texts, start: int) -> SequenceBatch:
    """Return the drawn texts as a batch that a language model reads."""
    length = max(texts.sizes)
    targets = texts.ids[:, :length]
    return SequenceBatch(
        inputs=F.pad(targets[:, :-1], (1, 0), value=start),
        targets=targets,
        positions=_places(replace(texts, ids=targets)),
        lengths=texts.lengths,
        rows=torch.arange(len(targets), device=targets.device),
        known=torch.tensor(texts.sizes).expand(2, -1),
    )


def _features(policy: lm.Model, batch: SequenceBatch) -> Tensor:
    """What the output layer multiplies at every counted position, (P, H), without dropout: the policy as it draws."""
    training = policy.training
    policy.eval()
    policy.rnn.layers.train()  # cuDNN wants this mode of layers that are to be differentiated
    hidden_bth, _ = policy.scan(batch.inputs)
    policy.train(training)
    return policy.features(hidden_bth.flatten(0, 1)[batch.positions])


def _drawing_head(policy: lm.Model) -> tuple[Tensor, Tensor]:
    """Return the output layer without the tokens that are never drawn, so that probabilities are those of drawing.

    Large and finite in the place of minus infinity: nothing times it is nothing, not NaN.
    """
    weight, bias = policy.head()
    suppress_tokens = torch.tensor(policy.config.suppress_tokens, dtype=torch.int64, device=bias.device)
    return weight, bias.index_fill(0, suppress_tokens, -1e4)


def _plain(device: torch.device) -> torch.autocast:
    """Hold drawing and scoring of texts to float32, whatever the precision of training."""
    return torch.autocast(device.type, enabled=False)


# -------------------------------------------------------------------------------------------------------- validation


def validate(model: Model, batch: SequenceBatch) -> dict[str, tuple[Tensor | float, Tensor | int]]:
    """Return the policy's nll of counted tokens in nats, and the critic's probability that held-out text is real."""
    scores: dict[str, tuple[Tensor | float, Tensor | int]] = {"nll": (-model.log_probs(batch).sum(), batch.count)}
    if bool(model.began) and model.config.critic.loss == "bce":
        texts = _written(batch)
        scores["critic_on_real"] = (torch.sigmoid(model.critic(texts.ids, texts.lengths)).sum(), len(texts.ids))
    return scores


def observe(model: Model, scores: dict[str, Any]) -> dict[str, Any]:
    """Decide after the phase mle: {"best": the policy is healthy, "event": what was seen or done}.

    Held-out likelihood falls in adversarial training even where texts become better, so the best policy is the latest
    healthy one. Signs of collapse, against the language model at its end: held-out nats per token, the share of texts
    that are unique, Self-BLEU-4. On collapse the policy goes back to the last healthy one and learns half as fast from
    then on.
    """
    if not bool(model.began):
        return {}
    now = [float(scores.get(name, math.nan)) for name in ("nll_per_token", "unique", "self_bleu_4")]
    if bool(model.at_start[0].isnan()):
        model.at_start.copy_(torch.tensor(now))
    nll, unique, self_bleu = now
    nll_before, unique_before, self_bleu_before = model.at_start.tolist()
    # sign, how far it went, where a warning begins and where the run goes back
    signs = [
        ("rise of held-out nats per token", nll - nll_before, 0.3, 1.0),
        ("share of unique texts lost", 1 - unique / unique_before if unique_before else math.nan, 0.05, 0.3),
        ("rise of Self-BLEU-4", self_bleu - self_bleu_before, 0.15, 0.3),
    ]
    warned = [f"{name} {value:.2f} (limit {limit})" for name, value, warning, limit in signs if value >= warning]
    collapsed = any(value >= limit for _, value, _, limit in signs) or not math.isfinite(nll)
    if collapsed and model.config.alarm:
        model.copy_policy(model.healthy, model.policy, model.lagged)
        model.forget_negatives()
        model.rewinds += 1
        what = "back to the last healthy policy, which now learns half as fast"
        return {"best": False, "event": f"collapse: {', '.join(warned)}; {what}"}
    if collapsed:
        return {"best": False, "event": f"collapse: {', '.join(warned)}; model.alarm is off"}
    model.copy_policy(model.policy, model.healthy)
    return {"best": True, **({"event": f"near collapse: {', '.join(warned)}"} if warned else {})}
