"""Bad input from the command line: one clear line, the exit code of the design, nothing left behind, nothing lost."""

import errno
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from seqgen.cli import app
from seqgen.core import patterns


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, text: Path, run: Path, running: Path, labelled: Path) -> Path:
    """A folder of bad files beside good ones; names in messages are relative to it."""
    folder = tmp_path_factory.mktemp("bad")
    shutil.copy(text, folder / "good.txt")
    for name, source in (("run", run), ("running", running), ("labelled", labelled)):
        shutil.copytree(source, folder / name)
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_bytes(b"\n \n\n")
    (folder / "binary.bin").write_bytes(b"text\n\x7fELF\0\0\1\n")
    (folder / "half.txt").write_bytes("first line\nsecönd \xff line\n".encode("latin-1"))
    (folder / "one.txt").write_text("one single line\n")
    (folder / "few.txt").write_text("a b\nc d\ne f\ng h\ni j\n")
    (folder / "huge.txt").write_text("word " * 40_000 + "\n" + "".join(f"x y {i}\n" for i in range(300)))
    (folder / "bad.gz").write_bytes(b"\x1f\x8bnot gzip at all")
    (folder / "rows.jsonl").write_text('{"text": "a"}\n{"title": "b"}\n')
    (folder / "settings.toml").write_text("[model\n")
    (folder / "photos").mkdir()
    for name, content in CONFIGS.items():
        (folder / name).write_text(content, encoding="latin-1")
    (folder / "photos" / "a.jpg").write_bytes(b"\xff\xd8")
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


CONFIGS = {
    "deep.toml": "x = " + "[" * 200_000,
    "deep.json": "[" * 200_000,
    "nameless.toml": "seed = 1\n",
    "number.toml": "name = 3\n",
    "list.toml": 'name = "lm"\nmodel = [1]\n',
    "latin.toml": 'name = "lm"  # é\n',
}
"""Files that are no settings."""

DEEP = "(" * 5000 + "a" + ")" * 5000
NESTED = "took more than 0.2 s on one line; a repetition inside a repetition, such as (a+)+, may take for ever"

MPS = "--device must be auto, cpu or cuda[:N], got 'mps'; sampling needs double precision, which mps has not"

TWO_FILES = "--blind needs two files of texts; write a run's with: seqgen generate RUN --out FILE"

TRAIN = [
    ("--data missing.txt", "missing.txt: no such file"),
    ("--data empty.txt", "empty.txt: empty; expected text, one or more lines"),
    ("--data blank.txt", "blank.txt, line 1: only blank lines; expected text"),
    ("--data binary.bin", "binary.bin, line 2: binary (NUL at column 5); expected text"),
    (
        "--data half.txt",
        "half.txt, line 2: not UTF-8 (byte 0xf6 at column 4); add data.encoding=cp1252 if it is Western European, "
        "or convert it: iconv -f CP1252 -t UTF-8 half.txt",
    ),
    (
        "--data one.txt data.mode=sentence",
        "one.txt, line 1: the only line, or equal to all others, so none can be held out; "
        "give more lines, data.valid, or data.mode=stream for running text",
    ),
    (
        "--data few.txt train.batch=64",
        "the training text has 4 rows, fewer than train.batch = 64; use a smaller train.batch or more text",
    ),
    (
        "--data huge.txt --valid good.txt",
        "1 of 301 training rows are longer than 1024 tokens, the first (40001 tokens) is huge.txt, line 1; "
        "set data.max_length higher, data.long=cut or data.long=drop, or data.mode=stream for running text",
    ),
    (
        "--data rows.jsonl",
        "rows.jsonl, line 2: no field 'text'; there are 'title'; choose one with data.field=NAME",
    ),
    ("--data good.txt model.hiden=3", "unknown option model.hiden; did you mean model.hidden?"),
    ("--data good.txt modle.hidden=3", "unknown option modle; did you mean model?"),
    (
        "--data good.txt model.hidden=wide train.batch=0 train.lr=true",
        "model.hidden must be an integer >= 1, got 'wide'; train.batch must be an integer >= 1, got 0; "
        "train.lr must be a number > 0, got True",
    ),
    (
        "--data good.txt train.optimizer=adamm",
        "train.optimizer must be one of adam, adamw, sgd, rmsprop, adagrad, got 'adamm'",
    ),
    ("--data good.txt seed=x", "seed must be an integer, got 'x'"),
    (
        "--data good.txt tokenizer.vocab_size=5000",
        "tokenizer.vocab_size = 5000, but the text has only 12 words seen 2 times or more, and 5 ids are special; "
        "use 0 (automatic) or at most 17",
    ),
    (
        "--data good.txt few.txt",
        "'few.txt' is no setting (no =); --data is repeated, not followed by several files: --data few.txt",
    ),
    (
        "--data good.txt words",
        "'words' is no setting (no =); --data is repeated, not followed by several files: --data words",
    ),
    (
        "--data good.txt --outt x",
        "unknown option --outt; did you mean --out?; see: seqgen train --help",
    ),
    ("--data good.txt --preset lm-smal", "unknown preset lm-smal; did you mean lm-small?"),
    ("--data good.txt --config absent.toml", "absent.toml: no such settings file"),
    (
        "--data good.txt --config settings.toml",
        "settings.toml: not TOML (Expected ']' at the end of a table declaration (at line 1, column 7))",
    ),
    (
        "--data good.txt --preset lm-char --config settings.toml",
        "give --preset lm-char or --config settings.toml, not both",
    ),
    ("--data good.txt --from photos", "--from photos: not a run folder"),
    (
        "--data few.txt --from run",
        "the given tokenizer does not know 100% of the text, for example 'a', 'b', 'c'; "
        "use text like the one it was made for, or train a new tokenizer",
    ),
    ("--data good.txt train.device=gpu", "train.device must be auto, cpu or cuda[:N], got 'gpu'"),
    (
        "--data good.txt tokenizer.model=binary.bin",
        "tokenizer.model: binary.bin: not a SentencePiece model; "
        "expected a .model file as SentencePiece's trainer writes it",
    ),
]


@pytest.mark.parametrize(("words", "line"), TRAIN, ids=[words for words, _ in TRAIN])
def test_training_on_bad_input_says_one_line_and_leaves_no_folder(
    words: str, line: str, seqgen: Any, place: Path
) -> None:
    ended = seqgen("train", "lm", "--out", "new", *words.split())
    assert (ended.err, ended.code, ended.out) == (f"error: {line}\n", 2, "")
    assert not (place / "new").exists()


OTHERS = [
    ("train", "--out DIR is missing: the folder of the run; see: seqgen train --help"),
    ("train lm --data good.txt", "--out DIR is missing: the folder of the run; see: seqgen train --help"),
    ("train lmm --data good.txt --out new", "unknown model lmm; did you mean lm?"),
    (
        "train good.txt --out new",
        "'good.txt' is no setting (no =); --data is repeated, not followed by several files: --data good.txt",
    ),
    (
        "train lm hidden --out new",
        "'hidden' is no setting; expected section.option=value, for example model.hidden=512",
    ),
    ("train --out new", "new is not a run folder yet; name a model: seqgen train MODEL --data FILE --out new"),
    ("train lm --data good.txt --out photos", "photos exists and is not a run folder; use another --out, or remove it"),
    (
        "train --out run model.hidden=13 train.lr=0.5",
        "run was trained with model.hidden = 12, now 13; train.lr = 0.02, now 0.5; "
        "use another --out, or the stored settings",
    ),
    (
        "generate nowhere",
        "nowhere is not a run folder (no config.toml); train one with: seqgen train MODEL --out nowhere",
    ),
    ("generate", "RUN is missing; see: seqgen generate --help"),
    ("generate run --count 0", "--count must be an integer >= 1, got 0"),
    ("generate run --count few", "--count must be an integer, got 'few'; see: seqgen generate --help"),
    ("generate run --top-p=much", "--top-p must be a number, got 'much'; see: seqgen generate --help"),
    ("generate run --top-p 2", "--top-p must be a number > 0 and <= 1, got 2.0"),
    ("generate run --temperature -1", "--temperature must be a number >= 0, got -1.0"),
    ("generate run --best-of 0", "--best-of must be an integer >= 1, got 0"),
    ("generate run --num-beams -3", "--num-beams must be an integer >= 1, got -3"),
    ("generate run --length-penalty 2", "--length-penalty takes no effect without --num-beams"),
    ("generate run --num-beams 2 --diversity-penalty -1", "--diversity-penalty must be a number >= 0, got -1.0"),
    ("generate run --num-beams 4 --num-beam-groups 3", "--num-beam-groups must divide num_beams = 4, got 3"),
    ("generate run --attempts 5", "--attempts takes no effect without --unique, --novel or --match"),
    ("generate run --unique --attempts 0", "--attempts must be an integer >= 1, got 0"),
    ("generate run --no-copy -1", "--no-copy must be an integer >= 0, got -1"),
    ("generate run --top-k -1", "--top-k must be an integer >= 0, got -1"),
    ("generate run --top-p 0", "--top-p must be a number > 0 and <= 1, got 0.0"),
    ("generate run --min-p 2", "--min-p must be a number >= 0 and <= 1, got 2.0"),
    ("generate run --typical-p -1", "--typical-p must be a number >= 0 and <= 1, got -1.0"),
    ("generate run --repetition-penalty 0", "--repetition-penalty must be a number >= 0.001 and <= 1000, got 0.0"),
    ("generate run --no-repeat-ngram-size -1", "--no-repeat-ngram-size must be an integer >= 0, got -1"),
    ("generate run --min-new-tokens -1", "--min-new-tokens must be an integer >= 0, got -1"),
    ("generate run --max-new-tokens -1", "--max-new-tokens must be an integer >= 0, got -1"),
    ("generate run --step -1", "run has no checkpoint of step -1; there are: 3, 6"),
    ("generate run --num-beams 2 --min-p 0.1", "--num-beams searches and draws nothing; it excludes --min-p"),
    (
        "generate run --num-beams 2 --no-repeat-ngram-size 3",
        "--num-beams searches and draws nothing; it excludes --no-repeat-ngram-size",
    ),
    ("generate run --num-beams 2 --greedy", "--num-beams searches and draws nothing; it excludes --greedy"),
    ("generate run --greedy --top-k 5", "--greedy takes the likeliest token; it excludes --top-k"),
    ("generate run --temperature 0 --top-p 0.5", "--temperature 0 takes the likeliest token; it excludes --top-p"),
    ("generate run --stream --json", "--stream shows one text while it is written; it excludes --json"),
    ("generate run --strength 2", "--strength takes no effect without --steer"),
    ("generate run --method mixtur", "--method must be prior or mixture for text, got 'mixtur'"),
    ("generate run --label 3", "--label is for images; conditions of texts are lines of --source FILE"),
    ("latent reconstruct run good.txt --count -1", "--count must be an integer >= 0, got -1"),
    ("latent reconstruct run good.txt --temperature -1", "--temperature must be a number >= 0, got -1"),
    ("latent reconstruct run good.txt --strength 2", "--strength takes no effect without --toward and --away"),
    (
        "latent reconstruct run good.txt --toward few.txt",
        "--toward and --away belong together: give a file of lines for each",
    ),
    ("latent interpolate run a b --steps 1", "--steps must be an integer >= 2, got 1"),
    ("latent encode run good.txt --nearest -1", "--nearest must be an integer >= 0, got -1"),
    (
        "latent encode run good.txt --nearest 2 --out x.npy",
        "give either --out FILE.npy, for the latents, or --nearest N, for their neighbours",
    ),
    ("latent restore run #1 --noise -1", "--noise must be above 0, got -1"),
    ("latent restore run #1 --trust 0", "--trust must be above 0, got 0"),
    ("latent restore run #1 --scale 0", "--scale must be an integer >= 1, got 0"),
    ("latent restore run #1 --count 0", "--count must be an integer >= 1, got 0"),
    ("latent restore run #1 --steps 1", "--steps must be an integer >= 2, got 1"),
    (
        "score run good.txt --outliers 200%",
        "--outliers must be a share such as 1% or a number of lines such as 20, got '200%'",
    ),
    ("evaluate run --references good.txt --count 1", "--count must be 0 or an integer >= 2, got 1"),
    ("evaluate run --references good.txt --count -1", "--count must be an integer >= 0, got -1"),
    ("evaluate run --references good.txt --latents 0", "--latents must be an integer >= 1, got 0"),
    ("evaluate run --references good.txt --temperature -1", "--temperature must be a number >= 0, got -1"),
    ("evaluate run --references good.txt --no-reverse", "--no-reverse takes no effect without --judge"),
    (
        "evaluate good.txt --references few.txt --temperature 2",
        "good.txt is a file, scored as it is; it excludes --temperature",
    ),
    ("evaluate good.txt --references few.txt --step 3", "good.txt is a file, scored as it is; it excludes --step"),
    ("bleu good.txt few.txt --order 5-2", "--order must be a range from low to high, got '5-2'"),
    ("bleu good.txt few.txt --order 1-999999999999", "--order must be in 1..9, got '1-999999999999'"),
    ("bleu good.txt few.txt --order -1", "--order must be a number such as 4, a range such as 2-5 or a list, got '-1'"),
    (
        "bleu good.txt few.txt --order 2,,3",
        "--order must be a number such as 4, a range such as 2-5 or a list, got '2,,3'",
    ),
    ("self-bleu few.txt --sample 1", "--sample must be in 2..5, the number of lines, got 1"),
    ("self-bleu few.txt --sample 9", "--sample must be in 2..5, the number of lines, got 9"),
    ("self-bleu few.txt --seed 3", "--seed takes no effect without --sample"),
    ("compare run --references good.txt --count 1", "--count must be an integer >= 2, got 1"),
    ("compare run --references good.txt --temperature -1", "--temperature must be a number >= 0, got -1"),
    ("curve run --references good.txt --count 1", "--count must be an integer >= 2, got 1"),
    (
        "curve run --references good.txt --temperatures 1,nan",
        "--temperatures must be numbers such as 0.7,1.0,1.3, got '1,nan'",
    ),
    ("compare good.txt few.txt --blind x.html --count 0", "--count must be an integer >= 1, got 0"),
    ("compare good.txt few.txt --key k.json", "--key takes no effect without --answers"),
    ("compare good.txt few.txt --blind x.html --key k.json", "--blind writes a page; it excludes --key"),
    ("compare good.txt few.txt --blind x.html --digits 2", "--blind writes a page; it excludes --digits"),
    ("compare good.txt few.txt --answers a.json --key k.json", "--answers counts what a page saved; it excludes texts"),
    ("compare --answers a.json --blind x.html", "--answers counts what a page saved; it excludes --blind"),
    ("corpus sample captions --count -1", "--count must be an integer >= 1, got -1"),
    (
        "train lm --data good.txt --out new name=seqgan",
        "name = seqgan is no setting of lm; the model is named by itself",
    ),
    ("train lm --data good.txt --out new version=9", "version = 9 is no setting of lm; the model is named by itself"),
    (
        "train lm --data good.txt --out new train.steps=nan train.lr=inf train.clip=-1",
        "train.steps must be an integer >= 1, got nan; train.lr must be a number > 0, got inf; "
        "train.clip must be a number >= 0, got -1",
    ),
    (
        "train lm --data good.txt --out new model.hidden=9223372036854775808",
        "model.hidden must be an integer of at most 63 bits, got 9223372036854775808",
    ),
    ("train lm data.files= --out new", "data.files must not hold an empty text"),
    ("train lm --data good.txt data.valid= --out new", "data.valid must not hold an empty text"),
    (
        "generate run --min-new-tokens 10 --max-new-tokens 5",
        "--min-new-tokens = 10 is more than --max-new-tokens = 5; ask for less, or allow more",
    ),
    (
        "generate running --min-new-tokens 501 --json",
        "--min-new-tokens = 501 is more than the run's own limit of 500; ask for less, or allow more",
    ),
    (
        "generate run --tmperature 1",
        "unknown option --tmperature; did you mean --temperature?; see: seqgen generate --help",
    ),
    (
        "generate run --prompt Zebra",
        "the prompt holds 'Zebra', which this run's vocabulary of 17 does not; "
        "use words or characters of its training text",
    ),
    (
        "generate running --prompt to_ée",
        "the prompt holds '_', 'é', which this run's vocabulary of 22 does not; "
        "use words or characters of its training text",
    ),
    ("generate run --match [", "--match '[' is no regular expression: unterminated character set at position 0"),
    (
        "generate run --count 3 --match zebra",
        "only 0 of 3 texts passed after 60 attempts (rejected: 60 no match); ask for fewer, or loosen the filter",
    ),
    ("generate run --num-beams 4 --unique", "--num-beams searches and draws nothing; it excludes --unique"),
    ("generate run --num-beams 2 --count 3", "--count must be at most 2, the width of --num-beams, got 3"),
    ("generate run --stream --count 3", "--stream shows one text while it is written; it excludes --count"),
    ("generate run --prompt the --source good.txt", "give --prompt or --source, not both"),
    ("generate run --prompt the --prompts good.txt", "give --prompt or --prompts, not both"),
    ("generate run --prompts missing.txt", "missing.txt: no such file"),
    ("generate run --prompts good.txt --stream", "--stream shows one text while it is written; it excludes --prompts"),
    ("generate run --source good.txt", "this run was trained without data.source and cannot take sources"),
    (
        "generate labelled",
        "this run was trained with data.source = label: give the sources to answer (--source)",
    ),
    ("generate run --train good.txt", "--train takes no effect without --novel or --no-copy"),
    ("generate run --step 4", "run has no checkpoint of step 4; there are: 3, 6"),
    ("generate run --device gpu", "--device must be auto, cpu or cuda[:N], got 'gpu'"),
    ("score run empty.txt", "empty.txt: empty; expected text, one or more lines"),
    ("score run blank.txt", "blank.txt: only blank lines; expected text to score"),
    (
        "score run good.txt --outliers many",
        "--outliers must be a share such as 1% or a number of lines such as 20, got 'many'",
    ),
    (
        "score run good.txt --outliers 0%",
        "--outliers must be a share such as 1% or a number of lines such as 20, got '0%'",
    ),
    ("evaluate run", "--references is missing; see: seqgen evaluate --help"),
    ("evaluate nowhere --references good.txt", "nowhere: no such run or file"),
    ("evaluate good.txt --references empty.txt", "empty.txt: empty; expected text, one or more lines"),
    (
        "evaluate good.txt --references few.txt --protocol texgen",
        "unknown protocol 'texgen'; known: default, texygen, texygen-fast, textgan, relgan, leakgan, caccia, cotk",
    ),
    (
        "evaluate run --references few.txt --tokenizer word",
        "unknown tokenizer 'word'; known: split, nltk, 13a, zh, char, or a callable from a line to its tokens",
    ),
    (
        "compare run --references few.txt --tokenizer word",
        "unknown tokenizer 'word'; known: split, nltk, 13a, zh, char, or a callable from a line to its tokens",
    ),
    (
        "curve run --references few.txt --tokenizer word",
        "unknown tokenizer 'word'; known: split, nltk, 13a, zh, char, or a callable from a line to its tokens",
    ),
    (
        "compare run --references few.txt --protocol texgen",
        "unknown protocol 'texgen'; known: default, texygen, texygen-fast, textgan, relgan, leakgan, caccia, cotk",
    ),
    (
        "compare run --references few.txt --protocol texygen --tokenizer nltk",
        "protocol texygen fixes its tokenizer; choose one in the default protocol only",
    ),
    (
        "evaluate run --references few.txt --protocol texygen --tokenizer nltk",
        "protocol texygen fixes its tokenizer; choose one in the default protocol only",
    ),
    ("bleu good.txt", "REF is missing; see: seqgen bleu --help"),
    ("bleu good.txt bad.gz", "bad.gz: damaged gzip file (Unknown compression method); fetch or pack it again"),
    ("bleu good.txt few.txt --order 0", "--order must be in 1..9, got '0'"),
    ("bleu good.txt few.txt --order x", "--order must be a number such as 4, a range such as 2-5 or a list, got 'x'"),
    ("bleu good.txt few.txt --level line", "--level must be sentence, corpus or sacrebleu, got 'line'"),
    (
        "evaluate good.txt --references few.txt --aligned",
        "--aligned: good.txt has 144 lines, few.txt 5; expected as many",
    ),
    (
        "compare good.txt few.txt --references good.txt --aligned",
        "few.txt has 5 lines for 144 references; expected as many",
    ),
    ("compare good.txt --references good.txt --lowercase", "--lowercase takes no effect without --aligned"),
    (
        "compare good.txt --references good.txt --aligned --protocol texygen",
        "--aligned scores every line against its own reference; it excludes --protocol",
    ),
    (
        "compare run --references good.txt --aligned",
        "run has no conditions to answer (data.source); give a file with a text for each reference",
    ),
    ("evaluate good.txt --references few.txt --num-beams 2", "--num-beams takes no effect without --aligned"),
    (
        "evaluate good.txt --references few.txt --aligned --count 3",
        "--aligned scores every line against its own reference; it excludes --count",
    ),
    (
        "evaluate good.txt --references few.txt --aligned --num-beams 2",
        "good.txt is a file, scored as it is; it excludes --num-beams",
    ),
    (
        "evaluate run --references few.txt --aligned",
        "run has no conditions to answer (data.source); give a file with a text for each reference",
    ),
    ("bleu good.txt few.txt --aligned", "--aligned: good.txt has 144 lines, few.txt 5; expected as many"),
    ("self-bleu one.txt", "Self-BLEU needs at least 2 sentences, got 1"),
    ("compare run --references good.txt --format xls", "--format must be md, csv, latex or html, got 'xls'"),
    ("compare nowhere --references good.txt", "nowhere is neither a run folder nor a file"),
    ("compare good.txt --references few.txt --columns blue_4", "unknown column 'blue_4'; did you mean bleu_4?"),
    (
        "compare good.txt --references few.txt --columns fcd",
        "unknown column 'fcd'; known: bleu_4, self_bleu_4, backward_bleu_4, distinct_2 ...",
    ),
    # a name that every comparison of texts lacks is refused before the runs are asked for anything
    ("compare nowhere --references few.txt --columns blue_4", "unknown column 'blue_4'; did you mean bleu_4?"),
    ("compare good.txt --references few.txt --digits -1", "--digits must be an integer >= 0, got -1"),
    (
        "curve run --references good.txt --temperatures hot",
        "--temperatures must be numbers such as 0.7,1.0,1.3, got 'hot'",
    ),
    (
        "curve run --references good.txt --temperatures 1,1",
        "--temperatures must be positive and all different, got 1.0, 1.0",
    ),
    ("compare good.txt --blind x.html", TWO_FILES),
    ("compare good.txt run --blind x.html", TWO_FILES),
    ("compare --references good.txt", "RUN|FILE is missing; see: seqgen compare --help"),
    ("compare --answers good.txt", "--answers needs --key FILE, the key that lies beside the page"),
    ("report photos", "photos is not a run folder (no config.toml); train one with: seqgen train MODEL --out photos"),
    ("config lmm", "unknown model lmm; did you mean lm?"),
    ("tokenizer encode photos good.txt", "photos: no tokenizer.json; expected a folder that a tokenizer was saved in"),
    ("tokenizer train --out new", "FILE is missing; see: seqgen tokenizer train --help"),
    ("tokenizer train good.txt --out photos", "photos exists and is not empty; use another --out, or remove it"),
    (
        "tokenizer train good.txt --out new model.hidden=3",
        "unknown option model.hidden; tokenizer.* and data.* matter here: seqgen config lm lists them",
    ),
    ("tokenizer decode run good.txt", "good.txt, line 1: 'the' is no id; expected numbers, as encode writes them"),
    ("corpus sample sonnets", "no grammar 'sonnets': expected a TOML file or one of captions, reviews, verse-zh"),
    ("corpus sample captions --count 0", "--count must be an integer >= 1, got 0"),
    ("corpus build python-dogs", "unknown corpus python-dogs; did you mean python-docs?"),
    ("corpus inspect missing.txt", "missing.txt: no such file"),
    ("trian lm", "unknown command trian; did you mean train?; see: seqgen --help"),
    ("restore run", "unknown command restore; did you mean seqgen latent restore?; see: seqgen --help"),
    (
        "encode run",
        "unknown command encode; did you mean seqgen latent encode or seqgen tokenizer encode?; see: seqgen --help",
    ),
    ("tokenizer trian", "unknown command trian; did you mean train?; see: seqgen tokenizer --help"),
]


NO_COMMAND_TAKES = [
    ("generate run --stop ''", "--stop must not be empty"),
    ("generate run --stop=", "--stop must not be empty"),
    ("generate run --stop . --stop ''", "--stop must not be empty"),
    ("generate ''", "RUN must not be empty"),
    ("generate run --out ''", "--out must not be empty"),
    ("generate run --temperature nan", "--temperature must be a finite number, got nan"),
    ("generate run --min-p -inf", "--min-p must be a finite number, got -inf"),
    ("latent restore run '#1' --noise inf", "--noise must be a finite number, got inf"),
    (
        "generate run --top-k 9223372036854775808",
        "--top-k must be an integer of at most 63 bits, got 9223372036854775808",
    ),
    ("bleu - -", "standard input (-) can be read only once, but is HYP and REF"),
    ("train lm --data - --valid - --out new", "standard input (-) can be read only once, but is --data and --valid"),
    ("evaluate - --references -", "standard input (-) can be read only once, but is RUN|FILE and --references"),
    ("corpus inspect - good.txt -", "standard input (-) can be read only once, but is FILE and FILE"),
    ("generate run --out -", "--out must be a name, got -"),
    ("generate run --out photos", "--out photos is a folder; give the name of a file"),
    ("generate run --out absent/x.txt", "--out absent/x.txt: no folder absent; make it first"),
    ("generate run --out good.txt/x", "--out good.txt/x: good.txt is a file; expected a folder"),
    ("generate labelled --source good.txt --out ./good.txt", "--out good.txt is also an input; give another name"),
    ("latent reconstruct run good.txt --out good.txt", "--out good.txt is also an input; give another name"),
    ("latent encode run good.txt --out photos", "--out photos is a folder; give the name of a file"),
    ("curve run --references good.txt --plot photos", "--plot photos is a folder; give the name of a file"),
    ("compare run --references good.txt --plot good.txt", "--plot good.txt is also an input; give another name"),
    ("compare good.txt few.txt --blind few.txt", "--blind few.txt is also an input; give another name"),
    ("compare good.txt few.txt --blind absent/x.html", "--blind absent/x.html: no folder absent; make it first"),
    ("tokenizer train good.txt --out few.txt", "--out few.txt: few.txt is a file; expected a folder"),
    ("tokenizer train good.txt --out good.txt/x/y", "--out good.txt/x/y: good.txt is a file; expected a folder"),
    ("train lm --data good.txt --out few.txt", "--out few.txt: few.txt is a file; expected a folder"),
    ("corpus sample captions --out photos", "--out photos is a folder; give the name of a file"),
    ("corpus build python-docs --out photos", "--out photos is a folder; give the name of a file"),
    ("corpus build good.txt --out few.txt", "--out few.txt: few.txt is a file; expected a folder"),
    ("generate run --device mps", MPS),
    ("generate run --device meta", "--device must be auto, cpu or cuda[:N], got 'meta'"),
    ("generate run --device xpu", "--device must be auto, cpu or cuda[:N], got 'xpu'"),
    ("generate run --device cuda:99", f"--device is cuda:99, but torch sees {torch.cuda.device_count()} CUDA devices"),
]


@pytest.mark.parametrize(("words", "line"), NO_COMMAND_TAKES, ids=[words for words, _ in NO_COMMAND_TAKES])
def test_what_no_command_takes_is_refused_before_anything_is_done(
    words: str, line: str, seqgen: Any, place: Path
) -> None:
    before = sorted(place.rglob("*"))
    ended = seqgen(*shlex.split(words))
    assert (ended.err, ended.code, ended.out) == (f"error: {line}\n", 2, "")
    assert sorted(place.rglob("*")) == before


FOREIGN = [
    ("config --config deep.toml", "deep.toml: not TOML (maximum recursion depth exceeded"),
    (
        "config --config nameless.toml",
        "no model given; expected one of gpt, hmm, image-gan, image-vae, kneser-ney, lm, masked, seq2seq, "
        "seqgan, text-vae",
    ),
    ("config --config number.toml", "number.toml: name must be the name of a model, got 3"),
    ("config --config list.toml", "list.toml: model must be a table of options, got [1]"),
    ("config --config latin.toml", "latin.toml: not UTF-8 ("),
    ("train lm --data good.txt --out new --config list.toml", "list.toml: model must be a table of options, got [1]"),
    ("train lm --data good.txt --out new train.steps=" + "[" * 5000, "train.steps must be an integer >= 1, got '[[["),
    ("corpus sample deep.toml", "deep.toml: not valid TOML: maximum recursion depth exceeded"),
    ("compare --answers deep.json --key deep.json", "deep.json: not JSON (maximum recursion depth exceeded"),
    (f"generate run --match {DEEP}", "--match '((((((((("),
    (f"generate run --pattern {DEEP}", "regular expression '((((((((("),
    (
        "generate run --pattern (a{0,100}){0,100}",
        "the regular expression '(a{0,100}){0,100}' has too many repetitions inside each other; use a simpler one",
    ),
    ("generate run --count 20 --match (([a-z]|[a-z\\s])+)+\\d$", "--match '(([a-z]|[a-z\\\\s])+)+\\\\d$' " + NESTED),
    (
        "train lm --data good.txt --out new tokenizer.pattern=(([a-z]|[a-z\\s])+)+\\d",
        "tokenizer.pattern = '(([a-z]|[a-z\\\\s])+)+\\\\d' " + NESTED,
    ),
    (f"train lm --data good.txt --out new tokenizer.pattern={DEEP}", "tokenizer.pattern = '((((((((("),
]


@pytest.mark.parametrize(("words", "line"), FOREIGN, ids=[words[:60] for words, _ in FOREIGN])
def test_what_other_parsers_stumble_over_is_one_line(
    words: str, line: str, seqgen: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 0.2)
    before = sorted(place.rglob("*"))
    ended = seqgen(*words.split())
    assert ended.err.startswith(f"error: {line}")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert sorted(place.rglob("*")) == before


def test_a_run_whose_settings_name_no_model_is_named(seqgen: Any, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "r")
    (tmp_path / "r" / "config.toml").write_text("seed = 1\n")
    for command in ("generate", "report", "train --out"):
        ended = seqgen(*command.split(), tmp_path / "r")
        assert ended.err == f"error: {tmp_path}/r/config.toml: data is missing or wrong; the file is altered\n"
        assert ended.code == 2


def every_option() -> Iterator[tuple[tuple[str, ...], str]]:
    """Every option that takes a value, after the command with the words that it needs."""
    for name, group in getattr(typer.main.get_command(app.app), "commands", {}).items():
        for inner, command in getattr(group, "commands", {"": group}).items():
            needed = {p.name: ("x",) if p.param_type_name == "argument" else (p.opts[0], "x") for p in command.params}
            needed = {p.name: needed[p.name] for p in command.params if p.required}
            for option in command.params:
                if option.param_type_name == "option" and not option.is_flag and option.name != "prompt":
                    others = [word for p, words in needed.items() if p != option.name for word in words]
                    yield tuple(word for word in (name, inner, *others) if word), option.opts[0]


MEANINGLESS = {
    "not be empty": ("", "not be empty"),
    "be one of": ("x", "be one of"),
    "be a number": ("nan", "be a finite number, got nan"),
    "be an integer": (str(2**63), f"be an integer of at most 63 bits, got {2**63}"),
}
"""By what an option says to an empty text: a value that nothing can mean, and what is said to that."""


@pytest.mark.parametrize(("words", "option"), list(every_option()))
def test_no_option_of_any_command_takes_what_means_nothing(words: tuple[str, ...], option: str, seqgen: Any) -> None:
    ended = seqgen(*words, option, "")
    kind = next(kind for kind in MEANINGLESS if f"error: {option} must {kind}" in ended.err)
    value, line = MEANINGLESS[kind]
    ended = seqgen(*words, option, value)
    assert ended.err.startswith(f"error: {option} must {line}")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)


def test_an_output_without_permission_is_refused_before_the_work(
    seqgen: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # the administrator may write anywhere
    for words in ("corpus sample captions --out x", "generate run --out x", "train lm --data good.txt --out new"):
        line = f"error: --out {words.split()[-1]}: no permission to write in .\n"
        ended = seqgen(*words.split())
        assert (ended.err, ended.code, ended.out) == (line, 2, "")


@pytest.mark.parametrize(("words", "line"), OTHERS, ids=[words for words, _ in OTHERS])
def test_bad_input_says_one_line(words: str, line: str, seqgen: Any, place: Path) -> None:
    before = sorted(place.iterdir())
    ended = seqgen(*words.split())
    assert (ended.err, ended.code, ended.out) == (f"error: {line}\n", 2, "")
    assert sorted(place.iterdir()) == before


# ---- damage, full disks, and errors that are nobody's input


@pytest.mark.parametrize(
    ("harm", "fault"),
    [("truncate", "truncated or altered (SHA-256 differs)"), ("alter", "truncated or altered (SHA-256 differs)")],
)
def test_a_damaged_checkpoint_that_was_asked_for_is_named(
    harm: str, fault: str, seqgen: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "r")
    monkeypatch.chdir(tmp_path)
    best = 6
    path = Path("r/checkpoints/step-00000006/model.safetensors")
    if harm == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    ended = seqgen("generate", "r", "--step", str(best))
    line = f"error: {path} is {fault}\n"
    assert (ended.err, ended.code) == (line, 2)
    assert seqgen("generate", "r", "--step", "3").code == 0


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "r/env.json")


def test_a_disk_that_fills_while_training_loses_nothing(
    seqgen: Any, text: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqgen.engine import checkpoint

    shutil.copytree(run, tmp_path / "r")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        ended = seqgen("train", "--out", "r", "train.steps=9")
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == (
        "error: r/checkpoints/step-00000009: cannot save (the disk is full); the checkpoint of step 6 is untouched; "
        "make room and run the same command again"
    )
    assert seqgen("train", "--out", "r").code == 0


def test_a_start_on_a_full_disk_can_be_repeated(
    seqgen: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqgen.core import files

    words = ["train", "lm", "--data", text, "--out", "r", "train.steps=1", "model.hidden=8", "train.batch=8"]
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", full)
        ended = seqgen(*words)
    assert (ended.err, ended.code) == ("error: r/env.json: No space left on device\n", 2)
    assert seqgen(*words).code == 0


def test_a_file_that_may_not_be_read_is_named(seqgen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "secret.txt")

    monkeypatch.setattr(Path, "open", denied)
    ended = seqgen("bleu", "secret.txt", "secret.txt")
    assert (ended.err, ended.code) == ("error: secret.txt: cannot be read (Permission denied)\n", 2)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        torch.OutOfMemoryError("no room"),
        RuntimeError("no room, DefaultCPUAllocator: can't allocate"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_too_little_memory_is_said_with_a_remedy(error: Exception, seqgen: Any, monkeypatch: Any) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("seqgen.metrics.self_bleu_orders", fails)
    ended = seqgen("self-bleu", "good.txt")
    assert ended.err == f"error: out of memory ({error}); lower train.batch, --count or the model's size\n"
    assert ended.code == 2


def test_a_fault_of_ours_is_one_line_and_a_trace_only_when_asked(seqgen: Any, monkeypatch: Any) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of\ntwo lines")

    monkeypatch.setattr("seqgen.metrics.self_bleu_orders", fails)
    ended = seqgen("self-bleu", "good.txt")
    line = "ZeroDivisionError: of; this is a fault of seqgen, SEQGEN_DEBUG=1 before the command shows where"
    assert (ended.err, ended.code) == (f"error: {line}\n", 1)
    monkeypatch.setenv("SEQGEN_DEBUG", "1")
    ended = seqgen("self-bleu", "good.txt")
    assert ended.err.startswith("Traceback")
    assert ended.code == 1


def test_control_c_is_130_and_says_nothing(seqgen: Any, monkeypatch: Any) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seqgen.metrics.self_bleu_orders", fails)
    ended = seqgen("self-bleu", "good.txt")
    assert (ended.code, ended.out, ended.err) == (130, "", "")


def test_an_absent_extra_is_exit_code_3(seqgen: Any, monkeypatch: Any) -> None:
    from seqgen.core.errors import MissingExtraError

    def fails(*_: Any, **__: Any) -> None:
        raise MissingExtraError("needs onnx: pip install 'neural-seqgen[onnx]'")

    monkeypatch.setattr("seqgen.metrics.self_bleu_orders", fails)
    ended = seqgen("self-bleu", "good.txt")
    assert (ended.err, ended.code) == ("error: needs onnx: pip install 'neural-seqgen[onnx]'\n", 3)


def test_a_loss_that_is_not_finite_is_exit_code_1(seqgen: Any, tmp_path: Path) -> None:
    options = ["train.optimizer=sgd", "train.lr=1e38", "train.clip=0", "train.schedule=constant", "train.batch=8"]
    words = ["train", "lm", "--data", "good.txt", "--out", tmp_path / "r", "model.hidden=8", *options]
    ended = seqgen(*words)
    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: step ")
    assert last.endswith("no checkpoint had been written yet")


def test_only_the_first_process_speaks_of_what_all_meet(seqgen: Any, monkeypatch: Any) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setenv("RANK", "1")
    assert (seqgen("train").err, seqgen("train").code) == ("", 2)
    monkeypatch.setattr("seqgen.metrics.self_bleu_orders", fails)
    assert seqgen("self-bleu", "good.txt").err.startswith("error: out of memory (no room)")


def test_main_takes_the_words_of_the_process_if_none_are_given(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", ["seqgen", "generate", "--count", "x"])
    assert app.main() == 2
    assert capsys.readouterr().err == "error: --count must be an integer, got 'x'; see: seqgen generate --help\n"
