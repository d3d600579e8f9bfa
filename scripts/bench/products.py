"""float32 products of the package's shapes by oneDNN, which `nn.products` takes, against torch's own choice (MKL).

And the output layer in bfloat16 against float32, as sampling takes it. Rows say where a choice by shape would gain.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from measure import ratios, row

from seqgen.nn.products import linear
from seqgen.nn.sampler import OutputLayer

SHAPES = {
    "a recurrent step": (8, 512, 2048),
    "64 recurrent steps": (64, 512, 2048),
    "output layer, 8 rows": (8, 512, 8000),
    "output layer, 64 rows": (64, 512, 8000),
    "output layer, 512 rows": (512, 512, 8000),
    "rollouts": (256, 32, 5000),
    "critic, highway": (1024, 1720, 1720),
    "characters": (1024, 512, 65),
}
"""Rows, inputs and outputs of a product."""


def products(quick: bool) -> Iterator[dict[str, object]]:
    for case, (rows, inputs, outputs) in SHAPES.items():
        repeats = max(1, int((2e8 if quick else 1e9) / (2 * rows * inputs * outputs)))
        yield from one(case, rows, inputs, outputs, repeats=repeats, rounds=5 if quick else 11)


def one(case: str, rows: int, inputs: int, outputs: int, *, repeats: int, rounds: int) -> Iterator[dict[str, object]]:
    """The rows of one shape."""
    x, bias = torch.randn(rows, inputs), torch.randn(outputs)
    weight = torch.randn(inputs, outputs).t()  # the layout in which sampling keeps weights

    def again(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(repeats):
                work()

        return run

    same = torch.allclose(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-4, atol=1e-3)
    values = ratios(again(lambda: F.linear(x, weight, bias)), again(lambda: linear(x, weight, bias)), rounds=rounds)
    yield row("products", f"oneDNN against MKL, {case}", values, None, "ok" if same else "products differ")
    if outputs < 5000:
        return
    full, low = (OutputLayer((weight, bias), precision=precision) for precision in ("fp32", "bf16"))
    near = (full.logits(x, full.bias) - low.logits(x, low.bias))[:, :outputs].abs().amax() < 0.02 * inputs**0.5 * 4
    values = ratios(
        again(lambda: full.probabilities(full.logits(x, full.bias))),
        again(lambda: low.probabilities(low.logits(x, low.bias))),
        rounds=rounds,
    )
    yield row("products", f"bf16 against fp32, {case}", values, None, "ok" if near else "logits differ")


BENCHES = {"products": products}
