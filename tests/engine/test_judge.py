"""The judge: its numbers against the model line by line, and their order for good, scrambled and collapsed text."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from seqgen.core.errors import DataError, RunError
from seqgen.data.text import read_lines
from seqgen.engine import judge, loop
from seqgen.engine.evaluate import evaluate
from seqgen.engine.loading import load
from seqgen.engine.refine import TwoSampleTest
from seqgen.engine.run import config

pytestmark = pytest.mark.filterwarnings("ignore:MAUVE of", "ignore:the Fr")


def test_features_are_the_mean_of_the_hidden_states_of_each_line(trained: Path, text: Path) -> None:
    generator = load(trained)
    lines = ["the cat sees the dog here .", "the bird .", "the man likes the man now ."]
    rows = judge.features(generator, lines)
    for line, row in zip(lines, rows, strict=True):
        ids = [generator.tokenizer.bos, *generator.tokenizer.encode([line]).row(0).tolist()]
        with torch.no_grad():
            hidden, _ = generator.model.scan(torch.tensor([ids]))
        np.testing.assert_allclose(row, hidden[0].double().mean(0).numpy(), atol=1e-5)


def test_real_text_beats_scrambled_and_collapsed_text(trained: Path, text: Path) -> None:
    generator, lines = load(trained), read_lines(text)
    shuffler = random.Random(0)
    scrambled = [" ".join(shuffler.sample(line.split(), len(line.split()))) for line in lines[:60]]
    real = judge.judge(generator, lines[:60], lines[60:120], reverse=False)
    mixed = judge.judge(generator, scrambled, lines[60:120], reverse=False)
    assert float(real["lm_forward"]) == pytest.approx(np.log(generator.score(lines[:60]).perplexity))
    assert float(real["lm_forward"]) < float(mixed["lm_forward"]) - 1
    assert float(real["frechet_lm"]) < float(mixed["frechet_lm"])
    assert 0 < float(real["mauve"]) <= 1


def test_what_stands_in_every_signature_stands_in_the_judges_too(
    trained: Path, text: Path, held_out: list[str]
) -> None:
    lines = read_lines(text)
    references = [*held_out[20:60], *lines[:2]]
    with pytest.warns(UserWarning, match=r"^2 of 42 references also stand in the training text$"):
        table = evaluate(held_out[:20], references, train=lines)
    judged = judge.judged(table, load(trained), references, reverse=False)
    for column in judged.columns:
        assert {score.signature.fields["leak"] for score in column.scores.values()} == {"2"}
    # of real text it is the held-out lines that the judge is asked about
    real = judged.columns[1]
    nats = load(trained).score(real.held_out)
    assert real.scores["lm_forward"].value == pytest.approx(nats.nats / nats.total_tokens)


def test_samples_have_the_auroc_of_a_critic_and_real_text_none(trained: Path, text: Path) -> None:
    generator = load(trained)
    made = generator.generate(count=600, seed=1, temperature=1.5)
    train = read_lines(text)
    other = generator.generate(count=900, seed=2, temperature=1.5)
    references = [line for line in dict.fromkeys(other) if line not in train][:110]
    table = evaluate([line for line in made if line not in train][:110], references, train=train)
    judged = judge.judged(table, generator, references, reverse=False)
    assert ["auroc" in column.scores for column in judged.columns] == [True, False, True]
    wanted = TwoSampleTest(generator).auroc(references, table.columns[0].lines)
    assert judged.columns[0].scores["auroc"].value == pytest.approx(wanted, abs=1e-9)


def test_a_sampler_that_repeats_itself_fails_in_reverse(trained: Path, text: Path) -> None:
    generator, lines = load(trained), read_lines(text)
    few = lines[:10] * 8
    good, collapsed = (judge.reverse_nats(generator, samples, lines[80:140]) for samples in (lines[:80], few))
    assert good < collapsed - 0.5
    with pytest.raises(DataError, match=r"^a reverse score needs at least 10 different samples to train on, got 1$"):
        judge.reverse_nats(generator, lines[:1] * 50, lines[80:140])


def test_a_run_that_is_no_language_model_of_lines_cannot_judge(text: Path, tmp_path: Path) -> None:
    small = ["model.hidden=8", "train.steps=1", "train.samples=0", "data.mode=stream", "data.window=8", "train.batch=4"]
    loop.train(config("lm", text, overrides=small), tmp_path / "r")
    with pytest.raises(RunError, match=r"r cannot judge: expected a run of lm on lines, without conditions$"):
        judge.judge(load(tmp_path / "r"), ["a b"] * 3, ["a b"] * 3)
