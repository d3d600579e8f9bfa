"""minGRU over 1,024 positions at once against its own loop, a step for each position: forward and backward.

Both have the same weights and give the same outputs. The loop does each step's product in the step, as a cell's loop is
written.
Run: scripts/bench.py scan
"""

from collections.abc import Iterator

import torch
from measure import ratios, row
from torch import Tensor

from seqgen.nn.minimal import Minimal

LENGTH = 1024


def loop(layer: Minimal, x_bti: Tensor, h: Tensor) -> Tensor:
    """h at every position, (B, T, H)."""
    found = []
    for x in x_bti.unbind(1):
        a, b = layer.coefficients(torch.nn.functional.linear(x, layer.weight, layer.bias))
        h = a * h + b
        found.append(h)
    return torch.stack(found, 1)


def scan(quick: bool) -> Iterator[dict[str, object]]:
    # of many rows a CPU's loop has long vectors in each step, and little is left to gain
    for rows, hidden, floor in ((1, 64, 10.0), (1, 256, 5.0), (8, 256, 1.2)):
        torch.manual_seed(0)
        layer = Minimal("mingru", hidden, hidden)
        x, first = torch.randn(rows, LENGTH, hidden), torch.zeros(rows, hidden)

        def ours(layer: Minimal = layer, x: Tensor = x, first: Tensor = first) -> Tensor:
            out = layer(x, [first.unsqueeze(0)])[0]
            out.sum().backward()
            return out

        def usual(layer: Minimal = layer, x: Tensor = x, first: Tensor = first) -> Tensor:
            out = loop(layer, x, first)
            out.sum().backward()
            return out

        error = float((ours() - usual()).detach().abs().max())
        gate = "ok" if error < 1e-5 else f"an output differs by {error:.1e}"
        values = ratios(usual, ours, rounds=3 if quick else 7)
        yield row("scan", f"minGRU, {rows} rows of {LENGTH}, {hidden} units", values, floor, gate)


BENCHES = {"scan": scan}
