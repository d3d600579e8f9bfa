"""A served text is the one that `TextGenerator` gives; every bad request has its answer in the protocol's form."""

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from seqgen.core.errors import DataError
from seqgen.engine import loop
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.refine import refine
from seqgen.engine.run import config
from seqgen.serve.limits import Limits

OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.4, "top_p": 0.8},
    {"temperature": 0},
    {"prompt": "the dog"},
    {"prompt": "the man likes", "stop": ["bird", "cat"]},
    {"max_tokens": 5},
    {"top_k": 3, "min_p": 0.05},
]


def expected(generator: TextGenerator, seed: int, n: int = 1, **options: Any) -> list[str]:
    """The texts without their prompt, as the library gives them."""
    known = {"max_new_tokens": options.pop("max_tokens", 0), **options}
    return [text.removeprefix(options.get("prompt", "")) for text in generator.generate(n, seed=seed, **known)]


def test_32_clients_at_once_get_the_texts_of_one_at_a_time(client: Any, generator: TextGenerator) -> None:
    jobs = [{**OPTIONS[k % len(OPTIONS)], "seed": k} for k in range(32)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda job: client.complete(**job), jobs))
    for job, answer in zip(jobs, answers, strict=True):
        assert [choice["text"] for choice in answer["choices"]] == expected(generator, **job)


CONSTRAINED: list[dict[str, Any]] = [
    {"require": ["bird"], "bad_words": ["dog"]},
    {"template": "the ??? sees the ??? h???????"},
    {"pattern": "the (man|bird) (likes|sees) .*"},
    {"no_copy": 3},
    {"require": ["bird"], "no_copy": 4, "temperature": 0.7, "top_k": 9},
]


def test_constrained_texts_are_the_librarys_in_any_company(client: Any, generator: TextGenerator) -> None:
    bodies = [{"n": 3, "seed": 4, "max_tokens": 14, **asked} for asked in [*CONSTRAINED, {}]]
    with ThreadPoolExecutor(len(bodies)) as clients:
        answers = list(clients.map(lambda body: client.complete(**body), bodies))
    for asked, answer in zip([*CONSTRAINED, {}], answers, strict=True):
        texts = generator.texts(3, seed=4, max_new_tokens=14, **asked)
        assert [choice["text"] for choice in answer["choices"]] == [text.text for text in texts], asked
        ended = ["stop" if text.finished else "length" for text in texts]
        assert [choice["finish_reason"] for choice in answer["choices"]] == ended
    events = client.stream(**bodies[0] | {"n": 1}, prompt="the", logprobs=0)
    assert "".join(event["choices"][0]["text"] for event in events) == generator.generate(
        1, seed=4, max_new_tokens=14, prompt="the", **CONSTRAINED[0]
    )[0].removeprefix("the")


def test_a_server_without_the_training_text_says_so_and_not_where_it_was(
    client: Any, generator: TextGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise DataError("/home/someone/text.txt: no such file")

    monkeypatch.setattr(generator, "own_text", gone)
    status, answer = client.ask("POST", "/v1/completions", {"no_copy": 7})
    assert (status, answer["error"]["param"]) == (400, "no_copy")
    assert answer["error"]["message"] == "no_copy needs the training text, which this server does not have"


def test_a_stream_joined_is_the_text(client: Any, generator: TextGenerator) -> None:
    for seed, options in enumerate(OPTIONS):
        events = client.stream(seed=seed, n=2, **options)
        texts = ["".join(e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == k) for k in range(2)]
        assert texts == expected(generator, seed, 2, **options)
        reasons = [e["choices"][0]["finish_reason"] for e in events if e["choices"][0]["finish_reason"]]
        assert len(reasons) == 2


def test_several_prompts_and_texts_stand_in_order(client: Any, generator: TextGenerator) -> None:
    prompts = ["the dog", "the", "the dog"]
    answer = client.complete(prompt=prompts, n=3, seed=4, echo=True)
    assert [choice["index"] for choice in answer["choices"]] == [*range(9)]
    assert [choice["text"] for choice in answer["choices"]] == generator.generate(3, prompts=prompts, seed=4)


def test_log_probabilities_are_the_librarys(client: Any, generator: TextGenerator) -> None:
    for options in ({}, {"stop": ["likes", "sees"], "temperature": 0.8}, {"prompt": "the cat"}):
        (text,) = generator.texts(1, seed=9, details=True, **options)
        (choice,) = client.complete(seed=9, logprobs=2, **options)["choices"]
        found = choice["logprobs"]
        assert found["tokens"] == text.tokens
        assert found["token_logprobs"] == pytest.approx(text.log_probs, abs=1e-6)
        assert all(len(top) == 2 for top in found["top_logprobs"])


def test_echo_scores_the_prompt_as_the_library_scores_a_line(client: Any, generator: TextGenerator) -> None:
    line = "the cat sees the dog here ."
    (choice,) = client.complete(prompt=line, echo=True, logprobs=1, max_tokens=0)["choices"]
    scored = generator.score([line])
    assert choice["text"] == line
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == scored.tokens[0][:-1]  # the library counts the end of the line too
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(scored.log_probs[0][:-1], abs=1e-4)
    words = [line[offset:].split()[0] for offset in choice["logprobs"]["text_offset"]]
    assert words == line.split()


def test_a_chat_goes_on_from_its_messages(client: Any, generator: TextGenerator) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "the bird"}]}], "seed": 3}
    status, answer = client.ask("POST", "/v1/chat/completions", body | {"logprobs": True, "top_logprobs": 1})
    assert status == 200
    (text,) = expected(generator, 3, prompt="the bird")
    message = answer["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", text)
    for token in answer["choices"][0]["logprobs"]["content"]:
        assert bytes(token["bytes"]).decode() == token["token"]
    events = client.stream("/v1/chat/completions", **body, stream_options={"include_usage": True})
    assert "".join(e["choices"][0]["delta"]["content"] for e in events[:-1]) == text
    assert events[-1]["usage"] == answer["usage"]


BAD: list[tuple[str, Any, int, str]] = [
    ("/v1/completions", b"{", 400, "Invalid JSON"),
    ("/v1/completions", b"\xff", 400, "Invalid JSON"),
    ("/v1/completions", [], 400, "should be"),
    ("/v1/completions", {"model": "x"}, 404, "model must be one of sentences, got 'x'"),
    ("/v1/completions", {"temperature": -1}, 400, "temperature: Input should be greater than or equal to 0"),
    ("/v1/completions", {"max_tokens": 0}, 400, "max_tokens must be at least 1 without echo"),
    ("/v1/completions", {"max_tokens": 101}, 400, "max_tokens must be at most 100, got 101"),
    ("/v1/completions", {"prompt": "the zebra"}, 400, "the prompt holds 'zebra'"),
    ("/v1/completions", {"prompt": ["the", "a quagga"]}, 400, "holds 'a', 'quagga'"),
    ("/v1/completions", {"prompt": "the " * 31}, 400, "at most 30 tokens, got 31"),
    ("/v1/completions", {"prompt": "the " * 6000}, 413, "at most 20000 bytes"),
    ("/v1/completions", {"prompt": ["the"] * 100, "n": 100}, 400, "at most 268 texts, got 10000"),
    ("/v1/completions", {"best_of": 3}, 400, "best_of is not supported"),
    ("/v1/completions", {"words": 3}, 400, "words: Extra inputs"),
    ("/v1/completions", {"source": "x"}, 400, "trained without data.source"),
    ("/v1/completions", {"pattern": "("}, 400, "cannot use an unclosed ("),
    ("/v1/completions", {"require": ["zebra"]}, 400, "'z' cannot be written"),
    ("/v1/completions", {"template": "the ??? sees", "max_tokens": 2}, 400, "needs 3 tokens or more; max_tokens is 2"),
    ("/v1/completions", {"template": "dog ?", "prompt": "the"}, 400, "no text that begins with the prompt meets"),
    ("/v1/completions", {"no_copy": -1}, 400, "no_copy: Input should be greater than or equal to 0"),
    ("/v1/chat/completions", {}, 400, "messages: Field required"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 3}]}, 400, "messages.0.content"),
    ("/v1/embeddings", {}, 404, "POST /v1/embeddings: Not Found"),
    ("/v1/models", {}, 405, "Method Not Allowed"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), BAD)
def test_a_bad_request_is_told_what_is_wrong(client: Any, path: str, body: Any, status: int, words: str) -> None:
    got, answer = client.ask("POST", path, body)
    assert (got, words in answer["error"]["message"]) == (status, True), answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_pages_of_other_sites_cannot_ask(client: Any) -> None:
    assert client.ask("POST", "/v1/completions", {}, **{"Content-Type": "text/plain"})[0] == 415
    assert client.ask("GET", "/v1/models", Host="evil.example")[0] == 421


def test_models_are_listed(client: Any) -> None:
    _, listed = client.ask("GET", "/v1/models")
    assert [model["id"] for model in listed["data"]] == ["sentences"]
    assert client.ask("GET", "/v1/models/sentences") == (200, listed["data"][0])
    assert client.ask("GET", "/v1/models/x")[0] == 404


def idle(client: Any) -> bool:
    """Whether all rows come to be free."""
    for _ in range(500):
        if client.ask("GET", "/healthz")[1]["texts"] == 0:
            return True
        time.sleep(0.01)
    return False


Serve = Callable[..., AbstractContextManager[Any]]


def test_a_full_queue_is_429_and_a_client_that_leaves_frees_its_rows(serve: Serve, generator: TextGenerator) -> None:
    with serve({"a": generator}, Limits(rows=1, queue=128)) as client:
        body = json.dumps({"n": 128, "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", client.port)) as other:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            other.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert other.recv(100).startswith(b"HTTP/1.1 200")
            answer = client.send("POST", "/v1/completions", {"n": 128})
            assert json.loads(answer.read())["error"]["code"] == "queue_full"
            assert (answer.status, answer.getheader("Retry-After")) == (429, "1")
        assert idle(client)
        client.complete(n=2)


def test_a_token_is_asked_for(serve: Serve, generator: TextGenerator) -> None:
    with serve({"a": generator}, Limits(), "s3cret") as client:
        assert client.ask("GET", "/v1/models")[0] == 401
        assert client.ask("GET", "/v1/models", Authorization="Bearer s3creT")[0] == 401
        assert client.ask("GET", "/v1/models", Authorization="Bearer s3cret", Host="any.example")[0] == 200
        assert client.ask("GET", "/healthz")[0] == 200


def test_running_text_and_conditions_are_served(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("to be, or not to be:\nthat is the question.\n\n" * 40)
    rows = [f"{label}\tit was {word} {n}" for label, word in (("up", "good"), ("down", "bad")) for n in "abcdefghijkl"]
    (tmp_path / "rows.tsv").write_text("".join(f"{row}\n" for row in ["label\tbody", *rows]))
    small = ["model.hidden=12", "model.embedding=12", "train.batch=8", "train.steps=6", "train.samples=0"]
    stream = ["tokenizer.kind=char", "data.mode=stream", "data.window=8"]
    fields = ["data.source=label", "data.target=body", "tokenizer.kind=word", "data.max_length=8"]
    loop.train(config("lm", tmp_path / "play.txt", overrides=[*small, *stream]), tmp_path / "play")
    loop.train(config("lm", tmp_path / "rows.tsv", overrides=[*small, *fields]), tmp_path / "rows")
    play, labelled = load(tmp_path / "play", device="cpu"), load(tmp_path / "rows", device="cpu")
    with serve({"play": play, "rows": labelled}, Limits()) as client:
        answer = client.complete(model="play", prompt="to be,\n", seed=2, max_tokens=40)
        assert [answer["choices"][0]["text"]] == expected(play, 2, prompt="to be,\n", max_tokens=40)
        assert answer["choices"][0]["finish_reason"] == "length"
        texts = labelled.generate(2, sources=["down"], seed=2)
        assert [c["text"] for c in client.complete(model="rows", source="down", seed=2, n=2)["choices"]] == texts
        said = {"model": "rows", "messages": [{"role": "user", "content": "down"}], "seed": 2}
        _, answer = client.ask("POST", "/v1/chat/completions", said)
        assert answer["choices"][0]["message"]["content"] == texts[0]
        assert client.ask("POST", "/v1/completions", {"model": "rows"})[0] == 400  # no condition
        assert client.ask("POST", "/v1/completions", {})[0] == 404  # two runs: which one?


def test_a_request_that_takes_too_long_is_408(serve: Serve, generator: TextGenerator) -> None:
    with serve({"a": generator}, Limits(rows=1, queue=500, seconds=0.05)) as client:
        status, answer = client.ask("POST", "/v1/completions", {"prompt": [""] * 4, "n": 100})
        assert (status, answer["error"]["code"]) == (408, "timeout")
        answer = client.send("POST", "/v1/completions", {"prompt": [""] * 4, "n": 100, "stream": True})
        *_, last = answer.read().decode().split("\n\n")[:-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        assert idle(client)


def test_a_refined_run_is_served_by_the_texts_that_are_chosen(
    run: Path, serve: Callable[..., AbstractContextManager[Any]], tmp_path: Path
) -> None:
    # samples of another temperature stand for real text
    lines = list(dict.fromkeys(load(run).generate(3000, seed=5, temperature=1.5)))[:800]
    assert refine(run, lines, tmp_path / "refined", samples=1000).written
    generator = load(tmp_path / "refined")
    with serve({"refined": generator}, Limits(queue=200)) as client:
        for body in ({}, {"prompt": "the dog"}, {"prompt": "the dog", "echo": True, "logprobs": 1}):
            answer = client.complete(seed=3, n=3, **body)
            texts = generator.generate(3, seed=3, prompt=body.get("prompt", ""))
            wanted = texts if "echo" in body else [text.removeprefix(body.get("prompt", "")) for text in texts]
            assert [choice["text"] for choice in answer["choices"]] == wanted
        events = client.stream(seed=3, resample=4)
        assert "".join(e["choices"][0]["text"] for e in events) == generator.generate(1, seed=3, resample=4)[0]
        base = client.complete(seed=3, n=2, temperature=0.5, resample=1)
        wanted = generator.generate(2, seed=3, temperature=0.5, resample=1)
        assert [choice["text"] for choice in base["choices"]] == wanted
        for body, fault in [
            ({"temperature": 0.5}, "temperature must be left out: a refined run keeps one of 16 texts that its base"),
            ({"n": 100}, "a request may ask for at most 16 texts, each one of 16, got 100"),
        ]:
            status, answer = client.ask("POST", "/v1/completions", body)
            assert (status, answer["error"]["message"].startswith(fault)) == (400, True), answer
