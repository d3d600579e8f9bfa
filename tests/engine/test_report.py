"""The page of a run: what stands on it, that nothing of a run becomes markup, and what a browser makes of it."""

import itertools
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from small_run import SEQGAN, SMALL, held_out_lines, small_text

from seqgen import metrics
from seqgen.engine import evaluate, loop
from seqgen.engine.charts import Series, averaged, chart, ticks
from seqgen.engine.compare import Comparison, Entry
from seqgen.engine.report import _again, write_report
from seqgen.engine.run import config
from seqgen.metrics.score import Score, Signature

HOSTILE = "<script>alert(1)</script>"
STEPS = ("train.steps=4", "train.eval_every=2", "train.log_every=1")


class Read(HTMLParser):
    """What a browser would see: the elements, and the text of each."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.texts.setdefault(tag, []).append("")
        if tag not in ("meta", "img", "path", "circle"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            self._open.pop(len(self._open) - 1 - self._open[::-1].index(tag))

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.texts[tag][-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on text that is markup, from a file and in a folder whose names are, too."""
    place = tmp_path_factory.mktemp("report")
    path = place / "<i>&text.txt"
    lines = small_text(path).read_text().splitlines()
    path.write_text("".join(f"{line.replace('the', HOSTILE)}\n" for line in lines))
    folder = place / "<b>&'\"run"
    loop.train(config("lm", path, overrides=[*SMALL, *STEPS]), folder, progress=False)
    held_out = [line.replace("the", HOSTILE) for line in held_out_lines()]
    table = evaluate.evaluate(str(folder), held_out, count=20)
    (folder / "evaluation.json").write_text(json.dumps(table.to_dict()))
    return folder


def test_nothing_of_a_run_becomes_markup(run: Path) -> None:
    page = write_report(run).read_text()
    seen = Read(page)
    assert "script" not in seen.tags
    assert "<b>&" not in page
    assert "<i>&" not in page
    assert seen.texts["h1"] == [run.name]
    assert seen.texts["title"][0] == f"{run.name} · lm"
    assert any("<i>&text.txt" in text for text in seen.texts["dd"])
    assert HOSTILE in seen.texts["section"][0]
    assert "default-src 'none'" in page  # and a browser would run none of it


def test_samples_come_first_and_every_part_is_there(run: Path) -> None:
    seen = Read(write_report(run).read_text())
    assert seen.texts["h2"] == [
        *("Samples", "Beside the training text", "Curves", "Samples over time", "Scores", "Validations"),
        *("Quality and diversity", "How to make it again", "Settings", "Environment"),
    ]
    shown = (run / "samples" / "00000004.txt").read_text().splitlines()
    assert seen.texts["li"][: len(shown)] == shown
    assert any("seqgen train --config" in text for text in seen.texts["pre"])


@pytest.mark.parametrize(
    ("name", "command", "shown", "began"),
    [
        ("lm", ["seqgen", "train", "lm"], "seqgen train --config", True),
        ("lm", ["seqgen", "-f", "kernel.json"], "seqgen train --config", False),
        ("mixture", ["seqgen", "mix", "a", "b c"], "seqgen mix a 'b c'", False),
        ("mixture", ["seqgen"], "seqgen mix", False),
    ],
)
def test_the_commands_that_make_a_run_again_are_those_of_its_kind(
    name: str, command: list[str], shown: str, began: bool
) -> None:
    page = _again(Path("runs/x"), {"name": name}, {"command": command, "data_sha256": "0"})
    assert shown in Read(page).texts["pre"][0]
    assert ("This run began as" in page) == began
    assert "kernel.json" not in page


def test_only_a_model_with_a_policy_speaks_of_one(run: Path, tmp_path: Path) -> None:
    assert "policy" not in write_report(run).read_text()
    text = small_text(tmp_path / "text.txt")
    loop.train(config("seqgan", text, overrides=[*SEQGAN, *STEPS, "train.samples=0"]), tmp_path / "r", progress=False)
    assert "SeqGAN: a recurrent policy" in (tmp_path / "r" / "report.html").read_text()


def test_the_table_says_how_far_samples_are_from_real_text(run: Path) -> None:
    table = json.loads((run / "evaluation.json").read_text())
    samples, real = ({**c["likelihood"], **c["scores"]} for c in table["columns"][:2])
    rows = [text for text in Read(write_report(run).read_text()).texts["tr"] if text.startswith("bleu_4 ↑")]
    far = samples["bleu_4"]["value"] - real["bleu_4"]["value"]
    assert rows[0].endswith(f"{far:+.4f}")
    assert f"{samples['bleu_4']['value']:.4f}{real['bleu_4']['value']:.4f}" in rows[0]


@pytest.mark.parametrize(("cut", "joint"), [("split", " "), ("char", "")])
def test_a_copied_span_is_the_longest_run_that_stands_in_a_training_line(cut: str, joint: str) -> None:
    train = ["a b c d", "d  c b a e", "x y"]
    texts = ["q a b  c x", "zz", "e d c b", "x y"]
    matches = metrics.evaluate_text(texts, train, train=train, tokenizer=cut).matches
    assert matches is not None
    for text, row in zip(texts, evaluate.copied_spans(texts, train, matches, cut), strict=True):
        tokens = metrics.tokenize([text], cut)[0]
        known = [joint.join(map(str, metrics.tokenize([line], cut)[0])) for line in train]
        spans = {
            joint.join(map(str, tokens[i:j])) for i in range(len(tokens)) for j in range(i + 1, len(tokens) + 1)
        }  # by brute force
        inside = [s for s in spans if any(f"{joint}{s}{joint}" in f"{joint}{line}{joint}" for line in known)]
        longest = max((len(metrics.tokenize([s], cut)[0]) for s in inside), default=0)
        assert row["tokens"] == longest
        shared = joint.join(map(str, metrics.tokenize([text[row["begin"] : row["end"]]], cut)[0]))
        assert shared in inside or not longest
        assert (row["source"] in train) == bool(longest)


def test_losses_of_single_batches_are_averaged_in_groups_of_five_or_more() -> None:
    points = [(float(step), float(step % 5)) for step in range(100)]
    means, how = averaged(points)
    assert means == [(5.0 * group + 2, 2.0) for group in range(20)]
    assert how == "mean of 5 logged batches"
    assert averaged(points[:9]) == (points[:9], "single batches")
    assert len(averaged([(float(step), 0.0) for step in range(5000)])[0]) == 60


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.003, 0.0031), (-5, 1234567), (3.2, 9.9), (1e-9, 2e-9)])
def test_ticks_are_round_equally_spaced_and_inside(low: float, high: float) -> None:
    found = ticks(low, high, 4)
    assert 2 <= len(found) <= 5
    assert all(low - 1e-9 * (high - low) <= tick <= high + 1e-9 * (high - low) for tick in found)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert max(gaps) == pytest.approx(min(gaps))
    digits = f"{gaps[0]:.6e}".partition("e")[0]
    assert float(digits) in (1, 2, 2.5, 5)


def test_a_chart_of_nothing_is_none_and_of_one_point_a_dot() -> None:
    assert chart([Series("", [])]) == ""
    assert chart([Series("", [(1, 2.0)])]).count("<circle") == 1


def test_a_comparison_is_a_page_of_its_own() -> None:
    def entry(name: str, value: float, **more: Any) -> Entry:
        return Entry(name, [{n: Score(value, Signature(n, {})) for n in ("bleu_4", "self_bleu_4")}], **more)

    entries = [entry(HOSTILE, 0.5), entry("b", 0.25), entry("real text", 0.75, real=True)]
    seen = Read(Comparison(entries, ("bleu_4", "self_bleu_4"), ["a < b"]).table("html"))
    assert "script" not in seen.tags
    assert [text for text in seen.texts["tr"] if text.startswith("<script>")] == [f"{HOSTILE}0.50000.5000"]
    assert seen.texts["b"] == ["0.5000", "0.5000"]  # highest, and nearest to real text
    assert seen.tags.count("circle") == 3
    assert "a < b" in seen.texts["li"]


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 375)])
def test_a_browser_shows_the_page_without_complaint(run: Path, browser: Any, scheme: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(write_report(run).resolve().as_uri())
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing needs scrolling sideways
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    context.close()
