"""Gaps filled by a masked run and by one that writes from left to right, and where a bound is marked as such."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from small_run import SMALL

from seqgen.core import log
from seqgen.core.errors import DataError, RunError
from seqgen.engine import compare, evaluate, loop
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.run import config

GIVEN = ["the [MASK] sees the dog now .", "the cat [MASK] the [MASK] here ."]


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked run on lines; nobody writes into it."""
    out = tmp_path_factory.mktemp("runs") / "masked"
    small = [word for word in SMALL if "embedding" not in word]
    loop.train(config("masked", text, overrides=[*small, "train.steps=60", "train.lr=0.02"]), out)
    return out


@pytest.fixture(scope="module")
def generator(run: Path) -> TextGenerator:
    return load(run, device="cpu")


def test_fillings_keep_what_is_given_and_filling_k_depends_on_its_text_and_k_alone(generator: TextGenerator) -> None:
    found = generator.fill(GIVEN, count=3, seed=4)
    assert [one.given for one in found] == [text for text in GIVEN for _ in range(3)]
    for one in found:
        pattern = re.escape(one.given).replace(re.escape("[MASK]"), r"(\S+)")
        match = re.fullmatch(pattern, one.text)
        assert match is not None
        assert list(match.groups()) == one.words
        assert len(one.log_probs) == one.given.count("[MASK]")
    assert found[3:5] == generator.fill(GIVEN[1:], count=2, seed=4)


def test_a_run_from_left_to_right_draws_a_gap_from_its_next_token_distribution(trained: Path) -> None:
    generator = load(trained, device="cpu")
    found = generator.fill(["the [MASK] sees the dog now ."], count=5)
    whole = generator.score([one.text for one in found])
    for one, row in zip(found, whole.log_probs, strict=True):
        assert one.log_probs == pytest.approx([row[1]], abs=1e-5)
    best = generator.fill(["the [MASK] sees the dog now ."], count=2, best_of=40)
    likeliest = max(generator.score([f"the {w} sees the dog now ." for w in ("cat", "dog", "man", "bird")]).per_line)
    assert generator.score([best[0].text]).per_line[0] == pytest.approx(likeliest)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("the cat sees", "text 1 has no gap: 'the cat sees'; write [MASK] for each token to be filled in"),
        ("the c[MASK]t", "text 1: [MASK] stands for a whole word of this run; put spaces around it"),
        ("the whale [MASK]", "text 1 holds 'whale', which this run's vocabulary of 17 does not; use words or"),
        ("[MASK] " * 16, "text 1 has 16 tokens, and this run knows texts of at most 15; shorten it, or train with a"),
    ],
)
def test_what_cannot_be_filled_is_named(given: str, fault: str, generator: TextGenerator) -> None:
    with pytest.raises(DataError, match=re.escape(fault)):
        generator.fill([given])


def test_fillings_of_tokens_that_are_parts_of_words_are_refused(text: Path, tmp_path: Path) -> None:
    settings = config("lm", text, overrides=[*SMALL, "train.steps=1", "tokenizer.kind=byte"])
    loop.train(settings, tmp_path / "run")
    with pytest.raises(RunError, match=r"\[MASK\] stands for a word or a character, and this run's tokens are parts"):
        load(tmp_path / "run").fill(GIVEN)


def test_a_bound_has_names_of_its_own_in_every_table(
    run: Path, trained: Path, generator: TextGenerator, held_out: list[str]
) -> None:
    for row in log.read(run / "scores.jsonl"):
        assert {"bound_per_token", "bound_per_character"} <= set(row)
        assert not [name for name in row if name.startswith("nll") or name == "perplexity"]
    assert generator.score(held_out).bound == "8 draws of masks"
    table = evaluate.evaluate(generator, held_out, count=20, baselines=False)
    likelihood = table.columns[0].likelihood
    assert set(likelihood) == {"bound_per_token", "bound_per_character", "bound_per_line"}
    assert {score.signature.fields["by"] for score in likelihood.values()} == {"8 draws of masks (bound)"}
    found = compare.compare([run, trained], held_out, count=20, shown=["nll_per_character", "bound_per_character"])
    assert [[e.first(name) is not None for e in found.entries[:2]] for name in found.metrics] == [
        [False, True],
        [True, False],
    ]


def test_the_bound_of_a_line_does_not_depend_on_the_lines_beside_it(
    generator: TextGenerator, held_out: list[str]
) -> None:
    whole = generator.score(held_out)
    assert whole.log_probs[7] == pytest.approx(generator.score(held_out[7:8]).log_probs[0], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "fault"),
    [
        ({"template": "the ??? sees"}, ValueError, "bad_words, require, template and pattern need a model that writes"),
        ({"no_repeat_ngram_size": 2}, ValueError, "no_repeat_ngram_size need a model that writes from left to right"),
        ({"best_of": 2}, ValueError, "log-probabilities of a text, which best_of compares, need a model"),
    ],
)
def test_options_for_texts_from_left_to_right_are_refused(
    options: dict[str, Any], error: type[Exception], fault: str, generator: TextGenerator
) -> None:
    with pytest.raises(error, match=fault):
        generator.generate(2, **options)


def test_beams_need_a_model_from_left_to_right_and_denoising_steps_another(
    generator: TextGenerator, trained: Path
) -> None:
    with pytest.raises(RunError, match="beam search needs a model that writes from left to right; a run of masked"):
        generator.search()
    with pytest.raises(ValueError, match="denoising_steps is for runs of masked"):
        load(trained).generate(denoising_steps=3)
    with pytest.raises(ValueError, match="best_of compares exact probabilities"):
        generator.fill(GIVEN, best_of=2)


def test_generation_stops_at_stop_strings_and_streams_the_same_text(generator: TextGenerator) -> None:
    texts = generator.generate(20, seed=3)
    assert len(set(texts)) > 5
    assert generator.generate(20, seed=3, stop=[" "]) == [text.split(" ")[0] for text in texts]
    assert "".join(generator.stream(seed=3, index=4)) == texts[4]
    assert generator.generate(5, prompt="the cat", seed=1) == [
        dataclasses.asdict(text)["text"] for text in generator.texts(5, prompt="the cat", seed=1)
    ]
