"""The fused output layer against torch's own cross-entropy."""

import pytest
import torch
import torch.nn.functional as F

from seqgen.nn.losses import linear_cross_entropy, linear_log_probs


def _case(rows=70, hidden=12, vocab=50, *, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    h = torch.randn(rows, hidden, dtype=dtype, requires_grad=True)
    w = torch.randn(vocab, hidden, dtype=dtype, requires_grad=True)
    b = torch.randn(vocab, dtype=dtype, requires_grad=True) if bias else None
    return h, w, b, torch.randint(vocab, (rows,))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 16, 70, 512])
def test_value_and_gradients_equal_cross_entropy(bias, chunk):
    h, w, b, y = _case(bias=bias)
    inputs = [x for x in (h, w, b) if x is not None]
    ours = linear_cross_entropy(h, w, b, y, chunk=chunk)
    # float64 is the reference: float32 sums differ by their order
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = F.cross_entropy(F.linear(wide[0], wide[1], wide[2] if bias else None), y, reduction="sum")
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)
    for a, e in zip(torch.autograd.grad(ours * 0.3, inputs), torch.autograd.grad(expected * 0.3, wide), strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_equal_finite_differences(bias):
    h, w, b, y = _case(rows=7, hidden=4, vocab=5, bias=bias, dtype=torch.float64)
    weights = torch.randn(7, dtype=torch.float64)
    inputs = (h, w, b) if bias else (h, w)

    def loss(h, w, b=None):
        return linear_cross_entropy(h, w, b, y, row_weights=weights, chunk=3)

    assert torch.autograd.gradcheck(loss, inputs)


def test_row_weights_weigh_value_and_gradient():
    h, w, b, y = _case()
    weights = torch.randn(len(y))
    ours = linear_cross_entropy(h, w, b, y, row_weights=weights, chunk=16)
    expected = (weights * F.cross_entropy(F.linear(h, w, b), y, reduction="none")).sum()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)
    for a, e in zip(torch.autograd.grad(ours, (h, w, b)), torch.autograd.grad(expected, (h, w, b)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


def test_autocast_gradients_are_those_of_bfloat16_products():
    h, w, b, y = _case(rows=200, hidden=32, vocab=100)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(h, w, b, y, chunk=64)
    expected = F.cross_entropy(F.linear(h, w, b), y, reduction="sum")
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(expected.item(), rel=5e-3)
    for a, e in zip(torch.autograd.grad(ours, (h, w, b)), torch.autograd.grad(expected, (h, w, b)), strict=True):
        assert a.dtype == torch.float32
        assert (a - e).norm() < 0.02 * e.norm()
        assert not torch.equal(a, e)


def test_no_rows_give_zero_loss_and_zero_gradients():
    h, w, b, y = _case(rows=0)
    loss = linear_cross_entropy(h, w, b, y)
    assert loss.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, (h, w, b)))


def test_shapes_that_do_not_fit_are_named():
    h, w, b, y = _case()
    with pytest.raises(
        ValueError, match=r"^expected hidden \(P, H\), weight \(V, H\) and targets \(P,\), got \(70, 12\)"
    ):
        linear_cross_entropy(h, w, b, y[:-1])


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_log_probs_equal_float64_log_softmax(scale):
    h, w, b, y = _case(rows=600)
    h = h.detach() * scale  # at 60 most targets' probabilities underflow in float32
    ours = linear_log_probs(h, w.detach(), b.detach(), y)
    wide = F.linear(h.double(), w.detach().double(), b.detach().double())
    expected = wide.log_softmax(-1).gather(1, y[:, None]).squeeze(1)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
