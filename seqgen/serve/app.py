"""Trained runs behind OpenAI's protocol: /v1/models, /v1/completions, /v1/chat/completions, and /healthz; a page at /.

Requests become rows of a batch in the worker's thread (`batching`); pieces of text come back through asyncio queues. A
client that leaves frees its rows at the next step.
Run: seqgen serve runs/captions
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from seqgen.core.errors import SeqgenError
from seqgen.serve import protocol
from seqgen.serve.batching import FullError, Worker
from seqgen.serve.filling import FillingModel
from seqgen.serve.images import ImageModel
from seqgen.serve.limits import Limits
from seqgen.serve.protocol import (
    ChatRequest,
    Common,
    CompletionRequest,
    ImageRequest,
    InterpolationRequest,
    RequestError,
)
from seqgen.serve.texts import Model, Piece, Text

_LOCAL = {"127.0.0.1", "localhost", "::1"}
_LEFT = 499
"""The status of an answer that nobody reads, because the client has gone."""

_PAGE = resources.files("seqgen.serve").joinpath("page.html").read_text(encoding="utf-8")
_SCRIPT = base64.b64encode(hashlib.sha256(_PAGE.partition("<script>")[2].partition("</script>")[0].encode()).digest())
_POLICY = (
    f"default-src 'none'; script-src 'sha256-{_SCRIPT.decode()}'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
)
"""What a browser lets the page do: its own script, pictures in its answers, and requests to this server."""

messages = logging.getLogger("seqgen.serve")
_Endpoint = Callable[[Request], Awaitable[Response]]


class Service:
    """Models that answer requests within limits; with a token, only requests that carry it."""

    def __init__(self, models: Sequence[Model | ImageModel | FillingModel], limits: Limits, token: str = "") -> None:
        self._models = {model.name: model for model in models}
        self._limits, self._token = limits, token
        self._worker: Worker | None = None

    def app(self) -> Starlette:
        """Return the application; its models compute while its lifespan lasts."""
        routes = [
            Route("/", self._guarded(self._page, open=True)),
            Route("/healthz", self._guarded(self._health, open=True)),
            Route("/v1/models", self._guarded(self._list)),
            Route("/v1/models/{name:path}", self._guarded(self._describe)),
            Route("/v1/completions", self._guarded(self._complete), methods=["POST"]),
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/v1/interpolations", self._guarded(self._interpolate), methods=["POST"]),
            Route("/v1/images/generations", self._guarded(self._draw), methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=_HANDLERS)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        batches = {name: model.batch for name, model in self._models.items() if isinstance(model, Model)}
        self._worker = Worker(batches, self._limits.rows + self._limits.queue)
        yield
        await asyncio.to_thread(self._worker.close)

    def _guarded(self, endpoint: _Endpoint, *, open: bool = False) -> _Endpoint:
        """Return the endpoint behind the checks that all share, its errors as the protocol's."""

        async def answer(request: Request) -> Response:
            try:
                self._admit(request, open)
                return await endpoint(request)
            except RequestError as error:
                return _error(error)
            except (SeqgenError, ValueError) as error:
                words = str(error).replace("sample.max_new_tokens", "max_tokens").replace("--source", "source")
                return _error(RequestError(words))
            except ClientDisconnect:
                return Response(status_code=_LEFT)

        return answer

    def _admit(self, request: Request, open: bool) -> None:
        """Raise RequestError for a request without the token, or led here by a name that is not this machine's."""
        if not self._token:
            # without this, any page in a browser could reach the server by a name that it points at 127.0.0.1
            if request.url.hostname not in _LOCAL:
                raise RequestError("the Host header must name this machine: localhost or 127.0.0.1", status=421)
            return
        given = request.headers.get("authorization", "").encode()
        if not open and not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            headers = {"WWW-Authenticate": "Bearer"}
            raise RequestError(
                "the header Authorization must be: Bearer TOKEN, with the token the server was started with",
                status=401,
                code="invalid_api_key",
                headers=headers,
            )

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    async def _health(self, request: Request) -> Response:
        assert self._worker is not None
        return _json({"status": "ok", "texts": self._worker.load})

    async def _list(self, request: Request) -> Response:
        return _json({"object": "list", "data": [_card(model) for model in self._models.values()]})

    async def _describe(self, request: Request) -> Response:
        return _json(_card(self._model(request.path_params["name"])))

    async def _complete(self, request: Request) -> Response:
        async with self._in_time():
            asked: CompletionRequest = protocol.parsed(CompletionRequest, await self._body(request))
        if asked.max_tokens == 0 and not asked.echo:
            raise RequestError("max_tokens must be at least 1 without echo, got 0", param="max_tokens")
        model = self._model(asked.model)
        if isinstance(model, FillingModel):
            return await self._fill(request, model, asked)
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        return await self._answer(
            request, asked, prompts, asked.source, asked.max_tokens, asked.logprobs, asked.echo, chat=False
        )

    async def _fill(self, request: Request, model: FillingModel, asked: CompletionRequest) -> Response:
        """Answer with filled texts, which come whole; a stream has one event for each."""
        made = await self._called(request, lambda: model.complete(asked))
        if isinstance(made, Response) or not asked.stream:
            return made if isinstance(made, Response) else _json(made)
        head = {name: value for name, value in made.items() if name not in ("choices", "usage")}
        events = [{**head, "choices": [choice]} for choice in made["choices"]]
        if asked.stream_options.include_usage:
            events.append({**head, "choices": [], "usage": made["usage"]})
        written = b"".join(map(protocol.event, events)) + b"data: [DONE]\n\n"
        return Response(written, media_type="text/event-stream")

    async def _chat(self, request: Request) -> Response:
        async with self._in_time():
            asked: ChatRequest = protocol.parsed(ChatRequest, await self._body(request))
        limit = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
        model = self._writer(asked.model)
        if model.generator.settings.data.source:  # a run with conditions answers the last message
            prompt, source = "", asked.messages[-1].text
        else:
            prompt, source = "\n".join(message.text for message in asked.messages), None
        top = asked.top_logprobs if asked.logprobs else None
        return await self._answer(request, asked, [prompt], source, limit, top, False, chat=True)

    async def _interpolate(self, request: Request) -> Response:
        async with self._in_time():
            asked: InterpolationRequest = protocol.parsed(InterpolationRequest, await self._body(request))
        model = self._writer(asked.model)
        texts = await self._called(request, lambda: model.interpolate(asked))
        return texts if isinstance(texts, Response) else _json({"model": model.name, "texts": texts})

    async def _draw(self, request: Request) -> Response:
        async with self._in_time():
            asked: ImageRequest = protocol.parsed(ImageRequest, await self._body(request))
        model = self._model(asked.model)
        if not isinstance(model, ImageModel):
            raise RequestError(f"{model.name} writes text: POST /v1/completions", param="model")
        made = await self._called(request, lambda: model.generate(asked))
        if isinstance(made, Response):
            return made
        data = [{"b64_json": base64.b64encode(png).decode(), "label": label} for png, label in made]
        return _json({"created": int(time.time()), "model": model.name, "data": data})

    async def _called(self, request: Request, function: Callable[[], Any]) -> Any:
        """Return what a function gives in the worker's thread; an answer without a reader where the client has gone."""
        assert self._worker is not None
        try:
            work = asyncio.wrap_future(self._worker.call(function))
        except FullError:
            raise _full() from None
        left = asyncio.ensure_future(_left(request))
        try:
            async with self._in_time():
                await asyncio.wait([left, work], return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else Response(status_code=_LEFT)
        finally:
            left.cancel()
            work.cancel()

    def _writer(self, name: str | None) -> Model:
        """Return a model of text; RequestError for one of images."""
        model = self._model(name)
        if isinstance(model, ImageModel):
            raise RequestError(f"{model.name} makes images: POST /v1/images/generations", param="model")
        if isinstance(model, FillingModel):
            words = f"{model.name} fills gaps: POST /v1/completions with [MASK] in the prompt"
            raise RequestError(words, param="model")
        return model

    def _model(self, name: str | None) -> Model | ImageModel | FillingModel:
        if name is None and len(self._models) == 1:
            return next(iter(self._models.values()))
        if name not in self._models:
            known = ", ".join(self._models)
            raise RequestError(
                f"model must be one of {known}, got {name!r}", status=404, param="model", code="model_not_found"
            )
        return self._models[name]

    def _in_time(self) -> contextlib.AbstractAsyncContextManager[None]:
        return _deadline(self._limits.seconds)

    async def _body(self, request: Request) -> bytes:
        """Return the body; RequestError where it is no JSON by its header, or too large."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # a page in a browser can send anything else anywhere without asking first
            raise RequestError("the header Content-Type must be application/json", status=415)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._limits.max_body:
                raise RequestError(f"a request must have at most {self._limits.max_body} bytes", status=413)
        return bytes(body)

    async def _answer(
        self,
        request: Request,
        asked: Common,
        prompts: Sequence[str],
        source: str | None,
        max_tokens: int | None,
        top: int | None,
        echo: bool,
        *,
        chat: bool,
    ) -> Response:
        model = self._writer(asked.model)
        pieces: asyncio.Queue[Piece] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def receive(piece: Piece) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        make = partial(
            model.texts,
            asked,
            prompts=prompts,
            source=source,
            max_tokens=max_tokens,
            top=top,
            echo=echo,
            receive=receive,
        )
        if asked.constrained:  # may take seconds, in which others are answered
            async with self._in_time():
                texts = await asyncio.to_thread(make)
        else:
            texts = make()
        assert self._worker is not None
        try:
            self._worker.add(model.name, [row for text in texts for row in text.rows])
        except FullError:
            raise _full() from None
        form = _Form(model.name, asked, texts, chat=chat, scored=top is not None, top=bool(top))
        if asked.stream:
            return StreamingResponse(self._streamed(texts, pieces, form), media_type="text/event-stream")
        return await self._whole(request, texts, pieces, form)

    async def _whole(
        self, request: Request, texts: Sequence[Text], pieces: asyncio.Queue[Piece], form: "_Form"
    ) -> Response:
        left = asyncio.ensure_future(_left(request))
        work = asyncio.ensure_future(self._collected(texts, pieces))
        try:
            await asyncio.wait([left, work], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return Response(status_code=_LEFT)
            return _json(form.whole(work.result()))
        finally:
            for text in texts:
                text.leave()
            left.cancel()
            work.cancel()

    async def _collected(self, texts: Sequence[Text], pieces: asyncio.Queue[Piece]) -> list[Piece]:
        async with self._in_time():
            done = [_checked(await pieces.get()) for _ in texts]
        return sorted(done, key=lambda piece: piece.index)

    async def _streamed(
        self, texts: Sequence[Text], pieces: asyncio.Queue[Piece], form: "_Form"
    ) -> AsyncIterator[bytes]:
        try:
            for chunk in form.first():
                yield protocol.event(chunk)
            going, end = len(texts), asyncio.get_running_loop().time() + self._limits.seconds
            while going:
                async with _deadline(end - asyncio.get_running_loop().time()):
                    piece = _checked(await pieces.get())
                going -= piece.finish_reason is not None
                yield protocol.event(form.chunk(piece))
            if form.asked.stream_options.include_usage:
                yield protocol.event(form.used())
            yield b"data: [DONE]\n\n"
        except RequestError as error:
            yield protocol.event(error.body)
        finally:
            for text in texts:
                text.leave()


class _Form:
    """How the texts of one request are written down."""

    def __init__(
        self, model: str, asked: Common, texts: Sequence[Text], *, chat: bool, scored: bool, top: bool
    ) -> None:
        self.asked, self._texts, self._chat, self._scored, self._top = asked, texts, chat, scored, top
        kind = "text_completion"
        if chat:
            kind = "chat.completion.chunk" if asked.stream else "chat.completion"
        self._head = protocol.head(kind, model)

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the answer that holds all texts."""
        choices = [self._choice(piece, "message") for piece in pieces]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def first(self) -> list[dict[str, Any]]:
        """Return what a stream begins with: in a chat, who speaks."""
        if not self._chat:
            return []
        said = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None}
        return [{**self._head, "choices": [{"index": n, **said} for n in range(len(self._texts))]}]

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """Return a part of a stream."""
        return {**self._head, "choices": [self._choice(piece, "delta")]}

    def used(self) -> dict[str, Any]:
        """Return the last part of a stream, where it was asked for."""
        return {**self._head, "choices": [], "usage": self._usage()}

    def _usage(self) -> dict[str, int]:
        read = sum(text.prompt_tokens for text in self._texts[:: self.asked.n])
        return protocol.usage(read, sum(text.drawn for text in self._texts))

    def _choice(self, piece: Piece, name: str) -> dict[str, Any]:
        made: dict[str, Any] = {"index": piece.index, "finish_reason": piece.finish_reason, "logprobs": None}
        if self._chat:
            made[name] = {"content": piece.text} | ({"role": "assistant"} if name == "message" else {})
            if self._scored:
                made["logprobs"] = protocol.chat_logprobs(piece.tokens)
        else:
            made["text"] = piece.text
            if self._scored:
                made["logprobs"] = protocol.completion_logprobs(piece.tokens, top=self._top)
        return made


@contextlib.asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """Raise RequestError where what is done inside takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise RequestError(
            "the request took longer than the server allows; ask for less", status=408, code="timeout"
        ) from None


async def _left(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _checked(piece: Piece) -> Piece:
    """Return a piece; RequestError in place of one that says what went wrong in the model's thread."""
    if isinstance(piece.error, ValueError):
        raise RequestError(str(piece.error))
    if piece.error is not None:
        messages.error("%s: %s", type(piece.error).__name__, piece.error)
        raise RequestError("the model failed; the server's messages say why", status=500, kind="server_error")
    return piece


def _full() -> RequestError:
    return RequestError(
        "too many texts wait; try again later",
        status=429,
        kind="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": "1"},
    )


def _card(model: Model | ImageModel | FillingModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "seqgen", **model.card()}


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(protocol.as_json(value), status, headers, "application/json")


def _error(error: RequestError) -> Response:
    return _json(error.body, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors, such as an unknown path, in the protocol's form."""
    assert isinstance(error, HTTPException)
    return _error(
        RequestError(
            f"{request.method} {request.url.path}: {error.detail}",
            status=error.status_code,
            headers=dict(error.headers or {}),
        )
    )


async def _fault(request: Request, error: Exception) -> Response:
    """A fault of this package, whose trace the server's messages hold."""
    return _error(RequestError("this is a fault of the server", status=500, kind="server_error"))


_HANDLERS: dict[Any, Any] = {HTTPException: _http_error, Exception: _fault}
