"""The text VAE (V 10,000, E = H = 256, Z 32) against the usual way: a training step, and importance-weighted nll.

Lengths are those of SNLI's sentences in words, which the models' own table is made of, where SEQGEN_DATA has them, else
like them (log-normal); the longest of them is what the usual way pads to.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import has_bf16_units, ratios, row
from nll import evaluation_batches
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.config import Train
from seqgen.core.rng import generator
from seqgen.models import text_vae

VOCAB, SIZE, LATENT, ROWS = 10_000, 256, 32, 32
MEAN_LOG, SPREAD, LONGEST = 2.31, 0.36, 63  # of the lengths of SNLI sentences
TRAIN = Train(optimizer="sgd", lr=0.1, schedule="constant", clip=5.0)
CONFIG = text_vae.Config(
    embedding=SIZE, hidden=SIZE, latent=LATENT, tied=False, pool="last", input_dropout=0.0, output_dropout=0.0,
    hidden_dropout=0.0, vocab_size=VOCAB,
)  # fmt: skip


class Usual(nn.Module):
    """The usual way: rows as they come, padded to the longest line, cross-entropy that ignores the padding."""

    def __init__(self, ours: text_vae.Model) -> None:
        super().__init__()
        self.read_embedding, self.write_embedding = nn.Embedding(VOCAB, SIZE), nn.Embedding(VOCAB, SIZE)
        self.reader, self.generator = (nn.LSTM(SIZE, SIZE, batch_first=True) for _ in range(2))
        self.to_posterior, self.to_state = nn.Linear(SIZE, 2 * LATENT), nn.Linear(LATENT, SIZE)
        self.to_input, self.output = nn.Linear(LATENT, SIZE, bias=False), nn.Linear(SIZE, VOCAB)
        pairs = {
            self.read_embedding: ours.encoder_embedding, self.write_embedding: ours.lm.embedding,
            self.reader: ours.encoder[0].layers[0], self.generator: ours.lm.rnn.layers[0],  # type: ignore[index, union-attr]
            self.to_posterior: ours.to_posterior, self.to_state: ours.to_state, self.to_input: ours.to_input,
        }  # fmt: skip
        for mine, other in pairs.items():
            mine.load_state_dict(other.state_dict())
        with torch.no_grad():
            assert ours.lm.output_weight is not None
            self.output.weight.copy_(ours.lm.output_weight)
            self.output.bias.copy_(ours.lm.output_bias)

    def encode(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        hidden, _ = self.reader(self.read_embedding(inputs))
        mean, log_variance = self.to_posterior(hidden[torch.arange(len(hidden)), lengths - 1]).chunk(2, 1)
        return mean, log_variance.clamp_min(-12)

    def logits(self, inputs: Tensor, latents: Tensor) -> Tensor:
        """(B, T, V)."""
        cell = self.to_state(latents)[None]
        x = self.write_embedding(inputs) + self.to_input(latents)[:, None]
        return self.output(self.generator(x, (cell.tanh(), cell))[0])  # type: ignore[no-any-return]

    def loss(self, inputs: Tensor, targets: Tensor, lengths: Tensor, noise: Tensor) -> Tensor:
        """-ELBO of the batch in nats."""
        mean, log_variance = self.encode(inputs, lengths)
        logits = self.logits(inputs, mean + (0.5 * log_variance).exp() * noise)
        reconstruction = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
        return reconstruction + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()


def sentence_lengths(count: int) -> tuple[Tensor, int, str]:
    """Predicted tokens of `count` lines (their end included) and of the longest line, and where they come from."""
    path = Path(os.environ.get("SEQGEN_DATA", "")) / "text" / "snli" / "test.txt"
    if "SEQGEN_DATA" in os.environ and path.exists():
        lengths = torch.tensor([len(line.split()) + 1 for line in path.read_text(encoding="utf-8").splitlines()])
        return lengths[:count], int(lengths.max()), "SNLI sentences"
    drawn = torch.randn(count, generator=generator("sentence lengths")).mul(SPREAD).add(MEAN_LOG).exp()
    return drawn.round().long().clamp(3, LONGEST), LONGEST, "like SNLI sentences"


def both() -> tuple[text_vae.Model, Usual]:
    """The two models with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ours = text_vae.Model(CONFIG)
        return ours, Usual(ours)


def bucketed(ids: Tensor, lengths: Tensor, order: Tensor) -> Iterator[SequenceBatch]:
    """Batches of rows in this order, each as wide as its longest."""
    for rows in order.split(ROWS):
        width = int(lengths[rows].max())
        cut = ids[rows, : width + 1]
        positions = (torch.arange(width) < lengths[rows, None]).flatten().nonzero().squeeze(1)
        yield SequenceBatch(cut[:, :-1], cut[:, 1:], positions, lengths[rows], rows)


def vae_step(quick: bool) -> Iterator[dict[str, object]]:
    model, usual = both()
    lengths, longest, origin = sentence_lengths(ROWS * (8 if quick else 24))
    ids = torch.randint(5, VOCAB, (len(lengths), longest + 1), generator=generator("ids"))
    real = torch.arange(longest) < lengths[:, None]
    inputs, targets = ids[:, :-1].where(real, 0), ids[:, 1:].where(real, -1)

    noise = torch.randn(len(ids), LATENT, generator=generator("noise"))
    with torch.no_grad():
        expected = sum(float(usual.loss(*part)) for part in _parts(inputs, targets, lengths, noise))
        found = 0.0
        for batch in bucketed(ids, lengths, lengths.argsort(stable=True)):
            reconstruction, kl, _ = model.terms(batch, noise[batch.rows])
            found += float(reconstruction + kl.sum())
    error = abs(found / expected - 1)
    gate = "ok" if error < 1e-5 else f"the loss is off by {error:.1e} of its value"

    optimizer = torch.optim.SGD(usual.parameters(), TRAIN.lr)

    def usual_epoch() -> None:
        for part in _parts(inputs, targets, lengths, None):
            loss = usual.loss(*part) / int(part[2].sum())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(usual.parameters(), TRAIN.clip)
            optimizer.step()

    optimizers = text_vae.optimizers(model, TRAIN)
    batches = list(bucketed(ids, lengths, lengths.argsort(stable=True)))
    for name, bf16, floor in (("fp32", False, 5.0), ("bf16", True, 5.0)):
        if bf16 and not has_bf16_units():
            yield row("vae-step", name, [0.0], floor, "no bf16 units")
            continue

        def our_epoch(bf16: bool = bf16) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                for step, batch in enumerate(batches):
                    text_vae.train_step(model.train(), optimizers, batch, step)

        values = ratios(usual_epoch, our_epoch, rounds=3 if quick else 7)
        padding = 1 - float(lengths.sum()) / targets.numel()
        yield row("vae-step", name, values, floor, gate) | {"lengths": origin, "padding": round(padding, 2)}


def _parts(
    inputs: Tensor, targets: Tensor, lengths: Tensor, noise: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    drawn = torch.randn(len(inputs), LATENT) if noise is None else noise
    yield from zip(*(part.split(ROWS) for part in (inputs, targets, lengths, drawn)), strict=True)


def vae_iwnll(quick: bool) -> Iterator[dict[str, object]]:
    """`samples` latents of a text: all at once from one encoding, against one after the other, each from its own."""
    model, usual = both()
    model.eval()
    samples = 10 if quick else 30
    lengths, longest, origin = sentence_lengths(64 if quick else 128)
    ids = torch.randint(5, VOCAB, (len(lengths), longest + 1), generator=generator("ids"))
    real = torch.arange(longest) < lengths[:, None]
    inputs, targets = ids[:, :-1].where(real, 0), ids[:, 1:]
    noise = torch.empty(samples, len(ids), LATENT)
    for batch in evaluation_batches(ids, lengths):
        seeds = text_vae.content_seeds(batch)
        for k in range(samples):
            noise[k, batch.rows] = text_vae.normals(seeds, LATENT, stream=k).float()

    @torch.inference_mode()
    def theirs() -> float:
        total = 0.0
        for rows in torch.arange(len(ids)).split(ROWS):
            weights = []
            for k in range(samples):
                mean, log_variance = usual.encode(inputs[rows], lengths[rows])
                latents = mean + (0.5 * log_variance).exp() * noise[k, rows]
                log_probs = usual.logits(inputs[rows], latents).log_softmax(-1)
                given = (log_probs.gather(2, targets[rows, :, None]).squeeze(2) * real[rows]).sum(1)
                ratio = 0.5 * (noise[k, rows].square() + log_variance - latents.square()).sum(1)
                weights.append(given + ratio)
            total += float((math.log(samples) - torch.stack(weights).double().logsumexp(0)).sum())
        return total

    @torch.inference_mode()
    def ours() -> float:
        return sum(float(model.nll(batch, samples).sum()) for batch in evaluation_batches(ids, lengths))

    error = abs(ours() / theirs() - 1)
    gate = "ok" if error < 1e-5 else f"nll is off by {error:.1e} of its value"
    values = ratios(theirs, ours, rounds=3 if quick else 5)
    yield row("vae-iwnll", f"K={samples}", values, 4.0, gate) | {"lengths": origin}


BENCHES = {"vae-step": vae_step, "vae-iwnll": vae_iwnll}
