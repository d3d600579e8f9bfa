#!/usr/bin/env python3
"""Image VAEs and GANs on MNIST and Fashion-MNIST at equal CPU seconds, one thread; one JSON for each cell.

A cell is a set, a model and a seed. Each model trains for `--seconds` CPU seconds (its steps per second are measured
first; 0: as long as its preset says), then makes 10,000 images, which are compared with the 60,000 training images by
the features of a small classifier trained on them (`seqgen.images.scores`); 10,000 test images stand beside them as if
they were made. Precision, recall, density and coverage compare 5,000 with 5,000. What is finished stands in FOLDER and
is not done again: the same command goes on where it stopped, inside a training too.
Run: SEQGEN_DATA=... scripts/reproduce/images.py FOLDER [--sets mnist] [--models vae dcgan] [--seeds 1 2 3]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from seqgen.core import log, rng
from seqgen.engine import loop
from seqgen.engine.loading import load_image_generator
from seqgen.engine.progress import Progress
from seqgen.engine.run import config
from seqgen.images.data import DataConfig, ImageData, prepare
from seqgen.images.grids import save_grid
from seqgen.images.scores import own_reference, scores_of, signed_scores

COUNT = 10_000
QUIET = ("train.samples=0", "train.eval_every=0", "train.threads=1", "train.precision=bf16", "train.log_every=100")
SMALL = ("model.width=32", "train.beta1=0.0")
SHOWN = ("ffd", "precision", "recall", "density", "coverage", "class_kl", "classifier_score", "nearest_training")

# name: model, preset, settings beside the preset's
MODELS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "vae": ("image-vae", "image-vae", ("train.batch=128",)),
    "gan": ("image-gan", "image-gan", ()),
    "dcgan": ("image-gan", "dcgan", ()),
    "rpgan": ("image-gan", "image-gan", (*SMALL, "model.loss=rpgan", "train.beta2=0.99")),
    "wgan-gp": ("image-gan", "image-gan", (*SMALL, "model.loss=wgan-gp", "train.beta2=0.9")),
    "classes": ("image-gan", "image-gan-classes", ()),
}
SETS = ("mnist", "fashion-mnist")


def trained(name: str, source: Path, seed: int, seconds: float, out: Path) -> float:
    """Train a run and return its CPU seconds; one that was stopped goes on, and its seconds add up."""
    model, preset, words = MODELS[name]
    begun, spent = out.with_suffix(".steps.json"), 0.0
    settings = config(model, source, preset=preset, overrides=[*QUIET, *words, f"seed={seed}"])
    steps = settings.train.steps
    if begun.is_file():
        steps, spent = json.loads(begun.read_text(encoding="utf-8"))
    elif seconds:
        clock: dict[int, float] = {}

        def look(shown: Progress) -> None:
            clock.setdefault(shown.step, time.process_time())

        with tempfile.TemporaryDirectory() as folder:
            short = config(model, source, preset=preset, overrides=[*QUIET, *words, "train.steps=60"])
            loop.train(short, Path(folder) / "run", progress=look)
        steps = round(50 * seconds / (clock[60] - clock[10]))
    begun.write_text(json.dumps([steps, spent]), encoding="utf-8")
    words = (*QUIET, *words, f"seed={seed}", f"train.steps={steps}", f"train.save_every={max(1, steps // 8)}")
    begin = time.process_time()
    reason = loop.train(config(model, source, preset=preset, overrides=words), out).reason
    spent += time.process_time() - begin
    begun.write_text(json.dumps([steps, spent]), encoding="utf-8")
    if reason != "finished":
        raise SystemExit(f"{out}: stopped; the same command goes on")
    return spent


def scored(pixels: torch.Tensor, data: ImageData, seed: int, intervals: bool) -> dict[str, Any]:
    """Each number, with its 95 % interval where that is asked for: it takes ten times as long."""
    if not intervals:
        return {name: [value] for name, value in scores_of(pixels, own_reference(data)).items() if name in SHOWN}
    found = signed_scores(pixels, own_reference(data), seed=seed)
    return {name: [found[name].value, *(found[name].interval or ())] for name in SHOWN}


def cells(
    data: ImageData, source: Path, name: str, seed: int, seconds: float, out: Path, *, intervals: bool
) -> list[dict[str, Any]]:
    """The rows of one trained run, one for each way of making images; of `real` the test images alone."""
    # in random order: the first half of MNIST's test images is cleaner than the second
    order = torch.randperm(len(data.valid.pixels), generator=rng.generator("test images", seed))[:COUNT]
    if name == "real":
        return [{"images": "test", "cpu_s": 0.0} | scored(data.valid.pixels[order], data, seed, intervals)]
    spent = trained(name, source, seed, seconds, out)
    generator = load_image_generator(out)
    rows = []
    for method in ("prior", "mixture") if generator.encodes else ("prior",):
        made = generator.generate(COUNT, seed=seed, method=method)
        save_grid(made[:36], out.with_name(f"{out.name}-{method}.png"), columns=12, zoom=2)
        rows.append({"images": method, "cpu_s": spent} | scored(made, data, seed, intervals))
    if generator.encodes:
        rebuilt = generator.reconstruct(data.valid.pixels[order])
        rows.append({"images": "reconstructions", "cpu_s": spent} | scored(rebuilt, data, seed, intervals))
    return rows


def printed(folder: Path, seconds: float) -> None:
    """The table of what is finished: mean over seeds, half of the first seed's interval, deviation over seeds."""
    print(f"| set | model | images | seeds | CPU s | {' | '.join(SHOWN)} |\n|{' --- |' * (5 + len(SHOWN))}")
    for data in SETS:
        for name in ("real", *MODELS):
            found = [
                json.loads(p.read_text("utf-8")) for p in sorted(folder.glob(f"{data}_{name}_{seconds:g}_[0-9].json"))
            ]
            for same in zip(*found, strict=True):
                spent = statistics.mean(row["cpu_s"] for row in same)
                cell = f"| {data} | {name} | {same[0]['images']} | {len(same)} | {spent:.0f} |"
                for key in SHOWN:
                    values, digits = [row[key][0] for row in same], 1 if key == "ffd" else 3
                    cell += f" {statistics.mean(values):.{digits}f}"
                    if len(same[0][key]) == 3:
                        cell += f" ± {(same[0][key][2] - same[0][key][1]) / 2:.{digits}f}"
                    cell += f", {statistics.stdev(values):.{digits}f} |" if len(values) > 1 else " |"
                print(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--models", nargs="+", choices=["real", *MODELS], default=["real", *MODELS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for place in options.sets:
            source = Path(os.environ["SEQGEN_DATA"]) / "images" / place
            data = None
            for name in options.models:
                kept = options.folder / f"{place}_{name}_{options.seconds:g}_{seed}.json"
                if kept.is_file() or (name == "real" and seed != options.seeds[0]):
                    continue
                log.say(f"{kept.stem} ...")
                data = data or prepare(DataConfig(files=(str(source),)), batch=1, seed=1, device="cpu")
                rows = cells(data, source, name, seed, options.seconds, kept.with_suffix(""), intervals=seed == 1)
                kept.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    printed(options.folder, options.seconds)


if __name__ == "__main__":
    main()
