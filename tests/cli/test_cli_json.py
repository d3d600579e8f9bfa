"""`--json`: which commands have it, and that standard output is JSON and nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from command_line import SMALL

from seqgen.cli import app

WITHOUT = {
    "play": "a conversation",
}
"""Commands without it, and why."""


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that is no group, with the words that lead to it."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield " ".join(words), command
    for name, one in inner.items():
        yield from leaves(one, (*words, name))


def test_every_command_has_json_or_a_reason() -> None:
    without = {
        words
        for words, command in leaves(typer.main.get_command(app.app))
        if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without - set(WITHOUT) == set()


CASES = [
    ("config", ["models", "presets"]),
    ("config lm", ["name", "seed", "settings"]),
    ("config --preset lm-awd", ["name", "seed", "settings"]),
    ("report RUN", ["report"]),
    ("corpus sample captions --count 3", ["text"]),
    ("corpus sample reviews --count 3", ["label", "text"]),
    ("corpus sample captions --out OUT.txt", ["file", "lines"]),
    ("corpus filter TEXT --duplicates --keep OUT.txt", ["file", "kept", "dropped"]),
    ("corpus build TEXT --out OUT", ["corpus", "train_tokens", "valid_tokens", "vocab_size"]),
    ("tokenizer train TEXT --out OUT tokenizer.kind=char", ["tokenizer", "kind", "vocab_size"]),
    ("tokenizer decode RUN IDS", ["text"]),
    (f"train lm --data TEXT --out OUT {' '.join(SMALL)}", ["run", "step", "reason", "metric", "best", "best_step"]),
    ("train --out RUN", ["run", "step", "reason", "metric", "best", "best_step"]),
]


@pytest.mark.parametrize(("words", "keys"), CASES, ids=[" ".join(words.split()[:4]) for words, _ in CASES])
def test_standard_output_is_json_with_these_keys(
    words: str, keys: list[str], seqgen: Any, run: Path, text: Path, tmp_path: Path
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("5 6 7\n8 9\n")
    names = {"RUN": run, "TEXT": text, "IDS": ids, "OUT": tmp_path / "out", "OUT.txt": tmp_path / "out.txt"}
    ended = seqgen(*(names.get(word, word) for word in words.split()), "--json")
    assert ended.code == 0, ended.err
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert rows
    assert {tuple(row) for row in rows} == {tuple(keys)}


def test_settings_come_as_values_with_their_defaults(seqgen: Any) -> None:
    found = json.loads(seqgen("config", "--preset", "lm-awd", "--json").out)
    rows = {row["name"]: row for row in found["settings"]}
    assert rows["model.layers"] | {"help": ""} == {
        "name": "model.layers", "value": 3, "default": 1, "accepted": rows["model.layers"]["accepted"], "help": "",
    }  # fmt: skip
    ended = seqgen("config", "lm", "--json", "--toml")
    assert (ended.code, ended.err) == (2, "error: --toml and --json: give one\n")
