"""The contract of `models/_contract.py`: every model module passes, the text models and the image models alike."""

import copy
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqgen.core import config as settings_of
from seqgen.core import rng
from seqgen.core.options import Sampling, help_texts
from seqgen.engine import run as runs
from seqgen.models._contract import ModelModule
from seqgen.nn.decode import Samples

MODEL_MODULES = runs.model_names()
STEPS = 6  # enough for every phase of a small schedule
# set wherever a model module, or a section of it, has an option of that name, so that a new model module is tested
# small without a line here
SMALL = {
    "embedding": 8,
    "hidden": 8,
    "latent": 4,
    "widths": (4, 8),
    "generator_widths": (8, 4),
    "critic_widths": (4, 8),
    "maps": (4, 4),
    "mle_steps": 2,
    "critic_steps": 1,
    "critic_turn": 1,
    "round_steps": 1,
    "negatives": 16,
    "rollouts": 1,
}


class Case:
    """A model module with small settings and its data."""

    def __init__(self, name, folder):
        self.name, self.model_module = name, runs.model_module(name)
        options = settings_of.flat({"model": settings_of.to_dict(self.model_module.Config())})
        small = {option: SMALL.get(option.rpartition(".")[2]) for option in options}
        overrides = {option: value for option, value in small.items() if value is not None}
        overrides |= {"train.batch": 8, "train.steps": STEPS}
        if name == "seqgan":
            overrides["model.critic.widths"] = (1, 2)
        if self.model_module.DATA == "text":
            text = folder / "text.txt"
            words = ["red", "green", "blue", "cat", "dog", "bird", "sees", "likes"]
            lines = [" ".join(words[(k * n + k // 3) % 8] for n in range(1, 3 + k % 4)) for k in range(200)]
            lines = sorted(set(lines))
            if name == "seq2seq":  # it answers: the line backwards
                text = folder / "text.tsv"
                lines = ["there\tback", *(f"{line}\t{' '.join(reversed(line.split()))}" for line in lines)]
                overrides |= {"data.source": "there", "data.target": "back"}
            text.write_text("\n".join(lines) + "\n")
            overrides |= {"tokenizer.kind": "word"}
            settings = runs.config(name, data=[str(text)], overrides=overrides)
        else:
            settings = runs.config(name, overrides=overrides)
        room = runs.data_room(self.model_module.DATA)
        given = (settings.data, settings.tokenizer) if self.model_module.DATA == "text" else (settings.data,)
        self.data = room.prepare(*given, batch=8, seed=1, device=torch.device("cpu"))
        self.settings = runs.with_facts(
            settings, {**self.data.facts, "seed": 1}, *self.data.resolved, batch=self.data.batch
        )

    def model(self):
        rng.enter_step(7, 0)
        model = self.model_module.Model(self.settings.model)
        attach = getattr(self.model_module, "attach", None)
        if attach is not None:
            attach(model, self.data)
        return model

    def steps(self, model, optimizers, first, last):
        """The loop, without files."""
        told = []
        for step in range(first, last):
            rng.enter_step(1, step)
            model.train()
            told.append(self.model_module.train_step(model, optimizers, self.data.batches.at(step), step))
        model.eval()
        return told


@pytest.fixture(scope="module", params=MODEL_MODULES)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def _bytes(model):
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def test_a_model_module_has_the_names_and_their_arguments(case):
    assert case.model_module.DATA in ("text", "images")
    for name in ("optimizers", "train_step", "validate"):
        wanted = list(inspect.signature(getattr(ModelModule, name)).parameters)[1:]
        assert list(inspect.signature(getattr(case.model_module, name)).parameters) == wanted
    assert list(inspect.signature(case.model_module.Model).parameters) == ["config"]


def test_the_settings_are_frozen_explained_and_a_valid_input_again(case):
    cls = case.model_module.Config
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    for section in (cls(), *(v for v in vars(cls()).values() if dataclasses.is_dataclass(v))):
        assert set(help_texts(type(section))) == {field.name for field in dataclasses.fields(section)}
    filled = case.settings.model
    assert settings_of.build(cls, settings_of.to_dict(filled), section="model") == filled


def test_the_weights_are_a_function_of_the_seed(case):
    assert _bytes(case.model()) == _bytes(case.model())
    assert case.model().config == case.settings.model


def test_buffers_of_one_process_are_buffers(case):
    model = case.model()
    for name in getattr(model, "rank_local", ()):
        module, _, buffer = name.rpartition(".")
        assert buffer in model.get_submodule(module)._buffers


def test_the_optimizers_share_no_parameter(case):
    model = case.model()
    optimizers = case.model_module.optimizers(model, case.settings.train)
    owned = [parameter for optimizer in optimizers.values() for parameter in optimizer.parameters]
    assert len({id(parameter) for parameter in owned}) == len(owned)
    assert {id(p) for p in owned} <= {id(p) for p in model.parameters()}


def test_steps_tell_finite_numbers_and_change_weights(case):
    model = case.model()
    before = _bytes(model)
    told = case.steps(model, case.model_module.optimizers(model, case.settings.train), 0, STEPS)
    for scalars in told:
        assert scalars
        assert all(isinstance(name, str) and torch.isfinite(torch.as_tensor(value)) for name, value in scalars.items())
    assert before != {name: value for name, value in _bytes(model).items() if name in before}


def test_steps_taken_up_again_from_saved_tensors_end_with_the_same_bytes(case):
    """What a checkpoint holds is all there is: weights, buffers, moments."""
    whole = case.model()
    case.steps(whole, case.model_module.optimizers(whole, case.settings.train), 0, STEPS)
    first = case.model()
    optimizers = case.model_module.optimizers(first, case.settings.train)
    case.steps(first, optimizers, 0, STEPS // 2)
    saved = copy.deepcopy((first.state_dict(), {name: optimizer.state() for name, optimizer in optimizers.items()}))

    second = case.model()
    for name, value in saved[0].items():
        module, _, leaf = name.rpartition(".")
        owner = second.get_submodule(module)
        if leaf in owner._buffers:
            owner._buffers[leaf] = value
        else:
            owner._parameters[leaf].data.copy_(value)
    optimizers = case.model_module.optimizers(second, case.settings.train)
    for name, optimizer in optimizers.items():
        optimizer.load_state(saved[1][name])
    case.steps(second, optimizers, STEPS // 2, STEPS)
    assert _bytes(whole) == _bytes(second)


def test_validation_gives_sums_and_counts_and_changes_nothing(case):
    model = case.model()
    case.steps(model, case.model_module.optimizers(model, case.settings.train), 0, STEPS)
    before = _bytes(model)
    with torch.inference_mode():
        for batch in case.data.validation():
            scores = case.model_module.validate(model, batch)
            assert "nll" in scores or case.model_module.DATA != "text"
            for total, count in scores.values():
                assert torch.isfinite(torch.as_tensor(total))
                assert count > 0
    assert before == _bytes(model)


def test_sampling_is_a_function_of_the_seeds_and_changes_nothing(case):
    if case.model_module.DATA != "text":
        pytest.skip("images are sampled by latents; tests/images holds their laws")
    model = case.model()
    case.steps(model, case.model_module.optimizers(model, case.settings.train), 0, STEPS)
    before = _bytes(model)
    prompts = [[case.data.facts["start"]]] * 5
    with torch.inference_mode():
        samples = model.decoder().decode(prompts, rng.text_seeds(0, 0, 5), Sampling())
        again = model.decoder().decode(prompts[:2], rng.text_seeds(0, 3, 2), Sampling())
    assert isinstance(samples, Samples)
    assert samples.ids[3:] == again.ids
    assert {token for ids in samples.ids for token in ids}.isdisjoint(case.data.facts["suppress_tokens"])
    assert before == _bytes(model)


@pytest.mark.slow
def test_every_model_module_type_checks_as_one(tmp_path):
    pytest.importorskip("mypy")
    lines = ["from seqgen.models._contract import ModelModule"]
    for k, name in enumerate(MODEL_MODULES):
        room, _, file = runs.model_module(name).__name__.rpartition(".")
        lines += [f"from {room} import {file} as chapter_{k}", f"c_{k}: ModelModule = chapter_{k}"]
    path = tmp_path / "model modules.py"
    path.write_text("\n".join(lines) + "\n")
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(path)], capture_output=True, text=True, cwd=root, check=False
    )
    assert told.returncode == 0, told.stdout
