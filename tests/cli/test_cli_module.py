"""A model of one's own: the file that docs/own-model.md shows, trained, resumed and used by `--module`."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import call

import seqgen as library
from seqgen.core.errors import ConfigError, RunError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-model.md"
TRAIN = ("model.width=12", "train.batch=8", "train.eval_every=3", "train.save_every=3", "train.samples=10")


def source() -> str:
    match = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    return match[1]


def written(folder: Path, *changes: tuple[str, str], name: str = "my_lm.py") -> Path:
    """The page's model in a file, with parts of its text replaced."""
    text = source()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def own(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the page's model over six steps, beside its file; nobody writes into it."""
    folder = tmp_path_factory.mktemp("own")
    file = written(folder)
    ended = call("train", "--module", file, "--data", text, "--out", folder / "r", *TRAIN, "train.steps=6")
    assert ended.code == 0, ended.err
    assert ended.err.splitlines()[-1].endswith(f"next: seqgen generate {folder}/r --module {file} --count 5")
    return folder


def test_the_page_shows_a_model_of_about_forty_lines_of_code() -> None:
    code = re.sub(r'"""[^"]*"""', "", source())
    assert len([line for line in code.splitlines() if line.strip()]) <= 50


def test_a_run_broken_off_and_continued_ends_with_the_same_bytes(
    seqgen: Any, own: Path, text: Path, tmp_path: Path
) -> None:
    file = own / "my_lm.py"
    begun = ("--module", file, "--out", tmp_path / "r")
    constant = ("train.schedule=constant",)
    for out, steps in ((tmp_path / "r", 3), (tmp_path / "whole", 6)):
        ended = seqgen(
            "train", "--module", file, "--data", text, "--out", out, *TRAIN, *constant, f"train.steps={steps}"
        )
        assert ended.code == 0, ended.err
    assert seqgen("train", *begun, "train.steps=6").code == 0
    for name in ("log.jsonl", "scores.jsonl"):
        a, b = ((tmp_path / run / name).read_bytes() for run in ("r", "whole"))
        assert a.splitlines()[-1] == b.splitlines()[-1]
    a, b = (
        (tmp_path / run / "checkpoints" / "step-00000006" / "model.safetensors").read_bytes() for run in ("r", "whole")
    )
    assert a == b


def test_the_run_writes_scores_and_is_evaluated_by_the_file(
    seqgen: Any, own: Path, run: Path, held_out: Path, tmp_path: Path
) -> None:
    shutil.copytree(own / "r", tmp_path / "r")
    named = (tmp_path / "r", "--module", own / "my_lm.py")
    five, two = (seqgen("generate", *named, "--count", n, "--seed", 3) for n in ("5", "2"))
    assert five.code == 0, five.err
    assert five.out.splitlines()[:2] == two.out.splitlines()
    begun = seqgen("generate", *named, "--prompt", "the cat", "--count", "3")
    assert all(line.startswith("the cat") for line in begun.out.splitlines())
    assert len(seqgen("score", *named, held_out).out.splitlines()) == 37
    evaluated = seqgen("evaluate", *named, "--references", held_out, "--count", "10")
    assert "nll_per_character" in evaluated.out, evaluated.err
    compared = seqgen("compare", run, *named, "--references", held_out, "--count", "10")
    rows = [line.split("|")[1].strip().replace("\\_", "_") for line in compared.out.splitlines()]
    assert rows[2:] == [str(run), str(tmp_path / "r"), "real text"], compared.err
    assert seqgen("report", tmp_path / "r").code == 0
    assert "model.width" in seqgen("config", "--module", own / "my_lm.py").out


def test_the_library_takes_the_path_or_the_module(own: Path, text: Path, tmp_path: Path) -> None:
    from seqgen.core.code import imported

    file = own / "my_lm.py"
    small = dict(word.split("=") for word in (*TRAIN, "train.steps=3"))
    config = library.config(module=file, data=text, overrides={key: int(value) for key, value in small.items()})
    assert (config.name, config.model.width) == ("my-lm", 12)
    assert library.train(config, tmp_path / "r", progress=False).step == 3
    longer = library.train(None, tmp_path / "r", module=file, overrides=["train.steps=4"], progress=False)
    assert longer.step == 4
    by_path = library.load(own / "r", module=file).generate(3)
    assert library.load(own / "r", module=imported(file, option="--module")).generate(3) == by_path
    with pytest.raises(RunError, match=r"module is code, and .*/my_lm\.py is imported only where the command names it"):
        library.load(own / "r")


@pytest.mark.parametrize("command", ["train --out", "generate", "report", "compare --references"])
def test_a_run_alone_imports_no_file(command: str, seqgen: Any, own: Path, held_out: Path, tmp_path: Path) -> None:
    run, witness = tmp_path / "r", tmp_path / "witness"
    shutil.copytree(own / "r", run)
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(witness)!r}, 'w').close()\n")
    settings = run / "config.toml"
    settings.write_text(settings.read_text().replace(str(own / "my_lm.py"), str(evil)))
    words = command.split()
    ended = seqgen(words[0], run, *words[1:], held_out) if words[0] == "compare" else seqgen(*words, run)
    assert not witness.exists()
    if command == "report":
        assert ended.code == 0
        return
    assert ended.code == 2
    assert f"if you trust that file: seqgen train --out {run} --module {evil}" in ended.err


def test_a_file_that_changed_is_a_warning(seqgen: Any, own: Path, tmp_path: Path) -> None:
    shutil.copytree(own / "r", tmp_path / "r")
    file = written(tmp_path, ("A small recurrent", "A little recurrent"))
    for command in (("generate", tmp_path / "r"), ("train", "--out", tmp_path / "r")):
        ended = seqgen(*command, "--module", file)
        assert ended.code == 0
        assert "warning: the file of the model has changed since this run began" in ended.err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('DATA = "text"', 'DATA = "words"', """lacks DATA = "text" or "images" (it is 'words')"""),
        ("width: int = 64", "width: int", "a default for Config.width"),
        ("(frozen=True)", "", "Config, a class under @dataclass(frozen=True)"),
        ("    vocab_size: int = 0\n", "    words: int = 9\n", "Config.vocab_size"),
        ("class Model(nn.Module)", "class Net(nn.Module)", "Model, a torch.nn.Module"),
        ("def decoder(", "def write(", "Model.decoder(fast=False)"),
        ("def log_probs(self, batch)", "def likelihood(self, batch)", "Model.log_probs(batch)"),
        ("def optimizers(model, train)", "def optimizers(model)", "lacks optimizers(model, train)"),
        ("def train_step(", "def a_step(", "lacks train_step(model, optimizers, batch, step)"),
        ("def validate(model, batch)", "def valid(model, batch)", "lacks validate(model, batch)"),
        ('return {"nll"', 'return {"loss"', 'must return {"nll": (nats, counted tokens)} at least, got '),
        (", batch.count)}", ", None)}", "must return"),
        ("self.config = config", "self.own = config", "Model must keep its argument as self.config"),
        (
            "    def start(self",
            '    rank_local = ("kept",)\n\n    def start(self',
            "rank_local must be names of buffers (it has: none)",
        ),
        ("return self.output.weight, self", "return self.embedding, self", "model.decoder() failed: "),
        ("import torch\n", "import torch_of_another_name\n", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_a_file_lacks_is_one_line_before_the_first_step(
    old: str, new: str, words: str, seqgen: Any, text: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, (old, new))
    ended = seqgen("train", "--module", file, "--data", text, "--out", tmp_path / "r", *TRAIN)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended.err
    assert words in ended.err
    assert str(file) in ended.err
    assert not (tmp_path / "r").exists()


def test_a_wrong_use_of_module_is_one_line(seqgen: Any, own: Path, run: Path, text: Path, tmp_path: Path) -> None:
    file = written(tmp_path, name="lm.py")
    start = ("--data", text, "--out", tmp_path / "r")
    for words, said in (
        (("train", file, *start), f"a model of your own is: --module {file}"),
        (("train", "--module", file, *start), "lm is a model of the package; a module of your own needs another name"),
        (("train", "--module", tmp_path / "no.py", *start), f"--module: {tmp_path}/no.py: no such file"),
        (("train", "--module", text, *start), "--module must be a Python file, FILE.py, got"),
        (("train", "--out", run, "--module", own / "my_lm.py"), "lm is a model of the package; a module of your"),
    ):
        ended = seqgen(*words)
        assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended.err
        assert said in ended.err
    with pytest.raises(ConfigError, match="unknown model my-lm"):
        library.config("my-lm", text)
