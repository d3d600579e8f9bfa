"""Where the time of the three hottest loops goes, by operator, and what share of the peak its products reach.

A training step of the language model (V 8,000, H 512), sampling 64 texts from it, and a training step of the paper's
critic. Peak: a product of two matrices 1024 x 1024 in the same process. Run: scripts/bench.py profile, which writes
docs/images/hot-loops.svg; with --quick nothing is written. Times are of the wall: run it on a quiet machine.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import critic_train
import lm_train
import sampling
import torch
from seqgan_usual import PAPER, VOCAB, critics
from torch.profiler import ProfilerActivity, profile

from seqgen.core.options import Sampling
from seqgen.core.rng import text_seeds

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "hot-loops.svg"
SHOWN = 6
Bar = tuple[str, float, float]
"""An operator, its share of the time, and what it computes of the peak (0: no product)."""


def loops() -> dict[str, Callable[[], object]]:
    _, model, batch = lm_train.both(8_000)
    _, writer = sampling.both()
    decoder, seeds = writer.decoder(), text_seeds(0, 0, 64)
    _, critic = critics(*PAPER)
    ids, lengths = torch.randint(VOCAB, (critic_train.ROWS, 20)), torch.full((critic_train.ROWS,), 20)
    labels, critic = (torch.arange(critic_train.ROWS) % 2).float(), critic.train()
    return {
        "training step, language model": lm_train.our_step(model, batch, bf16=False),
        "sampling, 64 texts": lambda: decoder.decode([[0]] * 64, seeds, Sampling(max_new_tokens=10)),
        "training step, paper's critic": critic_train.step(
            lambda: critic(ids, lengths), list(critic.parameters()), labels, low=False
        ),
    }


def peak() -> float:
    """FLOP/s of the best of some products."""
    a, best = torch.ones(1024, 1024), 0.0
    for _ in range(10):
        begin = time.perf_counter()
        a @ a
        best = max(best, 2 * 1024**3 / (time.perf_counter() - begin))
    return best


def flops(name: str, shapes: Sequence[Any]) -> float:
    """Multiplications and additions of one call of an operator of these inputs; 0 for what is no product."""
    if name == "aten::mm":
        (m, k), n = shapes[0], shapes[1][1]
    elif name in ("aten::addmm", "aten::addmm_"):
        (m, k), n = shapes[1], shapes[2][1]
    elif name == "mkldnn::_linear_pointwise":
        (m, k), n = shapes[0], shapes[1][0]
    elif name.startswith("aten::mkldnn_rnn_layer"):
        (steps, rows, inputs), (gates, hidden) = shapes[0], shapes[2]
        return 2.0 * steps * rows * gates * (inputs + hidden) * (2 if name.endswith("backward") else 1)
    else:
        return 0.0
    return 2.0 * m * k * n


def measured(work: Callable[[], object], at_best: float, times: int) -> tuple[list[Bar], float]:
    """The operators that take most of the time, and the whole loop's share of the peak."""
    work()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        for _ in range(times):
            work()
    seconds: dict[str, float] = {}
    done: dict[str, float] = {}
    for event in seen.key_averages(group_by_input_shape=True):
        seconds[event.key] = seconds.get(event.key, 0.0) + event.self_cpu_time_total / 1e6
        done[event.key] = done.get(event.key, 0.0) + event.count * flops(event.key, event.input_shapes)
    total = sum(seconds.values())
    hottest = sorted(seconds, key=lambda name: -seconds[name])[:SHOWN]
    bars = [(name, seconds[name] / total, done[name] / seconds[name] / at_best) for name in hottest]
    return bars, sum(done.values()) / total / at_best


def picture(found: dict[str, tuple[list[Bar], float]], at_best: float) -> str:
    """SVG: a block of bars for each loop."""
    parts, y = [], 20
    for loop, (bars, share) in found.items():
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{escape(loop)}: {share:.0%} of the peak</text>')
        for name, part, reached in bars:
            y += 20
            said = f"{part:.0%} of the time" + (f", at {reached:.0%} of the peak" if reached else "")
            parts.append(f'<text x="232" y="{y}" text-anchor="end">{escape(name.split("::")[-1])}</text>')
            parts.append(f'<rect x="240" y="{y - 12}" width="{300 * part:.1f}" height="14" fill="#9db7d5"/>')
            filled = 300 * part * min(reached, 1)
            parts.append(f'<rect x="240" y="{y - 12}" width="{filled:.1f}" height="14" fill="#2b5c94"/>')
            parts.append(f'<text x="{246 + 300 * part:.1f}" y="{y}">{said}</text>')
        y += 32
    parts.append(f'<text x="8" y="{y}">dark: what the peak, {at_best / 1e9:.0f} GFLOP/s, would have needed</text>')
    size = f'width="780" height="{y + 12}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    back = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, back, *parts, "</svg>"]) + "\n"


def rows(quick: bool) -> Iterator[dict[str, object]]:
    at_best = peak()
    found = {loop: measured(work, at_best, 3 if quick else 20) for loop, work in loops().items()}
    for loop, (bars, share) in found.items():
        said = {name: [round(part, 3), round(reached, 3)] for name, part, reached in bars}
        yield {
            "bench": "profile",
            "case": loop,
            "ratio": round(share, 3),
            "floor": None,
            "gate": "ok",
            "operators": said,
        }
    if not quick:
        PICTURE.write_text(picture(found, at_best), encoding="utf-8")


BENCHES = {"profile": rows}
