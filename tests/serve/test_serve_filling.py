"""A run of masked behind the protocol: its texts are those of `fill`, and what it cannot do is said."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from seqgen.engine import loop
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.run import config
from seqgen.serve.limits import Limits


@pytest.fixture(scope="module")
def gaps(run: Path, tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    small = {"model.hidden": 8, "model.heads": 2, "model.layers": 1, "train.steps": 2, "train.samples": 0}
    folder = tmp_path_factory.mktemp("gaps") / "gaps"
    loop.train(config("masked", run.parent / "text.txt", overrides=small), folder, progress=False)
    return load(folder, device="cpu")


@pytest.fixture(scope="module")
def client(serve: Callable[..., AbstractContextManager[Any]], gaps: TextGenerator) -> Iterator[Any]:
    with serve({"gaps": gaps}, Limits(rows=4, queue=4)) as made:
        yield made


def test_filled_texts_are_the_librarys(client: Any, gaps: TextGenerator) -> None:
    given = ["the [MASK] sees the dog [MASK] .", "the cat [MASK] the man now ."]
    answer = client.complete(prompt=given, n=2, seed=3, temperature=0.8)
    texts = [filled.text for filled in gaps.fill(given, count=2, seed=3, temperature=0.8)]
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert answer["usage"]["completion_tokens"] == 6
    events = client.stream(prompt=given, n=2, seed=3, temperature=0.8)
    assert [event["choices"][0]["text"] for event in events] == texts


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/completions", {"prompt": "the cat"}, "gaps fills gaps: write [MASK] for each, as in"),
        ("/v1/completions", {}, "a man [MASK] a horse"),
        ("/v1/completions", {"prompt": "the [MASK]", "stop": "x"}, "stop has no meaning where gaps are filled"),
        ("/v1/completions", {"prompt": "the [MASK]", "pattern": "x"}, "a constraint has no meaning"),
        ("/v1/completions", {"prompt": "the [MASK]", "n": 9}, "at most 8 texts, got 9"),
        ("/v1/completions", {"prompt": "zebra [MASK]"}, "zebra"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, "POST /v1/completions with [MASK]"),
        ("/v1/interpolations", {}, "POST /v1/completions with [MASK]"),
    ],
)
def test_what_filling_cannot_do_is_said(client: Any, path: str, body: dict[str, Any], words: str) -> None:
    status, answer = client.ask("POST", path, body)
    assert (status, words in answer["error"]["message"]) == (400, True), answer
