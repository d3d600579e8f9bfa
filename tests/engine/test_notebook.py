"""What a notebook shows: short words, HTML that leaves the page around it alone, a bar with a curve; ours run."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_run import SMALL, small_text

import seqgen
from seqgen import metrics
from seqgen.core.config import flat
from seqgen.engine import loop, page, progress
from seqgen.engine.compare import compare
from seqgen.engine.generate import Text
from seqgen.engine.likelihood import LineScores
from seqgen.engine.run import config

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> loop.Outcome:
    folder = tmp_path_factory.mktemp("notebook")
    steps = ("train.steps=4", "train.eval_every=2")
    text = small_text(folder / "text.txt")
    return loop.train(config("lm", text, overrides=[*SMALL, *steps]), folder / "run", progress=False)


def test_an_outcome_opens_the_run_that_was_trained(outcome: loop.Outcome) -> None:
    assert outcome.load().generate(3, seed=1) == seqgen.load(outcome.folder).generate(3, seed=1)
    images = torch.randint(0, 256, (40, 8, 8), dtype=torch.uint8).numpy()
    small = ["model.hidden=4", "model.latent=4", "train.steps=1", "train.samples=0"]
    made = loop.train(config("image-gan", overrides=small), outcome.folder.parent / "i", images=images, progress=False)
    pictures = made.load()
    assert repr(pictures) == f"ImageGenerator({made.folder}, {pictures.device})"
    assert "data:image/png;base64," in pictures._repr_html_()


def test_what_is_shown_in_a_line_is_short(outcome: loop.Outcome, held_out: list[str]) -> None:
    generator = seqgen.load(outcome.folder)
    own = generator.own_text()
    shown = [
        *(generator, generator.settings, own, own.train.ids, generator.score(held_out[:3])),
        *(seqgen.bleu(held_out, held_out), metrics.evaluate_text(held_out, held_out)),
        *(generator.texts(1, details=True)[0], seqgen.evaluate(generator, held_out[:20])),
        compare([str(outcome.folder)], held_out[:20], count=20),
        *(generator.tokenizer, seqgen.Grammar.load("captions"), seqgen.Grammar.load("reviews")),
        *(seqgen.train_tokenizer(seqgen.TokenizerConfig(kind=kind), held_out, seed=1) for kind in ("byte", "char")),
    ]
    for each in shown:
        assert len(repr(each)) < 250, repr(each)
        assert "\n" not in repr(each)
        assert " object at 0x" not in repr(each)


def test_html_of_texts_is_escaped_and_as_likely_as_it_says(outcome: loop.Outcome) -> None:
    bad = "<script>"
    text = Text(f"{bad} x", 0, True, [bad, "x"], -3.0, [-1.0, -2.0], prompt=bad)
    for shown in (text._repr_html_(), LineScores([bad], [[-1.0, -2.0]], [[bad, "x"]])._repr_html_()):
        assert bad not in shown
        assert re.findall(r'title="([\d.]+%), ([\d.]+) nats"', shown) == [("36.79%", "1.00"), ("13.53%", "2.00")]
    for settings in (seqgen.config("lm", overrides={"data.field": bad}), seqgen.load(outcome.folder).settings):
        assert bad not in settings._repr_html_()


def test_a_fragment_styles_nothing_but_itself(outcome: loop.Outcome) -> None:
    shown = outcome._repr_html_()
    style = re.search(r"<style>(.*?)</style>", shown, re.S)
    assert style is not None
    outside = style[1].partition("@scope (.seqgen) {")[0]
    selectors = {word.strip() for word in re.findall(r"([^{}]+)\{", outside)}
    assert selectors == {".seqgen", "@media (prefers-color-scheme: dark)"}
    assert shown.count("<svg") >= 1
    assert not re.search(r"<(script|html|body|meta)", shown)
    assert page.fragment("x").startswith('<div class="seqgen">')


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand for the kernel of a notebook; what is returned grows by each drawing."""
    drawn: list[str] = []

    def display(html: str, *, display_id: bool) -> Any:
        drawn.append(html)
        return SimpleNamespace(update=drawn.append)

    parts: dict[str, Callable[..., Any]] = {"HTML": str, "display": display}
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(**parts))
    kernel = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    monkeypatch.setattr(progress, "_NOTEBOOK_S", 0.0)
    return drawn


def test_in_a_notebook_a_bar_moves_and_a_curve_grows(
    notebook: list[str], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("train.steps=6", "train.eval_every=3", "train.log_every=1")
    loop.train(config("lm", text, overrides=[*SMALL, *steps]), tmp_path / "r")
    values = [int(found[1]) for shown in notebook if (found := re.search(r'<progress value="(\d+)" max="6">', shown))]
    assert values == sorted(values)
    assert set(range(1, 7)) <= set(values)
    assert notebook[-1].count("<circle") == 2  # two validations
    assert capsys.readouterr() == ("", "")


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    book = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_our_notebooks_are_executed_small_and_name_no_folder_of_a_machine(path: Path) -> None:
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < 150_000
    outputs = [output for cell in code for output in cell["outputs"]]
    texts = [
        text
        for output in outputs
        for kind, text in output.get("data", {"": output.get("text")}).items()
        if kind != "image/png"
    ]
    assert not re.search(r"(/(home|root|tmp|usr|work|Users)\b|site-packages)", json.dumps(texts))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_option_that_a_notebook_sets_exists(path: Path) -> None:
    source = "\n".join("".join(cell["source"]) for cell in cells(path, "code"))
    known = {name for model in re.findall(r'config\(\s*"([\w-]+)"', source) for name in flat(config(model).sections())}
    set_here = set(re.findall(r'"((?:data|model|train)\.[\w.]+)"', source))
    assert set_here
    assert set_here - known == set()


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != "evaluate-honestly"], ids=lambda p: p.stem)
def test_every_paragraph_of_a_lesson_has_its_chinese_line(path: Path) -> None:
    for cell in cells(path, "markdown"):
        parts = [p for p in "".join(cell["source"]).split("\n\n") if not p.startswith(("$$", "## "))]
        chinese = [bool(re.search("[\u4e00-\u9fff]", part)) for part in parts]
        assert chinese == [False, True] * (len(parts) // 2), parts


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_our_notebooks_run_and_hold_what_they_gave(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install nbclient ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install nbclient ipykernel")
    book = nbformat.read(path, as_version=4)
    kept = [cell.get("outputs") for cell in book.cells]
    nbclient.NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    again = [cell.get("outputs") for cell in book.cells]
    assert [len(outputs or ()) for outputs in again] == [len(outputs or ()) for outputs in kept]
    shown = "".join(str(outputs) for outputs in again)
    assert "<progress" in shown
    assert "Traceback" not in shown
