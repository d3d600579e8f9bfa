"""The scan equals torch's layers, the single step equals the scan, dropout does what it says."""

import pytest
import torch
from torch import nn

from seqgen.nn.rnn import Rnn, locked_dropout, row_dropout

CELLS = ("lstm", "gru")
ALL = (*CELLS, "mingru", "minlstm")


def _rnn(cell, widths=(24, 16), **options):
    torch.manual_seed(0)
    return Rnn(cell, 8, widths, **options)


@pytest.mark.parametrize("cell", CELLS)
def test_without_weight_drop_a_layer_is_bit_identical_to_torch(cell):
    rnn = _rnn(cell, (24,)).train()
    layer = (nn.LSTM if cell == "lstm" else nn.GRU)(8, 24, batch_first=True)
    layer.load_state_dict(rnn.layers[0].state_dict())
    x = torch.randn(5, 7, 8)
    ours, state = rnn(x)
    theirs, ends = layer(x)
    assert torch.equal(ours, theirs)
    ends = ends if cell == "lstm" else (ends,)
    assert all(torch.equal(a, b[0]) for a, b in zip(state, ends, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_weight_drop_changes_the_output_and_evaluation_turns_it_off(cell):
    rnn = _rnn(cell, weight_drop=0.5).train()
    x = torch.randn(5, 7, 8)
    first, second = rnn(x)[0], rnn(x)[0]
    plain = rnn.eval()(x)[0]
    assert not torch.allclose(first, plain, atol=1e-4)
    assert not torch.allclose(first, second, atol=1e-4)
    assert torch.equal(plain, rnn(x)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_weight_drop_equals_torch_with_the_masked_matrix(cell):
    rnn = _rnn(cell, (24,), weight_drop=0.5).train()
    x = torch.randn(5, 7, 8)
    torch.manual_seed(3)
    ours = rnn(x)[0]
    layer = (nn.LSTM if cell == "lstm" else nn.GRU)(8, 24, batch_first=True)
    layer.load_state_dict(rnn.layers[0].state_dict())
    torch.manual_seed(3)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(nn.functional.dropout(layer.weight_hh_l0, 0.5))
    assert torch.equal(ours, layer(x)[0])


def test_dropped_weights_get_no_gradient():
    rnn = _rnn("lstm", (24,), weight_drop=0.5).train()
    torch.manual_seed(3)
    rnn(torch.randn(5, 7, 8))[0].sum().backward()
    gradient = rnn.layers[0].weight_hh_l0.grad
    assert 0.4 < (gradient == 0).float().mean() < 0.6


def test_one_layer_with_dropout_between_layers_gives_no_warning():
    # torch's own LSTM warns here; warnings are errors in this suite
    _rnn("lstm", (24,), between_dropout=0.5).train()(torch.randn(2, 3, 8))


@pytest.mark.parametrize("cell", ALL)
@pytest.mark.parametrize("table", ["none", "later", "now"])
def test_steps_equal_the_scan(cell, table):
    rnn = _rnn(cell).eval()
    embedding = torch.randn(21, 8)
    ids = torch.randint(21, (8, 9))
    with torch.no_grad():
        expected, ends = rnn(embedding[ids])
        step = rnn.stepper(None if table == "none" else embedding, table_now=table == "now")
        state = rnn.zeros(8)
        for t in range(9):
            out, state = step(embedding[ids[:, t]] if table == "none" else ids[:, t], state)
            torch.testing.assert_close(out, expected[:, t], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(state, ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", ALL)
def test_the_table_changes_no_bit(cell):
    rnn = _rnn(cell).eval()
    embedding, ids = torch.randn(1003, 8), torch.randint(1003, (40,))
    with torch.no_grad():
        direct, now = (rnn.stepper(embedding, table_now=now)(ids, rnn.zeros(40))[0] for now in (False, True))
        later = rnn.stepper(embedding)
        for _ in range(30):
            result, _ = later(ids, rnn.zeros(40))
            assert torch.equal(result, direct)
    assert torch.equal(now, direct)


@pytest.mark.parametrize("cell", ALL)
def test_a_scan_in_two_parts_equals_one(cell):
    rnn = _rnn(cell).eval()
    x = torch.randn(3, 10, 8)
    whole, ends = rnn(x)
    first, middle = rnn(x[:, :4])
    second, after = rnn(x[:, 4:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    for a, b in zip(after, ends, strict=True):
        torch.testing.assert_close(a, b)


def test_forget_gate_starts_at_one():
    layer = _rnn("lstm", (24,)).layers[0]
    assert torch.equal((layer.bias_ih_l0 + layer.bias_hh_l0)[24:48], torch.ones(24))


def test_locked_dropout_uses_one_mask_for_all_positions():
    x = torch.ones(6, 10, 50)
    dropped = locked_dropout(x, 0.4)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert not torch.equal(dropped[0], dropped[1])
    assert locked_dropout(x, 0.0) is x


def test_row_dropout_drops_whole_vocabulary_rows():
    torch.manual_seed(0)
    embedding = nn.Embedding(40, 6)
    ids = torch.arange(40).repeat(2, 1)
    kept = row_dropout(embedding, ids, 0.5) / (embedding(ids) * 2)
    assert set(kept.round(decimals=4).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept.amax(-1), kept.amin(-1))


@pytest.mark.parametrize("cell", CELLS)
def test_bf16_autocast_runs_two_layers(cell):
    rnn = _rnn(cell, weight_drop=0.3).train()
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = rnn(torch.randn(2, 3, 8))
    out.sum().backward()
    assert all(p.grad is not None for p in rnn.parameters())


@pytest.mark.parametrize("weight_drop", [0.0, 0.3])
def test_an_lstm_is_computed_in_float32_where_there_is_none_in_bfloat16(weight_drop, monkeypatch):
    monkeypatch.setattr("seqgen.nn.rnn._has_low_lstm", lambda: False)
    rnn, x = _rnn("lstm", weight_drop=weight_drop).train(), torch.randn(2, 3, 8)
    torch.manual_seed(1)
    expected = rnn(x)[0]
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        out = rnn(x)[0]
    assert torch.equal(out, expected)
    out.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in rnn.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("cell", CELLS)
def test_weight_drop_on_cuda_stays_in_one_chunk_and_learns(cell):
    # cuDNN warns about scattered weights; warnings are errors in this suite
    rnn = _rnn(cell, weight_drop=0.5).cuda().train()
    rnn(torch.randn(5, 7, 8, device="cuda"))[0].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in rnn.parameters())
