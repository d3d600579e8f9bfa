"""SeqGAN the usual way, for the benches: prefixes fed again for every rollout, `multinomial`, `Conv2d`.

Written from the description of the published implementations and kinder to them: no gradients are recorded while
sampling, and a prefix that is fed again skips the output layer.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqgen.models import lm
from seqgen.nn.textcnn import CnnCritic

VOCAB, START = 5000, 0
PAPER = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20), (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)
SMALL = (2, 3, 4, 5), (200, 200, 200, 200)


class UsualPolicy(nn.Module):
    """Embedding, one LSTMCell, one linear layer."""

    def __init__(self, vocab: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, hidden)
        self.cell = nn.LSTMCell(hidden, hidden)
        self.output = nn.Linear(hidden, vocab)

    @torch.inference_mode()
    def complete(self, prefix_bt: Tensor, length: int) -> Tensor:
        """The prefix read token by token and completed to `length` tokens."""
        h = c = torch.zeros(len(prefix_bt), self.cell.hidden_size)
        token = torch.full((len(prefix_bt),), START)
        for following in prefix_bt.unbind(1):
            h, c = self.cell(self.embedding(token), (h, c))
            token = following
        written = [prefix_bt]
        for _ in range(length - prefix_bt.shape[1]):
            h, c = self.cell(self.embedding(token), (h, c))
            token = torch.multinomial(torch.softmax(self.output(h), -1), 1).squeeze(1)
            written.append(token[:, None])
        return torch.cat(written, 1)


class UsualCritic(nn.Module):
    """The paper's CNN by Conv2d over (1, T, E) images."""

    def __init__(self, vocab: int, widths: Sequence[int], maps: Sequence[int], dropout: float = 0.25) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, 64)
        self.convolutions = nn.ModuleList(nn.Conv2d(1, n, (f, 64)) for f, n in zip(widths, maps, strict=True))
        self.gate, self.new = nn.Linear(sum(maps), sum(maps)), nn.Linear(sum(maps), sum(maps))
        self.dropout, self.output = nn.Dropout(dropout), nn.Linear(sum(maps), 1)

    def forward(self, ids_bt: Tensor) -> Tensor:
        """The logit of every row, (B,)."""
        x = self.embedding(ids_bt).unsqueeze(1)
        found = [F.relu(convolution(x)).squeeze(3) for convolution in self.convolutions]
        y = torch.cat([F.max_pool1d(f, f.shape[2]).squeeze(2) for f in found], 1)
        gate = torch.sigmoid(self.gate(y))
        return self.output(self.dropout(gate * F.relu(self.new(y)) + (1 - gate) * y)).squeeze(1)


@torch.inference_mode()
def usual_values(policy: UsualPolicy, critic: UsualCritic, ids_bt: Tensor, rollouts: int) -> Tensor:
    """Q of every proper prefix, (B, T - 1): one rollout after the other, one prefix length after the other."""
    length = ids_bt.shape[1]
    values = torch.zeros(len(ids_bt), length - 1)
    for _ in range(rollouts):
        for t in range(1, length):
            values[:, t - 1] += torch.sigmoid(critic(policy.complete(ids_bt[:, :t], length))) / rollouts
    return values


def policies(hidden: int, length: int, *, vocab: int = VOCAB) -> tuple[UsualPolicy, lm.Model]:
    """Both policies with the same weights, with logits as spread as a trained model's."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        usual = UsualPolicy(vocab, hidden)
        usual.output.weight.data *= 8
        config = lm.Config(embedding=hidden, hidden=hidden, tied=False, vocab_size=vocab, max_length=length)
        ours = lm.Model(config).eval()
    with torch.no_grad():
        ours.embedding.weight.copy_(usual.embedding.weight)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(ours.rnn.layers[0], f"{name}_l0").copy_(getattr(usual.cell, name))
        ours.output_weight.copy_(usual.output.weight)
        ours.output_bias.copy_(usual.output.bias)
    return usual, ours


def critics(widths: Sequence[int], maps: Sequence[int], *, vocab: int = VOCAB) -> tuple[UsualCritic, CnnCritic]:
    """Both critics with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        ours = CnnCritic(vocab, embedding=64, widths=widths, maps=maps, dropout=0.25).eval()
        usual = UsualCritic(vocab, widths, maps).eval()
    features = sum(maps)
    with torch.no_grad():
        usual.embedding.weight.copy_(ours.embedding.weight[:-1])
        parts = zip(usual.convolutions, ours.filters, ours.bias.split(list(maps)), widths, strict=True)
        for convolution, weight, bias, width in parts:
            convolution.weight.copy_(weight.t().reshape(-1, 1, width, 64))
            convolution.bias.copy_(bias)
        for layer, rows in ((usual.gate, slice(features)), (usual.new, slice(features, None))):
            layer.weight.copy_(ours.highway.weight[rows])
            layer.bias.copy_(ours.highway.bias[rows])
        usual.output.load_state_dict(ours.output.state_dict())
    return usual, ours
