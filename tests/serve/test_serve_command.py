"""The command `seqgen serve`: one clear line for what it cannot do, and a clean end."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from seqgen.cli import app

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("starlette", reason="needs the extra serve")


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert app.main(["serve", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_served_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = tmp_path / run.name
    twin.mkdir()
    assert "have the same name sentences, by which clients choose; rename one" in error_of(capsys, run, twin)
    assert "give a --token, or set SEQGEN_TOKEN" in error_of(capsys, run, "--host", "0.0.0.0")
    assert "--host must be an address of this machine, got" in error_of(capsys, run, "--host", "no such host")
    assert "the token must be printable ASCII without spaces" in error_of(capsys, run, "--token", "a b")
    assert "--rows must be" in error_of(capsys, run, "--rows", 0)
    missing = error_of(capsys, tmp_path / "none", "--port", 0)
    assert missing.startswith(f"error: {tmp_path / 'none'}")
    assert missing.count("\n") == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = error_of(capsys, run, "--port", port)
        assert said == f"error: port {port} of 127.0.0.1 is in use; choose another with --port\n"


def test_without_the_extra_the_install_line_is_shown(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert app.main(["serve", str(run)]) == 3
    assert capsys.readouterr().err.endswith("run: pip install 'neural-seqgen[serve]'\n")


def test_sigterm_ends_it_after_its_texts_are_written(run: Path) -> None:
    command = [sys.executable, "-m", "seqgen", "serve", str(run), "--port", "0", "--rows", "1", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as server:
        try:
            stop_while_streaming(server)
        finally:
            server.kill()


def stop_while_streaming(server: subprocess.Popen[str]) -> None:
    assert server.stderr is not None
    said = server.stderr.readline()
    assert said.startswith("serving sentences at http://127.0.0.1:")
    connection = http.client.HTTPConnection("127.0.0.1", int(said.rpartition(":")[2].partition("/")[0]), timeout=60)
    body = b'{"n": 100, "stream": true, "seed": 1}'
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    with connection.getresponse() as answer:
        first = answer.readline()
        server.send_signal(signal.SIGTERM)
        assert first.startswith(b"data: {")
        assert answer.read().endswith(b"data: [DONE]\n\n")
    connection.close()
    assert server.wait(60) == 143
    assert server.stderr.read() == ""
