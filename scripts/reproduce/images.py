#!/usr/bin/env python3
"""Feature Frechet distances of VAE and GAN images after a few epochs of MNIST and Fashion-MNIST, one CPU thread.

Every model makes 10,000 images, compared with all 60,000 training images by the features of a small classifier
trained on them (`seqgen.images.scores`), the 10,000 test images beside them as the floor. An epoch is one pass of
the critic, or of the VAE, over the training images; a GAN's last line is the checkpoint of the lowest validation
distance (2,000 images of other seeds). What is finished stands in FOLDER and is not done again.
Run: SEQGEN_DATA=... scripts/reproduce/images.py FOLDER [--sets mnist] [--models vae dcgan]
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from seqgen.engine import loop
from seqgen.engine.evaluate import evaluate_images
from seqgen.engine.loading import load_image_generator
from seqgen.engine.run import config
from seqgen.images.data import DataConfig, prepare
from seqgen.images.features import features_of
from seqgen.images.grids import save_grid

COUNT = 60_000
COMMON = ("train.precision=bf16", "train.threads=1", "train.samples=2000", "train.log_every=100", "train.save_every=0")
SMALL = ("model.generator_widths=[64, 32]", "model.critic_widths=[32, 64]")

# name: model, epochs, steps of the optimizers per batch of the critic, settings beside the preset's
MODELS: dict[str, tuple[str, int, float, tuple[str, ...]]] = {
    "vae": ("image-vae", 3, 1, ("train.batch=128",)),
    "dcgan": ("image-gan", 3, 2, ()),
    "rpgan": ("image-gan", 3, 2, ("model.loss=rpgan", "train.beta1=0.0", "train.beta2=0.99", *SMALL)),
    "wgan-gp": ("image-gan", 4, 6 / 5, ("model.loss=wgan-gp", "train.beta1=0.0", "train.beta2=0.9", *SMALL)),
}
SETS = ("mnist", "fashion-mnist")
SHOWN = ("ffd", "precision", "recall", "density", "coverage", "class_kl", "classifier_score", "nearest_training")


def trained(name: str, source: Path, out: Path) -> float:
    """Train a run and return its CPU seconds, validations included, the first call's feature net not."""
    model, epochs, per_batch, words = MODELS[name]
    batch = 128 if "train.batch=128" in words else 64
    epoch = round(COUNT // batch * per_batch)
    length = (f"train.steps={epochs * epoch}", f"train.eval_every={epoch}")
    settings = config(model, source, overrides=[*COMMON, *words, *length])
    begin = time.process_time()
    if loop.train(settings, out).reason != "finished":
        raise SystemExit(f"{out}: stopped before its end; remove it, or its time would be that of a part")
    return time.process_time() - begin


def rows(name: str, data: str, out: Path, folder: Path) -> list[dict[str, Any]]:
    """The lines of one trained run: one for each way of making images, and the real ones."""
    generator = load_image_generator(out)
    table = evaluate_images(generator, count=10_000, seed=1)
    for method in ("prior", "mixture") if generator.encodes else ("prior",):
        sheet = folder / f"{data}-{name}-{method}.png"
        save_grid(generator.generate(36, seed=1, method=method), sheet, columns=12, zoom=2)
    found = []
    for column in table.columns:
        values = {key: column.scores[key].value for key in SHOWN}
        found.append({"set": data, "model": name, "images": column.name, "about": column.about, **values})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"| set | model | images | CPU s | {' | '.join(SHOWN)} |\n|{' --- |' * (4 + len(SHOWN))}")
    for data in options.sets:
        for model in options.models:
            source = Path(os.environ["SEQGEN_DATA"]) / "images" / data
            out, kept = options.folder / f"{data}-{model}", options.folder / f"{data}-{model}.json"
            if not kept.is_file():
                # the feature net is trained once for each set and is no part of a model's time
                features_of(prepare(DataConfig(files=(str(source),)), batch=1, seed=1, device="cpu"))
                seconds = trained(model, source, out)
                found = [row | {"cpu_s": seconds} for row in rows(model, data, out, options.folder)]
                kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            for row in json.loads(kept.read_text(encoding="utf-8")):
                cells = [f"{row[key]:.3g}" if key == "ffd" else f"{row[key]:.3f}" for key in SHOWN]
                print(f"| {data} | {model} | {row['images']} | {row['cpu_s']:.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
