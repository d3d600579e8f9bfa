"""A training step of an LSTM language model (E = H = 512, tied, 512 tokens) against `nn.LSTM` + `cross_entropy`.

Both sides do the whole step: forward, backward, clipping, AdamW. The "fp32" gate also holds the output layer to a third
of the usual one's peak memory (V 32,000, 2,048 tokens), each measured in a process of its own.
"""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import has_bf16_units, ratios, row
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.update import Optimizer
from seqgen.models import lm
from seqgen.nn.losses import linear_cross_entropy

SIZE, ROWS, LENGTH = 512, 16, 32
STATUS = Path("/proc/self/status")
TRAIN = Train(optimizer="adamw", lr=1e-3, schedule="constant", clip=1.0)


class Usual(nn.Module):
    """The usual way: embedding, nn.LSTM, a tied linear layer, cross-entropy over all logits."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, SIZE)
        self.lstm = nn.LSTM(SIZE, SIZE, batch_first=True)
        self.output = nn.Linear(SIZE, vocab)
        self.output.weight = self.embedding.weight

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nll."""
        hidden, _ = self.lstm(self.embedding(inputs))
        return F.cross_entropy(self.output(hidden).flatten(0, 1), targets.flatten())


def usual_step(model: Usual, inputs: Tensor, targets: Tensor) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), TRAIN.lr, (TRAIN.beta1, TRAIN.beta2), weight_decay=0.0)

    def step() -> float:
        loss = model.loss(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), TRAIN.clip)
        optimizer.step()
        return loss.item()

    return step


def our_step(model: lm.Model, batch: SequenceBatch, *, bf16: bool) -> Callable[[], float]:
    optimizers = lm.optimizers(model, TRAIN)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return float(lm.train_step(model, optimizers, batch, 0)["loss"])

    return step


def both(vocab: int) -> tuple[Usual, lm.Model, SequenceBatch]:
    """The two models with the same weights, and a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        usual = Usual(vocab)
        nn.init.uniform_(usual.embedding.weight, -0.1, 0.1)
        ids = torch.randint(vocab, (ROWS, LENGTH + 1))
    config = lm.Config(
        embedding=SIZE, hidden=SIZE, input_dropout=0.0, hidden_dropout=0.0, output_dropout=0.0, vocab_size=vocab
    )
    model = lm.Model(config).train()
    model.rnn.layers[0].load_state_dict(usual.lstm.state_dict())
    with torch.no_grad():
        model.embedding.weight.copy_(usual.embedding.weight)
        model.output_bias.copy_(usual.output.bias)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    batch = SequenceBatch(inputs, targets, torch.arange(ROWS * LENGTH), torch.full((ROWS,), LENGTH), torch.arange(ROWS))
    return usual, model, batch


def gradients_agree(usual: Usual, model: lm.Model, batch: SequenceBatch, tolerance: float, *, bf16: bool) -> str:
    """ "ok", or how far our gradient is from the usual one, in parts of its norm."""
    expected = torch.autograd.grad(usual.loss(batch.inputs, batch.targets), list(usual.parameters()))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, _, _ = model.loss(batch)
    names = [name for name, _ in model.named_parameters()]
    ours = dict(zip(names, torch.autograd.grad(loss / batch.count, list(model.parameters())), strict=True))
    theirs = dict(zip((name for name, _ in usual.named_parameters()), expected, strict=True))
    pairs = {"embedding.weight": "embedding.weight", "output_bias": "output.bias"}
    pairs |= {f"rnn.layers.0.{name}": f"lstm.{name}" for name in usual.lstm.state_dict()}
    for mine, other in pairs.items():
        error = float((ours[mine] - theirs[other]).norm() / theirs[other].norm())
        if error > tolerance:
            return f"gradient of {mine} is off by {error:.1e} of its norm"
    return "ok"


def updates_agree(model: lm.Model) -> str:
    """ "ok", or how far three of our AdamW steps lead from torch's, in parts of what they change."""
    mine, theirs = ([nn.Parameter(p.detach().clone()) for p in model.parameters()] for _ in range(2))
    ours = Optimizer(((str(i), p) for i, p in enumerate(mine)), TRAIN)
    torchs = torch.optim.AdamW(theirs, TRAIN.lr, (TRAIN.beta1, TRAIN.beta2), weight_decay=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for step in range(3):
            gradients = [torch.randn_like(p) for p in mine]
            ours.apply(list(range(len(mine))), gradients, step, 1.0)
            for p, gradient in zip(theirs, gradients, strict=True):
                p.grad = gradient
            torchs.step()
    for a, b, start in zip(mine, theirs, model.parameters(), strict=True):
        error = float((a - b).detach().norm() / (b - start).detach().norm())
        if error > 1e-4:
            return f"the weights after three steps are off by {error:.1e} of what they changed"
    return "ok"


def output_layer(side: str) -> None:
    """Loss and gradients of one output layer at V 32,000 and 2,048 tokens; prints the peak it added, in MiB."""
    torch.set_num_threads(1)
    hidden = torch.randn(2048, SIZE, requires_grad=True)
    weight = torch.randn(32_000, SIZE).mul_(0.05).requires_grad_()
    targets = torch.randint(32_000, (2048,))

    def run(rows: int) -> None:
        if side == "usual":
            loss = F.cross_entropy(F.linear(hidden[:rows], weight), targets[:rows], reduction="sum")
        else:
            loss = linear_cross_entropy(hidden[:rows], weight, None, targets[:rows])
        torch.autograd.grad(loss, (hidden, weight))

    def peak() -> float:
        # not getrusage: its maximum survives exec, so a child would start from its parent's
        return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 1024

    run(1)  # the libraries' own buffers
    base = peak()
    run(2048)
    print(peak() - base)


def memory_share() -> float:
    """Our output layer's peak memory as a share of the usual one's; NaN where the system does not tell."""
    if not STATUS.exists():
        return math.nan
    peaks = []
    for side in ("ours", "usual"):
        command = [sys.executable, __file__, side]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return peaks[0] / peaks[1]


def lm_train(quick: bool) -> Iterator[dict[str, object]]:
    rounds = 5 if quick else 11
    share = memory_share()
    for vocab in (8_000, 32_000):
        usual, model, batch = both(vocab)
        for name, bf16, floor in (("fp32", False, 1.15), ("bf16", True, 1.9)):
            if bf16 and not has_bf16_units():
                yield row("lm-train", f"{name} V={vocab}", [0.0], floor, "no bf16 units")
                continue
            gate = gradients_agree(usual, model, batch, 0.05 if bf16 else 1e-5, bf16=bf16)
            if gate == "ok":
                gate = updates_agree(model)
            if not bf16 and not share <= 1 / 3:
                gate = f"the output layer's peak memory is {share:.2f} of the usual one's, more than a third"
            steps = usual_step(usual, batch.inputs, batch.targets), our_step(model, batch, bf16=bf16)
            values = ratios(*steps, rounds=rounds)
            more = {"tokens": ROWS * LENGTH} | ({} if bf16 else {"memory_share": round(share, 3)})
            yield row("lm-train", f"{name} V={vocab}", values, floor, gate) | more


BENCHES = {"lm-train": lm_train}

if __name__ == "__main__":
    output_layer(sys.argv[1])
