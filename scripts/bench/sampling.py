"""Sampling from an LSTM language model (V 8000, E 256, H 512, fp32) against an `LSTMCell` + `multinomial` loop.

Decoders are made beforehand, as a writer or a server keeps them: some milliseconds, in the fast mode 0.1 s.
"""

import math
from collections.abc import Iterator

import torch
from measure import has_bf16_units, ratios, row
from torch import Tensor, nn

from seqgen.core.options import Sampling
from seqgen.core.rng import text_seeds
from seqgen.models import lm
from seqgen.nn.decode import Decoder

VOCAB, EMBEDDING, HIDDEN = 8000, 256, 512


class Usual(nn.Module):
    """The usual way: one LSTMCell step, one linear layer, softmax, multinomial."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, EMBEDDING)
        self.cell = nn.LSTMCell(EMBEDDING, HIDDEN)
        self.output = nn.Linear(HIDDEN, VOCAB)

    @torch.inference_mode()
    def sample(self, rows: int, length: int) -> Tensor:
        """Ids (rows, length)."""
        ids = torch.zeros(rows, dtype=torch.int64)
        h = c = torch.zeros(rows, HIDDEN)
        texts = []
        for _ in range(length):
            h, c = self.cell(self.embedding(ids), (h, c))
            ids = torch.multinomial(torch.softmax(self.output(h), -1), 1).squeeze(1)
            texts.append(ids)
        return torch.stack(texts, 1)


def both() -> tuple[Usual, lm.Model]:
    """The two implementations with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        usual = Usual()
        usual.output.weight.data *= 20  # logits as spread as a trained model's
        model = lm.Model(
            lm.Config(embedding=EMBEDDING, hidden=HIDDEN, tied=False, vocab_size=VOCAB, max_length=1000)
        ).eval()
    with torch.no_grad():
        model.embedding.weight.copy_(usual.embedding.weight)
        layer = model.rnn.layers[0]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(layer, f"{name}_l0").copy_(getattr(usual.cell, name))
        model.output_weight.copy_(usual.output.weight)
        model.output_bias.copy_(usual.output.bias)
    return usual, model


def chi_square(usual: Usual, decoder: Decoder, *, rows: int) -> str:
    """40,000 first tokens against the softmax they come from: "ok", or the z that is out of bounds."""
    draws = 40_000
    with torch.inference_mode():
        h, _ = usual.cell(usual.embedding(torch.zeros(1, dtype=torch.int64)))
        expected = torch.softmax(usual.output(h), -1)[0].double() * draws
    seeds = text_seeds(5, 0, draws)
    counts = torch.zeros(VOCAB, dtype=torch.float64)
    for part in seeds.split(rows):
        for step in decoder.steps([[0]] * len(part), part, Sampling(max_new_tokens=1)):
            counts += step.ids.bincount(minlength=VOCAB)
    # cells with few expected draws are joined into one
    large = expected >= 5
    e = torch.cat([expected[large], expected[~large].sum()[None]])
    o = torch.cat([counts[large], counts[~large].sum()[None]])
    freedom = len(e) - 1
    z = float((((o - e) ** 2 / e).sum() - freedom) / math.sqrt(2 * freedom))
    return "ok" if abs(z) < 4 else f"chi-square z = {z:.1f}"


def timed(usual: Usual, decoder: Decoder, *, rows: int, length: int, rounds: int) -> list[float]:
    prompts, seeds, options = [[0]] * rows, text_seeds(0, 0, rows), Sampling(max_new_tokens=length)
    return ratios(lambda: usual.sample(rows, length), lambda: decoder.decode(prompts, seeds, options), rounds=rounds)


def sampling(quick: bool) -> Iterator[dict[str, object]]:
    usual, model = both()
    for case, rows, length, decoder, floor in (
        ("batch64", 64, 50, model.decoder(), 3.5),
        ("batch64 in bf16", 64, 50, model.decoder(precision="bf16"), 5.0),
        ("batch512", 512, 10, model.decoder(), None),
        ("batch1 in the fast mode", 1, 300, model.decoder(fast=True), 1.8),
        ("batch1 in the default mode", 1, 300, model.decoder(), 1.0),
    ):
        if "bf16" in case and not has_bf16_units():
            yield row("sampling", case, [0.0], floor, "no bf16 units")
            continue
        values = timed(usual, decoder, rows=rows, length=length, rounds=5 if quick else 11)
        gate = chi_square(usual, decoder, rows=max(rows, 64))  # 40,000 calls of one row would take a minute
        yield row("sampling", case, values, floor, gate)


BENCHES = {"sampling": sampling}
