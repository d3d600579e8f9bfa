"""Training the paper's critic (12 widths, 1,720 filters, B 64, T 20): forward and backward, against `Conv2d`.

Run: scripts/bench.py critic-train
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from measure import has_bf16_units, ratios, row
from seqgan_usual import PAPER, VOCAB, UsualCritic, critics
from torch import Tensor

from seqgen.nn.textcnn import CnnCritic

ROWS, LENGTH = 64, 20


def critic_train(quick: bool) -> Iterator[dict[str, object]]:
    usual, ours = critics(*PAPER)
    ids, lengths = torch.randint(VOCAB, (ROWS, LENGTH)), torch.full((ROWS,), LENGTH)
    labels = (torch.arange(ROWS) % 2).float()
    gate = equal(usual, ours, ids, lengths, labels)
    usual.train()
    ours.train()
    for case, low, floor in (("fp32", False, 1.8), ("bf16", True, 2.6)):
        if low and not has_bf16_units():
            yield row("critic-train", case, [0.0], floor, "no bf16 units")
            continue
        values = ratios(
            step(lambda: usual(ids), list(usual.parameters()), labels, low=False),
            step(lambda: ours(ids, lengths), list(ours.parameters()), labels, low=low),
            rounds=11 if quick else 31,
        )
        yield row("critic-train", case, values, floor, gate)


def step(
    logits: Callable[[], Tensor], parameters: Sequence[Tensor], labels: Tensor, *, low: bool
) -> Callable[[], object]:
    def work() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = F.binary_cross_entropy_with_logits(logits().float(), labels)
        return torch.autograd.grad(loss, parameters)

    return work


def equal(usual: UsualCritic, ours: CnnCritic, ids: Tensor, lengths: Tensor, labels: Tensor) -> str:
    """ "ok" if logits and the gradients of embedding and filters agree to 1e-5 of their size."""
    pairs = []
    for model, logits in ((usual, usual(ids)), (ours, ours(ids, lengths))):
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        if isinstance(model, UsualCritic):
            of = [model.embedding.weight, *(c.weight for c in model.convolutions)]
        else:
            of = [model.embedding.weight, *model.filters]
        pairs.append([logits.detach(), *torch.autograd.grad(loss, of)])
    for a, b in zip(*pairs, strict=True):
        b = b[: len(a)] if a.dim() == 2 else b.t().reshape(a.shape) if a.dim() == 4 else b
        if float((a - b).abs().max()) > 1e-5 * float(a.abs().max()):
            return f"differ by {float((a - b).abs().max() / a.abs().max()):.1e}"
    return "ok"


BENCHES = {"critic-train": critic_train}
