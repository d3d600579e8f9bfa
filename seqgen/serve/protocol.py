"""The requests and answers of OpenAI's protocol: pydantic models with the ranges this server takes, and plain dicts."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "logit_bias": ({}, None),
    "best_of": (1, None),
    "suffix": ("", None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "response_format": ({"type": "text"}, None),
    "store": (False, None),
}
"""Options of the protocol that have no meaning here, and the values that ask for nothing."""

Stop = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
Words = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=64)]


class RequestError(Exception):
    """An answer that is an error, with its HTTP status."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class StreamOptions(BaseModel):
    """What a stream also holds."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class Common(BaseModel):
    """What both kinds of request have.

    top_k, min_p, typical_p, resample and the constraints (bad_words to no_copy) are additions to the protocol.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    temperature: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    typical_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    resample: Annotated[int, Field(ge=1, le=256)] | None = None
    bad_words: Words = []
    require: Words = []
    template: Annotated[str, Field(max_length=2000)] = ""
    pattern: Annotated[str, Field(max_length=2000)] = ""
    no_copy: Annotated[int, Field(ge=0, le=1000)] = 0
    stop: Stop = []
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str = ""

    @property
    def constrained(self) -> bool:
        """Whether it asks for something that has to be worked out before a text can begin."""
        return bool(self.bad_words or self.require or self.template or self.pattern or self.no_copy)

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, values: Any) -> Any:
        """Drop what asks for nothing: null, and options without a meaning at their neutral value."""
        if not isinstance(values, dict):
            return values
        for name, neutral in _NEUTRAL.items():
            if name in values and values[name] not in neutral:
                raise ValueError(f"{name} is not supported; leave it out")
        kept = {name: value for name, value in values.items() if value is not None and name not in _NEUTRAL}
        if isinstance(kept.get("stop"), str):
            kept["stop"] = [kept["stop"]]
        return kept


class CompletionRequest(Common):
    """The body of /v1/completions. `source`, the condition of runs that have one, is an addition to the protocol."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1024)] = ""
    source: str | None = None
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False


class Part(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def text(self) -> str:
        """Its text, the parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Common):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0


def parsed(kind: type[BaseModel], body: bytes) -> Any:
    """Return the request in a body; RequestError that names the first fault and its place."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        raise RequestError(f"{place}: {message}" if place else message, param=place or None) from None


class InterpolationRequest(BaseModel):
    """The body of /v1/interpolations, an addition to the protocol: from one text to another through a text VAE."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    begin: str = ""
    end: str = ""
    steps: Annotated[int, Field(ge=2, le=64)] = 9
    source: str | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None


class ImageRequest(BaseModel):
    """The body of /v1/images/generations; `prompt` is the name of a class, empty for any."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    prompt: str = ""
    n: Annotated[int, Field(ge=1, le=256)] = 1
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    response_format: Literal["b64_json"] = "b64_json"
    user: str = ""


@dataclass(frozen=True)
class Scored:
    """A token as clients see it."""

    name: str
    log_prob: float
    top: list[tuple[str, float]]
    offset: int
    """Characters of the text before it."""


def head(kind: str, model: str) -> dict[str, Any]:
    """Return the fields that every part of an answer begins with; `kind`: text_completion, chat.completion ..."""
    name = "cmpl" if kind == "text_completion" else "chatcmpl"
    return {"id": f"{name}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Return the count of tokens read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event(value: Any) -> bytes:
    """Return a value as a server-sent event."""
    return b"data: " + as_json(value) + b"\n\n"


def as_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def completion_logprobs(tokens: Sequence[Scored], *, top: bool) -> dict[str, Any]:
    """Return the likelihoods of tokens as /v1/completions gives them; the first token of all has none."""
    return {
        "tokens": [token.name for token in tokens],
        "token_logprobs": [token.log_prob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens] if top else None,
        "text_offset": [token.offset for token in tokens],
    }


def chat_logprobs(tokens: Sequence[Scored]) -> dict[str, Any]:
    """Return the likelihoods of tokens as /v1/chat/completions gives them."""
    return {
        "content": [
            {
                **_token(token.name, token.log_prob),
                "top_logprobs": [_token(name, value) for name, value in token.top],
            }
            for token in tokens
        ]
    }


def _token(name: str, log_prob: float) -> dict[str, Any]:
    return {"token": name, "logprob": log_prob, "bytes": list(name.encode("utf-8", "replace"))}
