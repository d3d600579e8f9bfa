"""Training steps of the convolutional VAE and of the DCGAN: bf16 autocast against fp32, one thread, 28 x 28 images.

Run: scripts/bench.py image-step
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measure import has_bf16_units, ratios, row

from seqgen.core import rng
from seqgen.core.config import Train
from seqgen.images import gan, vae
from seqgen.images.data import ImageBatch

BATCH = 128
SIZES = {"channels": 1, "size": 28}


def stepper(model_module: Any, config: Any, batch: ImageBatch, cycle: int, precision: torch.dtype | None) -> Any:
    """A function that makes one cycle of training steps, and the model it trains."""
    rng.enter_step(1, 0)
    model = model_module.Model(config).train()
    optimizers = model_module.optimizers(model, Train(steps=1000, batch=BATCH, lr=1e-4, clip=0.0, optimizer="adam"))
    counter = [0]

    def run() -> None:
        for _ in range(cycle):
            rng.enter_step(1, counter[0])
            with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
                model_module.train_step(model, optimizers, batch, counter[0])
            counter[0] += 1

    return run, model


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """How many times faster a step in bf16 is; the gate compares the losses of both after the same steps."""
    made = torch.Generator()
    made.manual_seed(1)
    pixels = (torch.rand(BATCH, 1, 28, 28, generator=made) < 0.2).to(torch.uint8) * 255
    batch = ImageBatch(pixels, torch.zeros(BATCH, dtype=torch.int64), torch.arange(BATCH))
    cases: list[tuple[str, Any, Any, int, float | None]] = [
        ("bf16 conv VAE step", vae, vae.Config(**SIZES), 1, 1.4),
        ("bf16 DCGAN cycle", gan, gan.Config(**SIZES), 2, None),
    ]
    for case, model_module, config, cycle, floor in cases:
        full, model = stepper(model_module, config, batch, cycle, None)
        half, other = stepper(model_module, config, batch, cycle, torch.bfloat16)
        values = ratios(full, half, rounds=5 if quick else 15)
        gate = "ok" if has_bf16_units() else "no bf16 units"
        if model_module is vae and not agree(model, other, batch):
            gate = "held-out losses of bf16 and fp32 differ by more than 2 %"
        yield row("image-step", case, values, floor, gate)


def agree(model: Any, other: Any, batch: ImageBatch) -> bool:
    """Whether two models trained alike have nearly one loss, both measured in fp32."""
    losses = []
    for one in (model, other):
        with torch.inference_mode():
            total, count = vae.validate(copy.deepcopy(one).eval(), batch)["loss"]
        losses.append(float(total) / int(count))
    return abs(losses[0] - losses[1]) < 0.02 * losses[0]


BENCHES: dict[str, Callable[[bool], Iterator[dict[str, Any]]]] = {"image-step": rows}
