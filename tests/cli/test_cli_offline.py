"""Nothing asks for the network: not an import, not a command."""

import subprocess
import sys
from pathlib import Path

COMMANDS = """
import sys

def refuse(name, arguments):
    if name.startswith("socket.") and name != "socket.gethostname":
        raise AssertionError(f"{name} {arguments}")

sys.addaudithook(refuse)
from seqgen.__main__ import main

text, run = sys.argv[1:]
small = ["model.hidden=16", "model.embedding=16", "train.steps=2", "train.samples=10", "train.batch=8"]
for words in (
    ["train", "lm", "--data", text, "--out", run, *small],
    ["generate", run, "--count", "2"],
    ["score", run, text],
    ["evaluate", run, "--references", text, "--count", "20"],
    ["report", run],
    ["corpus", "inspect", text],
    ["corpus", "list"],
):
    assert main(words) == 0, words
"""


def test_no_socket_is_opened_by_any_import_or_command(text: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-c", COMMANDS, str(text), str(tmp_path / "run")]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
