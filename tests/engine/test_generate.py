"""Text k is a function of (weights, options, seed, k); likelihoods are those of the model taken step by step."""

import dataclasses
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from seqgen.core.errors import DataError, RunError
from seqgen.core.options import Sampling
from seqgen.engine import loop
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.run import config


@pytest.fixture(scope="module")
def generator(trained: Path) -> TextGenerator:
    return load(trained)


def test_text_k_does_not_depend_on_the_count(generator: TextGenerator) -> None:
    assert generator.generate(3, seed=5) == generator.generate(17, seed=5)[:3]
    assert generator.generate(3, seed=5) != generator.generate(3, seed=6)


def test_a_streamed_text_is_the_generated_one(generator: TextGenerator) -> None:
    for index, text in enumerate(generator.generate(4, seed=2)):
        pieces = list(generator.stream(seed=2, index=index))
        assert "".join(pieces) == text
        assert len(pieces) > 3


def test_a_prompt_begins_every_text(generator: TextGenerator) -> None:
    assert all(text.startswith("the dog") for text in generator.generate(5, prompt="the dog"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop": ["dog"], "best_of": 2},
        {"unique": True, "match": "bird|man", "attempts": 100},
        {"bad_words": ["dog"], "require": ["bird"]},
    ],
)
def test_the_texts_of_a_prompt_do_not_depend_on_the_other_prompts(
    options: dict[str, Any], generator: TextGenerator
) -> None:
    prompts = ["the dog", "", "the", "the dog"]
    if "bad_words" in options:
        prompts = ["the cat", "", "the"]
    texts = generator.texts(3, prompts=prompts, seed=4, **options)
    alone = [text for prompt in prompts for text in generator.texts(3, prompt=prompt, seed=4, **options)]
    assert texts == alone
    assert [text.prompt for text in texts] == [prompt for prompt in prompts for _ in range(3)]
    assert [text.text for text in texts] == generator.generate(3, prompts=prompts, seed=4, **options)
    assert all(text.text.startswith(text.prompt) for text in texts)


def test_a_beam_searches_for_each_prompt(generator: TextGenerator) -> None:
    prompts = ["the dog", "the cat sees"]
    together = generator.search(2, num_beams=3, prompts=prompts, max_new_tokens=5)
    alone = [text for prompt in prompts for text in generator.search(2, num_beams=3, prompt=prompt, max_new_tokens=5)]
    assert [(t.prompt, t.text, t.log_prob) for t in together] == [(t.prompt, t.text, t.log_prob) for t in alone]
    assert all(len(text.tokens) <= 5 for text in together)


def test_signatures_show_the_options_and_their_defaults() -> None:
    shown = {name: inspect.signature(getattr(TextGenerator, name)) for name in ("generate", "texts", "stream")}
    defaults = {f.name: f.default for f in dataclasses.fields(Sampling)}
    for signature in shown.values():
        parameters = signature.parameters
        assert {name: parameters[name].default for name in defaults} == defaults
        assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())
        assert [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY] in (["self"], ["self", "count"])
    assert shown["generate"].return_annotation == list[str]
    assert [*shown["texts"].parameters] == [*shown["generate"].parameters]
    assert {*shown["stream"].parameters} - {"index"} < {*shown["generate"].parameters}


def test_log_probabilities_of_a_text_are_those_its_score_gives(generator: TextGenerator) -> None:
    text = next(t for t in generator.texts(20, seed=3, details=True, temperature=1.5) if t.finished)
    scored = generator.score([text.text])
    assert scored.tokens[0] == text.tokens
    assert text.log_probs == pytest.approx(scored.log_probs[0], abs=1e-4)


def test_perplexity_and_nats_are_their_definitions(generator: TextGenerator) -> None:
    lines = ["the cat sees the dog here .", "the man likes the man now ."]
    scored = generator.score(lines)
    total = sum(map(sum, scored.log_probs))
    assert scored.total_tokens == sum(len(generator.tokenizer.encode([line]).row(0)) + 1 for line in lines)
    assert scored.perplexity == pytest.approx(math.exp(-total / scored.total_tokens))
    assert scored.nats_per_character == pytest.approx(-total / (len(lines[0]) + len(lines[1]) + 2))


def test_a_score_is_the_chain_rule_over_single_steps(generator: TextGenerator) -> None:
    ids = generator.tokenizer.encode(["the cat sees the dog here ."]).row(0).long().tolist()
    model, total = generator.model, 0.0
    for t, target in enumerate([*ids, generator.tokenizer.eos]):
        with torch.no_grad():
            hidden, _ = model.scan(torch.tensor([[generator.tokenizer.bos, *ids[:t]]]))
            weight, bias = model.head()
            total += float((model.features(hidden[0, -1]) @ weight.T + bias).log_softmax(-1)[target])
    assert generator.score(["the cat sees the dog here ."]).per_line[0] == pytest.approx(total, abs=1e-4)


def test_a_stop_string_ends_the_text_before_it(generator: TextGenerator) -> None:
    whole = generator.generate(6, seed=4)
    cut = generator.generate(6, seed=4, stop=["the"], prompt="")
    assert cut == [text.split("the")[0] for text in whole]
    after = generator.generate(3, seed=4, prompt="the cat", stop=[" the"])
    assert all(text.startswith("the cat") and " the" not in text[7:] for text in after)
    assert "".join(generator.stream(seed=4, index=2, stop=["the"])) == cut[2]


def test_filters_reject_and_report(generator: TextGenerator) -> None:
    texts = generator.generate(8, seed=1, unique=True)
    assert len(set(texts)) == 8
    assert all("dog" in text for text in generator.generate(5, match="dog", attempts=200))
    known = generator.generate(30, seed=1)
    assert not set(generator.generate(3, seed=1, novel_against=known, attempts=200)) & set(known)
    with pytest.raises(RunError, match=r"only 0 of 2 texts passed after 40 attempts \(rejected: 40 no match\)"):
        generator.generate(2, match="zebra")


def test_words_are_kept_out_and_brought_in(generator: TextGenerator) -> None:
    assert any("dog" in text for text in generator.generate(20, seed=1))
    assert not any("dog" in text.split() for text in generator.generate(20, seed=1, bad_words=["dog"]))
    assert all("bird" in text.split() for text in generator.generate(20, seed=1, require=["bird"]))
    assert not any("dog" in "".join(generator.stream(seed=1, index=k, bad_words=["dog"])).split() for k in range(5))


def test_a_template_forces_its_characters(generator: TextGenerator) -> None:
    texts = generator.generate(10, seed=1, template="the ??? likes the ??? now .")
    assert all(re.fullmatch(r"the ... likes the ... now \.", text) for text in texts)
    assert all(re.fullmatch(r"the (cat|dog|man) .*", t) for t in generator.generate(9, pattern="the (cat|dog|man) .*"))
    with pytest.raises(ValueError, match=r"^'Q' cannot be written: this run's vocabulary does not hold it$"):
        generator.generate(1, template="QQQ ?")


def test_no_copy_never_repeats_a_run_of_the_training_text(generator: TextGenerator) -> None:
    train = generator.tokenizer.encode(generator.own_text().train_lines).tolist()
    runs = {tuple(row[i : i + 5]) for row in train for i in range(len(row) - 4)}

    def copies(texts: list[str]) -> int:
        rows = generator.tokenizer.encode(texts).tolist()
        return sum(tuple(row[i : i + 5]) in runs for row in rows for i in range(len(row) - 4))

    assert copies(generator.generate(20, seed=1)) > 20
    assert copies(generator.generate(20, seed=1, no_copy=5)) == 0


def test_best_of_takes_the_likeliest_of_its_own_indices(generator: TextGenerator) -> None:
    drawn = generator.texts(12, seed=6, details=True, temperature=1.5)
    best = generator.texts(4, seed=6, best_of=3, temperature=1.5)
    groups = [drawn[i : i + 3] for i in range(0, 12, 3)]
    assert [t.text for t in best] == [max(g, key=lambda t: sum(t.log_probs)).text for g in groups]


def test_a_beam_finds_texts_at_least_as_likely_as_greedy(generator: TextGenerator) -> None:
    found = generator.search(3, num_beams=6, length_penalty=0.0)
    scores = [t.log_prob for t in found]
    assert scores == sorted(scores, reverse=True)
    greedy = generator.texts(1, greedy=True, details=True)[0]
    assert scores[0] >= greedy.log_prob - 1e-4
    assert scores == pytest.approx(generator.score([t.text for t in found]).per_line, abs=1e-3)
    with pytest.raises(ValueError, match=r"^count must be in 1\.\.2, the number of beams, got 3$"):
        generator.search(3, num_beams=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 0}, ValueError, "count must be an integer >= 1, got 0"),
        ({"temprature": 1.0}, TypeError, "TextGenerator.generate() got an unexpected keyword argument 'temprature'"),
        ({"prompt": ["the"]}, TypeError, "prompt must be one text, got list; give several as prompts=[...]"),
        ({"prompts": "the"}, TypeError, "prompts must be a list of texts, got one text; put it into a list"),
        ({"prompts": ["the", 1]}, TypeError, "prompt 2 must be a text, got int"),
        ({"prompts": ["the"], "prompt": "a"}, ValueError, "prompts stand alone; leave prompt and sources out"),
        ({"prompts": ["the", "the ß"]}, DataError, "prompt 2 holds 'ß', which this run's vocabulary of "),
        ({"stop": "the"}, TypeError, "stop must be a list of texts, got one text; put it into a list"),
        ({"top_p": 0.0}, ValueError, "sample.top_p must be a number > 0 and <= 1, got 0.0"),
        ({"sources": ["x"]}, DataError, "this run was trained without data.source and cannot take sources"),
    ],
)
def test_a_wrong_option_is_named(
    options: dict[str, object], error: type[Exception], message: str, generator: TextGenerator
) -> None:
    with pytest.raises(error) as caught:
        generator.generate(**options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_a_prompt_with_characters_never_seen_names_them(trained: Path, text: Path, tmp_path: Path) -> None:
    small = ["model.hidden=8", "train.steps=1", "train.samples=0", "tokenizer.kind=char"]
    loop.train(config("lm", text, overrides=small), tmp_path / "r")
    with pytest.raises(DataError, match=r"^the prompt holds 'ß', which this run's vocabulary of \d+ does not; use"):
        load(tmp_path / "r").generate(prompt="the ß")


def test_conditions_are_read_and_the_text_is_what_follows(tmp_path: Path) -> None:
    rows = [f"{label}\tthe {label} thing is {word} ." for label in ("good", "bad") for word in "abcdefghijklmnop"]
    (tmp_path / "r.tsv").write_text("label\ttext\n" + "\n".join(rows) + "\n")
    words = ["data.source=label", "data.target=text", "tokenizer.kind=word", "train.steps=300", "train.batch=16"]
    small = ["model.hidden=64", "model.embedding=32", "train.samples=0", "train.lr=0.01"]
    loop.train(config("lm", tmp_path / "r.tsv", overrides=[*words, *small]), tmp_path / "run")
    generator = load(tmp_path / "run")
    texts = generator.generate(1, sources=["good", "bad"] * 10, temperature=0.5)
    assert len(texts) == 20
    right = sum(label in text for label, text in zip(["good", "bad"] * 10, texts, strict=True))
    assert right >= 18
    better = generator.score(["the good thing is a ."] * 2, sources=["good", "bad"]).per_line
    assert better[0] > better[1] + 1
    with pytest.raises(DataError, match=r"trained with data\.source = label: give the sources to answer"):
        generator.generate(1)


def test_ranks_are_places_in_the_order_of_all_next_tokens(trained: Path, held_out: list[str]) -> None:
    generator: Any = load(trained)
    lines = held_out[:5]
    ranks = generator.ranks(lines)
    for line, row in zip(lines, ranks, strict=True):
        ids = [2, *generator.tokenizer.encode([line]).row(0).tolist(), 3]
        hidden, _ = generator.model.scan(torch.tensor([ids[:-1]]))
        weight, bias = generator.model.head()
        logits = (generator.model.features(hidden[0]) @ weight.t() + bias).detach()
        order = logits.argsort(1, descending=True)
        assert row == [order[t].tolist().index(token) + 1 for t, token in enumerate(ids[1:])]


def test_texts_follow_the_precision_of_the_run_or_the_one_asked_for(generator: TextGenerator, trained: Path) -> None:
    def dtype(made: Any) -> torch.dtype:
        weight: torch.Tensor = made.output.weight_t
        return weight.dtype

    low = load(trained)
    train = dataclasses.replace(low.settings.train, precision="bf16")
    low.settings = dataclasses.replace(low.settings, train=train)
    assert dtype(generator.writer()) == dtype(low.writer(precision="fp32")) == torch.float32
    assert dtype(low.writer()) == dtype(low.left_to_right("this")) == torch.bfloat16
    assert low.generate(5, seed=1) == generator.generate(5, seed=1, precision="bf16")
    low.model.decoder = lambda fast=False: None  # type: ignore[method-assign,assignment]  # as of a model without it
    assert low.writer() is None
    with pytest.raises(RunError, match=r"^a run of lm writes in fp32 alone; leave --precision out$"):
        low.writer(precision="bf16")


def test_likelihoods_in_bfloat16_are_near_and_only_on_demand(generator: TextGenerator, held_out: list[str]) -> None:
    exact, near = (generator.score(held_out[:20], precision=p).per_line for p in ("fp32", "bf16"))  # type: ignore[arg-type]
    assert exact == generator.score(held_out[:20]).per_line != near
    assert near == pytest.approx(exact, rel=0.02)
