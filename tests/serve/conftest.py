"""A small run, and a server of it on a free port of this machine, spoken to over HTTP."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from seqgen.engine import loop
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.run import config
from seqgen.images.generator import ImageGenerator
from seqgen.models import masked
from seqgen.serve.limits import Limits


@dataclass
class Client:
    """Sends requests to a server."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        known = {"Content-Type": "application/json", "Connection": "close", **self.headers, **headers}
        connection.request(method, path, given, {name: value for name, value in known.items() if value})
        return connection.getresponse()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        answer = self.send(method, path, body, **headers)
        return answer.status, json.loads(answer.read())

    def complete(self, **body: Any) -> Any:
        status, answer = self.ask("POST", "/v1/completions", body)
        assert status == 200, answer
        return answer

    def stream(self, path: str = "/v1/completions", **body: Any) -> list[Any]:
        """Return the events of a stream, which must end as the protocol says."""
        answer = self.send("POST", path, body | {"stream": True})
        assert answer.getheader("Content-Type", "").startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.read().decode().split("\n\n") if line]
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on sentences; nobody writes into it."""
    folder = tmp_path_factory.mktemp("serve")
    nouns, verbs = ["cat", "dog", "man", "bird"], ["sees", "likes", "follows"]
    lines = [
        f"the {a} {v} the {b} {n} ." for a in nouns for v in verbs for b in nouns for n in ("here", "there", "now")
    ]
    (folder / "text.txt").write_text("".join(f"{line}\n" for line in lines))
    small = ["model.hidden=16", "model.embedding=16", "train.steps=60", "train.lr=0.02", "train.batch=8"]
    loop.train(config("lm", folder / "text.txt", overrides=[*small, "train.samples=0"]), folder / "sentences")
    return folder / "sentences"


@pytest.fixture(scope="session")
def generator(run: Path) -> TextGenerator:
    return load(run, device="cpu")


@contextlib.contextmanager
def served(generators: dict[str, TextGenerator | ImageGenerator], limits: Limits, token: str = "") -> Iterator[Client]:
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
    pytest.importorskip("starlette", reason="needs the extra serve")
    from seqgen.serve.app import Service
    from seqgen.serve.filling import FillingModel
    from seqgen.serve.images import ImageModel
    from seqgen.serve.texts import Model

    models: list[Any] = []
    for name, generator in generators.items():
        if isinstance(generator, ImageGenerator):
            models.append(ImageModel(name, generator, 0))
        else:
            kind = FillingModel if isinstance(generator.model, masked.Model) else Model
            models.append(kind(name, generator, limits, 0))
    settings = uvicorn.Config(Service(models, limits, token).app(), log_level="warning", lifespan="on", ws="none")
    server = uvicorn.Server(settings)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield Client(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[Client]]:
    return served


@pytest.fixture(scope="session")
def client(generator: TextGenerator) -> Iterator[Client]:
    with served({"sentences": generator}, Limits(rows=12, max_tokens=100, max_prompt=30, max_body=20_000)) as made:
        yield made
