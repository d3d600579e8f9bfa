"""minGRU and minLSTM: positions computed together equal the papers' equations one after the other."""

import pytest
import torch
from torch import Tensor

from seqgen.core.errors import ConfigError
from seqgen.nn.minimal import Minimal, MinimalCell, linear_scan
from seqgen.nn.rnn import Rnn

CELLS = pytest.mark.parametrize("cell", ["mingru", "minlstm"])


def one_by_one(layer: Minimal, x_bti: Tensor, h: Tensor) -> Tensor:
    """Feng et al. 2024, algorithms 1 and 5 with g of appendix B, in float64, (B, T, H)."""
    weight, bias, found = layer.weight.double(), layer.bias.double(), []
    for t in range(x_bti.shape[1]):
        *gates, v = (x_bti[:, t].double() @ weight.t() + bias).chunk(2 if layer.cell == "mingru" else 3, 1)
        new = torch.where(v >= 0, v + 0.5, torch.sigmoid(v))
        if layer.cell == "mingru":
            z = torch.sigmoid(gates[0])
            h = (1 - z) * h + z * new
        else:
            f, i = torch.sigmoid(gates[0]), torch.sigmoid(gates[1])
            h = f / (f + i) * h + i / (f + i) * new
        found.append(h)
    return torch.stack(found, 1)


@CELLS
@pytest.mark.parametrize("length", [1, 2, 3, 17, 1000, 4096])
def test_positions_together_equal_one_after_the_other(cell: MinimalCell, length: int) -> None:
    torch.manual_seed(length)
    layer = Minimal(cell, 8, 16)
    with torch.no_grad():
        layer.weight *= 4  # gates of all sizes
    x, first = torch.randn(2, length, 8), torch.rand(2, 16)
    with torch.no_grad():
        out, (last,) = layer(x, [first.unsqueeze(0)])
        expected = one_by_one(layer, x, first.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(last[0], out[:, -1])
    assert (out > 0).all()


@pytest.mark.parametrize("length", [1, 2, 5, 11])
def test_the_gradient_of_the_scan_is_that_of_the_loop(length: int) -> None:
    from seqgen.nn.minimal import _LinearScan

    torch.manual_seed(0)
    inputs = [torch.rand(shape, dtype=torch.float64) for shape in ((1, length, 3), (1, length, 3), (1, 3))]
    before = [x.clone() for x in inputs]
    for x in inputs:
        x.requires_grad_()
    assert torch.autograd.gradcheck(_LinearScan.apply, inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))  # nothing was written in place


def test_a_scan_of_small_factors_and_of_ones_keeps_its_digits() -> None:
    a = torch.rand(1, 4096, 4, generator=torch.Generator().manual_seed(0)).pow(20)
    ones = torch.ones(1, 4096, 4)
    assert torch.equal(linear_scan(ones, ones, torch.zeros(1, 4))[0, :, 0], torch.arange(1, 4097).float())
    h, found = torch.zeros(1, 4, dtype=torch.float64), []
    for t in range(4096):
        h = a[:, t].double() * h + 1
        found.append(h)
    torch.testing.assert_close(
        linear_scan(a, ones, torch.zeros(1, 4)).double(), torch.stack(found, 1), rtol=1e-6, atol=0
    )


@CELLS
def test_a_row_of_a_step_has_the_same_bits_in_every_batch(cell: MinimalCell) -> None:
    torch.manual_seed(0)
    rnn = Rnn(cell, 8, (12, 13)).eval()
    x, state = torch.randn(64, 8), tuple(torch.rand(64, width) for width in (12, 13))
    with torch.no_grad():
        step = rnn.stepper()
        whole, _ = step(x, state)
        for rows in (slice(8), slice(16, 40)):
            assert torch.equal(step(x[rows], tuple(s[rows] for s in state))[0], whole[rows])


@CELLS
def test_weight_drop_is_refused(cell: MinimalCell) -> None:
    with pytest.raises(ConfigError, match=f"drops weights from state to state, which {cell} has not; set it to 0"):
        Rnn(cell, 8, (8,), weight_drop=0.5)
