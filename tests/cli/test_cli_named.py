"""Commands and options that messages, help texts and documents name: they have to be there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from seqgen.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"\bseqgen ([a-z][a-z-]*)((?: [^\s;,`|]+)*)")
OPTION = re.compile(r"(?<!\S)(--[a-z][a-z-]*)")


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module; what is put into one is X."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def faults(text: str, commands: dict[str, Any]) -> Iterator[str]:
    """Yield what a text names and the command line lacks."""
    for name, rest in NAMED.findall(text):
        command, words = commands.get(name), rest.split()
        if command is None:
            continue
        if hasattr(command, "commands") and words:
            command = command.commands.get(words[0], command)
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        yield from (f"seqgen {name} {option}" for option in OPTION.findall(rest) if option not in {*known, "--help"})


SOURCES = sorted([*(ROOT / "seqgen").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_that_are_named_exist(path: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    texts = (
        strings(path)
        if path.suffix == ".py"
        else enumerate(path.read_text("utf-8").replace("\\\n", " ").split("\n"), 1)
    )
    assert [f"{path.name}:{line}: {fault}" for line, text in texts for fault in faults(text, commands)] == []


def test_an_option_that_is_missing_is_found() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = "train one: seqgen train ... --tokeniser RUN; seqgen corpus build FILE --tokenizer RUN --out DIR --fast"
    assert list(faults(text, commands)) == ["seqgen train --tokeniser", "seqgen corpus --fast"]
