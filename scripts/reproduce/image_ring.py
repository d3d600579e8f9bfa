#!/usr/bin/env python3
"""Modes of a ring of eight Gaussians that each GAN loss covers: the smallest test of collapse.

Points are images of one pixel and two channels, so `image-gan` trains on them as it is. A mode is covered
if at least 1 % of 2,500 made points lie within three standard deviations of it; `near` is the share of all points that
lie so near to some mode. Real points: 8 modes, near 0.989.
Run: scripts/reproduce/image_ring.py [--steps 6000] [--seeds 3] [--losses ns,rpgan]
"""

import argparse
import math
import statistics
import time

import torch
from torch import Tensor

from seqgen.core import rng
from seqgen.core.config import Train
from seqgen.images import gan
from seqgen.images.data import ImageBatch

RADIUS, DEVIATION, BATCH = 0.7, 0.03, 256


def ring(count: int, draws: torch.Generator) -> Tensor:
    """Points (N, 2) around eight centres, in -1..1."""
    angle = torch.randint(8, (count,), generator=draws) * math.tau / 8
    centre = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    return centre + DEVIATION * torch.randn(count, 2, generator=draws)


def judged(points: Tensor) -> tuple[int, float]:
    """Modes covered, and the share of points near one."""
    angle = torch.arange(8) * math.tau / 8
    distance = torch.cdist(points, RADIUS * torch.stack([angle.cos(), angle.sin()], 1))
    near = distance.min(1).values < 3 * DEVIATION
    counts = torch.bincount(distance.argmin(1)[near], minlength=8)
    return int((counts >= 0.01 * len(points)).sum()), float(near.float().mean())


def trained(loss: str, seed: int, steps: int) -> tuple[int, float]:
    """What a generator makes after `steps` updates of either network."""
    norm = "spectral" if loss == "hinge" else "none"
    gamma = 0.1 if loss == "wgan-gp" else -1.0  # as in its authors' script for toys; 10 takes far longer
    config = gan.Config(
        net="mlp", hidden=128, latent=8, loss=loss, gamma=gamma, critic_norm=norm, channels=2, size=1, ema=0.99
    )
    rng.enter_step(rng.hash64("weights", seed), 0)
    model = gan.Model(config)
    train = Train(
        steps=steps, batch=BATCH, lr=1e-3, optimizer="adam", beta1=0.0, beta2=0.9, schedule="linear", clip=0.0
    )
    optimizers = gan.optimizers(model, train)
    draws = rng.generator("ring", seed)
    for step in range(steps):
        rng.enter_step(seed, step)
        pixels = ((ring(BATCH, draws) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).view(BATCH, 2, 1, 1)
        gan.train_step(model.train(), optimizers, ImageBatch(pixels, torch.zeros(BATCH), torch.arange(BATCH)), step)
    with torch.inference_mode():
        made = model.eval().sample(rng.text_seeds(seed, 0, 2500))
    return judged(2 * made.view(-1, 2) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--losses", default=",".join(gan.LOSSES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| loss | modes of 8 per seed | near | CPU s a run |\n| --- | --- | --- | --- |")
    for loss in options.losses.split(","):
        begin = time.process_time()
        found = [trained(loss, seed, options.steps) for seed in range(options.seeds)]
        seconds = (time.process_time() - begin) / options.seeds
        modes, near = zip(*found, strict=True)
        print(f"| {loss} | {', '.join(map(str, modes))} | {statistics.mean(near):.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
