"""The public names: loaded when first used, the same for people and for type checkers, and the README's words work."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import seqgen

SOURCE = Path(seqgen.__file__)


def for_type_checkers() -> dict[str, str]:
    """name -> module of the explicit re-exports."""
    tree = ast.parse(SOURCE.read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {
        alias.name: str(statement.module)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
        if alias.asname == alias.name
    }


def test_type_checkers_and_people_see_the_same_names() -> None:
    lazy = {name: f"seqgen.{module}" for module, names in seqgen._NAMES.items() for name in names}
    assert for_type_checkers() == lazy
    assert set(seqgen.__all__) == {"__version__", *lazy}


@pytest.mark.parametrize("name", seqgen.__all__)
def test_every_public_name_loads(name: str) -> None:
    value = getattr(seqgen, name)
    module = for_type_checkers().get(name)
    if module is not None:
        assert value is getattr(sys.modules[module], name)


def test_rooms_load_when_used_and_unknown_names_are_told() -> None:
    assert seqgen.metrics.bleu is seqgen.bleu
    for room in seqgen._ROOMS:
        assert getattr(seqgen, room).__name__ == f"seqgen.{room}"
    with pytest.raises(AttributeError, match=r"^module 'seqgen' has no attribute 'trian'; public names: "):
        seqgen.trian  # noqa: B018
    assert {"train", "load", "metrics"} <= set(dir(seqgen))


def test_importing_the_package_imports_nothing_of_it() -> None:
    script = "import sys, seqgen; print(*[m for m in sys.modules if m.startswith(('seqgen.', 'torch', 'numpy'))])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["seqgen._version"]


def test_what_writes_texts_imports_no_library_that_it_does_not_need() -> None:
    heavy = ("scipy", "sklearn", "matplotlib", "nltk", "sentencepiece", "PIL")
    script = f"import sys, seqgen.engine.generate; print(*[m for m in {heavy} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "\n"


def test_bleu_of_lines_needs_no_torch() -> None:
    script = "import sys, seqgen; seqgen.bleu(['a b'], ['a b']); print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


def test_lines_from_python_train_the_run_that_a_file_of_them_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"the {a} {b} sleeps" for a in ("old", "young", "small") for b in ("cat", "dog", "bird", "man")]
    (tmp_path / "text.txt").write_text("".join(f"{line}\n" for line in lines))
    small = {"model.hidden": 8, "model.embedding": 8, "train.steps": 4, "train.batch": 4, "train.eval_every": 2}
    seqgen.train(seqgen.config("lm", overrides=small), out=tmp_path / "a", lines=lines)
    shown = capsys.readouterr()
    assert [line.split("  ")[0] for line in shown.err.splitlines()] == ["step 2/4", "step 4/4"]
    assert shown.out == ""
    seqgen.train(seqgen.config("lm", tmp_path / "text.txt", overrides=small), out=tmp_path / "b", progress=False)
    assert capsys.readouterr() == ("", "")
    for name in ("log.jsonl", "scores.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    outcome = seqgen.train(None, tmp_path / "a", lines=lines, overrides=["train.steps=6"], progress=False)
    assert outcome.step == 6
    with pytest.raises(TypeError, match=r"^image-vae is not trained on lines; give images=$"):
        seqgen.train(seqgen.config("image-vae"), out=tmp_path / "c", lines=lines)
    with pytest.raises(TypeError, match=r"^lm is not trained on images; give lines=$"):
        seqgen.train(seqgen.config("lm", overrides=small), out=tmp_path / "c", images=lines)


def test_a_run_in_the_words_of_the_readme(tmp_path: Path) -> None:
    lines = [f"the {a} {b} sleeps" for a in ("old", "young", "small") for b in ("cat", "dog", "bird", "man")]
    (tmp_path / "text.txt").write_text("".join(f"{line}\n" for line in lines))
    small = {"model.hidden": 8, "model.embedding": 8, "train.steps": 2, "train.batch": 4}
    config = seqgen.config("lm", data=tmp_path / "text.txt", overrides=small)
    outcome = seqgen.train(config, out=tmp_path / "r", progress=lambda _: None)
    assert outcome.reason == "finished"
    generator = seqgen.load(tmp_path / "r")
    texts = generator.generate(count=4, temperature=0.9, seed=1)
    assert len(texts) == 4
    held_out = seqgen.read_lines(tmp_path / "text.txt")
    assert 0 <= float(seqgen.bleu(texts, held_out)) <= 1
    assert 0 <= float(seqgen.self_bleu(texts)) <= 1
    assert generator.score(held_out).perplexity > 1
