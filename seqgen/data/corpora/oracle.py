"""Tasks with a known distribution: an oracle generates the text, and gives the probability of any text.

`oracle:lstm` is the synthetic task of SeqGAN (Yu et al. 2017, section 5): an LSTM whose parameters are all N(0, 1)
writes rows of 20 numbers below 5000. `oracle:lstm:40` makes them longer, `oracle:lstm:FILE.npz` takes given parameters.
`oracle:captions` is the grammar of captions that comes with the package, `oracle:FILE.toml` any other: text that can be
read, with its exact probability. Train on one with: seqgen train seqgan --data oracle:lstm --out runs/oracle
Shapes: B rows, T tokens, V vocabulary, E embedding, H hidden.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqgen.core.errors import DataError
from seqgen.core.files import ARRAY_FAULTS
from seqgen.core.rng import generator
from seqgen.data.tokenizers import Tokenizer, WordTokenizer

PREFIX = "oracle:"
TRAINING, HELD_OUT = 10_000, 2_000
"""Lines that a task generates for each split, the same for every run."""

_ROWS = 500  # rows of (V,) probabilities alive at a time


@dataclass(frozen=True)
class Oracle:
    """A task: text of both splits, and the probability of any line."""

    name: str
    train: list[str]
    valid: list[str]
    tokenizer: Tokenizer | None
    """Where the vocabulary is part of the task."""
    fixed: bool
    """Every line has the same number of tokens, and no end token is needed."""
    nats: Callable[[Sequence[str]], list[float]]
    """-log p of every line under the oracle, infinite for what it never writes."""
    valid_nats: float
    """-log p of all held-out lines together."""

    def scores(self, lines: Sequence[str]) -> dict[str, float]:
        """Return `oracle_share`, the share of lines that the oracle can generate, and `nll_oracle` of these, nats per
        token: never to be read without the held-out likelihood of the model beside it."""
        nats = self.nats(lines)
        possible = [(value, len(line.split())) for value, line in zip(nats, lines, strict=True) if value < math.inf]
        scores = {"oracle_share": len(possible) / len(lines)} if lines else {}
        if possible:
            scores["nll_oracle"] = sum(value for value, _ in possible) / sum(count for _, count in possible)
        return scores


def oracle(name: str) -> Oracle:
    """Return the task called `oracle:...`; DataError names what can follow."""
    kind, _, rest = name.removeprefix(PREFIX).partition(":")
    if kind == "lstm":
        return _lstm_task(name, rest)
    if rest or not kind:
        raise DataError(f"{name}: expected oracle:lstm, oracle:lstm:LENGTH, oracle:lstm:FILE.npz or oracle:GRAMMAR")
    from seqgen.data.corpora.grammar import Grammar  # late: other text needs none

    grammar = Grammar.load(kind)
    if grammar.labels or grammar.join != " ":
        raise DataError(f"{name}: an oracle needs a grammar of words without labels")

    def nats(lines: Sequence[str]) -> list[float]:
        return [-grammar.log_probability(line) for line in lines]

    valid = grammar.sample(HELD_OUT, seed=2)
    return Oracle(name, grammar.sample(TRAINING, seed=1), valid, None, False, nats, sum(nats(valid)))


def _lstm_task(name: str, rest: str) -> Oracle:
    length, _, file = rest.partition(":") if rest.partition(":")[0].isdigit() else ("20", "", rest)
    if int(length) < 1:
        raise DataError(f"{name}: the length must be at least 1")
    target = LstmOracle.load(Path(file)) if file else LstmOracle.seeded()
    tokens = [str(i) for i in range(target.vocab_size)]

    def written(count: int, split: str) -> list[str]:
        rows = target.sample(count, int(length), generator("oracle", split)).tolist()
        return [" ".join(tokens[i] for i in row) for row in rows]

    def nats(lines: Sequence[str]) -> list[float]:
        rows = torch.tensor([[int(word) for word in line.split()] for line in lines])
        return (-target.log_probs(rows).sum(1)).tolist()

    valid = written(HELD_OUT, "held-out")
    return Oracle(name, written(TRAINING, "training"), valid, WordTokenizer(tokens), True, nats, sum(nats(valid)))


class LstmOracle:
    """The LSTM that writes the synthetic task, token 0 first (as input only).

    The 15 arrays are those of the paper's own file in its order: embedding (V, E); W (E, H), U (H, H) and b (H,) of the
    gates i, f, o, c; output weight (H, V) and bias (V,); gates are x W + h U + b.
    """

    def __init__(self, arrays: Sequence[np.ndarray], *, where: str = "oracle") -> None:
        names = ["embedding", *(f"{kind} of gate {gate}" for gate in "ifoc" for kind in "WUb"), "output weight"]
        names.append("output bias")
        if len(arrays) != len(names):
            raise DataError(
                f"{where}: expected 15 arrays (embedding; W, U, b of the gates i, f, o, c; output weight and bias), "
                f"got {len(arrays)}"
            )
        given = [np.asarray(array) for array in arrays]
        if given[0].ndim != 2 or given[2].ndim != 2:
            raise DataError(f"{where}: embedding and U must be matrices, got {given[0].shape} and {given[2].shape}")
        (vocab, size), hidden = given[0].shape, given[2].shape[0]
        wanted = [(vocab, size), *[(size, hidden), (hidden, hidden), (hidden,)] * 4, (hidden, vocab), (vocab,)]
        for number, (name, array, shape) in enumerate(zip(names, given, wanted, strict=True), 1):
            if array.shape != shape:
                raise DataError(f"{where}: array {number} ({name}) is {array.shape}, expected {shape}")
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise DataError(f"{where}: array {number} ({name}) holds something else than finite numbers")
        tensors = [torch.tensor(array, dtype=torch.float32) for array in given]
        self.vocab_size = vocab
        self._embedding, (self._output, self._output_bias) = tensors[0], tensors[-2:]
        self._inner = torch.cat(tensors[1:-2:3], 1), torch.cat(tensors[2:-2:3], 1), torch.cat(tensors[3:-2:3])

    @classmethod
    def seeded(cls, seed: int = 0, *, vocab_size: int = 5000, embedding: int = 32, hidden: int = 32) -> "LstmOracle":
        """Return an oracle with every parameter drawn from N(0, 1)."""
        draws = generator("oracle parameters", seed)
        shapes = [
            (vocab_size, embedding),
            *[(embedding, hidden), (hidden, hidden), (hidden,)] * 4,
            (hidden, vocab_size),
            (vocab_size,),
        ]
        return cls([torch.randn(shape, generator=draws).numpy() for shape in shapes])

    @classmethod
    def load(cls, path: Path) -> "LstmOracle":
        """Load parameters from an `.npz` file of the 15 arrays in order, as of `numpy.savez(file, *arrays)`."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls([arrays[name] for name in arrays.files], where=str(path))
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except (AttributeError, *ARRAY_FAULTS) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path}: not an .npz file of plain arrays; pickled parameters are not read, save them anew "
                "with numpy.savez(file, *arrays)"
            ) from None

    def sample(self, count: int, length: int, draws: torch.Generator) -> Tensor:
        """Return lines drawn from the oracle, (count, length) int64."""
        parts = []
        for begin in range(0, count, _ROWS):
            rows = min(_ROWS, count - begin)
            ids, (h, c) = torch.zeros(rows, dtype=torch.int64), self._start(rows)
            drawn = []
            for _ in range(length):
                h, c = self._step(ids, h, c)
                ends = torch.addmm(self._output_bias, h, self._output).softmax(-1).cumsum(-1, dtype=torch.float64)
                target = torch.rand(rows, 1, generator=draws, dtype=torch.float64) * ends[:, -1:]
                ids = torch.searchsorted(ends, target, right=True).squeeze(1).clamp_(max=self.vocab_size - 1)
                drawn.append(ids)
            parts.append(torch.stack(drawn, 1))
        return torch.cat(parts)

    def log_probs(self, ids_bt: Tensor) -> Tensor:
        """Return the log-probability of every token given those before it, (B, T) float64 in nats."""
        results = []
        for rows in torch.split(ids_bt, _ROWS):
            ids, (h, c) = torch.zeros(len(rows), dtype=torch.int64), self._start(len(rows))
            each = []
            for following in rows.unbind(1):
                h, c = self._step(ids, h, c)
                logits = torch.addmm(self._output_bias, h, self._output).double()
                each.append(logits.gather(1, following[:, None]).squeeze(1) - logits.logsumexp(-1))
                ids = following
            results.append(torch.stack(each, 1))
        return torch.cat(results)

    def _start(self, rows: int) -> tuple[Tensor, Tensor]:
        hidden = len(self._output)
        return torch.zeros(rows, hidden), torch.zeros(rows, hidden)

    def _step(self, ids: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        weight, recurrent, bias = self._inner
        i, f, o, g = (self._embedding[ids] @ weight + h @ recurrent + bias).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
