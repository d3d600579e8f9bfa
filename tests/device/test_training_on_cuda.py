"""Every model trained on a CUDA device: it validates, saves, and resumes to the same bytes, by repeatable kernels only.

Without a CUDA device these tests run on the simulated one (test_simulated.py), which also counts.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import seqgen
from seqgen.engine import report
from seqgen.engine import run as runs

pytestmark = pytest.mark.gpu
SENTENCES = 120
BASE: dict[str, Any] = {
    "train.device": "cuda",
    "train.steps": 4,
    "train.eval_every": 0,
    "train.save_every": 2,
    "train.log_every": 1,
    "train.samples": 4,
    "train.batch": 8,
    "train.keep": 9,
}
TEXT = {"model.hidden": 16, "model.embedding": 12}
GPT = {"model.hidden": 16, "model.layers": 2}
SEQGAN = {
    "model.policy.hidden": 16,
    "model.policy.embedding": 12,
    "train.steps": 6,
    "train.save_every": 3,
    "model.mle_steps": 2,
    "model.critic_steps": 1,
    "model.critic_turn": 1,
    "model.reward.rollouts": 2,
    "model.critic.negatives": 8,
    "model.critic.embedding": 8,
}
CNN = {**SEQGAN, "model.critic.widths": (1, 2), "model.critic.maps": (4, 4)}
GRU = {**SEQGAN, "model.critic.kind": "gru", "model.critic.hidden": 8}
SEQ2SEQ = {**TEXT, "data.source": "begin", "data.target": "end"}
VAE = {**TEXT, "model.kl_target": 0}
IMAGES = {"train.samples": 0, "train.batch": 16}
GAN = {**IMAGES, "model.generator_widths": (16, 8), "model.critic_widths": (8, 16)}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lm": ("lm", TEXT),
    "lm-awd": (
        "lm",
        {
            **TEXT,
            "model.cell": "gru",
            "model.layers": 2,
            "model.weight_drop": 0.3,
            "model.embedding_dropout": 0.1,
            "model.activation_penalty": 2,
            "model.slowness_penalty": 1,
            "train.accumulate": 2,
            "train.average_from": 1,
        },
    ),
    "lm-bf16": ("lm", {**TEXT, "train.precision": "bf16"}),
    "lm-bf16-drop": ("lm", {**TEXT, "train.precision": "bf16", "model.weight_drop": 0.3, "model.cell": "gru"}),
    "lm-rmsprop": ("lm", {**TEXT, "train.optimizer": "rmsprop"}),
    "lm-adagrad": ("lm", {**TEXT, "train.optimizer": "adagrad"}),
    "lm-stream": ("lm", {**TEXT, "data.mode": "stream", "tokenizer.kind": "char", "data.jitter": True}),
    "lm-window": ("lm", {**TEXT, "data.mode": "window", "tokenizer.kind": "byte"}),
    "lm-minlstm": ("lm", {**TEXT, "model.cell": "minlstm", "model.layers": 2, "model.weight_drop": 0}),
    "gpt": ("gpt", GPT),
    "masked": ("masked", {**GPT, "model.draws": 2, "train.accumulate": 2}),
    "masked-bf16": ("masked", {**GPT, "model.draws": 2, "train.precision": "bf16", "model.positions": "learned"}),
    "gpt-bf16": ("gpt", {**GPT, "train.precision": "bf16", "model.positions": "learned", "model.activation": "gelu"}),
    "gpt-window": ("gpt", {**GPT, "data.mode": "window", "data.window": 16, "tokenizer.kind": "char"}),
    "seq2seq": ("seq2seq", SEQ2SEQ),
    "seq2seq-bf16": (
        "seq2seq",
        {
            **SEQ2SEQ,
            "train.precision": "bf16",
            "train.accumulate": 2,
            "model.cell": "gru",
            "model.layers": 2,
            "model.attention": "bahdanau",
            "data.source_tokenizer": "char",
        },
    ),
    "seq2seq-scan": ("seq2seq", {**SEQ2SEQ, "model.input_feeding": False, "model.tied": False}),
    "hmm": ("hmm", {"model.states": 4}),
    "seqgan-delta": ("seqgan", {**CNN, "model.reward.advantage": "delta", "model.critic.corrupted_negatives": 0.5}),
    "seqgan-kl": (
        "seqgan",
        {
            **CNN,
            "model.reward.advantage": "reinforce_loo",
            "model.reward.kl_target": 0.05,
            "model.reward.mle_weight": 0.1,
            "model.reward.rollout_lag": 0.9,
        },
    ),
    "seqgan-value": ("seqgan", {**CNN, "model.reward.advantage": "critic", "model.reward.gae": 0.9}),
    "seqgan-bf16": (
        "seqgan",
        {**CNN, "train.precision": "bf16", "model.reward.rollout_precision": "bf16", "model.reward.advantage": "raw"},
    ),
    "seqgan-reward": (
        "seqgan",
        {
            **CNN,
            "model.reward.kind": "regex:dog",
            "model.reward.weight": 0.5,
            "model.reward.advantage": "reinforce_loo",
        },
    ),
    "seqgan-clip": (
        "seqgan",
        {**CNN, "model.critic.loss": "wasserstein-clip", "model.reward.advantage": "reinforce_loo"},
    ),
    "seqgan-gp": ("seqgan", {**CNN, "model.critic.loss": "wasserstein-gp", "model.reward.advantage": "reinforce_loo"}),
    "seqgan-gru": ("seqgan", {**GRU, "model.reward.advantage": "critic"}),
    "seqgan-gru-bf16": ("seqgan", {**GRU, "model.reward.advantage": "reinforce_loo", "train.precision": "bf16"}),
    "seqgan-gru-clip": ("seqgan", {**GRU, "model.critic.loss": "wasserstein-clip", "model.reward.advantage": "delta"}),
    "seqgan-gru-gp": (
        "seqgan",
        {**GRU, "model.critic.loss": "wasserstein-gp", "model.reward.advantage": "reinforce_loo"},
    ),
    "text-vae": ("text-vae", {**VAE, "model.bidirectional": True}),
    "text-vae-bf16": ("text-vae", {**VAE, "model.bn_gamma": 0.6, "train.precision": "bf16", "model.pool": "last"}),
    "text-vae-aggressive": ("text-vae", {**VAE, "model.kl_target": 5, "model.aggressive": True}),
    "text-vae-adversarial": ("text-vae", {**VAE, "model.match": "adversarial", "model.cell": "gru"}),
    "image-vae": ("image-vae", IMAGES),
    "image-vae-adversarial": ("image-vae", {**IMAGES, "model.adversarial_weight": 5}),
    "image-vae-bf16": ("image-vae", {**IMAGES, "train.precision": "bf16"}),
    **{f"image-gan-{loss}": ("image-gan", {**GAN, "model.loss": loss}) for loss in ("ns", "lsgan", "wgan", "wgan-gp")},
    "image-gan-hinge": ("image-gan", {**GAN, "model.loss": "hinge", "model.labels": "projection"}),
    "image-gan-rpgan": ("image-gan", {**GAN, "model.loss": "rpgan", "train.precision": "bf16"}),
    "image-gan-semi": ("image-gan", {**GAN, "model.labels": "semi", "data.labelled": 100}),
}
"""Model and settings by name; between them they reach every loss, critic and precision."""

WAITS = {"masked": 3, "masked-bf16": 2, "seqgan": 8}
"""Waits for the device in a step at most, by case or model; elsewhere one: `update` fetches the loss and what is noted.
How many places of a part are masked is asked for each part. A critic of SeqGAN draws once a round, which is two more;
a policy step draws, scores, and with rollouts completes and scores again."""


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    own = Path(__file__).resolve().parents[2] / "corpora" / "captions.txt"
    lines = own.read_text().splitlines(keepends=True)[:SENTENCES]
    path.write_text("".join(lines))
    halves = [line.split(" ", 3) for line in lines]
    pairs = [f"{' '.join(words[:3])}\t{words[-1]}" for words in halves]
    path.with_name("pairs.tsv").write_text("".join(["begin\tend\n", *pairs]))
    return path


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report takes longer than the training here, and nothing of it is done on the device."""
    monkeypatch.setattr(report, "write_report", lambda folder: None)


def hashes(run: Path) -> dict[str, str]:
    """SHA-256 of what a run's steps left."""
    files = [run / "log.jsonl", run / "scores.jsonl", *run.glob("checkpoints/*/*.safetensors"), *run.glob("samples/*")]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


def settings_of(case: str, sentences: Path) -> Any:
    model, chosen = CASES[case]
    data = "digits" if model.startswith("image") else sentences
    data = sentences.with_name("pairs.tsv") if model == "seq2seq" else data
    return seqgen.config(model, data, overrides={**BASE, **chosen})


@pytest.mark.parametrize("case", CASES)
def test_a_run_resumes_to_the_same_bytes_by_repeatable_kernels(case, sentences, tmp_path, monkeypatch):
    settings, out = settings_of(case, sentences), tmp_path / "run"
    model_module = runs.model_module(settings.name)
    steps: list[Any] = []
    if (simulated := sys.modules.get("simulated")) is not None:
        train_step = model_module.train_step

        def counted(*arguments: Any) -> Any:
            with simulated.counted() as counts:
                scalars = train_step(*arguments)
            steps.append(counts)
            return scalars

        monkeypatch.setattr(model_module, "train_step", counted)
    seqgen.train(settings, out)
    # on a real card scripts/gpu looks at the waits
    assert [counts.nondeterministic for counts in steps if counts.nondeterministic] == []
    most = WAITS.get(case, WAITS.get(settings.name, 1))
    assert all(counts.synchronisations.total() <= most for counts in steps), [c.synchronisations for c in steps]

    whole = hashes(out)
    shutil.rmtree(out / "checkpoints" / f"step-{settings.train.steps:08d}")
    seqgen.train(None, out)
    assert hashes(out) == whole


def test_the_environment_says_how_the_device_computes(sentences, tmp_path):
    settings = runs.changed(settings_of("lm", sentences), {"train.tf32": True, "train.samples": 0})
    seqgen.train(settings, tmp_path / "run")
    env = (tmp_path / "run" / "env.json").read_text()
    for fact in ('"gpu": ', '"cudnn_deterministic": true', '"tf32_products": true', '"tf32_cudnn": true'):
        assert fact in env


def test_training_on_host_and_device_agree(sentences, tmp_path):
    # without dropout, whose numbers each device draws for itself
    plain = {"model.input_dropout": 0.0, "model.hidden_dropout": 0.0, "model.output_dropout": 0.0}
    seen = []
    for device in ("cpu", "cuda"):
        settings = runs.changed(settings_of("lm", sentences), {**plain, "train.device": device, "train.samples": 0})
        seqgen.train(settings, tmp_path / device)
        lines = (tmp_path / device / "scores.jsonl").read_text().splitlines()
        seen.append([torch.tensor(json.loads(line)["nll_per_token"]) for line in lines])
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=0)
