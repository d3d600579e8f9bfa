"""OpenAI's own client gets what it expects, and nothing that can be sent is answered outside the protocol."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqgen.engine.generate import TextGenerator


def test_openais_client_works(client: Any, generator: TextGenerator) -> None:
    openai = pytest.importorskip("openai", reason="needs the package openai")
    base = f"http://127.0.0.1:{client.port}/v1"
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as asks:
        assert [model.id for model in asks.models.list()] == ["sentences"]
        whole = asks.completions.create(model="sentences", prompt=["the dog", "the"], n=2, seed=5, logprobs=1)
        texts = generator.texts(2, prompts=["the dog", "the"], seed=5, details=True)
        assert [c.text for c in whole.choices] == [t.text.removeprefix(t.prompt) for t in texts]
        assert whole.choices[0].logprobs.tokens == texts[0].tokens
        said = [{"role": "user", "content": "the dog"}]
        parts = list(asks.chat.completions.create(model="sentences", messages=said, seed=5, stream=True))
        assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].text
        with pytest.raises(openai.NotFoundError, match="model must be one of sentences"):
            asks.completions.create(model="x", prompt="the")
        with pytest.raises(openai.BadRequestError, match="holds 'zebra'") as caught:
            asks.completions.create(model="sentences", prompt="zebra", stream=True)
        assert caught.value.type == "invalid_request_error"


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["the", "dog"])
_VALUES = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)
_NAMES = (
    *("model", "prompt", "n", "max_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "stop", "seed"),
    *("logprobs", "echo", "stream", "stream_options", "user", "source", "messages", "top_logprobs", "best_of"),
    *("bad_words", "require", "template", "pattern", "no_copy"),
)
_FITTING = {
    "prompt": st.sampled_from(["", "the dog", ["the", "the"]]),
    "messages": st.just([{"role": "user", "content": "the"}]),
    "n": st.integers(1, 3),
    "max_tokens": st.integers(0, 101),
    "temperature": st.floats(0, 1e300),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 2**31),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0, 1),
    "logprobs": st.integers(0, 21) | st.booleans(),
    "echo": st.booleans(),
    "stop": st.lists(st.sampled_from(["dog", " ", "."]), max_size=2),
    "seed": st.integers(-(2**64), 2**64),
    "bad_words": st.lists(st.sampled_from(["dog", "zebra", ""]), max_size=2),
    "require": st.lists(st.sampled_from(["dog", "zebra", "bird"]), max_size=2),
    "template": st.sampled_from(["the ???", "?" * 300, "\\"]),
    "pattern": st.sampled_from(["the .*", "(", "(a*)*b", "x{9}"]),
    "no_copy": st.integers(-1, 5),
}


@st.composite
def bodies(draw: Any) -> Any:
    """Requests of which one or two values are likely to be wrong."""
    body = {name: draw(values) for name, values in _FITTING.items() if draw(st.integers(0, 3)) == 0}
    return body | draw(st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=2))


@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(body=bodies() | _VALUES, path=st.sampled_from(["/v1/completions", "/v1/chat/completions"]))
def test_no_request_is_answered_outside_the_protocol(client: Any, body: Any, path: str) -> None:
    answer = client.send("POST", path, json.dumps(body).encode())
    content = answer.read()
    if answer.status == 200 and isinstance(body, dict) and body.get("stream") is True:
        assert content.endswith(b"data: [DONE]\n\n")
    elif answer.status == 200:
        assert json.loads(content)["choices"]
    else:
        assert 400 <= answer.status < 500, content
        assert json.loads(content)["error"]["message"]
