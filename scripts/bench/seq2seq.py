"""A translation step on batches sorted by length against one on rows padded to the longest, as tutorials write it.

Both have the same weights: a bidirectional LSTM, Luong's attention with input feeding, tied embeddings. The plain one
takes rows in random order, each side padded to the longest of the corpus, packs the source for the encoder, steps an
`LSTMCell`, takes cross-entropy of all logits with padding ignored, and torch's AdamW. Lengths are those of captions:
some 13 tokens, the longest three times as many.
Run: scripts/bench.py seq2seq-step
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from lm_train import TRAIN
from measure import has_bf16_units, ratios, row
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqgen.data.batches import SentenceBatches
from seqgen.data.corpus import Corpus
from seqgen.data.ragged import Ragged
from seqgen.models import seq2seq

VOCAB, WIDE, SIZE, ROWS = 6000, 256, 256, 64
START, STOP, SEP = 2, 3, 4


class Usual(nn.Module):
    """Encoder, attention and decoder, the usual way."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDE, padding_idx=0)
        self.encoder = nn.LSTM(WIDE, SIZE // 2, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(SIZE, SIZE)
        self.cell = nn.LSTMCell(2 * WIDE, SIZE)
        self.keys, self.combine = nn.Linear(SIZE, SIZE, bias=False), nn.Linear(2 * SIZE, WIDE, bias=False)
        self.output = nn.Linear(WIDE, VOCAB)
        self.output.weight = self.embedding.weight

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean nll of target tokens, both (B, longest) with 0 behind their end."""
        lengths = (source > 0).sum(1)
        packed = pack_padded_sequence(
            self.embedding(source) * WIDE**0.5, lengths, batch_first=True, enforce_sorted=False
        )
        out, (ends, _) = self.encoder(packed)
        values, _ = pad_packed_sequence(out, batch_first=True, total_length=source.shape[1])
        c = self.bridge(torch.cat([ends[0], ends[1]], 1))
        h, vector, logits = c.tanh(), values.new_zeros(len(source), WIDE), []
        keys, hidden = self.keys(values), source == 0
        words = self.embedding(target) * WIDE**0.5
        for t in range(target.shape[1] - 1):
            h, c = self.cell(torch.cat([words[:, t], vector], 1), (h, c))
            scores = (keys @ h[:, :, None])[:, :, 0].masked_fill(hidden, -torch.inf)
            context = (scores.softmax(1)[:, None] @ values)[:, 0]
            vector = torch.tanh(self.combine(torch.cat([context, h], 1)))
            logits.append(self.output(vector))
        return F.cross_entropy(torch.stack(logits, 1).flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)


def both() -> tuple[Usual, seq2seq.Model]:
    """The two with the same weights."""
    plain = {"input_dropout": 0.0, "hidden_dropout": 0.0, "output_dropout": 0.0, "label_smoothing": 0.0}
    config = seq2seq.Config(embedding=WIDE, hidden=SIZE, vocab_size=VOCAB, sep=SEP, **plain)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        usual, model = Usual(), seq2seq.Model(config)
    theirs = dict(usual.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            name = name.replace("encoder.0.0.layers.0.", "encoder.").replace("decoder_rnn.layers.0.", "cell.")
            if name.startswith("encoder.0.1."):
                name = name.replace("encoder.0.1.layers.0.", "encoder.") + "_reverse"
            if name.startswith("cell."):
                name = name.removesuffix("_l0")
            theirs[name.replace("output_bias", "output.bias")].copy_(parameter)
    return usual, model


def pairs(count: int) -> list[tuple[list[int], list[int]]]:
    """Sources and targets whose lengths are like those of captions and go together."""
    draws = torch.Generator().manual_seed(2)
    found = []
    for _ in range(count):
        size = float(torch.exp(2.5 + 0.33 * torch.randn((), generator=draws)))
        s, t = (max(3, int(size * (1 + 0.1 * float(torch.randn((), generator=draws))))) for _ in range(2))
        tokens = torch.randint(5, VOCAB, (s + t,), generator=draws).tolist()
        found.append(([START, *tokens[:s], SEP], [*tokens[s:], STOP]))
    return found


def seq2seq_step(quick: bool) -> Iterator[dict[str, object]]:
    rows, steps = pairs(2048), 2 if quick else 6
    usual, model = both()
    corpus = Corpus(Ragged.from_lists([s + t for s, t in rows]), torch.tensor([len(s) - 1 for s, _ in rows]), "")
    batches = SentenceBatches(corpus, ROWS, pad=0, seed=1)
    longest = [max(len(pair[side]) for pair in rows) for side in (0, 1)]

    def padded(numbers: list[int]) -> tuple[Tensor, Tensor]:
        source, target = (torch.zeros(len(numbers), size, dtype=torch.int64) for size in (longest[0], longest[1] + 1))
        for n, number in enumerate(numbers):
            one, other = rows[number]
            source[n, : len(one)] = torch.tensor(one)
            target[n, : len(other) + 1] = torch.tensor([SEP, *other])
        return source, target

    batch = batches.at(0)
    with torch.no_grad():
        ours, theirs = model.loss(batch)[1] / batch.count, usual.loss(*padded(batch.rows.tolist()))
    gate = "ok" if abs(float(ours - theirs)) < 1e-4 else f"nll is {float(ours):.6f}, expected {float(theirs):.6f}"
    torchs = torch.optim.AdamW(usual.parameters(), TRAIN.lr, (TRAIN.beta1, TRAIN.beta2), weight_decay=0.0)
    optimizers = seq2seq.optimizers(model.train(), TRAIN)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3)).tolist()
    for name, bf16 in (("fp32", False), ("bf16", True)):

        def usual_steps(bf16: bool = bf16) -> None:
            for step in range(steps):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = usual.loss(*padded(order[step * ROWS : (step + 1) * ROWS]))
                torchs.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(usual.parameters(), TRAIN.clip)
                torchs.step()

        def our_steps(bf16: bool = bf16) -> None:
            for step in range(steps):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    seq2seq.train_step(model, optimizers, batches.at(step), step)

        found = "no bf16 units" if bf16 and not has_bf16_units() else gate
        values = ratios(usual_steps, our_steps, rounds=1 if quick else 5)
        yield row("seq2seq-step", name, values, 2.0, found) | {"rows": ROWS, "longest": longest}


BENCHES = {"seq2seq-step": seq2seq_step}
