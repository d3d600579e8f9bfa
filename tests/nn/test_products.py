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


@pytest.fixture(params=[(True, False), (True, True), (False, False)], ids=["AMD, AVX-512", "Intel, AVX-512", "AVX2"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    wide, intel = request.param
    monkeypatch.setattr(products, "_avx512", lambda: wide)
    monkeypatch.setattr(products, "_intel", lambda: intel)


def test_every_processor_has_its_library(
    processor: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_onednn", object)
    chosen = [products._by_onednn(torch.empty(512, outputs).t()) for outputs in (2048, 8000)]
    assert (
        chosen
        == {
            "AMD, AVX-512": [True, True],
            "Intel, AVX-512": [False, False],
            "AVX2": [False, True],
        }[request.node.callspec.id]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matmul_takes_any_layout_and_writes_or_adds(processor: None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(40, 60, generator=generator).to(dtype)
    right = torch.randn(30, 20, generator=generator).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    for a in (whole[:17, :30], whole[:30, :17].t(), whole[:17].contiguous()[:, :30].contiguous()):
        for b in (right, right.t().contiguous().t()):
            expected = a.double() @ b.double()
            kept = torch.randn(25, 50, generator=generator)
            out, before = kept[:17, 5:25], kept[:17, 5:25].double()
            for got, wanted in (
                (products.matmul(a, b), expected),
                (products.matmul(a, b, out, add=True).clone(), before + expected),
                (products.matmul(a, b, out), expected),
            ):
                torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 128), (96, 384), (384, 65), (512, 2048), (640, 200), (1024, 512)])
def test_a_row_of_a_step_has_the_same_bits_in_every_whole_number_of_tiles(inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(4)
    x, weight = (torch.randn(n, inputs, generator=generator) for n in (520, outputs))
    weight, bias = weight.t().contiguous().t(), torch.randn(outputs, generator=generator)
    first = products.linear(x[:8], weight, bias)
    for rows in (16, 64, 200, 520):
        assert torch.equal(products.linear(x[:rows], weight, bias)[:8], first)
        assert torch.equal(products.linear(x[:rows].roll(rows - 8, 0), weight, bias)[rows - 8 :], first)


def test_autocast_is_respected() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert products.trained_linear(*matrices()).dtype == torch.bfloat16


def test_rows_at_once_are_the_caches_on_a_cpu_and_a_memorys_elsewhere():
    for each in (4 * 65, 4 * 5000, 4 * 200_000, 1 << 30):
        assert rows_at_once(torch.device("cpu"), each, cached=256) == 256
        rows = rows_at_once(torch.device("cuda"), each, cached=256)
        assert rows % 256 == 0
        assert rows == 256 or rows * each <= 1 << 28 < 2 * rows * each
