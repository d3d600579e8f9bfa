"""README holds: its commands run in its order, its example too, and every file and option it names exists.

A comment before each block of code says how it is tested: `<!-- tested -->`, `<!-- tested small -->` (its trainings get
few steps and small models), `<!-- tested with: A => B -->` (the text A, which must occur, becomes B), or
`<!-- not tested: why -->`.
"""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main

from seqgen.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]*(?:=>[^>]*)*) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
TRAINING = re.compile(r"seqgen train .*--out \S+")
# of other programs' commands and of the scripts
OTHER_OPTIONS = {"--nproc-per-node", "--slow", "--quick"}


def _small(training: re.Match[str]) -> str:
    size = "" if "--from" in training[0] else " model.hidden=16"
    return f"{training[0]} train.steps=2 train.eval_every=2 train.samples=8{size}"


@dataclass(frozen=True)
class Block:
    """A block of code, as it stands and as it is tested."""

    line: int
    language: str
    code: str
    note: str

    @property
    def tested(self) -> str:
        code = self.code
        if self.note == "tested small":
            code, trainings = TRAINING.subn(_small, code)
            assert trainings, f"README.md, line {self.line}: nothing is trained in the block"
        for old, new in re.findall(r"tested with: (.*?) => (.*)", self.note):
            assert old in code, f"README.md, line {self.line}: {old!r} does not occur in the block"
            code = code.replace(old, new)
        return code


def blocks(text: str) -> list[Block]:
    return [
        Block(text[: found.start("code")].count("\n"), found["language"], found["code"], found["note"] or "")
        for found in BLOCK.finditer(text)
    ]


BLOCKS = blocks(README)
RUN = [block for block in BLOCKS if block.note.startswith("tested")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all blocks run, one after the other, with what a checkout has."""
    made = tmp_path_factory.mktemp("readme")
    (made / "corpora").symlink_to(ROOT / "corpora")
    sample = [sys.executable, "-m", "seqgen", "corpus", "sample", "captions", "--count", "50", "--out", "held-out.txt"]
    subprocess.run(sample, cwd=made, check=True, capture_output=True)  # the example of the library reads it
    return made


def test_every_block_says_how_it_is_tested():
    notes = [(block.line, block.note) for block in BLOCKS]
    assert all(re.match(r"tested$|tested small$|tested with: .+ => |not tested: .|tree$", note) for _, note in notes), (
        notes
    )
    assert {block.language for block in RUN} == {"sh", "python"}


@pytest.mark.parametrize("block", RUN, ids=[f"line-{block.line}" for block in RUN])
def test_readme_block_runs(block, folder):
    program = ["sh", "-eu", "-c"] if block.language == "sh" else [sys.executable, "-W", "error", "-c"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*program, block.tested], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or block.language == "python"


def test_the_chinese_readme_has_the_same_code_links_and_figures():
    chinese = (ROOT / "README.zh.md").read_text(encoding="utf-8")
    assert [block.code for block in blocks(chinese)] == [block.code for block in BLOCKS]

    def kept(text: str) -> list[list[str]]:
        text = re.sub(r"```.*?```|<!--.*?-->", "", text, flags=re.DOTALL)
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("README")]
        return [sorted(links), sorted(re.findall(r"`[^`]+`", text)), re.findall("^#+|^[|]", text, re.MULTILINE)]

    assert kept(chinese) == kept(README)


PAGES = [
    (page.relative_to(ROOT), block)
    for page in sorted(ROOT.glob("docs/**/*.md"))
    for block in blocks(page.read_text(encoding="utf-8"))
    if block.note == "tested"
]


@pytest.mark.parametrize(("page", "block"), PAGES, ids=[f"{page}-{block.line}" for page, block in PAGES])
def test_example_of_a_page_runs(page, block, tmp_path):
    command = [sys.executable, "-W", "error", "-c", block.code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if page.name == "language-models.md":
        assert done.stdout.startswith("14.71"), "the figure of the page"


def missing_files(text: str) -> list[str]:
    """Files named in code spans, links and the tree that the checkout does not have."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    words = [word for span in spans for word in span.split()]
    named = [word for word in words if re.fullmatch(r"[\w.-]+(/[\w.-]*)+|[\w-]+\.(md|toml|txt|py)", word)]
    named += [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    for tree in (block.code for block in blocks(text) if block.note == "tree"):
        parent = ""
        for line in tree.splitlines():
            name = line.split()[0]
            parent = parent if line.startswith(" ") else ""
            named.append(parent + name)
            parent = parent or (name if line.strip() == name else "")
    # a run's own files, and the file that the commands make
    own = ("runs/", "config.toml", "held-out.txt")
    named = [name for name in named if not re.search("FILE|NAME", name)]  # stand for any
    return [name for name in named if not name.startswith(own) and not (ROOT / name).exists()]


def command_options() -> set[str]:
    """Every option of every command of seqgen."""
    found, waiting = set(), [typer.main.get_command(app)]
    while waiting:
        command = waiting.pop()
        found |= {option for parameter in command.params for option in parameter.opts}
        waiting += getattr(command, "commands", {}).values()
    return found


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "CONTRIBUTING.md"])
def test_every_file_named_exists(page):
    assert missing_files((ROOT / page).read_text(encoding="utf-8")) == []


def test_every_option_named_exists():
    assert set(OPTION.findall(README)) - command_options() - OTHER_OPTIONS == set()


def test_a_missing_file_would_be_named():
    tree = "<!-- tree -->\n```text\nseqgen/\n  core/no.py  x\n```\n"
    text = "`seqgen/none.py` `--module FILE.py` [x](NONE.md) `scripts/test` `seqgen train`\n"
    assert missing_files(text + tree) == ["seqgen/none.py", "NONE.md", "seqgen/core/no.py"]


def test_every_printed_install_line_names_the_distribution_and_an_extra_it_has():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("seqgen/**/*.py")]
    printed = [
        found.groups()
        for page in pages
        for found in re.finditer(r"pip install '?([\w-]*seqgen)(?:\[([^\]]+)\])?", page.read_text(encoding="utf-8"))
    ]
    assert {name for name, _ in printed} == {project["name"]}
    assert {extra for _, extra in printed} - {None, "{name}"} <= set(project["optional-dependencies"])
