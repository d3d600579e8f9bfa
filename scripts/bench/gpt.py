"""A Transformer of characters against a plain module as tutorials write it: a training step, and sampling.

Both have GPT-2's form (learned positions, GELU, layer normalisation, tied). The plain one splits heads, masks a matrix
of scores, takes cross-entropy of all logits and torch's AdamW; it samples by feeding the whole prefix again.
Run: scripts/bench.py gpt-train gpt-sampling
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from lm_train import TRAIN
from measure import has_bf16_units, ratios, row
from torch import Tensor, nn

from seqgen.core.batch import SequenceBatch
from seqgen.core.options import Sampling
from seqgen.core.rng import text_seeds
from seqgen.models import gpt
from seqgen.nn.decode import Decoder

VOCAB, CONTEXT = 65, 256


class Layer(nn.Module):
    """Attention and feed-forward, the usual way."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.register_buffer("mask", torch.ones(CONTEXT, CONTEXT).tril().bool(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, T, D) behind the layer."""
        length = x.shape[1]
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm_1(x)).chunk(3, -1)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~self.mask[:length, :length], -math.inf)
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class Usual(nn.Module):
    """Logits of every position, the usual way."""

    def __init__(self, layers: int, heads: int, size: int, vocab: int = VOCAB) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocab, size), nn.Embedding(CONTEXT, size)
        self.blocks = nn.ModuleList(Layer(size, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(size)
        self.output = nn.Linear(size, vocab, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T, V)."""
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nll."""
        return F.cross_entropy(self(inputs).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def next_ids(self, ids: Tensor) -> Tensor:
        """A token (B, 1) after every prefix."""
        return torch.multinomial(self(ids)[:, -1].softmax(-1), 1)


def both(layers: int, heads: int, size: int) -> tuple[Usual, gpt.Model]:
    """The two with the same weights."""
    config = gpt.Config(
        layers=layers,
        heads=heads,
        hidden=size,
        positions="learned",
        activation="gelu",
        norm="layer",
        bias=True,
        context=CONTEXT,
        dropout=0.0,
        vocab_size=VOCAB,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        usual, model = Usual(layers, heads, size), gpt.Model(config)
    weights = {name: value for name, value in usual.state_dict().items() if name != "output.weight"}
    model.load_state_dict(weights)
    return usual, model


def steps(usual: Usual, model: gpt.Model, batch: SequenceBatch, *, bf16: bool) -> list[Callable[[], object]]:
    """A whole training step of each: forward, backward, clipping, AdamW."""
    torchs = torch.optim.AdamW(usual.parameters(), TRAIN.lr, (TRAIN.beta1, TRAIN.beta2), weight_decay=0.0)
    ours = gpt.optimizers(model, TRAIN)

    def usual_step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = usual.loss(batch.inputs, batch.targets)
        torchs.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(usual.parameters(), TRAIN.clip)
        torchs.step()

    def our_step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            gpt.train_step(model, ours, batch, 0)

    return [usual_step, our_step]


def gradients_agree(usual: Usual, model: gpt.Model, batch: SequenceBatch) -> str:
    """ "ok", or how far our gradient is from the usual one, in parts of its norm; float32."""
    named = dict(model.named_parameters())
    expected = torch.autograd.grad(usual.loss(batch.inputs, batch.targets), [*map(usual.get_parameter, named)])
    loss = gpt.linear_cross_entropy(model.features(batch), *model.head(), batch.targets.flatten()) / batch.count
    for name, ours, theirs in zip(named, torch.autograd.grad(loss, [*named.values()]), expected, strict=True):
        # the bias of the keys has no influence: its gradient is rounding
        error = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-4))
        if error > 1e-4:
            return f"gradient of {name} is off by {error:.1e} of its norm"
    return "ok"


def gpt_train(quick: bool) -> Iterator[dict[str, object]]:
    # the same products on both sides: no slower is what is asked
    for case, layers, heads, size, rows, length in (("4x128x64", 4, 4, 128, 12, 64), ("6x384x256", 6, 6, 384, 4, 256)):
        usual, model = both(layers, heads, size)
        ids = torch.randint(VOCAB, (rows, length + 1), generator=torch.Generator().manual_seed(2))
        inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        counted = torch.arange(rows * length)
        batch = SequenceBatch(inputs, targets, counted, torch.full((rows,), length), torch.arange(rows))
        gate = gradients_agree(usual, model, batch)
        for name, bf16, floor in (("fp32", False, 0.85), ("bf16", True, 0.85)):
            found = "no bf16 units" if bf16 and not has_bf16_units() else gate
            values = ratios(*steps(usual, model.train(), batch, bf16=bf16), rounds=3 if quick else 7)
            yield row("gpt-train", f"{name} {case}", values, floor, found) | {"tokens": rows * length}


def greedy_agrees(usual: Usual, decoder: Decoder, rows: int) -> str:
    """ "ok" if every token of greedy texts is the plain module's likeliest one, but for rounding."""
    texts = decoder.decode([[0]] * rows, text_seeds(0, 0, rows), Sampling(greedy=True, max_new_tokens=CONTEXT)).ids
    with torch.no_grad():
        logits = usual(torch.tensor([[0, *ids[:-1]] for ids in texts]))
    off = float((logits.amax(-1) - logits.gather(2, torch.tensor(texts)[..., None])[..., 0]).max())
    return "ok" if off < 1e-4 else f"a greedy token is {off:.1e} below the best one"


def gpt_sampling(quick: bool) -> Iterator[dict[str, object]]:
    usual, model = both(6, 6, 384)
    model.eval()
    # one in so many lengths of the prefix is fed by the plain way, and its cost is multiplied up
    # one row alone is fed again by products of whole prefixes, which a CPU does at its best: there the cache gains less
    for case, rows, fed, floor, decoder in (
        ("batch1", 1, 16, 2.5, model.decoder()),
        ("batch1, fast", 1, 16, 5.0, model.decoder(fast=True)),
        ("batch64", 64, 64, 10.0, model.decoder()),
    ):
        prompts, seeds = [[0]] * rows, text_seeds(0, 0, rows)
        ids = torch.zeros(rows, CONTEXT, dtype=torch.int64)

        def again(ids: Tensor = ids, fed: int = fed) -> None:
            for length in range(fed // 2, CONTEXT + 1, fed):
                usual.next_ids(ids[:, :length])

        def ours(decoder: Decoder = decoder, prompts: list[list[int]] = prompts, seeds: Tensor = seeds) -> None:
            decoder.decode(prompts, seeds, Sampling(max_new_tokens=CONTEXT))

        gate = greedy_agrees(usual, decoder, rows)
        values = [fed * ratio for ratio in ratios(again, ours, rounds=1 if quick else 3)]
        yield row("gpt-sampling", case, values, floor, gate) | {"tokens": rows * CONTEXT}


BENCHES = {"gpt-train": gpt_train, "gpt-sampling": gpt_sampling}
