"""Batches against the usual ways: DataLoader with a collate function, and a Python loop of slices.

Tokens per CPU-second, one thread, on 120,000 rows of 28 tokens on average (log-normal), batches of 64. Every
contestant yields int64 inputs and targets. Run: scripts/bench.py batches
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from measure import cpu_seconds, row
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from seqgen.core.batch import SequenceBatch
from seqgen.data.batches import SentenceBatches, StreamBatches, WindowBatches
from seqgen.data.corpus import Corpus
from seqgen.data.ragged import Ragged

BATCH = 64
WINDOW = 64
PAD = 0


class Rows(Dataset[Tensor]):
    """Rows as a map-style data set holds them: one tensor each."""

    def __init__(self, ids: Ragged) -> None:
        self.rows = [row.clone() for row in ids]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows from every place of a stream."""

    def __init__(self, stream: Tensor) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream) - WINDOW

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.stream[index : index + WINDOW], self.stream[index + 1 : index + WINDOW + 1]


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([len(row) - 1 for row in rows])
    ids = pad_sequence(rows, batch_first=True, padding_value=PAD)
    return ids[:, :-1], ids[:, 1:], lengths


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def sliced(stream: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A column per row, each window cut out and stacked."""
    column = (len(stream) - 1) // BATCH
    while True:
        for start in range(0, column - WINDOW, WINDOW):
            places = [row * column + start for row in range(BATCH)]
            yield (
                torch.stack([stream[at : at + WINDOW].to(torch.int64) for at in places]),
                torch.stack([stream[at + 1 : at + WINDOW + 1].to(torch.int64) for at in places]),
            )


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """One row per kind of batch: how many times the baseline's tokens per CPU-second ours gives."""
    lengths = torch.empty(20_000 if quick else 120_000).log_normal_(3.2, 0.5, generator=seeded()).long().clamp(3, 200)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values = torch.randint(1, 8000, (int(offsets[-1]),), generator=seeded(), dtype=torch.int32)
    sentences = Corpus(Ragged(values, offsets), None, "")
    running = Corpus(Ragged(values, torch.tensor([0, len(values)])), None, "")
    stream = values.long()
    torch.set_num_threads(1)
    rounds = 5 if quick else 9

    data = Rows(sentences.ids)
    loader = endless(DataLoader(data, BATCH, shuffle=True, collate_fn=padded, generator=seeded(), drop_last=True))
    ours = SentenceBatches(sentences, BATCH, pad=PAD, seed=1)
    ratios = compared(ours.at, 400, lambda: int(next(loader)[2].sum()), 100, rounds)
    gate = "ok" if all(sentence_right(ours.at(step), sentences.ids) for step in range(20)) else "rows differ"
    yield row("batches", "sentence batches against DataLoader without workers and pad_sequence", ratios, 3.5, gate)

    window_loader = endless(DataLoader(Windows(stream), BATCH, shuffle=True, generator=seeded(), drop_last=True))
    windows = WindowBatches(running, BATCH, WINDOW, seed=1)
    ratios = compared(windows.at, 1000, lambda: next(window_loader)[0].numel(), 100, rounds)
    gate = "ok" if all(window_right(windows.at(step), stream) for step in range(20)) else "windows differ"
    yield row("batches", "window batches against DataLoader without workers", ratios, 14.0, gate)

    slices = sliced(values)
    columns = StreamBatches(running, BATCH, WINDOW, seed=1)
    ratios = compared(columns.at, 2000, lambda: next(slices)[0].numel(), 100, rounds)
    again = sliced(values)
    same = all(
        torch.equal(batch.inputs, x) and torch.equal(batch.targets, y)
        for batch, (x, y) in ((columns.at(step), next(again)) for step in range(20))
    )
    yield row("batches", "bptt batches against slicing and stacking", ratios, 45.0, "ok" if same else "windows differ")


def compared(
    at: Callable[[int], SequenceBatch], steps: int, baseline: Callable[[], int], calls: int, rounds: int
) -> list[float]:
    """Our tokens per CPU-second by the baseline's, one value per interleaved round; the first round warms up."""
    ratios, done = [], 0
    for _ in range(rounds + 1):
        tokens = [0, 0]

        def ours(first: int = done, tokens: list[int] = tokens) -> None:
            tokens[0] = sum(at(step).count for step in range(first, first + steps))

        def usual(tokens: list[int] = tokens) -> None:
            tokens[1] = sum(baseline() for _ in range(calls))

        ratios.append(cpu_seconds(usual) / tokens[1] / (cpu_seconds(ours) / tokens[0]))
        done += steps
    return ratios[1:]


def sentence_right(batch: SequenceBatch, ids: Ragged) -> bool:
    """Whether every row of a batch is its corpus row, shifted by one, and padding elsewhere."""
    for b, number in enumerate(batch.rows.tolist()):
        row, length = ids.row(number), int(batch.lengths[b])
        fill = torch.full((batch.inputs.shape[1] - length,), PAD)
        right = torch.equal(batch.inputs[b], torch.cat([row[:-1], fill]))
        right &= torch.equal(batch.targets[b], torch.cat([row[1:], fill]))
        if not right or length != len(row) - 1:
            return False
    return batch.count == int(batch.lengths.sum())


def window_right(batch: SequenceBatch, stream: Tensor) -> bool:
    """Whether every window stands in the stream where it says."""
    return all(
        torch.equal(batch.inputs[b], stream[at : at + WINDOW])
        and torch.equal(batch.targets[b], stream[at + 1 : at + WINDOW + 1])
        for b, at in enumerate(batch.rows.tolist())
    )


def seeded() -> torch.Generator:
    made = torch.Generator()
    made.manual_seed(1)
    return made


BENCHES = {"batches": rows}
