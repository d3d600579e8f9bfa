"""Tables, curves, comparisons, blind sheets: each number against the metric it names."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from small_run import SMALL

from seqgen import metrics
from seqgen.core import log
from seqgen.core.errors import DataError
from seqgen.data.text import read_lines
from seqgen.engine import blind, compare, curve, evaluate, loop
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.run import config

CAPTIONS = Path(__file__).parents[2] / "corpora" / "captions.txt"


@pytest.fixture(scope="module")
def generator(trained: Path) -> TextGenerator:
    return load(trained)


@pytest.fixture(scope="module")
def lines(text: Path) -> list[str]:
    return read_lines(text)


def test_the_table_holds_the_metrics_it_names(generator: TextGenerator, held_out: list[str]) -> None:
    table = evaluate.evaluate(generator, held_out[:40], count=30, seed=3)
    samples, real, ngram = table.columns
    texts = generator.generate(30, seed=3)
    assert float(samples.scores["bleu_4"]) == pytest.approx(float(metrics.bleu(texts, held_out[:40])))
    assert float(samples.scores["self_bleu_3"]) == pytest.approx(float(metrics.self_bleu(texts, order=3)))
    assert (real.name, ngram.name) == ("real text", "kneser-ney-5")
    train = generator.own_text().train_lines
    model = metrics.KneserNey([line.split() for line in train])
    nats = -model.log_probability([line.split() for line in held_out[:40]]).sum()
    assert float(ngram.likelihood["nll_per_line"]) == pytest.approx(nats / 40)
    stored = table.to_dict()
    json.dumps(stored, allow_nan=False)
    for column in stored["columns"]:
        for name, score in (column["likelihood"] | column["scores"]).items():
            assert score["signature"].startswith(f"{score['metric']}|"), name
            assert name in stored["metrics"]


def test_likelihood_is_per_line_and_character_with_rows_and_per_token_with_its_tokenizer(
    generator: TextGenerator, held_out: list[str]
) -> None:
    found = evaluate.evaluate(generator, held_out, baselines=False).columns[0].likelihood
    scored = generator.score(held_out)
    characters = sum(len(line) + 1 for line in held_out)
    assert found["nll_per_line"].value == pytest.approx(scored.nats / len(held_out))
    assert found["nll_per_character"].value == pytest.approx(scored.nats / characters)
    assert found["nll_per_token"].value == pytest.approx(scored.nats / scored.total_tokens)
    assert found["perplexity"].value == pytest.approx(math.exp(scored.nats / scored.total_tokens))
    for name, score in found.items():
        assert score.statistic(score.rows.sum(axis=0)) == pytest.approx(score.value), name  # type: ignore[union-attr]
        low, high = score.interval or (0, 0)
        assert low < score.value < high
        assert ("tok" in score.signature.fields) == (name in ("nll_per_token", "perplexity"))


# ---- one definition of real text


@pytest.fixture(scope="module")
def sorted_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run on sorted captions, whose neighbours are alike, and held-out captions, sorted too."""
    folder = tmp_path_factory.mktemp("sorted")
    captions = read_lines(CAPTIONS)
    known = set(captions[:1500])
    unseen = sorted(line for line in captions[1500:2000] if line not in known)
    (folder / "train.txt").write_text("".join(f"{line}\n" for line in sorted(captions[:1500])))
    (folder / "unseen.txt").write_text("".join(f"{line}\n" for line in unseen))
    options = ["train.steps=1", "train.samples=120", "model.hidden=8", "train.batch=8"]
    chosen = config("lm", folder / "train.txt", valid=folder / "unseen.txt", overrides=options)
    loop.train(chosen, folder / "run")
    return folder / "run", unseen


def test_real_text_is_the_same_in_every_command(sorted_run: tuple[Path, list[str]]) -> None:
    run, unseen = sorted_run
    generator = load(run)
    table = evaluate.evaluate(generator, unseen, count=120)
    real = table.columns[1].scores
    train = generator.own_text().train_lines
    # the first lines of sorted text are alike: what is drawn is as varied as any 120 captions
    first, fair = metrics.self_bleu(train[:120]), metrics.self_bleu(read_lines(CAPTIONS)[:120])
    assert float(real["self_bleu_4"]) == pytest.approx(float(fair), abs=0.05)
    assert float(real["self_bleu_4"]) < float(first) - 0.1
    # held-out lines stand where training lines would be compared with themselves
    assert float(real["copied"]) == 0
    assert 0.05 < float(real["novelty_4"]) < 0.9
    compared = compare.compare([run], unseen, count=120).entries[-1]
    pointed = curve.curve(generator, unseen, temperatures=[1.0], count=120).real
    assert compared.name == "real text"
    assert pointed is not None
    for name, score in real.items():
        for other in (compared.scores[0][name], pointed.scores[name]):
            assert (other.value, str(other.signature)) == (score.value, str(score.signature)), name
    validation = log.read(run / "scores.jsonl")[-1]
    assert validation["real_self_bleu_4"] == pytest.approx(float(real["self_bleu_4"]))


def test_samples_answer_conditions_from_all_of_a_sorted_table() -> None:
    table = ["down"] * 60 + ["up"] * 60
    some = evaluate.conditions(table, 40, seed=1)
    assert some is not None
    assert len(some) == 40
    assert 10 < some.count("up") < 30
    assert evaluate.conditions(table, 250) == [*table, *table, *table[:10]]
    assert evaluate.conditions(None, 5) is None


# ---- text that was trained on


def test_references_that_were_trained_on_are_counted_and_named(
    generator: TextGenerator, lines: list[str], held_out: list[str]
) -> None:
    mixed = [*held_out[:20], *lines[:3], f" {lines[0]} ", ""]
    with pytest.warns(UserWarning, match=r"^4 of 24 references also stand in the training text$"):
        table = evaluate.evaluate(generator, mixed, count=10)
    for column in table.columns:
        for score in (column.likelihood | column.scores).values():
            assert score.signature.fields["leak"] == "4"
    clean = evaluate.evaluate(generator, held_out[:20], count=10).columns[0].scores["bleu_4"]
    assert "leak" not in clean.signature.fields
    for refused in (
        lambda: evaluate.evaluate(generator, lines[:9], count=10),
        lambda: evaluate.evaluate(held_out, lines[:9], train=lines),
        lambda: compare.compare([str(generator.folder)], lines[:9]),
        lambda: curve.curve(generator, lines[:9], temperatures=[1.0], count=10),
    ):
        with pytest.raises(
            DataError, match=r"^all 9 references also stand in the training text; give text that was not trained on$"
        ):
            refused()


def test_given_texts_that_are_training_text_are_counted(lines: list[str], held_out: list[str]) -> None:
    with pytest.warns(UserWarning, match=r"^2 of 12 given texts also stand in the training text$"):
        evaluate.evaluate([*held_out[:10], *lines[:2]], held_out, train=lines)
    with pytest.raises(DataError, match=r"^all 12 given texts also stand in the training text; give text that was not"):
        evaluate.evaluate(lines[:12], held_out, train=lines)


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


def test_a_curve_scores_every_temperature_and_marks_the_front(generator: TextGenerator, held_out: list[str]) -> None:
    made = curve.curve(generator, held_out[:40], temperatures=[1.3, 0.4, 0.8], count=25, seed=1)
    assert [p.temperature for p in made.points] == [0.4, 0.8, 1.3]
    texts = generator.generate(25, seed=1, temperature=0.8)
    assert made.points[1].quality == pytest.approx(float(metrics.bleu(texts, held_out[:40])))
    assert made.points[1].diversity == pytest.approx(1 - float(metrics.self_bleu(texts)))
    for point in made.points:
        others = [q for q in made.points if q is not point]
        beaten = any(q.quality >= point.quality and q.diversity >= point.diversity for q in others)
        assert (point in made.front()) == (not beaten)
    assert made.real is not None
    assert curve.draw([made]).startswith(b"\x89PNG")
    json.dumps(made.to_dict(), allow_nan=False)


@pytest.mark.parametrize("temperatures", [[0.0, 1.0], [1.0, 1.0]])
def test_temperatures_are_positive_and_different(
    temperatures: list[float], generator: TextGenerator, lines: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"^temperatures must be positive and all different, got"):
        curve.curve(generator, lines, temperatures=temperatures)


# ---- compare


@pytest.fixture(scope="module")
def twins(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs s1 and s2, which differ in their seed, and `bytes`, which has another tokenizer."""
    folder = tmp_path_factory.mktemp("twins")
    for name, more in (("s1", "seed=1"), ("s2", "seed=2"), ("bytes", "tokenizer.kind=byte")):
        loop.train(config("lm", text, overrides=[*SMALL, "train.steps=30", "model.hidden=24", more]), folder / name)
    return folder


def test_runs_that_differ_in_seed_alone_are_one_entry(twins: Path, held_out: list[str]) -> None:
    (twins / "lines.txt").write_text("\n".join(held_out[:30]) + "\n")
    subjects = [twins / "s1", twins / "lines.txt", twins / "s2"]
    made = compare.compare(subjects, held_out[30:80], shown=("bleu_2", "distinct_2", "perplexity"))
    assert [e.name for e in made.entries] == [str(twins / "s1"), str(twins / "lines.txt"), "real text"]
    assert made.notes == [f"30 texts of each, as many as {twins / 'lines.txt'} has"]
    assert len(made.entries[0].scores) == 2
    values = [float(metrics.bleu(load(twins / f"s{s}").generate(30), held_out[30:80], order=2)) for s in (1, 2)]
    mean, deviation = sum(values) / 2, abs(values[0] - values[1]) / math.sqrt(2)
    half = deviation / math.sqrt(2) * stats.t.ppf(0.975, 1)
    expected = {"value": mean, "low": mean - half, "high": mean + half, "sd": deviation}
    assert made.entries[0].figures("bleu_2") == pytest.approx(expected)
    rows = made.table("md").splitlines()
    assert rows[0] == "|  | bleu_2 ↑ | distinct_2 ≈ | perplexity ↓ |"
    assert len(rows) == 5
    assert f"{mean:.4f} ± {half:.4f} (n = 2)" in rows[2]
    assert re.search(r"\| \*\*\d\.\d{4} \[\d\.\d{4}, \d\.\d{4}\]\*\* \|", rows[3])
    assert f"| {mean:.2f} |" in made.table("md", digits=2, intervals=False)
    with pytest.raises(ValueError, match=r"^format must be md, csv, latex or html, got 'xls'$"):
        made.table("xls")
    with pytest.raises(ValueError, match=r"^unknown column 'blue_2'; did you mean bleu_2\?$"):
        compare.compare(subjects, held_out[30:80], shown=("blue_2",))


def test_a_folder_of_seeds_is_one_entry_and_pairs_with_another(text: Path, held_out: list[str], tmp_path: Path) -> None:
    for name, hidden in (("a", 8), ("b", 4)):
        for seed in (1, 2, 10):
            own = [f"seed={seed}", f"model.hidden={hidden}", "train.steps=4", "train.eval_every=0"]
            loop.train(config("lm", text, overrides=[*SMALL, *own]), tmp_path / name / f"seed-{seed}")
    shown = ("nll_per_line", "bleu_2")
    made = compare.compare([tmp_path / "a", tmp_path / "b"], held_out[:20], count=10, shown=shown)
    assert [(e.name, e.seeds) for e in made.entries[:2]] == [(str(tmp_path / n), [1, 2, 10]) for n in ("a", "b")]
    nats = {
        n: [load(tmp_path / n / f"seed-{s}").score(held_out[:20]).nats / 20 for s in (1, 2, 10)] for n in ("a", "b")
    }
    test = stats.ttest_rel(nats["a"], nats["b"])
    low, high = test.confidence_interval(0.95)
    assert made.tests[0] == (
        f"nll_per_line: {tmp_path / 'a'} - {tmp_path / 'b'} = {np.mean(nats['a']) - np.mean(nats['b']):+.4f} "
        f"[{low:+.4f}, {high:+.4f}], p = {test.pvalue:.4f} (paired t over 3 seeds)"
    )
    assert [sentence.partition(":")[0] for sentence in made.tests] == ["nll_per_line", "bleu_2"]
    two = [tmp_path / "b" / f"seed-{seed}" for seed in (1, 10)]
    few = compare.compare([tmp_path / "a", *two], held_out[:20], count=10, shown=shown)
    assert few.tests == []
    assert few.notes == [
        f"{tmp_path / 'a'} and {tmp_path / 'b'} have 2 seeds in common; a paired test over seeds takes 3"
    ]


def test_likelihood_of_different_tokenizers_meets_per_character(twins: Path, held_out: list[str]) -> None:
    subjects, references = [twins / "s1", twins / "bytes"], held_out[:40]
    made = compare.compare(subjects, references, count=20, shown=("nll_per_character", "nll_per_line"))
    for subject, entry in zip(subjects, made.entries, strict=False):
        nats = load(subject).score(references).nats
        characters = sum(len(line) + 1 for line in references)
        assert entry.figures("nll_per_character")["value"] == pytest.approx(nats / characters)
    assert made.misfits("nll_per_character") == ["", "", ""]
    # the rows of both are the same references: the difference is tested in pairs
    assert any(sentence.startswith("nll_per_line: ") and "paired" in sentence for sentence in made.tests)
    for name in ("nll_per_token", "perplexity"):
        with pytest.raises(
            DataError, match=rf"^{name} is per token, and .*s1 \(\w+-\w{{8}}\) and .*bytes \(byte-\w{{8}}\) cut text"
        ):
            compare.compare(subjects, references, count=20, shown=(name,))


def test_what_was_made_otherwise_is_marked_and_never_the_best() -> None:
    def entry(name: str, value: float, *, real: bool = False, **fields: str) -> compare.Entry:
        score = metrics.Score(value, metrics.Signature("self_bleu", {"hyp": "10"} | fields))
        return compare.Entry(name, [{"self_bleu_4": score, "bleu_4": score}], real=real)

    entries = [entry("a", 0.30), entry("b", 0.42), entry("c", 0.40, unk="7"), entry("real text", 0.40, real=True)]
    made = compare.Comparison(entries, ("bleu_4", "self_bleu_4"), [])
    assert made.table(digits=2).splitlines() == [
        "|  | bleu_4 ↑ | self_bleu_4 ≈ |",
        "| --- | --: | --: |",
        "| a | 0.30 | 0.30 |",
        "| b | **0.42** | **0.42** |",
        "| c | 0.40† | 0.40† |",
        "| real text | 0.40 | 0.40 |",
        "",
        "† c differs in unk: absent and 7: bleu\\_4, self\\_bleu\\_4",
    ]
    assert made.table("csv", digits=1).splitlines()[:2] == ["name,runs,bleu_4,self_bleu_4", "a,1,0.3,0.3"]


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
    found = blind.tally(key, {"sheet": key["sheet"], "answers": chosen})
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
        blind.tally(key, {"sheet": key["sheet"], **answers})


def test_too_few_texts_for_a_sheet() -> None:
    with pytest.raises(DataError, match=r"^B has 2 texts, fewer than the 50 pairs asked for; lower --count$"):
        blind.sheet(["x"] * 60, ["y"] * 2)
