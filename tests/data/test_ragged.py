import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqgen.core.errors import DataError
from seqgen.data.ragged import Ragged, joined

LISTS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=6)


@given(LISTS)
def test_rows_come_back_as_they_were_packed(rows: list[list[int]]) -> None:
    ragged = Ragged.from_lists(rows)
    assert ragged.tolist() == rows
    assert [row.tolist() for row in ragged] == rows
    assert ragged.rows == len(ragged) == len(rows)
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.longest == max(map(len, rows), default=0)
    assert ragged.values.dtype == torch.int32


@given(LISTS, st.booleans())
def test_padding_fills_the_side_asked_for(rows: list[list[int]], left: bool) -> None:
    ids, lengths = Ragged.from_lists(rows).padded(7, left=left)
    width = max(map(len, rows), default=0)
    fill = [[7] * (width - len(row)) for row in rows]
    expected = [f + row if left else row + f for row, f in zip(rows, fill, strict=True)]
    assert ids.tolist() == expected
    assert ids.dtype == torch.int64
    assert lengths.tolist() == [len(row) for row in rows]


@given(LISTS, st.integers(0, 4))
def test_long_rows_are_cut_or_dropped_as_stated(rows: list[list[int]], limit: int) -> None:
    ragged = Ragged.from_lists(rows)
    assert ragged.cut(limit).tolist() == [row[:limit] for row in rows]
    for truncate, kept in (
        ("cut", [row[:limit] for row in rows]),
        ("drop", [row for row in rows if len(row) <= limit]),
    ):
        ids, lengths = ragged.padded(0, limit, truncate=truncate)  # type: ignore[arg-type]
        assert [row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)] == kept


@given(LISTS, st.data())
def test_take_gives_the_rows_in_the_order_asked_for(rows: list[list[int]], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
    taken = Ragged.from_lists(rows).take(torch.tensor(wanted, dtype=torch.int64))
    assert taken.tolist() == [rows[i] for i in wanted]
    assert Ragged.from_lists(rows).lengths_of(torch.tensor(wanted, dtype=torch.int64)).tolist() == [
        len(rows[i]) for i in wanted
    ]


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 9), max_size=4)] * 2), max_size=5))
def test_joined_rows_stand_side_by_side(pairs: list[tuple[list[int], list[int]]]) -> None:
    left, right = (Ragged.from_lists([pair[i] for pair in pairs]) for i in (0, 1))
    assert joined([2, left, 4, right, 3], len(pairs)).tolist() == [[2, *a, 4, *b, 3] for a, b in pairs]


@pytest.mark.parametrize("block", [1, 2, 3, 9])
def test_rows_move_alike_whatever_is_moved_at_once(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqgen.data.ragged._ROWS", block)
    rows = [[5, 6, 7], [], [8], [9, 9], [], [1, 2, 3, 4]]
    ragged = Ragged.from_lists(rows)
    assert ragged.take(torch.tensor([5, 0, 0, 1, 3])).tolist() == [rows[i] for i in (5, 0, 0, 1, 3)]
    assert ragged.cut(2).tolist() == [row[:2] for row in rows]
    assert joined([2, ragged, 4, ragged], 6).tolist() == [[2, *row, 4, *row] for row in rows]


def test_int16_holds_ids_below_65536() -> None:
    ids = np.array([0, 32767, 32768, 65535], dtype=np.uint16)
    ragged = Ragged(torch.from_numpy(ids.view(np.int16)), torch.tensor([0, 1, 4]))
    assert ragged.tolist() == [[0], [32767, 32768, 65535]]
    assert ragged.row(1).tolist() == [32767, 32768, 65535]
    assert ragged.padded(9)[0].tolist() == [[0, 9, 9], [32767, 32768, 65535]]


def test_a_row_can_be_counted_from_the_end() -> None:
    ragged = Ragged.from_lists([[1], [2, 3]])
    assert ragged.row(-1).tolist() == [2, 3]
    with pytest.raises(IndexError, match=r"^row 2 of 2$"):
        ragged.row(2)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2, 1, 3], "offsets must not fall, but row 1 runs from 2 to 1"),
        ([1, 3], "offsets must run from 0 to the number of values, 3; they run from 1 to 3"),
        ([0, 2], "offsets must run from 0 to the number of values, 3; they run from 0 to 2"),
    ],
)
def test_offsets_that_do_not_fit_are_named(offsets: list[int], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Ragged(torch.zeros(3, dtype=torch.int32), torch.tensor(offsets))
    assert str(caught.value) == message


def test_falling_offsets_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqgen.data.ragged._BLOCK", 2)
    with pytest.raises(DataError, match=r"^offsets must not fall, but row 2 runs from 2 to 1$"):
        Ragged(torch.zeros(3, dtype=torch.int32), torch.tensor([0, 1, 2, 1, 3]))
    assert Ragged(torch.zeros(3, dtype=torch.int32), torch.tensor([0, 1, 1, 3])).longest == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [([[1, 2.5]], "ids must be integers, got 2.5 (float)"), ([[True]], "ids must be integers, got True (bool)")],
)
def test_ids_must_be_integers(rows: list[list[int]], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        Ragged.from_lists(rows)
    assert str(caught.value) == message


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^values must be \(T,\) int32, uint8 or int16, got \(2,\) torch\.float32; "):
        Ragged(torch.zeros(2), torch.tensor([0, 2]))
    with pytest.raises(TypeError, match=r"^offsets must be \(R\+1,\) int64, got \(2,\) torch\.int32$"):
        Ragged(torch.zeros(2, dtype=torch.int32), torch.tensor([0, 2], dtype=torch.int32))


def test_rows_too_long_need_a_stated_remedy() -> None:
    with pytest.raises(DataError) as caught:
        Ragged.from_lists([[1], [1, 2, 3], [1, 2, 3, 4]]).padded(0, 2)
    assert str(caught.value) == (
        "2 of 3 rows are longer than max_len = 2, the first is row 1; state truncate='cut' or 'drop', or raise max_len"
    )
