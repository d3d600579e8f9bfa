"""`seqgen score`, `evaluate`, `bleu`, `self-bleu`, `compare`, `curve`: the library's numbers, in words."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from command_line import SEQGAN
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from seqgen.engine.evaluate import evaluate_aligned
from seqgen.engine.loading import load
from seqgen.metrics import shown

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def mixed(tmp_path: Path, text: Path) -> Path:
    """Ten lines of the text, one of nonsense made of its words, and blank lines."""
    lines = text.read_text().splitlines()[:10]
    path = tmp_path / "mixed.txt"
    path.write_text("\n".join(["", *lines, "there . man the the sees sees", ""]) + "\n")
    return path


# ---- score


def rows(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out), delimiter="\t"))


def test_score_lists_the_least_likely_lines_first_with_their_numbers(seqgen: Any, run: Path, mixed: Path) -> None:
    ended = seqgen("score", run, mixed)
    lines = mixed.read_text().splitlines()
    found = rows(ended.out)
    assert sorted(int(row["line"]) for row in found) == list(range(2, 13))
    assert [row["text"] for row in found] == [lines[int(row["line"]) - 1] for row in found]
    means = [float(row["nats_per_token"]) for row in found]
    assert means == sorted(means, reverse=True)
    scores = load(run).score([row["text"] for row in found])
    assert [float(row["log_prob"]) for row in found] == pytest.approx(scores.per_line, abs=1e-4)
    assert [int(row["tokens"]) for row in found] == [len(row["text"].split()) + 1 for row in found]
    assert ended.err == (
        f"11 lines, {scores.total_tokens} tokens: {scores.nats / scores.total_tokens:.4f} nats per token "
        f"(perplexity {scores.perplexity:.2f}), {scores.nats_per_character:.4f} per character\n"
    )


def test_the_percentile_is_the_share_of_held_out_lines_that_are_less_likely(
    seqgen: Any, run: Path, mixed: Path
) -> None:
    generator = load(run)
    held_out = generator.score(generator.own_text().valid_lines).log_probs
    means = [sum(row) / len(row) for row in held_out]
    for row in rows(seqgen("score", run, mixed).out):
        below = sum(mean < -float(row["nats_per_token"]) - 1e-4 for mean in means)
        upto = sum(mean < -float(row["nats_per_token"]) + 1e-4 for mean in means)
        assert 100 * below / len(means) - 1e-3 <= float(row["percentile"]) <= 100 * upto / len(means) + 1e-3


def test_without_the_text_of_the_run_there_are_no_percentiles_but_all_else(
    seqgen: Any, run: Path, mixed: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "r")
    settings = tmp_path / "r" / "config.toml"
    settings.write_text(settings.read_text().replace("text.txt", "gone.txt"))
    ended = seqgen("score", tmp_path / "r", mixed)
    assert ended.err.startswith("warning: no percentiles: ")
    assert {row["percentile"] for row in rows(ended.out)} == {""}
    assert len(rows(ended.out)) == 11


@pytest.mark.parametrize(("asked", "count"), [("1%", 1), ("50%", 6), ("100%", 11), ("3", 3), ("99", 11)])
def test_outliers_are_a_share_or_a_number(asked: str, count: int, seqgen: Any, run: Path, mixed: Path) -> None:
    everything = rows(seqgen("score", run, mixed).out)
    assert rows(seqgen("score", run, mixed, "--outliers", asked).out) == everything[:count]


@pytest.mark.parametrize(
    ("rank", "value"),
    [("token", lambda row: sum(row) / len(row)), ("line", sum), ("worst", min)],
)
def test_rank_orders_lines_and_percentiles_by_tokens_lines_or_the_worst_token(
    rank: str, value: Callable[[list[float]], float], seqgen: Any, run: Path, mixed: Path
) -> None:
    generator = load(run)
    known = [value(row) for row in generator.score(generator.own_text().valid_lines).log_probs]
    lines = [line for line in mixed.read_text().splitlines() if line]
    by_text = dict(zip(lines, map(value, generator.score(lines).log_probs), strict=True))
    found = rows(seqgen("score", run, mixed, "--rank", rank, "--outliers", "5").out)
    assert [row["text"] for row in found] == sorted(lines, key=by_text.__getitem__)[:5]
    for row in found:
        below = sum(other < by_text[row["text"]] for other in known)
        assert float(row["percentile"]) == pytest.approx(100 * below / len(known), abs=100 / len(known) + 1e-3)


def test_every_token_has_its_log_probability(seqgen: Any, run: Path, mixed: Path) -> None:
    ended = seqgen("score", run, mixed, "--per-token", "--json")
    for line in ended.out.splitlines():
        one = json.loads(line)
        tokens = [token for token, _ in one["per_token"]]
        assert tokens[:-1] == one["text"].split()
        assert sum(value for _, value in one["per_token"]) == pytest.approx(one["log_prob"])
        assert -one["log_prob"] / one["tokens"] == pytest.approx(one["nats_per_token"])
    first = rows(seqgen("score", run, mixed, "--per-token").out)[0]
    assert [pair.rpartition(":")[0] for pair in first["per_token"].split(" ")[:-1]] == first["text"].split()


def test_suspect_spans_are_tokens_as_unlikely_as_the_least_likely_percent_of_the_held_out(
    seqgen: Any, run: Path, tmp_path: Path
) -> None:
    generator = load(run)
    held_out = generator.own_text().valid_lines
    known = sorted(value for row in generator.score(held_out).log_probs for value in row)
    (tmp_path / "held-out.txt").write_text("".join(f"{line}\n" for line in held_out))
    flagged = 0
    for line in seqgen("score", run, tmp_path / "held-out.txt", "--per-token", "--json").out.splitlines():
        one = json.loads(line)
        suspect = [token for token, value in one["per_token"] if value <= known[(len(known) - 1) // 100]]
        assert " ".join(one["suspect"]) == " ".join(suspect)
        flagged += len(suspect)
    assert len(known) / 100 <= flagged < len(known) / 10


def test_the_critic_of_a_seqgan_lists_the_least_real_lines_first(
    seqgen: Any, text: Path, mixed: Path, tmp_path: Path
) -> None:
    small = ["model.mle_steps=2", "model.critic_steps=2", "model.critic.widths=[1,2]", "model.critic.maps=[4,4]"]
    run = tmp_path / "adversarial"
    assert (
        seqgen("train", "seqgan", "--data", text, "--out", run, *SEQGAN, *small, "model.critic.negatives=8").code == 0
    )
    ended = seqgen("score", run, mixed, "--by", "critic", "--per-token")
    found = rows(ended.out)
    logits = [float(row["critic_score"]) for row in found]
    assert logits == sorted(logits)
    judged = load(run).critic_scores([row["text"] for row in found])
    assert logits == pytest.approx(judged.per_line, abs=1e-4)
    assert [len(row["per_token"].split()) for row in found] == [len(row) for row in judged.per_token]
    real = sum(logit > 0 for logit in logits)
    assert ended.err == f"11 lines, {real} of them look real to the critic ({100 * real / 11:.1f} %)\n"


def test_a_run_without_a_critic_says_so(seqgen: Any, run: Path, mixed: Path) -> None:
    ended = seqgen("score", run, mixed, "--by", "critic")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: a run of lm has no critic; make one with seqgen refine or train seqgan\n"


def test_lines_are_scored_after_their_conditions(seqgen: Any, labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("label\tbody\nup\tit was good a\ndown\tit was good a\n")
    values = {row["line"]: float(row["log_prob"]) for row in rows(seqgen("score", labelled, tmp_path / "rows.tsv").out)}
    expected = load(labelled).score(["it was good a"] * 2, ["up", "down"]).per_line
    assert [values["2"], values["3"]] == pytest.approx(expected, abs=1e-4)  # line 1 of the file names the fields


def test_a_tab_or_a_pipe_in_a_line_keeps_the_table_whole(seqgen: Any, running: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("to\tbe\n")
    ended = seqgen("score", running, tmp_path / "odd.txt")
    assert [len(row) for row in csv.reader(ended.out.splitlines(), delimiter="\t")] == [7, 7]


# ---- evaluate


def test_a_run_is_shown_beside_real_text_and_a_5_gram_model(
    seqgen: Any, run: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "r")
    monkeypatch.setenv("COLUMNS", "80")
    words = ["evaluate", tmp_path / "r", "--references", held_out, "--count", "20", "--seed", "2"]
    short, whole, stored = seqgen(*words), seqgen(*words, "--all"), seqgen(*words, "--json")
    assert (short.code, whole.code, stored.code) == (0, 0, 0)
    table = json.loads(stored.out)
    assert [column["name"] for column in table["columns"]] == ["samples", "real text", "kneser-ney-5"]
    assert json.loads((tmp_path / "r" / "evaluation.json").read_text()) == table
    assert "kneser-ney-5" in (tmp_path / "r" / "report.html").read_text()
    numbers = [column["likelihood"] | column["scores"] for column in table["columns"]]

    def body(ended: Any) -> dict[str, list[str]]:
        return {line.split()[1]: line.split() for line in ended.out.split("\n\n")[0].splitlines()[2:] if line[0] != " "}

    assert max(map(len, short.out.split("\n\n")[0].splitlines())) <= 80
    assert list(body(short)) == [name for name in shown("evaluate") if name in numbers[0]]
    assert 8 <= len(body(short)) <= 12
    for name, cells in body(short).items():
        arrow = {"higher": "↑", "lower": "↓", "real": "≈"}[table["metrics"][name]["better"]]
        values = [f"{column[name]['value']:.4f}" for column in numbers if name in column]
        assert cells[0] == arrow
        assert [cell.rstrip("†") for cell in cells if "." in cell][: len(values)] == values
        if name in numbers[1] and "†" not in " ".join(cells):
            assert cells[-1] == f"{numbers[0][name]['value'] - numbers[1][name]['value']:+.4f}"
    # every number there is, and each part of a signature either in the shared line or in its own
    assert set(body(whole)) == set(numbers[0])
    for group in ("likelihood", "scores"):
        lines = whole.out.split(f"how, {group}: ")[1].split("\n\n")[0].splitlines()
        own = dict(line.strip().split(": ", 1) for line in lines[1:])
        for name in set(table["columns"][0][group]) & set(body(whole)):
            told = set(lines[0].split("|")) | set(own.get(name, "").split("|")) - {""}
            assert told == set(table["columns"][0][group][name]["signature"].split("|")[1:]), name
    assert "samples: 20 samples, seed 2, temperature 1" in short.out.splitlines()
    assert short.err.splitlines() == [
        f"also in {tmp_path / 'r' / 'report.html'}",
        f"{len(body(short))} of {len(numbers[0])} numbers; --all shows the rest, --json everything about them",
    ]


def test_text_from_elsewhere_needs_no_run(seqgen: Any, text: Path, held_out: Path, stdin: Any, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("".join(f"{line}\n" for line in text.read_text().splitlines()[:100]))
    stdin("the cat sees the dog here .\nthe man likes the bird soon .\n")
    ended = seqgen("evaluate", "-", "--references", held_out, "--train", tmp_path / "train.txt", "--json")
    table = json.loads(ended.out)
    assert table["columns"][0]["about"] == "2 given lines"
    assert table["columns"][0]["scores"]["copied"]["value"] == 0.5
    assert table["columns"][0]["likelihood"] == {}
    assert ended.err == "warning: 1 of 2 given texts also stand in the training text\n"


def test_text_that_was_trained_on_is_no_held_out_text(seqgen: Any, run: Path, held_out: Path, tmp_path: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text("".join(f"{line}\n" for line in load(run).own_text().train_lines[:9]))
    references = "error: all 9 references also stand in the training text; give text that was not trained on\n"
    for words in (
        ["evaluate", run, "--references", known],
        ["evaluate", held_out, "--references", known, "--train", known],
        ["compare", run, held_out, "--references", known],
        ["curve", run, "--references", known],
    ):
        ended = seqgen(*words)
        assert (ended.code, ended.out, ended.err) == (2, "", references), words
    ended = seqgen("compare", run, known, "--references", held_out)
    assert (ended.code, ended.out, ended.err) == (2, "", references.replace("references", "given texts"))


def test_what_a_protocol_warns_of_is_said_once(seqgen: Any, text: Path) -> None:
    ended = seqgen("evaluate", text, "--references", text, "--protocol", "relgan")
    assert ended.code == 0
    assert ended.err.count("warning: protocol relgan, self_bleu: every line is among its own references") == 1


# ---- bleu and self-bleu


def nltk_bleu(hypotheses: list[str], references: list[str], order: int) -> float:
    smoothing = SmoothingFunction().method1
    real = [line.split() for line in references]
    weights = (1 / order,) * order
    values = [sentence_bleu(real, line.split(), weights, smoothing) for line in hypotheses]
    return sum(values) / len(values)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("the cat sat on a mat\na dog ran\nthe end is near now\n")
    b.write_text("the cat sat on the mat\na dog ran away\nthe end is not near\n")
    return a, b


def test_bleu_equals_nltk_at_every_order(seqgen: Any, two: tuple[Path, Path]) -> None:
    ended = seqgen("bleu", *two, "--order", "2-4,1", "--json")
    lines = [path.read_text().splitlines() for path in two]
    for line, order in zip(ended.out.splitlines(), (2, 3, 4, 1), strict=True):
        assert json.loads(line)["value"] == pytest.approx(nltk_bleu(*lines, order), rel=1e-12)


def test_several_references_are_joined_or_paired(seqgen: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = (path.read_text().splitlines() for path in two)
    (tmp_path / "c.txt").write_text("on a mat sat a cat\na dog\nnow\n")
    c = (tmp_path / "c.txt").read_text().splitlines()
    joined = json.loads(seqgen("bleu", *two, tmp_path / "c.txt", "--json").out)
    assert joined["value"] == pytest.approx(nltk_bleu(a, b + c, 4), rel=1e-12)
    paired = json.loads(seqgen("bleu", *two, tmp_path / "c.txt", "--aligned", "--json").out)
    expected = sum(nltk_bleu([h], [r, s], 4) for h, r, s in zip(a, b, c, strict=True)) / 3
    assert paired["value"] == pytest.approx(expected, rel=1e-12)


def test_a_score_is_printed_with_interval_and_signature(seqgen: Any, two: tuple[Path, Path]) -> None:
    ended = seqgen("bleu", *two, "--order", "2", "--lowercase", "--tokenizer", "char", "--smoothing", "method2")
    stored = json.loads(
        seqgen(
            "bleu", *two, "--order", "2", "--lowercase", "--tokenizer", "char", "--smoothing", "method2", "--json"
        ).out
    )
    low, high = stored["interval"]
    assert ended.out == f"{stored['value']:.4f} [{low:.4f}, {high:.4f}] {stored['signature']}\n"
    assert "tok:char" in stored["signature"]
    assert "case:lc" in stored["signature"]


def test_aligned_files_get_sacrebleus_scores(seqgen: Any, two: tuple[Path, Path]) -> None:
    lines = [path.read_text().splitlines() for path in two]
    ended = seqgen("evaluate", two[0], "--references", two[1], "--aligned", "--json")
    (column,) = json.loads(ended.out)["columns"]
    assert (column["name"], column["likelihood"]) == ("answers", {})
    bleu, chrf = column["scores"]["bleu_4"], column["scores"]["chrf"]
    assert bleu["value"] * 100 == pytest.approx(sacrebleu.corpus_bleu(lines[0], [lines[1]], force=True).score)
    assert chrf["value"] * 100 == pytest.approx(sacrebleu.corpus_chrf(lines[0], [lines[1]]).score)
    assert bleu["interval"][0] <= bleu["value"] <= bleu["interval"][1]
    assert bleu["fields"]["tok"] == "13a"


def test_a_run_answers_each_source_of_aligned_references(seqgen: Any, labelled: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled, tmp_path / "r")
    rows = [("up", "it was good a"), ("down", "it was bad b"), ("up", "it was good c")]
    (tmp_path / "rows.tsv").write_text("".join("\t".join(row) + "\n" for row in [("label", "body"), *rows]))
    words = ["evaluate", tmp_path / "r", "--references", tmp_path / "rows.tsv", "--aligned"]
    (column,) = json.loads(seqgen(*words, "--num-beams", "2", "--json").out)["columns"]
    generator = load(labelled)
    answers = [text.text for text in generator.search(sources=[label for label, _ in rows], num_beams=2)]
    expected = sacrebleu.corpus_chrf(answers, [[text for _, text in rows]]).score
    assert column["scores"]["chrf"]["value"] * 100 == pytest.approx(expected)
    assert column["about"] == "answers to 3 sources, 2 beams"
    nats = generator.score([text for _, text in rows], [label for label, _ in rows]).nats
    assert column["likelihood"]["nll_per_line"]["value"] == pytest.approx(nats / 3)
    sources, texts = zip(*rows, strict=True)
    drawn = evaluate_aligned(generator, texts, sources=sources, num_beams=0, seed=3).columns[0]
    assert drawn.lines == generator.generate(1, sources=sources, seed=3)
    assert drawn.about == "answers to 3 sources, seed 3, temperature 1"


def test_self_bleu_equals_nltk_and_reads_standard_input(seqgen: Any, two: tuple[Path, Path], stdin: Any) -> None:
    lines = two[0].read_text().splitlines()
    stdin(two[0].read_text())
    value = json.loads(seqgen("self-bleu", "-", "--order", "3", "--json").out)["value"]
    others = [nltk_bleu([line], lines[:i] + lines[i + 1 :], 3) for i, line in enumerate(lines)]
    assert value == pytest.approx(sum(others) / len(others), rel=1e-12)
    sampled = seqgen("self-bleu", two[0], "--sample", "2", "--seed", "3")
    assert "hyp:2 of 3" in sampled.out
    assert sampled.out.rstrip().endswith("seed:3")


@pytest.mark.parametrize(("script", "name"), [("bleu.py", "bleu"), ("self_bleu.py", "self-bleu")])
def test_the_scripts_are_the_commands(script: str, name: str, seqgen: Any, two: tuple[Path, Path]) -> None:
    files = two if name == "bleu" else two[:1]
    ended = subprocess.run(
        [sys.executable, SCRIPTS / script, *files, "--order", "2"], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == (seqgen(name, *files, "--order", "2").out, "", 0)


# ---- compare, curve


@pytest.mark.parametrize(
    ("form", "begins"),
    [
        ("md", "|  | bleu_2 ↑ | copied ≈ |"),
        ("csv", "name,runs,bleu_2,copied\n"),
        ("latex", "% \\usepackage{booktabs}\n"),
    ],
)
def test_runs_and_files_stand_in_one_table(
    form: str, begins: str, seqgen: Any, run: Path, held_out: Path, tmp_path: Path
) -> None:
    name = tmp_path / "a|b &#_50%.txt"
    name.write_text(held_out.read_text())
    words = ["--count", "12", "--digits", "2", "--no-intervals", "--columns", "bleu_2,copied"]
    ended = seqgen("compare", run, name, "--references", held_out, *words, "--format", form)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(begins)
    escaped = {"md": "a\\|b \\&#\\_50%.txt", "csv": "a|b &#_50%.txt", "latex": r"a\textbar{}b \&\#\_50\%.txt"}
    assert escaped[form] in ended.out
    assert ended.out.splitlines()[-1 if form != "latex" else -3].startswith(
        "| real text |" if form == "md" else "real text"
    )
    signatures = ended.err.splitlines()
    assert signatures[0].startswith("all: hyp:12|")
    assert signatures[1] == "bleu_2: n:1-2|lvl:sent-mean|smooth:m1(0.1)|nrefs:36"


def test_aligned_texts_are_compared_in_pairs(seqgen: Any, tmp_path: Path) -> None:
    rows = [("a b c d e", "a b c d e", "a b c d f"), ("A b. x y z", "a b, x y w", "a b. x y z")] * 8
    for name, column in zip(("reference", "one", "two"), zip(*rows, strict=True), strict=True):
        (tmp_path / f"{name}.txt").write_text("".join(f"{line}\n" for line in column))
    words = [
        "compare",
        tmp_path / "one.txt",
        tmp_path / "two.txt",
        "--references",
        tmp_path / "reference.txt",
        "--aligned",
    ]
    ended = seqgen(*words, "--lowercase", "--json")
    made = json.loads(ended.out)
    reference, one, two = ([line.lower() for line in column] for column in zip(*rows, strict=True))
    for entry, lines in zip(made["entries"], (one, two), strict=True):
        (scores,) = entry["scores"]
        assert set(scores) == {"bleu_4", "chrf", "chrf_pp", "exact_match"}
        assert scores["bleu_4"]["value"] * 100 == pytest.approx(sacrebleu.corpus_bleu(lines, [list(reference)]).score)
        assert scores["exact_match"]["value"] == 0.5
    assert [sentence.split(":")[0] for sentence in made["tests"]] == list(made["metrics"])
    assert made["tests"][-1].startswith("exact_match: ")
    assert "= +0.0000" in made["tests"][-1]


def test_runs_with_conditions_answer_those_of_the_references(seqgen: Any, labelled: Path, tmp_path: Path) -> None:
    rows = "".join(f"{label}\tit was {label} {n}\n" for label in ("up", "down") for n in "abcdef")
    table = tmp_path / "unseen.tsv"
    table.write_text(f"label\tbody\n{rows}")
    ended = seqgen("compare", labelled, "--references", table, "--count", "12")
    assert ended.code == 0, ended.err
    assert str(labelled) in ended.out
    shutil.copytree(labelled, tmp_path / "r")
    ended = seqgen("evaluate", tmp_path / "r", "--references", table, "--count", "12", "--json")
    assert json.loads(ended.out)["columns"][0]["about"] == "12 samples, seed 0, temperature 1"


def test_a_comparison_has_a_image_and_json(seqgen: Any, text: Path, tmp_path: Path) -> None:
    ended = seqgen("compare", text, "--references", text, "--count", "12", "--json", "--plot", tmp_path / "p.png")
    assert [entry["name"] for entry in json.loads(ended.out)["entries"]] == [str(text)]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert ended.err == f"image in {tmp_path / 'p.png'}\n"


def test_comparisons_and_curves_cut_lines_as_asked(seqgen: Any, run: Path, held_out: Path, tmp_path: Path) -> None:
    words = [f"dog {k} runs in the rain" for k in range(24)]
    apart, together = tmp_path / "apart.txt", tmp_path / "together.txt"
    apart.write_text("".join(f"{line} .\n" for line in words))
    together.write_text("".join(f"{line}.\n" for line in words))
    asked = ["compare", apart, "--references", together, "--json"]
    (warned, cut) = (seqgen(*asked, *more) for more in ([], ["--tokenizer", "13a"]))
    assert "100% of the samples and 0% of the references have full stops apart from words" in warned.err
    assert (cut.err, warned.code, cut.code) == ("", 0, 0)
    (spaces,), (marks,) = (json.loads(ended.out)["entries"][0]["scores"] for ended in (warned, cut))
    # of a line's n-grams those with its last word or the stop are not found
    assert spaces["bleu_4"]["value"] == pytest.approx((5 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)
    assert marks["bleu_4"]["value"] == 1
    curve = ["curve", run, "--references", held_out, "--count", "12", "--temperatures", "1", "--tokenizer", "char"]
    assert "|tok:char|" in seqgen(*curve).out


def test_a_curve_has_a_point_for_each_temperature_and_real_text(
    seqgen: Any, run: Path, held_out: Path, tmp_path: Path
) -> None:
    words = ["curve", run, "--references", held_out, "--count", "12", "--temperatures", "1.2,0.5"]
    ended = seqgen(*words, "--plot", tmp_path / "c.png")
    assert [line.split("  ")[0] for line in ended.out.splitlines()[2:5]] == ["t = 0.5", "t = 1.2", "real text"]
    stored = json.loads(seqgen(*words, "--json").out)
    for line, point in zip(ended.out.splitlines()[2:5], stored["points"], strict=True):
        assert f"{point['quality']:.4f}" in line
        assert f"{point['diversity']:.4f}" in line
        assert line.endswith("*") == (point["temperature"] in stored["front"])
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_those_who_answer_see_no_key_and_are_counted(seqgen: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    page, key = tmp_path / "sheet.html", tmp_path / "sheet.key.json"
    ended = seqgen("compare", *two, "--count", "3", "--blind", page)
    assert ended.err == f"3 pairs in {page}; keep {key} from those who answer\n"
    secret = json.loads(key.read_text())
    assert str(two[0]) not in page.read_text()
    answers = ["left" if left else "right" for left in secret["a_is_left"]]
    answers[2] = "same"
    (tmp_path / "answers.json").write_text(json.dumps({"sheet": secret["sheet"], "answers": answers}))
    ended = seqgen("compare", "--answers", tmp_path / "answers.json", "--key", key)
    assert ended.out.startswith(f"{two[0]} is preferred in 2 of 2 decided pairs: 100.0% [")
    assert ended.out.endswith("p = 0.5000 (binomial); 1 undecided\n")
    assert (
        json.loads(seqgen("compare", "--answers", tmp_path / "answers.json", "--key", key, "--json").out)["undecided"]
        == 1
    )


def test_bleu_by_a_run_s_own_tokens(seqgen: Any, run: Path, text: Path) -> None:
    ended = seqgen("bleu", text, text, "--tokenizer", run, "--json")
    tokenizer = load(run).tokenizer
    lines = text.read_text().splitlines()
    tokens = [tokenizer.encode([line]).row(0).tolist() for line in lines]
    expected = sum(sentence_bleu(tokens, one, smoothing_function=SmoothingFunction().method1) for one in tokens[:5]) / 5
    assert json.loads(ended.out)["value"] == pytest.approx(expected)
    assert json.loads(ended.out)["fields"]["tok"].startswith(tokenizer.kind)


@pytest.mark.filterwarnings("ignore")
def test_a_judge_adds_its_scores_to_every_column(seqgen: Any, run: Path, text: Path, held_out: Path) -> None:
    words = ["evaluate", held_out, "--references", held_out, "--train", text, "--judge", run, "--no-reverse", "--json"]
    columns = json.loads(seqgen(*words).out)["columns"]
    assert all({"lm_forward", "frechet_lm", "mauve"} <= set(column["scores"]) for column in columns)
    nats = load(run).score(held_out.read_text().splitlines())
    # of real text it is that of held-out lines too: the judge may know the training lines by heart
    for column in columns[:2]:
        assert column["scores"]["lm_forward"]["value"] == pytest.approx(nats.nats / nats.total_tokens)


def test_hits_and_the_mean_reciprocal_rank_stand_in_the_total(
    seqgen: Callable[..., Any], run: Path, held_out: Path
) -> None:
    ended = seqgen("score", run, held_out, "--hits", "1,3,9999")
    assert ended.code == 0, ended.err
    found = re.search(r"hit@1 ([.0-9]+), hit@3 ([.0-9]+), hit@9999 1.0000, mean reciprocal rank ([.0-9]+)$", ended.err)
    assert found is not None, ended.err
    first, third, mean = map(float, found.groups())
    assert first <= third <= 1
    assert first < mean < 1
    for words, message in (
        (("--hits", "0"), "--hits must be integers >= 1, separated by commas, got '0'"),
        (("--hits", "1", "--by", "critic"), "--hits is for --by likelihood"),
    ):
        ended = seqgen("score", run, held_out, *words)
        assert (ended.code, ended.err.splitlines()[-1]) == (2, f"error: {message}")
