"""The nll of held-out sentences (V 10,000, E = H = 256) against padding to the longest line with full log-softmax.

Lengths are those of COCO captions in words where SEQGEN_DATA has them, else like them (log-normal, 5 to 36).
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from measure import has_bf16_units, ratios, row
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.rng import generator
from seqgen.models import lm

VOCAB, SIZE, ROWS = 10_000, 256, 32


class Usual(nn.Module):
    """The usual way: rows in the order of the file, padded to the longest line, log-softmax everywhere, then a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, SIZE)
        self.lstm = nn.LSTM(SIZE, SIZE, batch_first=True)
        self.output = nn.Linear(SIZE, VOCAB)

    @torch.inference_mode()
    def nll(self, ids: Tensor, lengths: Tensor) -> float:
        """Summed nll of rows (R, T + 1) padded to the longest."""
        total = 0.0
        for rows, real in zip(ids.split(ROWS), lengths.split(ROWS), strict=True):
            hidden, _ = self.lstm(self.embedding(rows[:, :-1]))
            log_probs = self.output(hidden).log_softmax(-1).gather(2, rows[:, 1:, None]).squeeze(2)
            mask = torch.arange(log_probs.shape[1]) < real[:, None]
            total -= float((log_probs * mask).sum(dtype=torch.float64))
        return total


def caption_lengths(count: int) -> tuple[Tensor, int, str]:
    """Predicted tokens of `count` lines (their end included) and of the longest line, and where they come from."""
    path = Path(os.environ.get("SEQGEN_DATA", "")) / "text" / "image-coco" / "test.txt"
    if "SEQGEN_DATA" in os.environ and path.exists():
        lengths = torch.tensor([len(line.split()) + 1 for line in path.read_text(encoding="utf-8").splitlines()])
        return lengths[:count], int(lengths.max()), "COCO captions"
    drawn = torch.randn(count, generator=generator("caption lengths")).mul(0.25).add(math.log(11.5)).exp()
    return drawn.round().long().clamp(5, 36), 36, "like captions"


def evaluation_batches(ids: Tensor, lengths: Tensor) -> Iterator[SequenceBatch]:
    """Rows sorted by length, 64 at a time, as the data room cuts them for validation."""
    for rows in lengths.argsort(stable=True).split(64):
        width = int(lengths[rows].max())
        cut = ids[rows, : width + 1]
        real = torch.arange(width) < lengths[rows, None]
        positions = real.flatten().nonzero().squeeze(1)
        yield SequenceBatch(cut[:, :-1], cut[:, 1:], positions, lengths[rows], rows)


def nll(quick: bool) -> Iterator[dict[str, object]]:
    usual = Usual()
    config = lm.Config(embedding=SIZE, hidden=SIZE, tied=False, vocab_size=VOCAB)
    model = lm.Model(config).eval()
    model.rnn.layers[0].load_state_dict(usual.lstm.state_dict())
    with torch.no_grad():
        model.embedding.weight.copy_(usual.embedding.weight)
        model.output_weight.copy_(usual.output.weight)
        model.output_bias.copy_(usual.output.bias)
    lengths, longest, origin = caption_lengths(320 if quick else 1000)
    ids = torch.randint(VOCAB, (len(lengths), longest + 1), generator=generator("ids"))

    @torch.inference_mode()
    def ours() -> float:
        return sum(float(lm.validate(model, batch)["nll"][0]) for batch in evaluation_batches(ids, lengths))

    # the reference is float64 throughout
    reference = Usual().double()
    reference.load_state_dict(usual.state_dict())
    error = abs(ours() / reference.nll(ids, lengths) - 1)
    gate = "ok" if error < 1e-5 else f"nll is off by {error:.1e} of its value"
    for name, bf16, floor in (("fp32", False, 3.5), ("bf16", True, None)):
        if bf16 and not has_bf16_units():
            continue

        def work(bf16: bool = bf16) -> float:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return ours()

        values = ratios(lambda: usual.nll(ids, lengths), work, rounds=5 if quick else 11)
        padding = 1 - float(lengths.sum()) / ids[:, 1:].numel()
        yield row("nll", name, values, floor, gate) | {"lengths": origin, "padding": round(padding, 2)}


BENCHES = {"nll": nll}
