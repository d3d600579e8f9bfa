"""Corpus folders: what the same text is in memory, in any size of memory, or one line on what is wrong."""

import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import killed_build
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqgen.core import files
from seqgen.core.errors import ConfigError, DataError
from seqgen.data import corpus as corpora
from seqgen.data import formats, packing, text, tokenizers
from seqgen.data.corpus import Corpus, SplitWriter, open_corpus, packed
from seqgen.data.packing import build_corpus
from seqgen.data.prepare import DataConfig, TextData, prepare, train_tokenizers
from seqgen.data.ragged import Ragged
from seqgen.data.tokenizers import TokenizerConfig, train_tokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "Σας", "naïve", "床前明月光", "it's", "--"]


def some_text(path: Path, count: int = 120) -> Path:
    draws = torch.Generator().manual_seed(3)
    lines = []
    for number in range(count):
        length = int(torch.randint(1, 9, (1,), generator=draws))
        at = torch.randint(len(WORDS), (length,), generator=draws).tolist()
        lines.append(" ".join(WORDS[i] for i in at) + (f" {number}" if number % 3 else ""))
    path.write_text("\n".join(["", "  ", *lines, ""]) + "\n \nlast line without its end", encoding="utf-8")
    return path


def prepared(files: Path, data: dict[str, Any], tokenizer: dict[str, Any]) -> TextData:
    config = DataConfig(files=(str(files),), **data)
    return prepare(config, TokenizerConfig(**tokenizer), batch=2, seed=1, device="cpu")


def same(a: TextData, b: TextData) -> None:
    for one, other in ((a.train, b.train), (a.valid, b.valid)):
        assert one.ids.tolist() == other.ids.tolist()
        assert (one.loss_from is None) == (other.loss_from is None)
        if one.loss_from is not None and other.loss_from is not None:
            assert one.loss_from.tolist() == other.loss_from.tolist()
    assert list(a.train_lines) == list(b.train_lines)
    assert list(a.valid_lines) == list(b.valid_lines)
    assert (a.valid_sources and list(a.valid_sources)) == (b.valid_sources and list(b.valid_sources))
    assert (a.mode, a.facts, a.fingerprint, a.valid_characters) == (b.mode, b.facts, b.fingerprint, b.valid_characters)
    assert a.tokenizer.fingerprint == b.tokenizer.fingerprint
    assert replace(a.resolved[0], files=(), valid=()) == replace(b.resolved[0], files=(), valid=())
    assert a.resolved[1] == b.resolved[1]
    for step in (0, 1, a.batches.steps_per_epoch):
        one_batch, other_batch = a.batches.at(step), b.batches.at(step)
        assert torch.equal(one_batch.inputs, other_batch.inputs)
        assert torch.equal(one_batch.targets, other_batch.targets)
        assert torch.equal(one_batch.positions, other_batch.positions)
    for one_batch, other_batch in zip(a.validation(), b.validation(), strict=True):
        assert torch.equal(one_batch.targets, other_batch.targets)


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"mode": "sentence"}, {"kind": "word", "lowercase": True}),
    ({"mode": "sentence", "valid_share": 0.4}, {"kind": "bpe"}),
    ({"mode": "sentence"}, {"kind": "unigram", "lowercase": True}),
    ({"mode": "sentence"}, {"kind": "word", "pattern": r"\w+|\S", "min_count": 1}),
    ({"mode": "sentence", "long": "cut", "max_length": 6}, {"kind": "char"}),
    ({"mode": "sentence", "long": "drop", "max_length": 6}, {"kind": "word"}),
    ({"mode": "stream"}, {"kind": "char", "lowercase": True}),
    ({"mode": "stream", "window": 7, "jitter": True}, {"kind": "word"}),
    ({"mode": "window", "window": 5}, {"kind": "bpe"}),
    ({"mode": "window", "window": 5, "valid_share": 0.3}, {"kind": "byte"}),
]


@pytest.fixture(autouse=True)
def blocks_of_little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is read in blocks of 1 MiB; here of 200 bytes, so that there are many of them."""
    monkeypatch.setattr(formats, "_BLOCK", 200)
    monkeypatch.setattr(text, "_ROWS", 7)


@pytest.mark.parametrize(("data", "tokenizer"), CASES)
def test_a_folder_is_what_its_text_is(data: dict[str, Any], tokenizer: dict[str, Any], tmp_path: Path) -> None:
    file = some_text(tmp_path / "text.txt")
    build_corpus([file], tmp_path / "corpus", data=DataConfig(**data), tokenizer=TokenizerConfig(**tokenizer))
    in_memory = prepared(file, data, tokenizer)
    running = {name: value for name, value in data.items() if name in ("window", "jitter")}
    same(prepared(tmp_path / "corpus", running, {}), in_memory)
    # and with all settings given again, as a run that is continued does
    config, words = in_memory.resolved
    same(prepare(replace(config, files=(str(tmp_path / "corpus"),)), words, batch=2, seed=1, device="cpu"), in_memory)


def test_conditions_and_held_out_files_are_kept(tmp_path: Path) -> None:
    for name, first in (("train", 0), ("valid", 43)):
        numbers = range(first, first + 40)
        rows = [{"label": f"l{i % 2}", "more": i, "text": " ".join(WORDS[i % 5 : i % 5 + 4])} for i in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": "label,more", "target": "text", "valid": (str(tmp_path / "valid.jsonl"),)}
    build_corpus([tmp_path / "train.jsonl"], tmp_path / "corpus", data=DataConfig(**data))  # type: ignore[arg-type]
    same(prepared(tmp_path / "corpus", {}, {}), prepared(tmp_path / "train.jsonl", data, {}))


def built_and_opened(file: Path, folder: Path, data: dict[str, Any], words: dict[str, Any]) -> TextData:
    build_corpus([file], folder, data=DataConfig(**data), tokenizer=TokenizerConfig(**words))
    return prepared(folder, {}, {})


LINES = st.lists(st.text("ab \t\x0b字\u2028", max_size=9), min_size=1, max_size=14)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=LINES,
    ends=st.booleans(),
    mode=st.sampled_from(["auto", "sentence", "stream", "window"]),
    share=st.sampled_from([0.1, 0.5, 0.9]),
)
def test_any_lines_are_the_same_or_refused_with_the_same_words(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], ends: bool, mode: Any, share: float
) -> None:
    folder = tmp_path_factory.mktemp("any")
    file = folder / "text.txt"
    file.write_text("\n".join(lines) + "\n" * ends, encoding="utf-8")
    data, words = {"mode": mode, "valid_share": share}, {"kind": "word", "min_count": 1}
    try:
        in_memory = prepared(file, data, words)
    except DataError as error:
        refused = str(error)
        with pytest.raises(DataError, match=rf"^{re.escape(refused)}$"):
            built_and_opened(file, folder / "corpus", data, words)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        return
    same(built_and_opened(file, folder / "corpus", data, words), in_memory)


def test_running_text_can_be_read_in_windows_or_as_a_stream(tmp_path: Path) -> None:
    file = some_text(tmp_path / "text.txt")
    build_corpus([file], tmp_path / "corpus", data=DataConfig(mode="stream"), tokenizer=TokenizerConfig(kind="word"))
    given = {"mode": "window", "window": 4}
    same(prepared(tmp_path / "corpus", given, {}), prepared(file, given, {"kind": "word"}))


def test_too_much_text_for_pieces_is_drawn_from_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers.subword, "_MOST_CHARACTERS", 900)
    file = some_text(tmp_path / "text.txt")
    words = {"kind": "bpe"}
    build_corpus([file], tmp_path / "corpus", tokenizer=TokenizerConfig(**words), seed=1)  # type: ignore[arg-type]
    same(prepared(tmp_path / "corpus", {}, {}), prepared(file, {}, words))


def test_words_counted_in_little_memory_keep_the_frequent_ones(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tokenizers.word, "_MOST_COUNTED", 20)
    lines = [f"often also {'sometimes' * (i % 2)} w{i}" for i in range(300)]
    tokenizer = train_tokenizer(TokenizerConfig(kind="word", vocab_size=8), lines, seed=0)
    assert [tokenizer.id_to_token(i) for i in range(5, 8)] == ["also", "often", "sometimes"]
    assert "over 20 different words; those counted up to" in caplog.text


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    rows = [[1, 65_535, 70_000], [], [65_536]]
    for size in (65_536, 70_001):
        with SplitWriter(tmp_path, str(size)) as writer:
            writer.add(packed(Corpus(Ragged.from_lists(rows), None, ""), ["a", "", "b"], vocab_size=size))
    wide = np.fromfile(tmp_path / "70001.ids.bin", "<u4")
    assert wide.tolist() == [1, 65_535, 70_000, 65_536]
    assert (tmp_path / "65536.ids.bin").stat().st_size == 2 * 4
    assert np.fromfile(tmp_path / "70001.ids-at.bin", "<i8").tolist() == [0, 3, 3, 4]


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="reads how much memory is a process's own from /proc"
)
def test_peak_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """Sixteen times the text take at most 30 MB more of the process's own memory; its lines as Python's are 80.

    Mapped files are not counted: the system takes their pages back when it needs them.
    """
    code = """
import re, sys, threading, time
from pathlib import Path
from seqgen.data.packing import build_corpus
from seqgen.data.prepare import DataConfig, prepare
from seqgen.data.tokenizers import TokenizerConfig
peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, int(re.search(r"RssAnon:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]))
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
build_corpus([sys.argv[1]], sys.argv[2], data=DataConfig(mode="sentence"), tokenizer=TokenizerConfig(kind="word"))
data = prepare(DataConfig(files=(sys.argv[2],)), TokenizerConfig(), batch=4, seed=1, device="cpu")
data.batches.at(3)
time.sleep(0.02)
print(peak)
"""
    peaks = {}
    for count in (40_000, 640_000):
        file = tmp_path / f"{count}.txt"
        file.write_text("".join(f"a line of plain words number {i % 977} and {i % 89}\n" for i in range(count)))
        arguments = [sys.executable, "-c", code, str(file), str(tmp_path / f"{count}")]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        peaks[count] = int(done.stdout)
    assert peaks[640_000] < peaks[40_000] + 30_000, peaks  # KiB


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    build_corpus([some_text(tmp_path / "text.txt")], tmp_path / "corpus", tokenizer=TokenizerConfig(kind="word"))
    return tmp_path / "corpus"


@pytest.mark.parametrize("name", ["train.ids.bin", "train.ids-at.bin", "valid.text.bin", "valid.text-at.bin"])
@pytest.mark.parametrize("harm", ["cut", "altered", "missing"])
def test_a_shard_that_is_not_whole_is_named(corpus: Path, name: str, harm: str) -> None:
    path = corpus / name
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
        message = f"{path}: missing; the corpus is not whole, build it again"
    elif harm == "cut":
        path.write_bytes(content[:-2])
        message = (
            f"{path}: truncated or altered shard: {len(content) - 2} bytes, expected {len(content)}; "
            "build the corpus again"
        )
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        message = f"{path}: truncated or altered shard: its SHA-256 is not the stored one; build the corpus again"
    with pytest.raises(DataError) as error:
        open_corpus(corpus)
    assert str(error.value) == message


def test_a_tokenizer_that_does_not_fit_is_named_with_both_fingerprints(corpus: Path, tmp_path: Path) -> None:
    other = train_tokenizer(TokenizerConfig(kind="char"), ["abc"], seed=0)
    other.save(tmp_path / "other")
    with pytest.raises(DataError) as error:
        prepare(
            DataConfig(files=(str(corpus),)), TokenizerConfig(), batch=2, seed=1, device="cpu",
            tokenizer_folder=tmp_path / "other",
        )  # fmt: skip
    made = open_corpus(corpus).train.fingerprint
    assert str(error.value) == (
        f"{corpus} was built with the tokenizer {made[:12]}..., but {tmp_path / 'other'} is "
        f"{other.fingerprint[:12]}...; build a corpus with that one: seqgen corpus build --tokenizer"
    )


def test_a_given_tokenizer_is_used(corpus: Path, tmp_path: Path) -> None:
    again = build_corpus([tmp_path / "text.txt"], tmp_path / "again", tokenizer_folder=corpus / "tokenizer")
    assert again.train.ids.tolist() == open_corpus(corpus).train.ids.tolist()
    assert again.meta["tokenizer"]["kind"] == "word"


@pytest.mark.parametrize(
    ("data", "tokenizer", "named"),
    [
        ({"max_length": 3}, {}, "data.max_length = 3"),
        ({"mode": "stream"}, {}, "data.mode = 'stream'"),
        ({"valid": ("x.txt",)}, {}, "data.valid = "),
        ({}, {"kind": "char"}, "tokenizer.kind = 'char'"),
        ({"field": "other"}, {"lowercase": True}, "data.field = 'other', tokenizer.lowercase = True"),
    ],
)
def test_settings_that_were_settled_are_refused(
    corpus: Path, data: dict[str, Any], tokenizer: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError) as error:
        prepared(corpus, data, tokenizer)
    assert str(error.value).startswith(f"{corpus} was built otherwise than with {named}")
    assert str(error.value).endswith("; build another corpus")


def test_what_is_no_corpus_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no meta\.json; expected a folder that `seqgen corpus build FILES --out DIR`"):
        open_corpus(tmp_path)
    with pytest.raises(DataError, match=r"a corpus folder stands alone; build one of all text together$"):
        prepare(
            DataConfig(files=(str(corpus), str(tmp_path / "text.txt"))),
            TokenizerConfig(),
            batch=2,
            seed=1,
            device="cpu",
        )
    with pytest.raises(DataError, match=r"exists; use another --out, or remove it$"):
        build_corpus([tmp_path / "text.txt"], corpus)
    with pytest.raises(DataError, match=r"^a corpus is built from files that can be read several times; write the"):
        build_corpus(["-"], tmp_path / "new")
    meta = json.loads((corpus / "meta.json").read_text())
    for harm in ({"format": "other"}, {"files": None}, {"dtype": "uint8"}, {"fingerprint": None}):
        (corpus / "meta.json").write_text(json.dumps({**meta, **harm}))
        with pytest.raises(DataError):
            prepared(corpus, {}, {})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("mode", "workers"), [("sentence", 3), ("stream", 2), pytest.param("sentence", 2, marks=pytest.mark.slow)]
)
def test_the_bytes_do_not_depend_on_the_number_of_processes(mode: Any, workers: int, tmp_path: Path) -> None:
    file, words = some_text(tmp_path / "text.txt"), TokenizerConfig(kind="bpe")
    build_corpus([file], tmp_path / "one", data=DataConfig(mode=mode), tokenizer=words)
    build_corpus([file], tmp_path / "more", data=DataConfig(mode=mode), tokenizer=words, workers=workers)
    assert contents(tmp_path / "more") == contents(tmp_path / "one")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_row_that_cannot_be_packed_is_named_by_any_number_of_processes(workers: int, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"a b c {i}\n" for i in range(60)) + "a b\n" * 9)
    with pytest.raises(DataError, match=r"text\.txt, line 61: 2 tokens, expected 4; data\.mode = fixed needs rows"):
        build_corpus(
            [tmp_path / "text.txt"], tmp_path / "corpus", data=DataConfig(mode="fixed"),
            tokenizer=TokenizerConfig(kind="word"), workers=workers,
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing, "pack_rows", full)
    with pytest.raises(OSError, match="No space left"):
        build_corpus([some_text(tmp_path / "text.txt")], tmp_path / "corpus")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def interrupted_build(folder: Path, monkeypatch: pytest.MonkeyPatch, parts: int, **options: Any) -> None:
    """Break a build off as Ctrl-C does, after so many parts of the text."""
    pack, count = packing.pack_rows, 0

    def packs(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count > parts:
            raise KeyboardInterrupt
        return pack(*arguments)

    monkeypatch.setattr(packing, "_EVERY", 2)
    with monkeypatch.context() as broken:
        broken.setattr(packing, "pack_rows", packs)
        with pytest.raises(KeyboardInterrupt):
            build_corpus([folder / "text.txt"], folder / "corpus", **options)


def test_an_interrupted_build_goes_on_where_it_was_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "seqgen")
    file = some_text(tmp_path / "text.txt")
    build_corpus([file], tmp_path / "whole")
    for parts in (0, 5):
        interrupted_build(tmp_path, monkeypatch, parts)
    trained: list[Any] = []
    monkeypatch.setattr(packing, "train_tokenizers", lambda *arguments, **_: trained.append(arguments))
    build_corpus([file], tmp_path / "corpus")
    assert not trained
    assert "going on with a build that was interrupted: 4 parts of the text are done" in caplog.messages
    assert contents(tmp_path / "corpus") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "text.txt", "whole"]


@pytest.mark.parametrize("changed", ["text", "settings", "cut file"])
def test_what_another_build_left_is_not_gone_on_with(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, config = some_text(tmp_path / "text.txt"), TokenizerConfig()
    interrupted_build(tmp_path, monkeypatch, 9)
    if changed == "text":
        file.write_text(file.read_text() + "\nmore\n")
    elif changed == "settings":
        config = TokenizerConfig(kind="char")
    else:
        (tmp_path / ".corpus.building" / "corpus" / "train.ids.bin").write_bytes(b"")
    build_corpus([file], tmp_path / "corpus", tokenizer=config)
    build_corpus([file], tmp_path / "whole", tokenizer=config)
    assert "going on" not in caplog.text
    assert contents(tmp_path / "corpus") == contents(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_build_killed_at_events_on_disk_ends_with_the_same_bytes(workers: int, tmp_path: Path) -> None:
    some_text(tmp_path / "text.txt")
    every = 9 if workers == 1 else 4
    line = [sys.executable, killed_build.__file__, str(tmp_path), str(every), str(workers)]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout) >= 5


def test_text_that_grows_while_it_is_built_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = some_text(tmp_path / "text.txt")

    def grows(*arguments: Any, **options: Any) -> Any:
        file.write_text(file.read_text() * 2)
        return train_tokenizers(*arguments, **options)

    monkeypatch.setattr(packing, "train_tokenizers", grows)
    with pytest.raises(DataError, match=r"text\.txt: changed while it was read; build the corpus again$"):
        build_corpus([file], tmp_path / "corpus", data=DataConfig(mode="sentence"))


def test_stored_lines_are_a_sequence(corpus: Path) -> None:
    lines = open_corpus(corpus).train_lines
    everything = list(lines)
    assert len(lines) == len(everything)
    assert lines[3:9:2] == everything[3:9:2]
    assert lines[-1] == everything[-1]
    with pytest.raises(IndexError, match=rf"^line {len(lines)} of {len(lines)}$"):
        lines[len(lines)]


def test_a_name_that_no_file_can_have_is_refused(corpus: Path, tmp_path: Path) -> None:
    meta = json.loads((corpus / "meta.json").read_text())
    meta["files"]["a" * 5000] = meta["files"]["train.ids.bin"]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(
        DataError, match=r"meta\.json: names a file that cannot be read \(File name too long\); altered$"
    ):
        open_corpus(tmp_path)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("train.ids.bin", 1, 60_000, r"train\.ids\.bin: id 60000 of a vocabulary of \d+; altered$"),
        ("valid.ids.bin", 0, 40_000, r"valid\.ids\.bin: id 40000 of a vocabulary of \d+; altered$"),
        ("train.text-at.bin", 1, 1 << 40, r"offsets of text do not run from 0 to its \d+ bytes; altered$"),
        ("valid.text-at.bin", 0, -5, r"offsets of text do not run from 0 to its \d+ bytes; altered$"),
        ("train.ids-at.bin", 1, -1, r"offsets must not fall"),
    ],
)
def test_values_that_lead_out_of_a_file_are_refused_whatever_the_hashes_say(
    name: str, place: int, value: int, message: str, tmp_path: Path
) -> None:
    source = some_text(tmp_path / "text.txt")
    build_corpus([str(source)], tmp_path / "ids", data=DataConfig(), tokenizer=TokenizerConfig(kind="word"))
    path = tmp_path / "ids" / name
    array = np.frombuffer(path.read_bytes(), "<u2" if name.endswith("ids.bin") else "<i8").copy()
    array[place] = value
    path.write_bytes(array.tobytes())
    meta = json.loads((tmp_path / "ids" / "meta.json").read_text())
    meta["files"][name]["sha256"] = files.sha256_file(path)
    (tmp_path / "ids" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=message):
        open_corpus(tmp_path / "ids")


def test_hashes_are_read_again_only_where_a_file_has_changed(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def recorded(path: Path) -> str:
        read.append(path.name)
        return files.sha256_file(path)

    monkeypatch.setattr(corpora, "sha256_file", recorded)
    first = open_corpus(corpus)
    assert sorted(read) == sorted(first.meta["files"])
    read.clear()
    assert open_corpus(corpus, verify=first.stamp).stamp == first.stamp
    assert read == []
    file = corpus / "train.text.bin"
    file.write_bytes(b"?" + file.read_bytes()[1:])
    os.utime(file, ns=(0, first.stamp[file.name][1] + 1))
    with pytest.raises(DataError, match=r"train\.text\.bin: truncated or altered shard: its SHA-256"):
        open_corpus(corpus, verify=first.stamp)


def test_a_stored_line_that_is_not_utf_8_is_named(corpus: Path) -> None:
    second = open_corpus(corpus).train_lines[1]
    file = corpus / "train.text.bin"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    lines = open_corpus(corpus, verify=False).train_lines
    assert lines[1] == second
    with pytest.raises(DataError, match=r"train\.text\.bin, line 1: not UTF-8 .*; the corpus is altered"):
        lines[0]
