#!/usr/bin/env python3
"""The oracle experiment of SeqGAN with the controls that make its curves mean something (Yu et al. 2017, section 5).

The preset `seqgan-paper-short` on `oracle:lstm`. For every seed one language model and one critic; from there, for as
many steps, go likelihood alone, the paper's advantage, `delta`, and the paper's advantage with constant reward. NLL of
samples under the oracle stands beside the model's own NLL of held-out oracle text, because either alone can be bought:
the last rows are the language model at other temperatures, which buys the one with the other and needs no critic. The
control `tuned` is a language model of the same sizes with dropout, whose checkpoint fresh lines of the oracle choose;
with the first seed all four go on from that one too, with a critic of its own samples.
Runs that are there already are not trained again, so seeds can be run one by one, and the table made at the end.
Run: scripts/reproduce/seqgan_oracle.py OUT [--seeds 1 2 3] [--precision bf16]
"""

import argparse
import contextlib
import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seqgen.core import rng
from seqgen.data.corpora.oracle import LstmOracle, oracle
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.loop import train
from seqgen.engine.plots import plain_figure, png
from seqgen.engine.run import config, read_preset

LIKELIHOOD = "likelihood alone"
VARIANTS = {
    LIKELIHOOD: ["model.mle_steps=1000000"],
    "raw, N=16 (paper)": ["model.reward.advantage=raw", "model.reward.rollouts=16"],
    "delta, N=4": ["model.reward.advantage=delta", "model.reward.rollouts=4"],
    # the critic takes its turns here too, so that steps mean the same, but nobody asks it
    "constant reward": ["model.reward.advantage=raw", "model.reward.rollouts=1", "model.reward.kind=constant"],
}
TUNED = [
    "model.embedding=32", "model.hidden=32", "model.tied=false", "model.input_dropout=0.2", "model.output_dropout=0.2",
    "model.weight_drop=0", "data.mode=fixed", "train.batch=64", "train.lr=0.01", "train.steps=1560",
    "train.eval_every=156", "train.samples=0", "train.threads=1", "train.device=cpu",
]  # fmt: skip
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
SAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of rollouts")
    given = parser.parse_args()
    logging.getLogger("seqgen").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    points: dict[str, list[dict[int, tuple[float, float]]]] = defaultdict(list)
    for seed in given.seeds:
        for name, curve in curves(given.out, seed, given.precision):
            points[name].append(curve)
            print(f"seed {seed}  {name}: {shown(curve)}", flush=True)
    (given.out / "curves.png").write_bytes(drawn(points))
    # too far below to be drawn with the others
    language_model = tuned(given.out)
    for name, curve in curves(given.out, given.seeds[0], given.precision, language_model):
        points[f"tuned language model, {name}"].append(curve)
    table(points)
    print(f"\ncurves: {given.out / 'curves.png'}")


def curves(
    out: Path, seed: int, precision: str, language_model: Path | None = None
) -> Iterator[tuple[str, dict[int, tuple[float, float]]]]:
    """By step, or by 100 times the temperature: (NLL of samples under the oracle, held-out NLL), nats per token.

    All from a language model of this seed, or from the one given.
    """
    schedule = read_preset("seqgan-paper-short")["model"]
    before = schedule["mle_steps"] + schedule["critic_steps"]
    after = read_preset("seqgan-paper-short")["train"]["steps"] - before
    common = [
        f"seed={seed}", f"model.reward.rollout_precision={precision}", f"train.samples={SAMPLES}", "train.save_every=0",
        "train.threads=1", "train.device=cpu",
    ]  # fmt: skip
    prefix = "" if language_model is None else "tuned-"
    base, begun = out / f"{prefix}base-{seed}", [f"train.steps={before}"]
    if language_model is not None:
        begun = ["model.mle_steps=0", f"train.steps={schedule['critic_steps']}"]
    run(base, [*common, *begun, "train.eval_every=0"], source_run=language_model)
    (start,) = read(base).values()
    for name, options in VARIANTS.items():
        folder = out / f"{prefix}{name.split(',')[0].replace(' ', '-')}-{seed}"
        begun = ["model.mle_steps=0", "model.critic_steps=0", f"train.steps={after}"]
        run(folder, [*common, *begun, *options], source_run=base)
        yield name, {0: start, **read(folder)}
    yield "temperature", by_temperature(load(base))


def run(folder: Path, overrides: list[str], source_run: Path | None = None) -> None:
    """Trained, unless the folder says that it was."""
    if not (folder / "scores.jsonl").is_file():
        train(config("seqgan", preset="seqgan-paper-short", overrides=overrides), folder, source_run=source_run)


def read(folder: Path) -> dict[int, tuple[float, float]]:
    scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    return {score["step"]: (score["nll_oracle"], score["nll_per_token"]) for score in scores}


def tuned(out: Path) -> Path:
    """A language model that stops where the likelihood of selection lines does; made where it is not there."""
    task, folder = oracle("oracle:lstm"), out / "tuned"
    files = {name: out / f"{name}.txt" for name in ("training", "selection")}
    if not (folder / "report.html").is_file():
        assert task.tokenizer is not None
        task.tokenizer.save(out / "numbers" / "tokenizer")
        fresh = LstmOracle.seeded().sample(1000, 20, rng.generator("oracle", "selection")).tolist()
        for name, lines in (("training", task.train), ("selection", [" ".join(map(str, row)) for row in fresh])):
            files[name].write_text("".join(f"{line}\n" for line in lines))
        chosen = config("lm", files["training"], valid=files["selection"], overrides=TUNED)
        train(chosen, folder, tokenizer_run=out / "numbers")
    return folder


def by_temperature(generator: TextGenerator) -> dict[int, tuple[float, float]]:
    """The policy of a run, its logits divided by the temperature, on both sides."""
    task, found = oracle("oracle:lstm"), {}
    for temperature in TEMPERATURES:
        with tempered(generator.model.policy, temperature):
            held_out = generator.score(task.valid)
            sampled = task.scores(generator.generate(SAMPLES, seed=1))["nll_oracle"]
        found[round(100 * temperature)] = (sampled, held_out.nats / held_out.total_tokens)
    return found


@contextlib.contextmanager
def tempered(policy: Any, temperature: float) -> Iterator[None]:
    """While open, the model whose logits are divided by the temperature, in sampling and in scoring."""
    weight, bias = (part.detach() / temperature for part in policy.head())
    policy.head = lambda: (weight, bias)  # on the object, before its class
    try:
        yield
    finally:
        del policy.head


def shown(curve: dict[int, tuple[float, float]]) -> str:
    return ", ".join(f"{at}: {sampled:.3f} / {held_out:.3f}" for at, (sampled, held_out) in curve.items())


def table(points: dict[str, list[dict[int, tuple[float, float]]]]) -> None:
    """Means over seeds, the standard deviation behind them."""
    for name, seeds in points.items():
        first = name if name.endswith("temperature") else f"{name}: step"
        print(f"\n| {first} | NLL_oracle | held-out NLL |\n| --- | --- | --- |")
        for at in seeds[0]:
            columns = [
                f"{statistics.mean(values):.3f} ± {statistics.pstdev(values):.3f}"
                for values in zip(*(curve[at] for curve in seeds), strict=True)
            ]
            print(f"| {at / 100 if name == 'temperature' else at} | {' | '.join(columns)} |")


def drawn(points: dict[str, list[dict[int, tuple[float, float]]]]) -> bytes:
    """Both sides as one plane: to the left better by the oracle, downwards better on held-out text."""
    figure, axes = plain_figure(7, 5)
    for name, seeds in points.items():
        for curve in seeds:
            # of the temperatures only those near the runs, which would be too small to see else
            across, up = zip(*(both for at, both in curve.items() if name != "temperature" or at >= 80), strict=True)
            style = {"color": "#999", "marker": "x"} if name == "temperature" else {"marker": "."}
            known = [line for line in axes.get_lines() if line.get_label() == name]
            color = {"color": known[0].get_color()} if known else {}
            label = f"_{name}" if known else name
            axes.plot(across, up, **{"label": label, **style, **color})  # type: ignore[arg-type]
    axes.set_xlabel("NLL of samples under the oracle, nats per token")
    axes.set_ylabel("held-out NLL, nats per token")
    axes.legend(frameon=False)
    return png(figure)


if __name__ == "__main__":
    main()
