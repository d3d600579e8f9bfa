"""A server of `lm-small` over HTTP: 32 clients at once against one at a time, and one client against the library.

The CPU time of clients and server together; the texts must be the library's. Run: scripts/bench.py serve
"""

import http.client
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from measure import ratios, row

from seqgen.engine import loop
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.run import config
from seqgen.serve.app import Service
from seqgen.serve.limits import Limits
from seqgen.serve.texts import Model

CLIENTS, TOKENS = 32, 60
CORPUS = Path(__file__).resolve().parents[2] / "corpora" / "captions.txt"


def serve(quick: bool) -> Iterator[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        # hardly trained, so that no text ends before its limit and every round is the same work
        options = ["train.steps=1", "train.samples=0", "train.batch=8"]
        loop.train(config("lm", CORPUS, preset="lm-small", overrides=options), Path(folder) / "run")
        generator = load(Path(folder) / "run", device="cpu")
    model = Model("run", generator, Limits(), 0)
    server = uvicorn.Server(uvicorn.Config(Service([model], Limits()).app(), log_level="warning", lifespan="on"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield from rows(port, generator, 1 if quick else 3)
        finally:
            server.should_exit = True
            thread.join()


def rows(port: int, generator: TextGenerator, rounds: int) -> Iterator[dict[str, object]]:
    def send(seed: int, **more: object) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        body = json.dumps({"seed": seed, "max_tokens": TOKENS, **more})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json", "Connection": "close"})
        return connection.getresponse()

    def ask(seed: int) -> str:
        return str(json.loads(send(seed).read())["choices"][0]["text"])

    def library() -> list[str]:
        return [generator.generate(1, seed=seed, max_new_tokens=TOKENS)[0] for seed in range(CLIENTS)]

    def one_by_one() -> list[str]:
        return [ask(seed) for seed in range(CLIENTS)]

    def together() -> list[str]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(ask, range(CLIENTS)))

    gate = "ok" if library() == one_by_one() == together() else "the texts are not the library's"
    yield row("serve", f"{CLIENTS} clients", ratios(one_by_one, together, rounds=rounds), 6.0, gate)
    yield row("serve", "one client", ratios(library, one_by_one, rounds=rounds), 0.9, gate)
    waits = []
    for seed in range(rounds):
        begin = time.perf_counter()
        answer = send(seed, stream=True)
        answer.readline()
        waits.append(1000 * (time.perf_counter() - begin))
        answer.read()
    yield row("serve", "first token, ms", waits, None, "ok")


BENCHES = {"serve": serve}
