"""Products by oneDNN equal torch's own, with gradients, and fall back where there is no such operator."""

import pytest
import torch
import torch.nn.functional as F

from seqgen.core.numerics import rows_at_once
from seqgen.nn import products


def matrices(rows: int = 9, columns: int = 20, inner: int = 33) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (rows, inner), (columns, inner), (columns,)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_linear_equals_torch(dtype: torch.dtype) -> None:
    x, weight, bias = (m.to(dtype) for m in matrices())
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.1}[dtype]
    expected = F.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(products.linear(x, weight, bias).double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        products.linear(x, weight.t().contiguous().t()).double(), expected - bias, rtol=tolerance, atol=tolerance
    )


def test_trained_linear_has_torchs_gradients() -> None:
    given = [m.requires_grad_() for m in matrices()]
    upstream = torch.randn(9, 20, generator=torch.Generator().manual_seed(2))
    got = torch.autograd.grad(products.trained_linear(*given), given, upstream)
    expected = torch.autograd.grad(F.linear(*given), given, upstream)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_without_the_operator_it_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_onednn", lambda: None)
    given = matrices()
    assert torch.equal(products.linear(*given), F.linear(*given))


def test_autocast_is_respected() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert products.trained_linear(*matrices()).dtype == torch.bfloat16


def test_rows_at_once_are_the_caches_on_a_cpu_and_a_memorys_elsewhere():
    for each in (4 * 65, 4 * 5000, 4 * 200_000, 1 << 30):
        assert rows_at_once(torch.device("cpu"), each, cached=256) == 256
        rows = rows_at_once(torch.device("cuda"), each, cached=256)
        assert rows % 256 == 0
        assert rows == 256 or rows * each <= 1 << 28 < 2 * rows * each
