"""Tables, curves, comparisons, blind sheets: each number against the metric it names."""

import json
import math
import re
from pathlib import Path

import pytest
from scipy import stats
from small_run import SMALL

from seqgen import metrics
from seqgen.core.errors import DataError
from seqgen.data.text import read_lines
from seqgen.engine import blind, compare, curve, evaluate, loop
from seqgen.engine.generate import Writer, load
from seqgen.engine.run import config


@pytest.fixture(scope="module")
def writer(trained: Path) -> Writer:
    return load(trained)


@pytest.fixture(scope="module")
def lines(text: Path) -> list[str]:
    return read_lines(text)


def test_the_table_holds_the_metrics_it_names(writer: Writer, lines: list[str]) -> None:
    table = evaluate.evaluate(writer, lines[:40], count=30, seed=3)
    samples, real, ngram = table.columns
    texts = writer.generate(30, seed=3)
    assert float(samples.scores["bleu-4"]) == pytest.approx(float(metrics.bleu(texts, lines[:40])))
    assert float(samples.scores["self-bleu-3"]) == pytest.approx(float(metrics.self_bleu(texts, order=3)))
    assert samples.likelihood["perplexity"] == pytest.approx(writer.score(lines[:40]).perplexity)
    assert (real.name, ngram.name) == ("real text", "kneser-ney-5")
    # real text's novelty is that of held-out lines: training lines would be copies of themselves
    train = writer.own_text().train_lines
    held_out = float(metrics.evaluate_text(lines[:30], lines[:40], train=train)["copied"])
    assert float(real.scores["copied"]) == pytest.approx(held_out)
    assert math.isfinite(ngram.likelihood["nll-per-line"])
    json.dumps(table.to_dict(), allow_nan=False)


def test_given_lines_need_no_model(lines: list[str]) -> None:
    table = evaluate.evaluate(lines[:20], lines[20:60])
    assert [c.name for c in table.columns] == ["samples"]
    assert not table.columns[0].likelihood


def test_characters_are_the_tokens_of_text_without_spaces() -> None:
    verse = ["春眠不觉晓处处闻啼鸟", "夜来风雨声花落知多少", "白日依山尽黄河入海流"]
    assert evaluate.metric_tokenizer(verse) == "char"
    assert evaluate.metric_tokenizer(["a man rides a horse ."]) == "split"


def test_training_text_that_changed_is_not_used_silently(text: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text(text.read_text())
    loop.train(config("lm", own, overrides=[*SMALL, "train.steps=1"]), tmp_path / "r")
    own.write_text(text.read_text() + "one line more .\n")
    with pytest.raises(
        DataError, match=r"own\.txt is not the text that .*r was trained on; give the training text with --train"
    ):
        load(tmp_path / "r").own_text()


# ---- curve


def test_a_curve_scores_every_temperature_and_marks_the_front(writer: Writer, lines: list[str]) -> None:
    made = curve.curve(writer, lines[:40], temperatures=[1.3, 0.4, 0.8], count=25, seed=1)
    assert [p.temperature for p in made.points] == [0.4, 0.8, 1.3]
    texts = writer.generate(25, seed=1, temperature=0.8)
    assert made.points[1].quality == pytest.approx(float(metrics.bleu(texts, lines[:40])))
    assert made.points[1].diversity == pytest.approx(1 - float(metrics.self_bleu(texts)))
    for point in made.points:
        others = [q for q in made.points if q is not point]
        beaten = any(q.quality >= point.quality and q.diversity >= point.diversity for q in others)
        assert (point in made.front()) == (not beaten)
    assert made.real is not None
    assert curve.draw([made]).startswith(b"\x89PNG")
    json.dumps(made.to_dict(), allow_nan=False)


@pytest.mark.parametrize("temperatures", [[0.0, 1.0], [1.0, 1.0]])
def test_temperatures_are_positive_and_different(temperatures: list[float], writer: Writer, lines: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^temperatures must be positive and all different, got"):
        curve.curve(writer, lines, temperatures=temperatures)


# ---- compare


def test_runs_that_differ_in_seed_alone_are_one_entry(text: Path, lines: list[str], tmp_path: Path) -> None:
    for seed in (1, 2):
        chosen = config("lm", text, overrides=[*SMALL, "train.steps=30", f"seed={seed}"])
        loop.train(chosen, tmp_path / f"s{seed}")
    (tmp_path / "lines.txt").write_text("\n".join(lines[:30]) + "\n")
    subjects = [tmp_path / "s1", tmp_path / "lines.txt", tmp_path / "s2"]
    made = compare.compare(subjects, lines[:50], count=30, shown=("bleu-2", "distinct-2"))
    assert [e.name for e in made.entries] == [str(tmp_path / "s1"), str(tmp_path / "lines.txt"), "real text"]
    assert len(made.entries[0].scores) == 2
    values = [float(metrics.bleu(load(tmp_path / f"s{s}").generate(30), lines[:50], order=2)) for s in (1, 2)]
    mean, deviation = sum(values) / 2, abs(values[0] - values[1]) / math.sqrt(2)
    assert made.entries[0].cell("bleu-2") == f"{mean:.4f} ± {deviation:.4f} (n = 2)"
    assert re.fullmatch(r"\d\.\d{4} \[\d\.\d{4}, \d\.\d{4}\]", made.entries[1].cell("bleu-2"))
    rows = made.table("md").splitlines()
    assert rows[0].startswith("|  | bleu-2 | distinct-2 | perplexity |")
    assert len(rows) == 5
    assert made.table("csv").splitlines()[2].startswith(str(tmp_path / "lines.txt"))
    assert made.table("latex").startswith(r"\begin{tabular}{llll}")
    assert compare.draw(compare.compare([tmp_path / "lines.txt"], lines, train=lines, count=30)).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"^format must be md, csv or latex, got 'xls'$"):
        made.table("xls")


def test_what_is_neither_run_nor_file_is_named(lines: list[str]) -> None:
    with pytest.raises(DataError, match=r"^absent is neither a run folder nor a file$"):
        compare.compare(["absent"], lines)


# ---- people as judges


def answers_that_prefer(key: dict[str, object], side: str) -> list[str]:
    left = key["a_is_left"]
    assert isinstance(left, list)
    return ["left" if (is_left == (side == "a")) else "right" for is_left in left]


def test_a_sheet_shows_every_pair_and_hides_who_wrote_what() -> None:
    a, b = [f"first <{i}>" for i in range(60)], [f"second {i}" for i in range(60)]
    page, key = blind.sheet(a, b, names=("lm", "seqgan"), count=50, seed=4)
    shown = re.findall(r'<div class="text">(.*?)</div>', page)
    assert len(shown) == 100
    sides = ["first" in text for text in shown[::2]]
    assert sides == key["a_is_left"]
    assert 10 < sum(sides) < 40
    assert len(set(shown)) == 100
    assert "&lt;" in page
    assert "lm" not in re.sub(r"html|xmlns", "", page).replace("seqgan", "SEQGAN")
    assert "SEQGAN" not in page
    assert blind.sheet(a, b, names=("lm", "seqgan"), count=50, seed=4) == (page, key)


def test_answers_are_counted_against_the_key() -> None:
    _, key = blind.sheet(["x"] * 20, ["y"] * 20, count=20)
    chosen: list[str | None] = [
        *answers_that_prefer(key, "a")[:14],
        *answers_that_prefer(key, "b")[14:18],
        "same",
        None,
    ]
    found = blind.verdict(key, {"sheet": key["sheet"], "answers": chosen})
    assert (found.preferred_a, found.preferred_b, found.undecided) == (14, 4, 1)
    reference = stats.binomtest(14, 18)
    assert found.p_value == pytest.approx(reference.pvalue)
    interval = reference.proportion_ci(method="wilson")
    assert found.interval == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"sheet": "x", "answers": []}, "these answers belong to sheet x"),
        ({"answers": ["left"]}, "expected 3 answers, got 1"),
        ({"answers": ["left", "up", None]}, "an answer must be left, right, same or null, got 'up'"),
        ({"answers": ["same", None, None]}, "no pair was decided"),
    ],
)
def test_answers_that_cannot_be_counted_say_why(answers: dict[str, object], message: str) -> None:
    _, key = blind.sheet(["x", "y", "z"], ["a", "b", "c"], count=3)
    with pytest.raises(DataError, match=message):
        blind.verdict(key, {"sheet": key["sheet"], **answers})


def test_too_few_texts_for_a_sheet() -> None:
    with pytest.raises(DataError, match=r"^B has 2 texts, fewer than the 50 pairs asked for; lower --count$"):
        blind.sheet(["x"] * 60, ["y"] * 2)
