"""`seqgen generate`: texts to standard output, one per index, whatever else is asked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from seqgen.data.text import read_lines
from seqgen.engine.loading import load


def test_texts_come_one_a_line_and_are_those_of_the_library(seqgen: Any, run: Path) -> None:
    ended = seqgen("generate", run, "--count", "5", "--seed", "3", "--temperature", "0.8")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == load(run).generate(5, seed=3, temperature=0.8)


def test_more_texts_are_the_same_and_further_ones(seqgen: Any, run: Path) -> None:
    few, many = (seqgen("generate", run, "--count", n, "--seed", "1").out.splitlines() for n in ("3", "20"))
    assert many[:3] == few


def test_json_has_every_token_with_its_probabilities(seqgen: Any, run: Path) -> None:
    ended = seqgen("generate", run, "--count", "3", "--json", "--temperature", "0.7", "--max-new-tokens", "5")
    objects = [json.loads(line) for line in ended.out.splitlines()]
    plain = seqgen("generate", run, "--count", "3", "--temperature", "0.7", "--max-new-tokens", "5").out.splitlines()
    assert [o["text"] for o in objects] == plain
    for k, one in enumerate(objects):
        assert one["index"] == k
        assert one["seed"] == 0
        count = len(one["tokens"])
        assert count == len(one["text"].split()) + one["finished"]
        assert [len(one[key]) for key in ("log_probs", "sampling_log_probs", "entropies")] == [count] * 3
        assert all(value <= 0 for value in one["log_probs"] + one["sampling_log_probs"])


OPTIONS = [
    ("--greedy", {"greedy": True}),
    ("--top-k 2", {"top_k": 2}),
    ("--top-p 0.5", {"top_p": 0.5}),
    ("--min-p 0.3", {"min_p": 0.3}),
    ("--typical-p 0.4", {"typical_p": 0.4}),
    ("--min-new-tokens 8", {"min_new_tokens": 8}),
    ("--max-new-tokens 2", {"max_new_tokens": 2}),
    ("--repetition-penalty 4", {"repetition_penalty": 4.0}),
    ("--no-repeat-ngram-size 1", {"no_repeat_ngram_size": 1}),
    ("--stop the --stop dog", {"stop": ("the", "dog")}),
    ("--prompt the", {"prompt": "the"}),
    ("--fast", {"fast": True}),
    ("--unique", {"unique": True}),
    ("--match cat --attempts 200", {"match": "cat", "attempts": 200}),
    ("--bad-word the --bad-word dog", {"bad_words": ("the", "dog")}),
    ("--require cat", {"require": ("cat",)}),
    ("--pattern the.(cat|dog).*", {"pattern": "the.(cat|dog).*"}),
    ("--no-copy 3", {"no_copy": 3}),
    ("--best-of 3", {"best_of": 3}),
]


@pytest.mark.parametrize(("words", "options"), OPTIONS, ids=[words for words, _ in OPTIONS])
def test_every_option_reaches_the_library(words: str, options: dict[str, Any], seqgen: Any, run: Path) -> None:
    ended = seqgen("generate", run, "--count", "4", *words.split())
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == load(run).generate(4, **options)


def test_a_template_and_a_beam_reach_the_library(seqgen: Any, run: Path) -> None:
    template = "the ??? sees the ??? ."
    ended = seqgen("generate", run, "--count", "3", "--template", template)
    assert ended.out.splitlines() == load(run).generate(3, template=template)
    searched = seqgen("generate", run, "--count", "3", "--num-beams", "4")
    assert searched.out.splitlines() == [text.text for text in load(run).search(3, num_beams=4)]


def test_novel_leaves_out_the_training_lines(seqgen: Any, run: Path, text: Path, tmp_path: Path) -> None:
    known = seqgen("generate", run, "--count", "30", "--seed", "5").out.splitlines()[::2]
    (tmp_path / "known.txt").write_text("\n".join(known) + "\n")
    words = ["generate", run, "--count", "30", "--seed", "5", "--novel"]
    lines = seqgen(*words, "--train", tmp_path / "known.txt").out.splitlines()
    assert len(lines) == 30
    assert not set(lines) & set(known)
    assert not set(seqgen(*words).out.splitlines()) & set(text.read_text().splitlines())


def test_a_run_whose_text_has_moved_is_told_what_to_give(seqgen: Any, run: Path, text: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "r")
    settings = tmp_path / "r" / "config.toml"
    settings.write_text(settings.read_text().replace(str(text), "gone.txt"))
    ended = seqgen("generate", tmp_path / "r", "--novel")
    assert (ended.code, ended.err) == (
        2,
        "error: gone.txt: no such file; this run was trained on it: bring it back, "
        "or give the training text with --train FILE\n",
    )
    assert seqgen("generate", tmp_path / "r", "--novel", "--train", text).code == 0


def test_sources_are_answered_count_times_each(seqgen: Any, labelled: Path, stdin: Any, tmp_path: Path) -> None:
    stdin("up\ndown\n")
    ended = seqgen("generate", labelled, "--source", "-", "--count", "2")
    assert ended.out.splitlines() == load(labelled).generate(2, sources=["up", "down"])
    (tmp_path / "rows.jsonl").write_text('{"label": "up", "n": 1}\n{"label": "down", "n": 2}\n')
    again = seqgen("generate", labelled, "--source", tmp_path / "rows.jsonl", "--count", "2")
    assert again.out == ended.out


def test_score_reads_texts_and_conditions_of_what_generate_wrote(seqgen: Any, labelled: Path, tmp_path: Path) -> None:
    generator, sources = load(labelled), ["up", "up", "down", "down"]
    (tmp_path / "labels.txt").write_text("up\ndown\n")
    texts = generator.generate(2, sources=["up", "down"])
    kept = [row for row, text in enumerate(texts) if text.strip()]
    expected = generator.score([texts[row] for row in kept], [sources[row] for row in kept]).per_line
    words = ["generate", labelled, "--source", tmp_path / "labels.txt", "--count", "2"]
    (tmp_path / "piped.jsonl").write_text(seqgen(*words, "--json").out)
    seqgen(*words, "--out", tmp_path / "written.jsonl")
    for name in ("piped.jsonl", "written.jsonl"):
        scores = [json.loads(row) for row in seqgen("score", labelled, tmp_path / name, "--json").out.splitlines()]
        found = {row["line"] - 1: row["log_prob"] for row in scores}
        assert [found[row] for row in kept] == pytest.approx(expected, abs=1e-12)
        assert read_lines(tmp_path / name) == texts
        assert seqgen("generate", labelled, "--source", tmp_path / name, "--num-beams", "2").code == 0
    beam = seqgen(
        "generate", labelled, "--source", tmp_path / "labels.txt", "--num-beams", "3", "--count", "2", "--json"
    )
    assert [json.loads(row)["label"] for row in beam.out.splitlines()] == sources


def test_a_condition_has_as_many_fields_as_the_run(seqgen: Any, labelled: Path, stdin: Any) -> None:
    stdin("up\nup\tmuch\n")
    assert seqgen("generate", labelled, "--source", "-").err == (
        "error: condition 2 has 2 fields; data.source = label expects no tab\n"
    )


def test_a_file_gets_what_standard_output_would(seqgen: Any, run: Path, tmp_path: Path) -> None:
    ended = seqgen("generate", run, "--count", "3", "--out", tmp_path / "out.txt")
    assert (ended.out, ended.err) == ("", f"3 texts written to {tmp_path / 'out.txt'}\n")
    assert (tmp_path / "out.txt").read_text() == seqgen("generate", run, "--count", "3").out


def test_a_stream_is_the_text_of_index_0(seqgen: Any, run: Path, running: Path) -> None:
    for words in (["generate", run, "--seed", "4", "--prompt", "the"], ["generate", running, "--max-new-tokens", "30"]):
        assert seqgen(*words, "--stream").out.removesuffix("\n") == json.loads(seqgen(*words, "--json").out)["text"]


def test_another_checkpoint_may_be_asked(seqgen: Any, run: Path) -> None:
    words = ["generate", run, "--count", "10", "--step"]
    assert seqgen(*words, "3").out.splitlines() == load(run, step=3).generate(10)
    assert seqgen(*words, "3").out != seqgen(*words, "6").out


def test_prompts_come_from_a_file_of_lines_or_of_json(run: Path, running: Path, tmp_path: Path, seqgen: Any) -> None:
    (tmp_path / "p.txt").write_text("the dog\nthe cat\n")
    ended = seqgen("generate", run, "--prompts", tmp_path / "p.txt", "--count", "2")
    assert ended.out.splitlines() == load(run).generate(2, prompts=["the dog", "the cat"])
    prompts = ["to be,\nthat is", "the question"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"text": prompt}) + "\n" for prompt in prompts))
    ended = seqgen(
        "generate", running, "--prompts", tmp_path / "p.jsonl", "--json", "--max-new-tokens", "9", "--stop", "o"
    )
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert [made["prompt"] for made in found] == prompts
    for made in found:
        assert made["text"] == made["prompt"] + "".join(made["tokens"])
        assert len(made["tokens"]) == len(made["log_probs"]) == len(made["entropies"])


def test_every_option_of_a_beam_reaches_the_library(run: Path, seqgen: Any) -> None:
    words = "--num-beams 4 --length-penalty 0 --num-beam-groups 2 --diversity-penalty 3 --min-new-tokens 3"
    found = load(run).search(
        4, num_beams=4, length_penalty=0.0, num_beam_groups=2, diversity_penalty=3.0, min_new_tokens=3
    )
    ended = seqgen("generate", run, "--count", "4", *words.split())
    assert ended.out.splitlines() == [text.text for text in found]
    assert found != load(run).search(4, num_beams=4)


def test_a_beam_keeps_to_the_lengths(run: Path, seqgen: Any) -> None:
    ended = seqgen("generate", run, "--num-beams", "3", "--max-new-tokens", "4", "--json")
    assert len(json.loads(ended.out)["tokens"]) <= 4
