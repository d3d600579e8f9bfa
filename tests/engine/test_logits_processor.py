"""A logits_processor of one's own: what it sees, what it decides, and what it may not return."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import OF_MODEL
from torch import Tensor

from seqgen.engine import loop
from seqgen.engine.generate import TextGenerator, TextOptions, check_resampled
from seqgen.engine.loading import load
from seqgen.engine.run import config


@pytest.fixture(scope="module")
def generator(trained: Path) -> TextGenerator:
    return load(trained)


def test_halved_logits_are_temperature_two(generator: TextGenerator) -> None:
    def halved(ids: Tensor, logits: Tensor) -> Tensor:
        return logits / 2

    expected = generator.texts(30, seed=3, temperature=2.0, details=True)
    found = generator.texts(30, seed=3, logits_processor=halved, details=True)
    assert [text.text for text in found] == [text.text for text in expected]
    assert found[4].log_probs == expected[4].log_probs
    assert found[4].sampling_log_probs == expected[4].sampling_log_probs


def test_texts_do_not_depend_on_their_company(generator: TextGenerator) -> None:
    def alternating(ids: Tensor, logits: Tensor) -> Tensor:
        read = (ids >= 0).sum(1, keepdim=True)
        return logits * torch.where(read % 2 == 0, 0.5, 2.0)

    options: dict[str, Any] = {"seed": 5, "logits_processor": alternating}
    many = generator.generate(70, prompt="the", **options)
    assert generator.generate(3, prompt="the", **options) == many[:3]
    assert "the" + "".join(generator.stream(prompt="the", index=69, **options)) == many[69]
    mixed = generator.generate(2, prompts=["the cat sees", "the"], **options)
    assert mixed[2:] == many[:2]


def test_ids_are_all_that_a_text_has_read(generator: TextGenerator) -> None:
    seen: list[Tensor] = []

    def watching(ids: Tensor, logits: Tensor) -> Tensor:
        seen.append(ids.clone())
        return logits

    first, second = generator.texts(prompts=["the cat sees", "the"], logits_processor=watching, details=True)
    tokenizer = generator.tokenizer
    rows = [
        [tokenizer.bos, *tokenizer.encode([text.text]).row(0).tolist(), tokenizer.eos][: len(seen) + begin]
        for text, begin in ((first, 3), (second, 1))
    ]
    assert seen[0][0].tolist() == rows[0][:4]
    assert seen[0][1].tolist() == [-1, -1, *rows[1][:2]]
    assert seen[1][0].tolist() == rows[0][:5]


def test_it_decides_before_the_options_and_what_is_never_written_stays_so(generator: TextGenerator) -> None:
    tokenizer = generator.tokenizer
    dog = tokenizer.token_to_id("dog")

    def wants(ids: Tensor, logits: Tensor) -> Tensor:
        assert bool((logits[:, [tokenizer.bos, tokenizer.pad]] == -math.inf).all())
        logits[:, [tokenizer.bos, tokenizer.pad]] = 1000.0
        logits[:, dog] = 500.0
        return logits

    options: dict[str, Any] = {"logits_processor": wants, "max_new_tokens": 3}
    assert generator.generate(greedy=True, **options) == ["dog dog dog"]
    assert generator.generate(no_repeat_ngram_size=1, **options)[0].split().count("dog") == 1
    assert generator.generate(bad_words=["dog"], **options)[0].split().count("dog") == 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda _, logits: logits[:, 1:],
            r"must return logits \(8, 17\) of torch\.float32, got \(8, 16\) of torch.float32",
        ),
        (
            lambda _, logits: logits.double(),
            r"must return logits .* of torch\.float32, got \(8, 17\) of torch\.float64$",
        ),
        (lambda _, logits: logits.numpy(), r"must return logits .* of torch\.float32, got ndarray$"),
        (lambda _, logits: None, r"must return logits .*, got NoneType$"),
        (lambda _, logits: logits * math.nan, r"must return logits .*, each a number or -inf, got NaN$"),
        (lambda _, logits: logits + math.inf, r"must return logits .*, each a number or -inf, got NaN$"),
        (lambda _, logits: logits.nan_to_num().fill_(math.inf), r"each a number or -inf, got inf$"),
        (
            lambda _, logits: logits - math.inf,
            r"must leave a token to draw; it gave -inf to all that a text may go on w",
        ),
    ],
)
def test_a_wrong_return_is_told(generator: TextGenerator, function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^logits_processor .*{message}"):
        generator.generate(logits_processor=function)


def test_where_it_has_no_place_it_is_refused(generator: TextGenerator, text: Path, tmp_path: Path) -> None:
    def same(ids: Tensor, logits: Tensor) -> Tensor:
        return logits

    with pytest.raises(TypeError, match=r"search\(\) got an unexpected keyword argument 'logits_processor'$"):
        generator.search(logits_processor=same)  # type: ignore[call-arg]
    small = [*OF_MODEL["masked"], "train.steps=1"]
    loop.train(config("masked", text, overrides=small), tmp_path / "masked", progress=False)
    with pytest.raises(ValueError, match=r"^logits_processor need a model that writes from left to right"):
        load(tmp_path / "masked").generate(logits_processor=same)
    with pytest.raises(ValueError, match=r"^logits_processor must be left out: a refined run keeps one of 4 texts"):
        check_resampled(TextOptions(logits_processor=same), 4)
