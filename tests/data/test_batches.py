"""Batches against brute force over small corpora of numbered tokens."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import DataError
from seqgen.data.batches import (
    MovedBatches,
    SentenceBatches,
    StreamBatches,
    WindowBatches,
    permuted,
    sentence_evaluation,
    stream_evaluation,
    window_evaluation,
)
from seqgen.data.corpus import Corpus
from seqgen.data.ragged import Ragged
from seqgen.data.text import read_lines

PAD = -7


def sentences(lengths: list[int], loss_from: list[int] | None = None) -> Corpus:
    """Rows of distinct tokens, so that a batch shows where each of its tokens came from."""
    numbers = iter(range(10**6))
    rows = [[next(numbers) for _ in range(length)] for length in lengths]
    return Corpus(Ragged.from_lists(rows), None if loss_from is None else torch.tensor(loss_from), "")


def running(tokens: int) -> Corpus:
    return Corpus(Ragged.from_lists([list(range(tokens))]), None, "")


def read(batch: SequenceBatch) -> list[tuple[int, list[int], list[int], list[int]]]:
    """Row number, inputs, targets and counted targets of every row, padding checked and taken off."""
    rows = []
    width = batch.inputs.shape[1]
    assert batch.inputs.is_contiguous()
    assert batch.targets.is_contiguous()
    assert batch.positions.tolist() == sorted(batch.positions.tolist())
    for b, number in enumerate(batch.rows.tolist()):
        length = int(batch.lengths[b])
        assert batch.inputs[b, length:].eq(PAD).all()
        assert batch.targets[b, length:].eq(PAD).all()
        counted = batch.targets.flatten()[[p for p in batch.positions.tolist() if p // width == b]].tolist()
        rows.append((number, batch.inputs[b, :length].tolist(), batch.targets[b, :length].tolist(), counted))
    assert width == int(batch.lengths.max())
    assert batch.count == sum(len(counted) for *_, counted in rows)
    return rows


LENGTHS = st.lists(st.integers(2, 9), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 8), st.integers(1, 4), st.integers(0, 99), st.data())
def test_an_epoch_holds_every_row_once_up_to_a_last_batch(
    lengths: list[int], batch: int, bucket: int, seed: int, data: st.DataObject
) -> None:
    batch = min(batch, len(lengths))
    loss_from = data.draw(st.one_of(st.none(), st.tuples(*[st.integers(0, length - 2) for length in lengths])))
    corpus = sentences(lengths, None if loss_from is None else list(loss_from))
    batches = SentenceBatches(corpus, batch, pad=PAD, seed=seed, bucket=bucket)
    assert batches.steps_per_epoch == len(lengths) // batch
    for epoch in range(2):
        seen: list[int] = []
        for step in range(batches.steps_per_epoch):
            for number, inputs, targets, counted in read(batches.at(epoch * batches.steps_per_epoch + step)):
                row = corpus.ids.row(number).tolist()
                assert (inputs, targets) == (row[:-1], row[1:])
                assert counted == row[1 + (loss_from[number] if loss_from else 0) :]
                seen.append(number)
        assert len(seen) == len(set(seen)) == batches.steps_per_epoch * batch


def test_a_batch_is_a_function_of_the_step() -> None:
    corpus = sentences([2 + i % 7 for i in range(101)])
    in_order = SentenceBatches(corpus, 4, pad=PAD, seed=3, bucket=5)
    expected = [read(in_order.at(step)) for step in range(60)]
    jumping = SentenceBatches(corpus, 4, pad=PAD, seed=3, bucket=5)
    for step in np.random.default_rng(0).permutation(60).tolist():
        assert read(jumping.at(step)) == expected[step]
    other = SentenceBatches(corpus, 4, pad=PAD, seed=4, bucket=5)
    assert [read(other.at(step)) for step in range(60)] != expected


def test_epochs_differ_in_rows_and_order() -> None:
    batches = SentenceBatches(sentences([5] * 103), 10, pad=PAD, seed=1)
    first, second = (torch.cat([batches.at(epoch * 10 + step).rows for step in range(10)]).tolist() for epoch in (0, 1))
    assert first != second
    assert set(first) != set(second)  # three other rows wait in the second epoch


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_hold_the_rows_of_one(world: int) -> None:
    corpus = sentences([2 + i % 7 for i in range(50)], [i % 2 for i in range(50)])
    text = running(400)
    for make in (
        lambda: SentenceBatches(corpus, 7, pad=PAD, seed=3),
        lambda: StreamBatches(text, 7, 6, seed=3),
        lambda: StreamBatches(text, 7, 8, seed=3, jitter=True),
        lambda: WindowBatches(text, 7, 6, seed=3),
    ):
        alone, shared = make(), [make() for _ in range(world)]
        for step in (0, 1, 5, 9, 20):
            together = [row for rank in range(world) for row in read(shared[rank].at(step, rank, world))]
            assert sorted(together) == sorted(read(alone.at(step)))
            assert {shared[rank].at(step, rank, world).weight for rank in range(world)} == {alone.at(step).weight}


def padding(batches: SentenceBatches) -> float:
    made = [batches.at(step) for step in range(batches.steps_per_epoch)]
    return 1 - sum(int(b.lengths.sum()) for b in made) / sum(b.inputs.numel() for b in made)


def test_rows_of_a_batch_are_alike_in_length() -> None:
    lengths = np.random.default_rng(0).lognormal(3, 0.5, 4000).astype(int).clip(2, 99).tolist()
    corpus = sentences(lengths)
    batches = SentenceBatches(corpus, 32, pad=PAD, seed=1)
    assert padding(batches) < padding(SentenceBatches(corpus, 32, pad=PAD, seed=1, bucket=1)) / 5
    # Sorted batches are shuffled, so the step says nothing about the length.
    means = [float(batches.at(step).lengths.float().mean()) for step in range(50)]
    assert abs(np.corrcoef(means, range(50))[0, 1]) < 0.4


def test_captions_are_padded_by_less_than_five_percent(public_set: Callable[[str], Path]) -> None:
    lines = read_lines(public_set("text/image-coco/train.txt"))
    corpus = Corpus(Ragged.from_lists([[1] * (len(line.split()) + 2) for line in lines]), None, "")
    assert padding(SentenceBatches(corpus, 64, pad=PAD, seed=1)) < 0.05


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**62))
def test_a_permutation_takes_every_number_once(size: int, key: int) -> None:
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


def test_a_part_of_a_permutation_is_that_part_of_the_whole() -> None:
    whole = permuted(np.arange(1000), 1000, 5)
    assert permuted(np.arange(300, 420), 1000, 5).tolist() == whole[300:420].tolist()
    far = permuted(np.arange(10**9, 10**9 + 5), 3 * 10**9, 5)
    assert len(set(far.tolist())) == 5
    assert far.max() < 3 * 10**9


def test_all_permutations_are_equally_likely() -> None:
    drawn = Counter(tuple(permuted(np.arange(4), 4, key).tolist()) for key in range(960))
    assert len(drawn) == 24
    chi_square = sum((count - 40) ** 2 / 40 for count in drawn.values())
    assert chi_square < 49.7  # the 99.9 % quantile with 23 degrees of freedom


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 200), st.booleans())
def test_columns_run_on_from_step_to_step(batch: int, window: int, extra: int, jitter: bool) -> None:
    tokens = batch * (window + 1) + extra
    batches = StreamBatches(running(tokens), batch, window, seed=2, jitter=jitter)
    column = (tokens - 1) // batch
    step = 0
    for epoch in range(2):
        targets: list[list[int]] = [[] for _ in range(batch)]
        steps = 0
        while len(targets[0]) < column:
            made = batches.at(step)
            assert made.stateful is (steps > 0)
            width = made.inputs.shape[1]
            assert made.weight == width / window
            assert jitter or width == window or len(targets[0]) + width == column
            for b, (number, inputs, next_ones, counted) in enumerate(read(made)):
                assert number == inputs[0] == b * column + len(targets[b])
                assert next_ones == counted == [i + 1 for i in inputs]
                targets[b] += next_ones
            step, steps = step + 1, steps + 1
        assert [t for rows in targets for t in rows] == list(range(1, batch * column + 1))
        assert epoch or steps == batches.steps_per_epoch


def test_random_window_lengths_follow_their_law() -> None:
    batches = StreamBatches(running(400_000), 1, 70, seed=1, jitter=True)
    widths = np.array([batches.at(step).inputs.shape[1] for step in range(5000)])
    halves = widths < 52
    # N(70, 5) truncated to integers towards zero has mean 69.5; five standard errors either way.
    assert abs(halves.mean() - 0.05) < 5 * (0.05 * 0.95 / 5000) ** 0.5
    assert abs(widths[~halves].mean() - 69.5) < 5 * 5 / 4750**0.5
    assert abs(widths[halves].mean() - 34.5) < 5 * 5 / 250**0.5
    assert abs(widths[~halves].std() - 5) < 0.3
    first = [batches.at(step).inputs.shape[1] for step in range(20)]
    again = [batches.at(batches.steps_per_epoch + step).inputs.shape[1] for step in range(20)]
    assert first != again


def test_steps_with_random_lengths_can_be_asked_for_in_any_order() -> None:
    in_order = StreamBatches(running(900), 2, 20, seed=1, jitter=True)
    expected = [read(in_order.at(step)) for step in range(90)]
    jumping = StreamBatches(running(900), 2, 20, seed=1, jitter=True)
    assert [read(jumping.at(step)) for step in reversed(range(90))] == expected[::-1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 50), st.integers(0, 10**7))
def test_windows_are_cut_from_the_text(batch: int, window: int, extra: int, step: int) -> None:
    tokens = batch * (window + 1) + extra
    made = WindowBatches(running(tokens), batch, window, seed=2).at(step)
    assert made.inputs.shape == (batch, window)
    assert not made.stateful
    assert made.weight == 1.0
    for number, inputs, targets, counted in read(made):
        assert inputs == list(range(number, number + window))
        assert targets == counted == list(range(number + 1, number + window + 1))


def test_windows_begin_everywhere_equally_often() -> None:
    batches = WindowBatches(running(25), 4, 5, seed=1)
    drawn = Counter(start for step in range(2000) for start in batches.at(step).rows.tolist())
    assert sorted(drawn) == list(range(20))
    chi_square = sum((count - 400) ** 2 / 400 for count in drawn.values())
    assert chi_square < 43.8  # the 99.9 % quantile with 19 degrees of freedom


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 9))
def test_evaluation_counts_every_sentence_once(lengths: list[int], batch: int) -> None:
    corpus = sentences(lengths, [min(1, length - 2) for length in lengths])
    rows = [row for made in sentence_evaluation(corpus, batch, pad=PAD) for row in read(made)]
    assert sorted(number for number, *_ in rows) == list(range(len(lengths)))
    for number, inputs, _, counted in rows:
        row = corpus.ids.row(number).tolist()
        assert inputs == row[:-1]
        assert counted == row[1 + min(1, len(row) - 2) :]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.integers(1, 6), st.integers(1, 12))
def test_evaluation_counts_every_token_of_a_text_once(tokens: int, batch: int, window: int) -> None:
    columns: dict[int, list[int]] = {}
    for number, made in enumerate(stream_evaluation(running(tokens), batch, window, pad=PAD)):
        assert made.stateful is (number > 0)
        assert made.inputs.shape[1] <= window + 1
        for b, (_, inputs, targets, counted) in enumerate(read(made)):
            assert targets == counted == [i + 1 for i in inputs]
            assert columns.get(b, inputs[:1])[-1] == inputs[0]  # goes on where the window before ended
            columns.setdefault(b, inputs[:1]).extend(targets)
    assert sorted(t for column in columns.values() for t in column[1:]) == list(range(1, tokens))

    counted_ones: list[int] = []
    for made in window_evaluation(running(tokens), batch, window, pad=PAD):
        assert made.inputs.shape[1] <= window
        for start, inputs, _, counted in read(made):
            assert inputs[0] == start
            context = counted[0] - 1 - start
            assert context == (window // 2 if start else 0)
            counted_ones += counted
    assert sorted(counted_ones) == list(range(1, tokens))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SentenceBatches(sentences([3] * 5), 6, pad=0, seed=0),
            "the training text has 5 rows, fewer than train.batch = 6; use a smaller train.batch or more text",
        ),
        (
            lambda: StreamBatches(running(20), 3, 6, seed=0),
            "the training text has 20 tokens, fewer than train.batch * (data.window + 1) = 3 * 7 = 21; "
            "use a smaller batch or window, or more text",
        ),
        (
            lambda: WindowBatches(running(20), 3, 6, seed=0),
            "the training text has 20 tokens, fewer than train.batch * (data.window + 1) = 3 * 7 = 21; "
            "use a smaller batch or window, or more text",
        ),
        (
            lambda: WindowBatches(running(99), 3, 6, seed=0).at(0, 0, 4),
            "train.batch = 3 is less than one row for each of 4 processes; use 4 or more",
        ),
    ],
)
def test_too_little_text_for_a_batch_is_said_with_numbers(make: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value) == message


def test_wrong_arguments_are_value_errors() -> None:
    with pytest.raises(ValueError, match=r"^batch and bucket must be at least 1, got 0 and 50$"):
        SentenceBatches(sentences([3]), 0, pad=0, seed=0)
    with pytest.raises(ValueError, match=r"^batch and window must be at least 1, got 1 and 0$"):
        StreamBatches(running(9), 1, 0, seed=0)
    with pytest.raises(ValueError, match=r"^rank must be in \[0, 2\), got 2$"):
        WindowBatches(running(9), 2, 2, seed=0).at(0, 2, 2)


def test_a_batch_can_be_moved() -> None:
    made = StreamBatches(running(50), 2, 4, seed=0).at(1).to("meta")
    assert made.stateful
    assert made.inputs.device.type == made.positions.device.type == "meta"
    assert made.inputs.shape == (2, 4)


@pytest.mark.parametrize("steps", [range(30), [7, 8, 2, 2, 3, 29, 0, 1]])
def test_moved_batches_are_those_of_their_steps_in_any_order(steps: list[int]) -> None:
    """The one that is made ahead of time is never taken for another."""
    corpus = sentences([2 + n % 7 for n in range(50)])
    moved = MovedBatches(SentenceBatches(corpus, 4, pad=PAD, seed=3, bucket=5), "cpu")
    for rank, world in ((0, 1), (1, 2)):
        for step in steps:
            expected = SentenceBatches(corpus, 4, pad=PAD, seed=3, bucket=5).at(step, rank, world)
            assert read(moved.at(step, rank, world)) == read(expected)


def test_what_is_wrong_with_a_moved_batch_is_said_when_it_is_asked_for() -> None:
    class Short:
        steps_per_epoch = 2

        def at(self, step: int, rank: int = 0, world: int = 1) -> SequenceBatch:
            if step > 1:
                raise DataError("no such step")
            return StreamBatches(running(50), 2, 4, seed=0).at(step, rank, world)

    moved = MovedBatches(Short(), "cpu")
    assert [moved.at(step).count for step in (0, 1)] == [8, 8]
    with pytest.raises(DataError, match="no such step"):
        moved.at(2)
